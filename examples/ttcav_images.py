"""T-TCAV on your own concepts, images and model.

    python examples/ttcav_images.py --concepts dtd/images --only striped,dotted,zigzagged,chequered \\
        --targets imagenet/n02391049 --target zebra --model google/vit-base-patch16-224 --null random

Concepts are folders of images (DTD, ImageNet, or Broden's index), ``--model`` is a folder or hub name of a vision
transformer, and ``--target`` the class that is explained, of which ``--targets`` are images. ``index.html`` shows the
answer for each concept, how sure it is in each layer, how many examples it would take, where in some images, and what
is left without the examples that the model takes for the class.

``--null`` names a folder of images without a meaning, or one of the concepts: these are split into parts at random,
again and again, and how often a part is a significant concept says how often this test is wrong, on these images and
this model.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from helpers.concept_folders import read_concepts, read_images
from helpers.concept_page import ANSWERS, SHOWN, Page
from scipy.stats import binomtest

from captum_attn import TTCAV
from captum_attn.bench import UnreadableError
from captum_attn.command.loading import load
from captum_attn.concepts import ConceptScores
from captum_attn.concepts.experimental_sets import FEWEST_EXAMPLES

PARTS = 5  # of the images without a meaning


def main() -> None:
    options = arguments()
    page = Page(options.out)
    try:
        concepts = read_concepts(options.concepts, options.only, options.most)
        targets = read_images(options.targets, options.most)
        null = concepts.get(options.null) or (read_images(Path(options.null), options.most) if options.null else [])
        loaded = load(options.model)
        model, processor = loaded.model, loaded.processor
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    if options.null and len(null) < PARTS * FEWEST_EXAMPLES:
        raise SystemExit(f"--null: {len(null)} images are too few for {PARTS} parts of at least {FEWEST_EXAMPLES}")
    target = None if options.target is None else class_number(model.config.id2label, options.target)
    kept = {"processor": processor, "cache_dir": page.folder / "states", "layers": options.layers}
    ttcav = TTCAV(model, on_error="skip", **kept)
    sizes = ", ".join(f"{name} ({len(paths)})" for name, paths in concepts.items())
    page.title(f"{options.model}, {options.target or 'predicted class'}", f"{sizes}; {len(targets)} targets")
    scores = ttcav.interpret(targets, concepts, target)
    show(page, "scores", scores)
    page.figure("power", scores.plot_power())
    if suspicious := scores.suspicious():
        left_out = {name: len(numbers) for name, numbers in suspicious.items()}
        page.title("Without examples that the model takes for the class, or that are copies", str(left_out))
        try:
            show(page, "scores_without", ttcav.interpret(targets, concepts, target, leave_out=suspicious))
        except ValueError as error:  # too few are left
            page.say(str(error))
    maps = ttcav.sensitivity_maps(targets[:4], concepts, target)
    for example in range(len(maps.values)):
        page.figure(f"map_{example}", maps.plot(example))
    if null:
        note = f"Parts of {len(null)} images, {PARTS} at a time, {options.splits} times: how often is one significant?"
        page.title("How often is it wrong?", note)
        try:
            page.table(false_alarms(TTCAV(model, n_cavs=1, **kept), targets, null, target, options.splits))
        except (ValueError, UnreadableError) as error:
            page.say(str(error))
    page.write()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=Path, required=True, help="a folder of folders of images, for each concept")
    parser.add_argument("--only", type=lambda text: text.split(","), help="some of these concepts, with commas")
    parser.add_argument("--targets", type=Path, required=True, help="a folder of images that are explained")
    parser.add_argument("--target", help="the class that is explained, by name or number (default: the predicted one)")
    parser.add_argument("--model", required=True, help="folder or hub name of a vision transformer that classifies")
    parser.add_argument("--layers", type=int, nargs="+", help="some of its layers, by number (default: all)")
    parser.add_argument("--null", help="a folder of images without a meaning, or one of the concepts")
    parser.add_argument("--splits", type=int, default=20, help="of these (default: %(default)s)")
    parser.add_argument(
        "--most", type=int, default=120, help="images of each concept and targets (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/ttcav_images"), help="where to (default: %(default)s)")
    return parser.parse_args()


def class_number(names: Mapping[int, str], wanted: str) -> int:
    """A class by its name, a part of it between commas, or its number."""
    for number, name in names.items():
        if wanted == str(number) or wanted.lower() in [part.strip().lower() for part in [name, *name.split(",")]]:
            return int(number)
    raise SystemExit(f"--target {wanted}: the model has no such class; it has {list(names.values())[:20]} ...")


def show(page: Page, name: str, scores: ConceptScores) -> None:
    """The answer for each concept, and in each layer."""
    page.table(scores.concepts()[ANSWERS])
    page.figure(name, scores.plot())
    page.table(scores.table()[SHOWN])


def false_alarms(
    ttcav: TTCAV, targets: Sequence[Path], images: Sequence[Path], target: int | None, splits: int
) -> pd.DataFrame:
    """How often parts of images without a meaning are significant: of concepts and of layers, and in how many splits.

    All parts are the same images with others left out, so that these are read by the model once.
    """
    concepts: dict[str, Any] = {f"part {part}": list(images) for part in range(PARTS)}
    answers, layers = [], []
    for split in range(splits):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(split)) % PARTS
        others = {f"part {part}": (order != part).nonzero().flatten().tolist() for part in range(PARTS)}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*its vectors separate")  # as they should
            scores = ttcav.interpret(targets, concepts, target, leave_out=others, show_progress=False)
        answers.append(scores.concepts().assign(split=split))
        layers.append(scores.table().assign(split=split))
    of_concepts, of_layers = pd.concat(answers), pd.concat(layers).dropna(subset="p")
    found = {
        "concepts, p < .05": of_concepts.p < 0.05,
        "layers, p < .05": of_layers.p < 0.05,
        "splits with a significant concept": of_concepts.groupby("split").significant.any(),
    }
    rows = []
    for name, hits in found.items():
        test = binomtest(int(hits.sum()), len(hits))
        low, high = test.proportion_ci()  # as if they were independent
        rows.append((name, test.k, test.n, test.statistic, f"{low:.3f} to {high:.3f}"))
    return pd.DataFrame(rows, columns=["what", "found", "of", "share", "95 % interval"])


if __name__ == "__main__":
    main()
