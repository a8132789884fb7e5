"""Tokens, names and classes with dollars, in every figure of a history."""

from __future__ import annotations

import pandas as pd
import torch
from dollars import NAMES, assert_as_written

from lightning_callbacks.figures import patches_over_time, tokens_over_time, trajectories
from lightning_callbacks.probing import ExplainedExample


def test_trajectories():
    columns = {"epoch": [0, 1], "step": [10, 20]}
    for name in NAMES:
        columns |= {f"faithfulness/{name}/comprehensiveness": [0.1, 0.2]}
        columns |= {f"{group}/{name}/layer_$1$": [0.4, 0.6] for group in ("tcav", "tcav_p", "tcav_effect")}
    figure = trajectories(pd.DataFrame(columns), "$main$", "$$, the output")
    assert_as_written(figure, [*NAMES, "$$, the output", "$1$"])


def explained(values, grid=None):
    return ExplainedExample(0, values, list(range(len(values))), 1, 0.5, grid, 2)


def test_texts():
    values = [0.1] * len(NAMES)
    figure = tokens_over_time(NAMES, [explained(values)] * 2, ["step 1: $$", "step 2: $\\class$"])
    assert_as_written(figure, [*NAMES, "step 1: $$", "step 2: $\\class$"])


def test_images():
    figure = patches_over_time(torch.rand(3, 8, 8), [explained([0.1] * 4, (2, 2))] * 2, ["1: $$", "2: $\\class$"])
    assert_as_written(figure, ["1: $$", "2: $\\class$"])
