"""Tokens, names and classes in every figure of a history."""

from __future__ import annotations

import re

import pandas as pd
import pytest
import torch
from cut_images import CUT, assert_over_its_pixels, read_by_each_token
from dollars import NAMES, assert_as_written
from fine_tuning import FineTuned, fit, monitored, trainer_of
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from captum_attn import ShapleyGradAttention
from lightning_callbacks import ExplanationMonitor
from lightning_callbacks.history import ExplainedExample
from lightning_callbacks.history_figures import group_panels, patches_over_time, tokens_over_time, trajectories


def test_trajectories():
    columns = {"epoch": [0, 1], "step": [10, 20], "faithfulness/comprehensiveness": [0.1, 0.3]}
    for name in NAMES:
        columns |= {f"faithfulness/{name}/comprehensiveness": [0.1, 0.2]}
        columns |= {f"{group}/{name}/layer_$1$": [0.4, 0.6] for group in ("tcav", "tcav_p", "tcav_effect")}
    monitor = ExplanationMonitor({}, {"$main$": ShapleyGradAttention}, target="$$, the output")
    frame = pd.DataFrame(columns)
    rows = [row for measurement in monitor.measurements for row in measurement.panels(frame)]
    frame["$group$/$line$"] = 1.0
    figure = trajectories(frame, [*rows, *group_panels(["$group$/$line$"])])
    assert_as_written(figure, ["$main$", *NAMES, "$$, the output", "$1$", "$group$", "$line$"])


@pytest.mark.parametrize(("layers", "rows"), [(1, [3]), (2, [2, 2, 1])])
def test_panels_of_one_layer_stand_side_by_side(layers, rows):
    names = [f"{group}/praise/layer_{layer}" for group in ("tcav", "tcav_effect", "tcav_p") for layer in range(layers)]
    monitor = ExplanationMonitor({}, None, target="positive")
    (concepts,) = monitor.measurements
    assert [len(row) for row in concepts.panels(pd.DataFrame(columns=[*names, "tcav_p/praise"]))] == rows


def explained(values, grid=None, extent=None):
    return ExplainedExample(0, values, list(range(len(values))), 1, 0.5, grid, 2, extent)


def test_texts():
    values = [0.1] * len(NAMES)
    figure = tokens_over_time(NAMES, [explained(values)] * 2, ["step 1: $$", "step 2: $\\class$"])
    assert_as_written(figure, [*NAMES, "step 1: $$", "step 2: $\\class$"])


def test_images():
    labels, whole = ["1: $$", "2: $\\class$"], (0.0, 8.0, 8.0, 0.0)
    figure = patches_over_time(torch.rand(3, 8, 8), [explained([0.1] * 4, (2, 2), whole)] * 2, labels)
    assert_as_written(figure, labels)


@pytest.mark.parametrize(("grid", "shape"), [((2, 2), (2, 2)), (None, (1, 4))])
def test_patches_of_which_nothing_says_where_they_lie_are_not_drawn_over_the_image(grid, shape):
    figure = patches_over_time(torch.rand(3, 8, 8), [explained([0.1] * 4, grid)], ["1"])
    (alone,) = figure.axes[1].images
    assert alone.get_array().shape == shape


@pytest.mark.parametrize("name", ["cut out", "column by column"])
def test_patches_lie_over_the_pixels_that_they_read(name, tmp_path):
    module, gallery = FineTuned().eval(), Gallery(tmp_path)
    module.model, images = CUT[name]
    module.validation_step = lambda batch, batch_idx: None
    monitor = ExplanationMonitor(examples=1, processor=None, figures=True)
    trainer_of([monitor], logger=gallery).validate(module, DataLoader(images, 2), verbose=False)
    values = ShapleyGradAttention(module.model).attribute_tokens(images).values[0]
    shown = gallery.figures["explanations/example_0"].axes[1].images[-1]
    assert_over_its_pixels(shown, values, read_by_each_token(module.model, images[0]))
    again = ExplanationMonitor(examples=1)
    again.load_state_dict(monitor.state_dict())
    assert again.state_dict() == monitor.state_dict()


class Gallery(CSVLogger):
    """A logger like TensorBoard's."""

    def __init__(self, folder):
        super().__init__(folder)
        self.figures = {}

    @property
    def experiment(self):
        return self

    def add_figure(self, name, figure, step):
        self.figures[name] = figure

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, *arguments):
        pass

    def save(self):
        pass


@pytest.mark.parametrize(
    ("names", "shown"),
    [({0: "a", 1: "b", 2: "c"}, "[abc]"), ({0: "a", 1: "b"}, "[012]"), ({1: "a", 2: "b", 3: "c"}, "[012]")],
)
def test_names_of_classes_count_if_there_is_one_for_each_output(tmp_path, names, shown):
    module, gallery = FineTuned(), Gallery(tmp_path)
    module.model.config.id2label = names
    monitor = ExplanationMonitor(**monitored(concepts=None, target=None, figures=True, examples=1))
    fit([monitor], module, logger=gallery)
    labels = [text.get_text() for text in gallery.figures["explanations/example_0"].axes[0].get_yticklabels()]
    assert len(labels) == 2
    assert all(re.fullmatch(rf"step \d+: {shown} 0\.\d\d", label) for label in labels)
