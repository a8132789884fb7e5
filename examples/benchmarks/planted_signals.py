"""Do explanations point at when the class is heard, and at the frames in which it is seen?

The small models in ``models/wav2vec2-calls`` and ``models/videomae-digits`` judge sounds and clips that are generated
(``tones.py``, ``moving_digits.py``), so that it is known which interval, or which frames and pixels, hold the class.
For each method:

- *when*: of the positive attribution of an input, the share that lies in the interval, or the frames, that hold the
  class, divided by the part of the whole that this is (1 for a map that sees nothing); *where*: the same of pixels;
- *comprehensiveness* and *sufficiency*: :func:`captum_attn.metrics.evaluate` of as many others.

    python examples/benchmarks/planted_signals.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.moving_digits import labelled_clips
from helpers.small_models import load_clip_model, load_sound_model
from helpers.tones import labelled_sounds

from captum_attn import AttnLRP, GradSAM, IntegratedAttnLRP, RawAttention, ShapleyGradAttention
from captum_attn.core import Grid, known_grid, patch_means, seeded
from captum_attn.functional import energy_pointing_game
from captum_attn.metrics import evaluate

SEED = 2_000_000  # other sounds and clips than those of training and of its test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100, help="of each kind, for either part")
    count = parser.parse_args().inputs
    waves, of_wave, heard = labelled_sounds(2 * count, SEED)
    clips, of_clip, seen = labelled_clips(2 * count, SEED, held_out=True)
    frames = seen.any((2, 3), keepdim=True).expand_as(seen)
    listener, watcher = load_sound_model()[0], load_clip_model()
    tables = [
        found("sound", listener, waves, of_wave, {"when": heard}, methods_of(listener)),
        found("video", watcher, clips, of_clip, {"when": frames, "where": seen}, methods_of(watcher)),
    ]
    table = pd.concat(tables)
    print(table.to_string(index=False, float_format="{:.3f}".format))


def methods_of(model: Any) -> Mapping[str, Any]:
    return {
        "ShapleyGradAttention": ShapleyGradAttention(model),
        "the same, attnlrp": ShapleyGradAttention(model, propagation="attnlrp"),
        "AttnLRP": AttnLRP(model),
        "IntegratedAttnLRP": IntegratedAttnLRP(model),
        "RawAttention": RawAttention(model),
        "GradSAM": GradSAM(model),
    }


def found(
    kind: str, model: Any, inputs: Tensor, labels: Tensor, truths: Mapping[str, Tensor], methods: Mapping[str, Any]
) -> pd.DataFrame:
    """A row for each method, with a column for each truth."""
    half = len(inputs) // 2
    with torch.no_grad():
        right = model(inputs[:half]).logits.argmax(-1) == labels[:half]
    print(f"{kind}: {float(right.double().mean()):.1%} of {half} are judged right; these are explained")
    metrics = ["comprehensiveness", "sufficiency"]
    measured = evaluate(model, inputs[half:], dict(methods), show_progress=False).table(metrics)
    measured = measured[measured.ranking == "scores"].set_index(["method", "metric"])["mean"]
    grid = known_grid(methods["ShapleyGradAttention"].attribute_tokens(inputs[:1]).grid)
    chance = torch.rand(half, *grid.counts, generator=seeded(0, 0))
    rows = []
    for name in [*methods, "random"]:
        patches = chance
        if name != "random":
            patches = methods[name].attribute_tokens(inputs[:half], labels[:half], internal_batch_size=20).patches
        held = {what: times_its_part(patches[right], truth[:half][right], grid) for what, truth in truths.items()}
        of_metrics = {metric: measured[name, metric] for metric in metrics}
        rows.append({"input": kind, "method": name} | held | of_metrics)
    return pd.DataFrame(rows)


def times_its_part(patches: Tensor, truth: Tensor, grid: Grid) -> str:
    """The share of positive values on what is true, by its part of all patches: the mean, and its standard error.

    Without a positive value, the share is 0.
    """
    held = patch_means(truth.double(), grid).flatten(1)
    share = energy_pointing_game(patches.double().flatten(1)[:, None], held[:, None])
    ratio = share.nan_to_num() / held.mean(1)
    return f"{float(ratio.mean()):.2f} ± {float(ratio.std()) / len(ratio) ** 0.5:.2f}"


if __name__ == "__main__":
    main()
