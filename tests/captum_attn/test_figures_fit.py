"""Long titles, tokens and names, many of them, and photographs of any shape, in every figure."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from captum_attn.comparison.compared_inputs import ComparedInput, Picture
from captum_attn.comparison.comparison_figure import comparison_figure
from captum_attn.concepts import concept_figures as of_concepts
from captum_attn.concepts.power import PowerCurve
from captum_attn.controls import control_figures as of_controls
from captum_attn.core import PatchGrid, PatchLayout
from captum_attn.core.patches import Side
from captum_attn.drawing import plot_patches, plot_sound, plot_tokens, plot_video
from captum_attn.inspection_figure import gradients_by_call
from captum_attn.metrics import CATALOGUE
from captum_attn.metrics import reports as of_evaluations
from captum_attn.shown_inputs import ShownInput
from captum_attn.token_attributions import TokenAttributions
from lightning_callbacks.history import ExplainedExample
from lightning_callbacks.history_figures import Panel, patches_over_time, tokens_over_time, trajectories

TITLE = "entailment with a long name (98 %); explained: " + "the label of a class whose name goes on and on, " * 3
NOTE = "Of the queries that the prediction depends on; means of all pairs. Boxes: quartiles; dots: means."
TOKENS = ["a", "gripping", "pneumono" * 8, "film", "##ly"] * 8
METHODS = [f"IntegratedAttnLRP with nine passes, of magnitudes, {place}" for place in range(12)]
CONCEPTS = [f"a concept with a name of some length, {place}" for place in range(12)]
LAYERS = [f"bert.encoder.layer.{place}.attention" for place in range(12)]
LABELS = [f"step {place}00: entailment with a long name 0.98" for place in range(6)]
UNIT = "change of the output,\ntowards the concept"
WIDE, TALL = torch.rand(3, 240, 640), torch.rand(3, 640, 240)
WIDE_GRID, TALL_GRID = PatchGrid(6, 16, 40, 40), PatchGrid(16, 6, 40, 40)
PATCHES = 96
NUMBERS = np.random.default_rng(0)


def distributions(**options):
    columns = ["method", "ranking", "intervention", "metric", "scale", "example", "value"]
    rows = [
        (method, ranking, "replacement", "comprehensiveness", "eraser", example, NUMBERS.normal())
        for method in METHODS
        for ranking in ("scores", "reversed")
        for example in range(4)
    ]
    frame = pd.DataFrame(rows, columns=columns)
    return of_evaluations.distributions(frame, CATALOGUE["comprehensiveness"], options.get("families"), None)


def curves():
    columns = ["method", "intervention", "removal", "percentage", "probability", "standard_error"]
    rows = [(method, "replacement", "top removed", share, 0.5, 0.1) for method in METHODS for share in (1, 10, 50)]
    return of_evaluations.curves(pd.DataFrame(rows, columns=columns), None)


def lines(panels, p_values):
    names = {concept: f"tcav/{concept}" for concept in CONCEPTS}
    p_names = {concept: f"tcav_p/{concept}" for concept in CONCEPTS} if p_values else {}
    columns = {name: NUMBERS.random(5) for name in [*names.values(), *p_names.values()]}
    frame = pd.DataFrame({"epoch": range(5), "step": range(5), **columns})
    return trajectories(frame, [[Panel(f"layer {place}, {TITLE[:60]}", names, {}, p_names) for place in range(panels)]])


def over_time(grid=None, extent=None, count=PATCHES):
    values = NUMBERS.normal(size=count).tolist()
    return [ExplainedExample(0, values, list(range(count)), 1, 0.5, grid, 2, extent)] * len(LABELS)


def compared(tokens=None, pixels=None, grid=None):
    names, count = [*METHODS, "random"], len(tokens or range(PATCHES))
    picture = None if tokens else Picture(pixels, grid, torch.arange(count))
    scores = {name: torch.randn(count).double() for name in names}
    shown = ComparedInput(tokens or [str(place) for place in range(count)], 1, 0.9, picture, scores)
    tau = pd.DataFrame(np.corrcoef(NUMBERS.normal(size=(len(names), 20))), names, names)
    columns = [f"{metric}{of}" for metric in ("comprehensiveness", "sufficiency") for of in ("", "_error", "_reversed")]
    table = pd.DataFrame({"method": names, **{column: NUMBERS.random(len(names)) for column in columns}})
    return comparison_figure(tau, table, shown, TITLE)


def calls():
    columns = {"number": range(12), "module": [f"{layer}.self.of.the.decoder" for layer in LAYERS], "note": TITLE}
    return pd.DataFrame({**columns, "error": [0.5, None, *NUMBERS.random(10) / 20]})


def several_inputs():
    grid = PatchGrid(6, 16, 40, 40, positions=tuple(range(5, 5 + PATCHES)))
    pieces = TOKENS[:5] + [f" {place}" for place in range(PATCHES)]
    playing = torch.ones(len(pieces), dtype=torch.bool)
    shown = [ShownInput(pieces, playing, [False] * len(pieces), grid, WIDE)] * 2
    values = torch.randn(2, len(pieces))
    classes = torch.zeros(2, 1, dtype=torch.long)
    return TokenAttributions(values, values != 0, classes, torch.ones(2), torch.rand(2, 3), words_of=shown).plot()


FIGURES = {
    "several inputs": several_inputs,
    "tokens": lambda: plot_tokens(TOKENS, torch.randn(40), TITLE, TITLE),
    "wide image": lambda: plot_patches(WIDE, torch.randn(6, 16), TITLE, TITLE, grid=WIDE_GRID),
    "tall image": lambda: plot_patches(TALL, torch.randn(16, 6), TITLE, TITLE, grid=TALL_GRID),
    "sound": lambda: plot_sound(
        torch.rand(600), torch.randn(60), TITLE, grid=PatchLayout((Side(1, 60, 10),)), seconds=1
    ),
    "wide video": lambda: plot_video(
        torch.rand(8, 1, 24, 64),
        torch.randn(4, 3, 8),
        TITLE,
        grid=PatchLayout((Side(1, 4, 2), Side(3, 3, 8), Side(4, 8, 8))),
    ),
    "concepts by layers": lambda: of_concepts.concepts_by_layers(
        torch.rand(12, 12), torch.randn(12, 12), torch.rand(12, 12), CONCEPTS, LAYERS, TITLE
    ),
    "two concepts by one layer": lambda: of_concepts.concepts_by_layers(
        torch.rand(2, 1), torch.randn(2, 1), torch.rand(2, 1), ["a", "b"], ["0"], TITLE
    ),
    "scores of draws": lambda: of_concepts.scores_of_draws(
        [torch.rand(12, 5)] * 6,
        [torch.rand(12)] * 6,
        [torch.rand(12)] * 6,
        torch.ones(6, 12),
        CONCEPTS,
        LAYERS[:6],
        TITLE,
    ),
    "powers": lambda: of_concepts.powers_by_examples(
        [PowerCurve([5, 10, 50], [0.1, 0.3, 0.9])] * 12, 0.8, CONCEPTS, [10] * 12, TITLE
    ),
    "concepts over a wide image": lambda: of_concepts.concepts_over_image(
        WIDE, torch.randn(12, 6, 16), WIDE_GRID, [f"{name}\n{LAYERS[0]}, p = .012" for name in CONCEPTS], TITLE, UNIT
    ),
    "concepts over a tall image": lambda: of_concepts.concepts_over_image(
        TALL, torch.randn(12, 16, 6), TALL_GRID, [f"{name}\n{LAYERS[0]}, p = .012" for name in CONCEPTS], TITLE, UNIT
    ),
    "concepts under a text": lambda: of_concepts.concepts_under_text(
        TOKENS, torch.randn(12, 40), [f"{name}\n{LAYERS[0]}, p = .012" for name in CONCEPTS], TITLE, UNIT
    ),
    "concepts under two tokens": lambda: of_concepts.concepts_under_text(
        TOKENS[:2], torch.randn(2, 2), CONCEPTS[:2], TITLE, UNIT
    ),
    "inspection": lambda: gradients_by_call(calls(), 0.1, TITLE),
    "means": lambda: of_evaluations.means(
        pd.DataFrame({"method": METHODS, "mean": range(12), "standard_error": 1}), CATALOGUE["f1_macro"], None
    ),
    "distributions": distributions,
    "distributions of families": lambda: distributions(families=dict(zip(METHODS, CONCEPTS, strict=True))),
    "curves": curves,
    "boxes by layer": lambda: of_controls.boxes_by_layer(
        {"TVD": {str(place): NUMBERS.random(5) for place in range(48)}},
        "TVD",
        TITLE,
        NOTE,
        {},
        {"0": "100%", "1": "100%"},
    ),
    "boxes of two layers": lambda: of_controls.boxes_by_layer(
        {name: {"0": NUMBERS.random(5), "all": NUMBERS.random(5)} for name in METHODS[:3]}, "τ", TITLE, NOTE
    ),
    "layers by heads": lambda: of_controls.layers_by_heads(
        {"a": pd.DataFrame(NUMBERS.random((24, 16))), "b": pd.DataFrame(NUMBERS.random((24, 16)))}, "TVD", TITLE
    ),
    "two layers by two heads": lambda: of_controls.layers_by_heads({"": pd.DataFrame([[0.1, 0.2]] * 2)}, "TVD", TITLE),
    "two attentions": lambda: of_controls.two_attentions(
        torch.rand(12, 80), torch.rand(12, 80), TOKENS * 2, None, TITLE, NOTE
    ),
    "two attentions to two tokens": lambda: of_controls.two_attentions(
        torch.rand(2, 2), torch.rand(2, 2), TOKENS[1:3], None, TITLE, NOTE
    ),
    "two attentions to a wide image": lambda: of_controls.two_attentions(
        torch.rand(2, PATCHES), torch.rand(2, PATCHES), [], WIDE_GRID, TITLE, NOTE
    ),
    "two attentions to a tall image": lambda: of_controls.two_attentions(
        torch.rand(2, PATCHES), torch.rand(2, PATCHES), [], TALL_GRID, TITLE, NOTE
    ),
    "trajectories": lambda: lines(6, True),
    "one trajectory": lambda: lines(1, False),
    "tokens over time": lambda: tokens_over_time(TOKENS, over_time(count=40), LABELS),
    "two tokens over time": lambda: tokens_over_time(TOKENS[1:3], over_time(count=2), LABELS),
    "wide image over time": lambda: patches_over_time(WIDE, over_time((6, 16), (0, 640, 240, 0)), LABELS),
    "tall image over time": lambda: patches_over_time(TALL, over_time((16, 6), (0, 240, 640, 0)), LABELS),
    "comparison on a text": lambda: compared(TOKENS),
    "comparison on a wide image": lambda: compared(None, WIDE, WIDE_GRID),
    "comparison on a tall image": lambda: compared(None, TALL, TALL_GRID),
}


@pytest.mark.filterwarnings("error:constrained_layout not applied")
@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_clipped_overlaps_or_is_squashed(name):
    figure = FIGURES[name]()
    FigureCanvasAgg(figure).draw()
    ticks = {axis: labels_of(axis) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)}
    hidden = {text for axis in ticks for text in axis.findobj(Text)} - {text for axis in ticks for text in drawn(axis)}
    for text in {text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()} - hidden:
        box = text.get_window_extent()
        inside = box.x0 > -1 and box.y0 > -1 and box.x1 < figure.bbox.x1 + 1 and box.y1 < figure.bbox.y1 + 1
        assert inside, (text, box, figure.bbox)
    for axis, labels in ticks.items():
        for first, second in pairwise(labels):
            assert_apart(first, second, axis.axis_name)
    for axes in figure.axes:
        for image in axes.images if axes.get_aspect() == 1 else []:
            left, right, bottom, top = image.get_extent()
            across, along = np.abs(np.diff(axes.transData.transform([(left, top), (right, bottom)]), axis=0)[0])
            assert across / along == pytest.approx(abs((right - left) / (bottom - top)), rel=0.02)
            assert min(across, along) > 50


def labels_of(axis):
    """The labels of an axis that are drawn."""
    first, last = sorted(axis.get_view_interval())
    shown = axis.axes.axison and axis.axes.get_visible()
    ticks = [tick for tick in axis.get_major_ticks() if shown and first <= tick.get_loc() <= last]
    return [tick.label1 for tick in ticks if tick.label1.get_visible() and tick.label1.get_text().strip()]


def drawn(axis):
    return [*labels_of(axis), *([axis.label, axis.offsetText] if axis.axes.axison else [])]


def assert_apart(first, second, side):
    """Labels must not overlap; slanted ones must stand a line apart."""
    one, other = (label.get_window_extent() for label in (first, second))
    if first.get_rotation() % 90:
        line = first.get_fontsize() * first.get_figure(root=True).dpi / 72
        assert abs(other.x1 - one.x1) * np.sin(np.deg2rad(first.get_rotation())) > line, (first, second)
    else:
        one, other = (sorted(getattr(box, f"interval{side}")) for box in (one, other))
        assert one[1] < other[0] or other[1] < one[0], (first, second)
