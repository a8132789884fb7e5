"""T-TCAV where the right answer is known, and on your own concepts and images.

    python examples/ttcav_textures.py
    python examples/ttcav_textures.py --concepts dtd/images --only striped,dotted,zigzagged,chequered \\
        --targets imagenet/n02391049 --target zebra --model google/vit-base-patch16-224

The small vision transformer in ``examples/models/vit-textures`` was trained on generated images of textured objects:
zebras are finely striped and ladybirds dotted, whatever their shape, and snakes are long and thin, whatever their other
texture. So it is known which concepts move which class. The script shows what T-TCAV finds, where in the image, how
sure it is, and how often it is wrong: over ten draws of examples, for a concept without a meaning, and on untrained
models. It ends with words of praise and blame in the shipped sentiment model. ``index.html`` shows everything.

With ``--concepts`` and ``--targets``, concepts are folders of images (DTD, ImageNet, or Broden's index), ``--model`` is
a folder or hub name of a vision transformer, and ``--target`` the class that is explained.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from concept_folders import read_concepts, read_images
from matplotlib.figure import Figure
from small_models import load_text_model, load_texture_model
from textures import (
    CLASSES,
    SHAPES,
    TEXTURES,
    class_images,
    draw_two,
    generator,
    labelled_images,
    random_images,
    shape_images,
    texture_images,
)
from torch import Tensor
from train_texture_model import random_model
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTForImageClassification

from captum_attn import TTCAV, ShapleyAttention
from captum_attn.concepts import ConceptScores, agreement
from captum_attn.core import PatchGrid, patch_means

if TYPE_CHECKING:
    from captum_attn.concepts import EstimatorName, Scope

EXAMPLES = 80  # of each concept
FEW = 30  # the same in the paper's setting, whose logistic regressions take long
INPUTS = 100  # of a class
TRUE = {"zebra": "narrow stripes", "ladybird": "dotted"}
RANDOM = "random"
GRID = PatchGrid(8, 8, 6, 6)
ANSWERS = ["concept", "significant", "effect", "p", "p_holm", "layer", "score", "layers", "predicted", "near", "note"]
SHOWN = ["concept", "layer", "effect", "p", "p_holm", "significant", "score", "score_std", "accuracy", "cosine", "note"]
PRAISE = """gripping superb delightful charming brilliant wonderful moving funny warm fresh clever beautiful touching
powerful enjoyable remarkable stunning witty engaging excellent heartfelt thrilling inventive lovely amazing fascinating
hilarious smart"""
BLAME = """dull awful boring tedious stale clumsy terrible lifeless bland ugly annoying stupid dreadful weak pointless
messy predictable shallow pretentious horrible sloppy forgettable tiresome silly lame mediocre unfunny empty"""
NEUTRAL = """red wooden round daily local northern square digital annual central metal rural wide blue nightly german
plastic morning western public tall liquid yellow electric urban monthly southern paper"""
FRAMES = ("the film is {}", "a {} story", "it is {}")
REVIEWS = (
    "a gripping , funny and warm film",
    "one of the best films of the year",
    "i loved every minute of it",
    "a delight from start to finish",
    "the cast is superb , and the story is moving",
    "smart , fresh and beautifully made",
    "it is a charming little film",
    "thrilling , and never less than fascinating",
    "a heartfelt story , told with wit",
    "you will leave the cinema with a smile",
    "powerful and deeply touching",
    "an inventive and hilarious ride",
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 3rem auto; padding: 0 1.5rem; color: #222 }
h2 { font-size: 1.15rem; margin: 3rem 0 .3rem } img { max-width: 100% } .note { color: #555 }
table { border-collapse: collapse; font-size: 13px } td, th { padding: .15rem .6rem; text-align: right }
"""


class Page:
    """What is found, printed and written to a page as it comes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._parts = folder, [f"<style>{STYLE}</style><h1>T-TCAV</h1>"]
        folder.mkdir(parents=True, exist_ok=True)

    def title(self, text: str, note: str = "") -> None:
        print(f"\n{text}\n{'-' * len(text)}\n{note}")
        self._parts.append(f"<h2>{text}</h2><p class='note'>{note}</p>")

    def say(self, text: str) -> None:
        print(text)
        self._parts.append(f"<p>{text}</p>")

    def table(self, table: pd.DataFrame) -> None:
        print(table.to_string(index=False, float_format="%.3f"))
        self._parts.append(table.to_html(index=False, float_format="%.3f", border=0))

    def figure(self, name: str, figure: Figure) -> None:
        figure.savefig(self.folder / f"{name}.png", dpi=130)
        self._parts.append(f"<img src='{name}.png' alt='{name}'>")

    def write(self) -> None:
        document = "<!doctype html>\n<html lang='en'><meta charset='utf-8'><title>T-TCAV</title>"
        (self.folder / "index.html").write_text(document + "\n".join(self._parts) + "</html>\n", encoding="utf-8")
        print(f"\nWrote {self.folder / 'index.html'}")


def main() -> None:
    arguments = parse_arguments()
    page = Page(arguments.out)
    if arguments.concepts:
        own_concepts(page, arguments)
    else:
        model = load_texture_model()
        which_concepts(page, model)
        where(page, model)
        robustness(page, model)
        how_often_wrong(page, model, arguments.seeds, arguments.paper)
        sentiment(page)
    page.write()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=Path, help="a folder of folders of images, one for each concept")
    parser.add_argument("--only", type=lambda text: text.split(","), help="some of these concepts, with commas")
    parser.add_argument("--targets", type=Path, help="a folder of images that are explained")
    parser.add_argument("--target", help="the class that is explained, by name or number (default: the predicted one)")
    parser.add_argument("--model", help="folder or hub name of a vision transformer with a classification head")
    parser.add_argument(
        "--most", type=int, default=120, help="images of each concept and targets (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=10, help="draws of examples, and untrained models")
    parser.add_argument("--paper", action="store_true", help="the paper's setting, too: some 15 minutes more")
    parser.add_argument("--out", type=Path, default=Path("out/ttcav"), help="where to write (default: %(default)s)")
    arguments = parser.parse_args()
    if bool(arguments.concepts) != bool(arguments.targets) or bool(arguments.concepts) != bool(arguments.model):
        parser.error("--concepts, --targets and --model go together")
    return arguments


def own_concepts(page: Page, arguments: argparse.Namespace) -> None:
    """The paper's setting: folders of concepts and of targets, and a model from a folder or hub."""
    try:
        concepts = read_concepts(arguments.concepts, arguments.only, arguments.most)
        targets = read_images(arguments.targets, arguments.most)
        model = AutoModelForImageClassification.from_pretrained(arguments.model, dtype=torch.float32)
        processor = AutoImageProcessor.from_pretrained(arguments.model)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    target = None if arguments.target is None else class_number(model.config.id2label, arguments.target)
    ttcav = TTCAV(model, processor=processor, on_error="skip", cache_dir=page.folder / "states")
    scores = ttcav.interpret(targets, concepts, target)
    sizes = ", ".join(f"{name} ({len(paths)})" for name, paths in concepts.items())
    page.title(f"{arguments.model}, {arguments.target or 'predicted class'}", f"{sizes}; {len(targets)} targets")
    page.table(scores.concepts()[ANSWERS])
    page.figure("scores", scores.plot())
    page.figure("power", scores.plot_power())
    page.table(scores.table()[SHOWN])
    if suspicious := scores.suspicious():
        left = {name: len(numbers) for name, numbers in suspicious.items()}
        page.say(f"Without examples that the model takes for the class, or that are copies: {left}")
        try:
            page.table(ttcav.interpret(targets, concepts, target, leave_out=suspicious).concepts()[ANSWERS])
        except ValueError as error:  # too few are left
            page.say(str(error))
    maps = ttcav.sensitivity_maps(targets[:4], concepts, target)
    for example in range(len(maps.values)):
        page.figure(f"map_{example}", maps.plot(example))


def class_number(names: Mapping[int, str], wanted: str) -> int:
    """A class by its name, a part of it between commas, or its number."""
    for number, name in names.items():
        if wanted == str(number) or wanted.lower() in [part.strip().lower() for part in [name, *name.split(",")]]:
            return int(number)
    raise SystemExit(f"--target {wanted}: the model has no such class; it has {list(names.values())[:20]} ...")


def texture_concepts(seed: int, count: int | None = None) -> dict[str, Tensor]:
    """Whole frames of each texture, and a concept without a meaning."""
    count = count or EXAMPLES
    concepts = {texture: texture_images(texture, count, seed) for texture in TEXTURES}
    return {**concepts, RANDOM: random_images(count, seed)}


def which_concepts(page: Page, model: ViTForImageClassification) -> None:
    """Accuracy, and the scores of textures and shapes for each class."""
    images, labels, _ = labelled_images(1000, seed=77)
    with torch.no_grad():
        accuracy = float((model(images).logits.argmax(-1) == labels).double().mean())
    page.title("Which concepts move which class?", f"The model is right on {accuracy:.1%} of 1,000 new images.")
    shapes = {shape: shape_images(shape, EXAMPLES, seed=1) for shape in SHAPES}
    for name, concepts in {"zebra": texture_concepts(1), "ladybird": texture_concepts(1), "snake": shapes}.items():
        scores = TTCAV(model).interpret(class_images(name, INPUTS, seed=2), concepts, CLASSES.index(name))
        page.say(f"{name}: {verdict(scores)}")
        page.table(scores.concepts()[ANSWERS])
        page.figure(f"scores_{name}", scores.plot())
        page.figure(f"stability_{name}", scores.plot_stability())
        page.table(scores.table()[SHOWN])


def verdict(scores: ConceptScores) -> str:
    """The concepts that are significant, with their signs and in how many layers."""
    table = scores.table()
    found = table[table.significant].assign(sign=np.sign(table.effect)).groupby(["concept", "sign"], sort=False).size()
    return (
        ", ".join(f"{'+' if sign > 0 else '-'} {concept} in {n} layers" for (concept, sign), n in found.items())
        or "none"
    )


def where(page: Page, model: ViTForImageClassification) -> None:
    """How much of the positive sensitivity to the true concept lies on the object."""
    page.title(
        "Where in the image?",
        "Share of the positive sensitivity to the true concept that is on the object, and how many times the object's "
        "area that is; the same without attention weights; and for the readout token's attention alone.",
    )
    rows = []
    for name, concept in TRUE.items():
        label = CLASSES.index(name)
        images, labels, masks = labelled_images(400, seed=5)
        images, masks = images[labels == label], masks[labels == label]
        area = covered(masks)
        for weighting in ("attention", "uniform"):
            ttcav = TTCAV(model, weighting=weighting)
            maps = ttcav.sensitivity_maps(images, texture_concepts(1), label, show_progress=False)
            k = list(maps.concepts).index(concept)
            for layer in range(3):  # patches of the last layer have no gradient
                rows.append((name, f"T-TCAV, {weighting} weights", layer, *shares(maps.patches[:, layer, k], area)))
            if weighting == "attention":
                one = ttcav.sensitivity_maps(
                    class_images(name, 1, seed=12), texture_concepts(1), label, show_progress=False
                )
                page.figure(f"map_{name}", one.plot(0, [*TRUE.values(), "zigzag", "plain"]))
        attention = ShapleyAttention(model, game="cls").attribute_tokens(images, label, per="layer").patches
        rows += [(name, "attention alone", layer, *shares(attention[:, layer], area)) for layer in range(3)]
    columns = ["class", "map", "layer", "share on the object", "times its area", "highest patch on the object"]
    page.table(pd.DataFrame(rows, columns=columns))


def covered(masks: Tensor) -> Tensor:
    """Which share of each patch lies in the masks, bool (n, h, w): (n, rows, columns)."""
    return patch_means(masks.float(), GRID)


def shares(maps: Tensor, area: Tensor) -> tuple[float, float, float]:
    """Of positive values (n, rows, columns): the share inside, the same by area, and how often the top is inside."""
    positive = maps.clamp(min=0)
    inside = float(((positive * area).sum((1, 2)) / positive.sum((1, 2)).clamp(min=1e-30)).mean())
    top = maps.flatten(1).argmax(1, keepdim=True)
    return inside, inside / float(area.mean()), float((area.flatten(1).gather(1, top) > 0).double().mean())


def robustness(page: Page, model: ViTForImageClassification) -> None:
    """Several concepts in one image, fine differences, and other draws of negatives."""
    page.title(
        "Several concepts in one image",
        f"A striped fish and a dotted disc: positive sensitivity on either object, mean share of {INPUTS} images.",
    )
    rng = generator(9, "two objects")
    drawn = [draw_two(("narrow stripes", "fish"), ("dotted", "disc"), rng) for _ in range(INPUTS)]
    images, striped, dotted = (torch.stack(part) for part in zip(*drawn, strict=True))
    areas = {n: covered(m) for n, m in {"fish": striped, "disc": dotted}.items()}
    rows = []
    for name, concept in TRUE.items():
        maps = TTCAV(model).sensitivity_maps(images, texture_concepts(1), CLASSES.index(name), show_progress=False)
        k = list(maps.concepts).index(concept)
        for layer in range(3):
            on = {f"on the {thing}": shares(maps.patches[:, layer, k], area)[0] for thing, area in areas.items()}
            rows.append({"class": name, "concept": concept, "layer": layer, **on})
        page.figure(f"two_objects_{name}", maps.plot(0, [*TRUE.values(), "zigzag", RANDOM]))
    page.table(pd.DataFrame(rows))
    page.say(
        f"Their shares of the area: {', '.join(f'{thing} {float(area.mean()):.3f}' for thing, area in areas.items())}."
    )

    page.title("Fine differences", "Stripes of 3 to 4.5 pixels against stripes of 8 to 12, for the zebra.")
    pair = {texture: texture_images(texture, EXAMPLES, seed=1) for texture in TEXTURES[:2]}
    scores = TTCAV(model).interpret(class_images("zebra", INPUTS, seed=2), pair, 0, show_progress=False)
    page.table(scores.table()[SHOWN])

    page.title(
        "Estimators of vectors", "The same draws of negatives; differences of scores beside their spread over draws."
    )
    found: dict[str, ConceptScores] = {}
    ttcav = TTCAV(model)
    estimators: list[EstimatorName] = ["logistic", "discriminant", "pattern"]
    for ttcav.estimator in estimators:
        zebras = class_images("zebra", INPUTS, seed=2)
        found[str(ttcav.estimator)] = ttcav.interpret(zebras, texture_concepts(1), 0, show_progress=False)
    table = agreement(found).query("first == 'logistic' and concept == 'narrow stripes'")
    page.table(table.drop(columns=["set", "concept"]))


def how_often_wrong(page: Page, model: ViTForImageClassification, seeds: int, paper: bool) -> None:
    """Size and power, ours and the paper's setting, over draws of examples."""
    page.title(
        "How often is it wrong?",
        f"{seeds} draws of examples, {EXAMPLES} images of a concept. Found: the true concept is significant (Holm over "
        "concepts, 5 %) with positive sign; in at least half of the layers, too. Size: the share of p-values below "
        "0.05, of layers and of concepts, where there is nothing to find: the random concept, and all concepts of "
        f"{seeds} untrained models.",
    )
    settings: dict[str, tuple[Scope, EstimatorName, str, int]] = {
        "default: readout, both tests": ("readout", "discriminant", "p", EXAMPLES),
        "players, both tests": ("players", "discriminant", "p", EXAMPLES),
    }
    if paper:
        settings[f"paper: all tokens, logistic, t-test ({FEW} images)"] = ("all", "logistic", "t_test", FEW)
    rows, curves = [], {}
    for name, (tokens, estimator, p, count) in settings.items():
        torch.manual_seed(0)
        untrained_models = [random_model().eval() for _ in range(seeds)]
        trained, untrained = (
            pd.concat(
                [draw_tested(TTCAV(one, tokens=tokens, estimator=estimator), k, count) for k, one in enumerate(models)]
            )
            for models in ([model] * seeds, untrained_models)
        )
        curves[name] = {
            "true concepts": trained[trained.true][p],
            "random concept": trained[trained.concept == RANDOM][p],
            "untrained models": untrained[p],
        }
        row: dict[str, object] = {"setting": name}
        nulls = {"random concept": trained[trained.concept == RANDOM], "untrained models": untrained}
        for target in TRUE:
            draws = [part for _, part in trained[trained.target == target].groupby("seed")]
            row[f"{target} found"] = f"{sum(map(concept_found, draws))} of {len(draws)}" if p == "p" else ""
            row[f"{target}, half of the layers"] = f"{sum(found_in(part, p) for part in draws)} of {len(draws)}"
        for null, drawn in nulls.items():
            row[f"size of layers, {null}"] = float((drawn[p].dropna() < 0.05).mean())
            concepts = drawn.drop_duplicates(["seed", "target", "concept"]).p_concept
            row[f"size of concepts, {null}"] = float((concepts < 0.05).mean()) if p == "p" else None
        rows.append(row)
    page.table(pd.DataFrame(rows))
    page.figure("size_and_power", size_and_power(curves))


def draw_tested(ttcav: TTCAV, seed: int, count: int | None = None) -> pd.DataFrame:
    """The rows of all concepts, layers and classes for one draw of examples."""
    tables = []
    concepts = texture_concepts(100 + seed, count)
    for name, true in TRUE.items():
        inputs = class_images(name, INPUTS, seed=200 + seed)
        scores = ttcav.interpret(inputs, concepts, CLASSES.index(name), show_progress=False)
        table, answers = scores.table(), scores.concepts().set_index("concept")
        own = {f"{column}_concept": table.concept.map(answers[column]) for column in ("p", "significant", "effect")}
        tables.append(table.assign(seed=seed, target=name, true=table.concept == true, **own))
    return pd.concat(tables)


def concept_found(table: pd.DataFrame) -> bool:
    """Whether the true concept is significant with positive sign, in one draw."""
    row = table[table.true].iloc[0]
    return bool(row.significant_concept and row.effect_concept > 0)


def found_in(table: pd.DataFrame, p: str) -> bool:
    """Whether the true concept is significant with positive sign in at least half of the layers, in one draw."""
    rows = table[table.true]
    if p == "t_test":  # the paper's: a mean score above one half; Bonferroni
        significant, positive = rows[p] * table[p].notna().sum() < 0.05, rows.score > 0.5
    else:
        significant, positive = rows.significant, rows.effect > 0
    return bool((significant & positive).sum() * 2 >= len(rows))


def size_and_power(curves: Mapping[str, Mapping[str, pd.Series]]) -> Figure:
    """The share of p-values below each level: where nothing is to find, a test of the right size is on the diagonal."""
    figure = Figure(figsize=(11.5, 4.2), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True)
    for axes, (name, of_kind) in zip(panels, curves.items(), strict=True):
        levels = np.logspace(-4, 0, 200)
        styles = zip(of_kind.items(), ("#d6273e", "#1f77d6", "#555555"), ("-", "--", ":"), strict=True)
        for (kind, p_values), colour, line in styles:
            below = [(p_values.dropna() <= level).mean() for level in levels]
            axes.plot(levels, below, line, color=colour, label=kind, linewidth=2)
        axes.plot(levels, levels, color="0.75", linewidth=1, label="right size")
        axes.axvline(0.05, color="0.85", linewidth=1)
        axes.set_xscale("log")
        axes.set_xlabel("level")
        axes.set_title(name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of p-values below it")
    panels[0].legend(frameon=False, fontsize=9)
    return figure


def sentiment(page: Page) -> None:
    """Words of praise and blame in the shipped sentiment model."""
    model, tokenizer = load_text_model()
    concepts = {"praise": framed(PRAISE), "blame": framed(BLAME), "neutral": framed(NEUTRAL)}
    ttcav = TTCAV(model, processor=tokenizer)
    scores = ttcav.interpret(list(REVIEWS), concepts, target=1, show_progress=False)
    page.title("Words", f"Adjectives of praise, blame and neither; {len(REVIEWS)} positive reviews; target: positive.")
    page.say(verdict(scores))
    page.figure("scores_sentiment", scores.plot())
    page.table(scores.table()[SHOWN])
    mixed = ["a slow and tedious start , but a brilliant and moving end"]
    page.figure("map_sentiment", ttcav.sensitivity_maps(mixed, concepts, 1, show_progress=False).plot(0, layer=0))


def framed(words: str) -> list[str]:
    """Short texts, each around one of the words."""
    return [FRAMES[place % len(FRAMES)].format(word) for place, word in enumerate(words.split())]


if __name__ == "__main__":
    main()
