"""Seconds of T-TCAV by stage, beside scikit-learn's logistic regression, fitted one by one on the same tokens.

A vision transformer of ViT-base size with random weights looks at generated textures; all of their 196 patches count
(``tokens="players"``: with the default, the readout token alone, vectors cost next to nothing). The stages are

- ``states``: a forward pass of all concepts' images (kept for the next call);
- ``gradients``: a forward and a backward pass of the images that are explained;
- ``vectors and scores``: all concept activation vectors, also those for accuracy on held-out images, the scores, and
  the p-values;

the last one for each estimator. scikit-learn's ``LogisticRegression`` is fitted to a few of the same vectors, with the
defaults of the paper's setting, and its median time stands for all of them; the time of the batched logistic estimator
is that of one layer times the number of layers. Peak memory is resident memory beyond the model and the images.

Writes ``ttcav_cost.md``. About ten minutes on two cores::

    python examples/benchmarks/ttcav_cost.py
    python examples/benchmarks/ttcav_cost.py --images 30 --inputs 30 --estimators discriminant,pattern
"""

from __future__ import annotations

import argparse
import platform
import resource
import sys
import time
import warnings
from pathlib import Path
from statistics import median

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import ViTConfig, ViTForImageClassification

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.textures import TEXTURES, texture_images

from captum_attn import TTCAV
from captum_attn.concepts.cavs import ESTIMATORS
from captum_attn.concepts.token_states import TokenStates, draw_negatives

SLOW = "logistic"  # timed on one layer
MIDDLE = 5  # the layer whose tokens scikit-learn gets


def main() -> None:
    options = arguments()
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(num_labels=10)).eval().to(options.device)
    concepts = {name: enlarged(texture_images(name, options.images, seed=0)) for name in TEXTURES[: options.concepts]}
    inputs = enlarged(texture_images(TEXTURES[0], options.inputs, seed=1))
    before = resident_peak()
    ttcav = TTCAV(model, n_cavs=options.cavs, batch_size=options.batch_size, tokens="players")
    rows: list[tuple[str, float]] = []
    for name in options.estimators:
        ttcav.estimator, ttcav.layers = name, [MIDDLE] if name == SLOW else None
        times = 12 if name == SLOW else 1
        scores = ttcav.interpret(inputs, concepts, target=0)
        if not rows:
            rows += [("states", scores.seconds["states"]), ("gradients", scores.seconds["gradients"])]
        rows.append((f"vectors and scores, {name}", times * scores.seconds["vectors"]))
    memory = resident_peak() - before
    tokens = plain_tokens(model, torch.cat(list(concepts.values())), options)
    each = [seconds_of_one_fit(tokens, options, cav) for cav in range(options.fits)]
    fits = options.cavs * options.concepts * 12
    rows.append((f"scikit-learn, {fits:,} fits of {median(each):.1f} s", fits * median(each)))
    report(rows, memory, options)


def enlarged(images: Tensor) -> Tensor:
    """Images (n, 3, 48, 48) as ViT takes them, (n, 3, 224, 224) in [-1, 1]."""
    return interpolate(images, size=(224, 224), mode="bilinear") * 2 - 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=int, default=4, choices=range(2, 7))
    parser.add_argument("--images", type=int, default=120, help="of each concept")
    parser.add_argument("--inputs", type=int, default=120, help="images that are explained")
    parser.add_argument("--cavs", type=int, default=50, help="vectors for each concept and layer")
    parser.add_argument("--estimators", type=lambda text: text.split(","), default=["discriminant", "pattern", SLOW])
    parser.add_argument("--fits", type=int, default=3, help="of scikit-learn that are timed")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("out/ttcav_cost"))
    options = parser.parse_args()
    unknown = set(options.estimators) - set(ESTIMATORS)
    if unknown:
        parser.error(f"unknown estimators {sorted(unknown)}: expected some of {sorted(ESTIMATORS)}")
    return options


@torch.no_grad()
def plain_tokens(model: ViTForImageClassification, images: Tensor, options: argparse.Namespace) -> TokenStates:
    """The patches' states of one layer, by a hook."""
    kept: list[Tensor] = []
    hook = model.vit.layers[MIDDLE].register_forward_hook(lambda _, __, output: kept.append(output[:, 1:].cpu()))
    for part in images.split(options.batch_size):
        model(part.to(options.device))
    hook.remove()
    hidden = torch.cat(kept)
    labels = torch.arange(options.concepts).repeat_interleave(options.images)
    return TokenStates(hidden.flatten(0, 1), torch.full((len(hidden),), hidden.shape[1]), labels)


def seconds_of_one_fit(tokens: TokenStates, options: argparse.Namespace, cav: int) -> float:
    """Fit scikit-learn's logistic regression to one concept against as many images of the others."""
    draws = draw_negatives(tokens.concepts, options.cavs, torch.Generator().manual_seed(0))
    weights = (draws.positive + draws.negative)[cav][tokens.example_of]
    used = weights > 0
    labels = (draws.positive[cav] > 0)[tokens.example_of][used].numpy()
    hidden, weights_used = tokens.hidden[used].numpy(), weights[used].numpy()
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        LogisticRegression().fit(hidden, labels, sample_weight=weights_used)
    return time.perf_counter() - start


def resident_peak() -> int:
    """The largest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def report(rows: list[tuple[str, float]], memory: int, options: argparse.Namespace) -> None:
    """Print and write the table."""
    reference = rows[-1][1]
    lines = [
        f"{options.concepts} concepts of {options.images} images, {options.inputs} inputs, 12 layers, {options.cavs} "
        f"vectors for each; torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}",
        "",
        "| stage | seconds | scikit-learn takes |",
        "|---|--:|--:|",
    ]
    for name, seconds in rows:
        ratio = f"{reference / seconds:,.0f} ×" if name.startswith("vectors") else ""
        lines.append(f"| {name} | {seconds:,.1f} | {ratio} |")
    lines += ["", f"Peak memory beyond the model and the images: {memory / 1e9:.1f} GB."]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "ttcav_cost.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
