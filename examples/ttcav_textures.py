"""T-TCAV where the right answer is known.

    python examples/ttcav_textures.py

The small vision transformer in ``examples/models/vit-textures`` was trained on generated images of textured objects:
zebras are finely striped and ladybirds dotted, whatever their shape, and snakes are long and thin, whatever their other
texture. So it is known which concepts move which class. The script shows what T-TCAV finds, where in the image, how
sure it is, and how often it is wrong: over ten draws of examples, for a concept without a meaning, and on untrained
models. ``index.html`` shows everything. For images of your own there is ``ttcav_images.py``, for texts
``ttcav_texts.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from helpers.concept_page import ANSWERS, SHOWN, Page, verdict
from helpers.small_models import load_texture_model
from helpers.texture_model import random_model
from helpers.textures import (
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
from matplotlib.figure import Figure
from torch import Tensor
from transformers import ViTForImageClassification

from captum_attn import TTCAV, ShapleyAttention
from captum_attn.concepts import ConceptScores, SensitivityMaps, agreement
from captum_attn.core import PatchGrid, patch_means
from captum_attn.functional import energy_pointing_game, pointing_game

if TYPE_CHECKING:
    from captum_attn.concepts import EstimatorName

EXAMPLES = 80  # of each concept
FEW = 30  # the same in the paper's setting, whose logistic regressions take long
INPUTS = 100  # of a class
TRUE = {"zebra": "narrow stripes", "ladybird": "dotted"}
RANDOM = "random"
WAYS: dict[str, dict[str, Any]] = {
    "T-TCAV": {},
    "T-TCAV, AttnLRP": {"propagation": "attnlrp"},
    "T-TCAV, uniform weights": {"weighting": "uniform"},
}
GRID = PatchGrid(8, 8, 6, 6)


def main() -> None:
    arguments = parse_arguments()
    page = Page(arguments.out)
    model = load_texture_model()
    which_concepts(page, model)
    where(page, model)
    robustness(page, model)
    how_often_wrong(page, model, arguments.seeds, arguments.paper)
    page.write()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="draws of examples, and untrained models")
    parser.add_argument("--paper", action="store_true", help="the paper's setting, too: some 15 minutes more")
    parser.add_argument("--out", type=Path, default=Path("out/ttcav"), help="where to write (default: %(default)s)")
    return parser.parse_args()


def texture_concepts(seed: int, count: int) -> dict[str, Tensor]:
    """Whole frames of each texture, and a concept without a meaning."""
    concepts = {texture: texture_images(texture, count, seed) for texture in TEXTURES}
    return {**concepts, RANDOM: random_images(count, seed)}


def which_concepts(page: Page, model: ViTForImageClassification) -> None:
    """Accuracy, and the scores of textures and shapes for each class."""
    images, labels, _ = labelled_images(1000, seed=77)
    with torch.no_grad():
        accuracy = float((model(images).logits.argmax(-1) == labels).double().mean())
    page.title("Which concepts move which class?", f"The model is right on {accuracy:.1%} of 1,000 new images.")
    shapes = {shape: shape_images(shape, EXAMPLES, seed=1) for shape in SHAPES}
    textures = texture_concepts(1, EXAMPLES)
    for name, concepts in {"zebra": textures, "ladybird": textures, "snake": shapes}.items():
        scores = TTCAV(model).interpret(class_images(name, INPUTS, seed=2), concepts, CLASSES.index(name))
        page.say(f"{name}: {verdict(scores)}")
        page.table(scores.concepts()[ANSWERS])
        page.figure(f"scores_{name}", scores.plot())
        page.figure(f"stability_{name}", scores.plot_stability())
        page.table(scores.table()[SHOWN])


def where(page: Page, model: ViTForImageClassification) -> None:
    """How much of the positive sensitivity to the true concept lies on the object."""
    page.title(
        "Where in the image?",
        "Share of the positive sensitivity to the true concept that is on the object, and how many times the object's "
        "area that is; the same under AttnLRP's rules, and without attention weights; and for the readout token's "
        "attention alone.",
    )
    rows, concepts = [], texture_concepts(1, EXAMPLES)
    for name, concept in TRUE.items():
        label = CLASSES.index(name)
        images, labels, masks = labelled_images(400, seed=5)
        images, masks = images[labels == label], masks[labels == label]
        for kind, given in WAYS.items():
            ttcav = TTCAV(model, **given)
            maps = ttcav.sensitivity_maps(images, concepts, label, masks=masks, show_progress=False)
            rows += [(name, kind, *row) for row in on_object(maps, concept)]
            if not given:
                page.figure(f"map_{name}", maps.plot(1, [*TRUE.values(), "zigzag", "plain"]))
        attention = ShapleyAttention(model, game="cls").attribute_tokens(images, label, per="layer").patches
        area = patch_means(masks.float(), GRID)
        for layer, of_layer in enumerate(attention.unbind(1)):
            share = float(energy_pointing_game(of_layer, area).mean())
            top = float(pointing_game(of_layer, area).double().mean())
            rows.append((name, "attention alone", layer, share, share / float(area.mean()), top))
    columns = ["class", "map", "layer", "share on the object", "times its area", "highest patch on the object"]
    page.table(pd.DataFrame(rows, columns=columns))


def on_object(maps: SensitivityMaps, concept: str) -> list[tuple[int, float, float, float]]:
    """Of each layer with gradients, over all images: the share on the object, by its area, and how often the top is."""
    found = maps.on_object().query("concept == @concept").groupby("layer", sort=False)
    means = found[["share", "area", "top"]].mean().dropna()
    each = means.itertuples(index=False)
    return [(layer, row.share, row.share / row.area, row.top) for layer, row in enumerate(each)]


def robustness(page: Page, model: ViTForImageClassification) -> None:
    """Several concepts in one image, fine differences, and other draws of negatives."""
    page.title(
        "Several concepts in one image",
        f"A striped fish and a dotted disc: positive sensitivity on either object, mean share of {INPUTS} images.",
    )
    rng = generator(9, "two objects")
    drawn = [draw_two(("narrow stripes", "fish"), ("dotted", "disc"), rng) for _ in range(INPUTS)]
    images, striped, dotted = (torch.stack(part) for part in zip(*drawn, strict=True))
    objects = {"fish": striped, "disc": dotted}
    rows, concepts = [], texture_concepts(1, EXAMPLES)
    for name, concept in TRUE.items():
        maps = TTCAV(model).sensitivity_maps(images, concepts, CLASSES.index(name), show_progress=False)
        on = {thing: on_object(replace(maps, masks=masks), concept) for thing, masks in objects.items()}
        for layer, each in enumerate(zip(*on.values(), strict=True)):
            shares = {f"on the {thing}": row[1] for thing, row in zip(on, each, strict=True)}
            rows.append({"class": name, "concept": concept, "layer": layer, **shares})
        page.figure(f"two_objects_{name}", maps.plot(0, [*TRUE.values(), "zigzag", RANDOM]))
    page.table(pd.DataFrame(rows))
    page.say(
        "Their shares of the area: "
        f"{', '.join(f'{thing} {float(masks.float().mean()):.3f}' for thing, masks in objects.items())}."
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
        found[str(ttcav.estimator)] = ttcav.interpret(zebras, concepts, 0, show_progress=False)
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
    settings: dict[str, tuple[dict[str, Any], str, int]] = {
        "default: readout, both tests": ({}, "p", EXAMPLES),
        "the same under AttnLRP's rules": ({"propagation": "attnlrp"}, "p", EXAMPLES),
        "players, both tests": ({"tokens": "players"}, "p", EXAMPLES),
    }
    if paper:
        papers = {"tokens": "all", "estimator": "logistic"}
        settings[f"paper: all tokens, logistic, t-test ({FEW} images)"] = (papers, "t_test", FEW)
    rows, curves = [], {}
    for name, (given, p, count) in settings.items():
        torch.manual_seed(0)
        untrained_models = [random_model().eval() for _ in range(seeds)]
        trained, untrained = (
            pd.concat([draw_tested(TTCAV(one, **given), k, count) for k, one in enumerate(models)], ignore_index=True)
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
        of_layers = trained.dropna(subset="p").groupby(["seed", "target", "layer"])
        for column in ("effect", "score"):
            highest = trained.loc[of_layers[column].idxmax(), "true"]
            row[f"highest {column}: the true one"] = float(highest.mean())
        for null, drawn in nulls.items():
            row[f"size of layers, {null}"] = float((drawn[p].dropna() < 0.05).mean())
            concepts = drawn.drop_duplicates(["seed", "target", "concept"]).p_concept
            row[f"size of concepts, {null}"] = float((concepts < 0.05).mean()) if p == "p" else None
        rows.append(row)
    page.table(pd.DataFrame(rows))
    page.figure("size_and_power", size_and_power(curves))


def draw_tested(ttcav: TTCAV, seed: int, count: int) -> pd.DataFrame:
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
    figure = Figure(figsize=(3.6 * len(curves), 3.9), layout="constrained")
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


if __name__ == "__main__":
    main()
