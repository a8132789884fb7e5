"""Tokens, names and titles with dollars, in every figure."""

from __future__ import annotations

from io import BytesIO

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from dollars import NAMES, assert_as_written
from helpers.small_models import load_image_model, load_text_model
from matplotlib.figure import Figure

from captum_attn import GradSAM, ShapleyGradAttention, compare
from captum_attn.concepts import concept_figures as of_concepts
from captum_attn.controls import control_figures as of_controls
from captum_attn.core import PatchGrid
from captum_attn.metrics import evaluate
from captum_attn.visualization import as_written, plot_patches, plot_tokens

COUNT = len(NAMES)
GRID = PatchGrid(2, 2, 4, 4)
TITLE = "of $$ and $\\bar$"
FIGURES = {
    "tokens": lambda: plot_tokens(NAMES, torch.arange(COUNT) - 1.5, TITLE, NAMES[1]),
    "patches": lambda: plot_patches(torch.rand(3, 8, 8), torch.rand(2, 2), TITLE, NAMES[2], grid=GRID),
    "concepts by layers": lambda: of_concepts.concepts_by_layers(
        torch.rand(COUNT, 2), torch.rand(COUNT, 2), torch.rand(COUNT, 2), NAMES, ["$0$", "$$"], TITLE
    ),
    "scores of draws": lambda: of_concepts.scores_of_draws(
        [torch.rand(COUNT, 3)] * 2,
        [torch.rand(COUNT)] * 2,
        [torch.rand(COUNT)] * 2,
        torch.ones(2, COUNT, dtype=torch.bool),
        NAMES,
        ["$0$", "$$"],
        TITLE,
    ),
    "concepts over an image": lambda: of_concepts.concepts_over_image(
        torch.rand(3, 8, 8), torch.rand(COUNT, 2, 2), GRID, NAMES, TITLE, NAMES[1]
    ),
    "concepts under a text": lambda: of_concepts.concepts_under_text(
        NAMES * 7, torch.rand(2, 7 * COUNT), NAMES[:2], TITLE, NAMES[1]
    ),
    "boxes by layer": lambda: of_controls.boxes_by_layer(
        {name: {layer: torch.rand(3) for layer in NAMES} for name in ("$$", "$x^$")},
        "$\\label$",
        TITLE,
        "$note$ $$",
        {"$line$": 0.5},
        {NAMES[0]: "$above$"},
    ),
    "layers by heads": lambda: of_controls.layers_by_heads(
        {name: pd.DataFrame(np.random.default_rng(0).random((2, 3))) for name in NAMES}, "$\\label$", TITLE
    ),
    "two attentions": lambda: of_controls.two_attentions(
        torch.rand(2, COUNT), torch.rand(2, COUNT), NAMES, None, TITLE, "$note$ $$"
    ),
    "two attentions to an image": lambda: of_controls.two_attentions(
        torch.rand(2, 4), torch.rand(2, 4), [], GRID, TITLE, "$note$ $$"
    ),
}
OTHERS = {
    "patches": [NAMES[2]],
    "boxes by layer": [*NAMES, "$x^$", "$\\label$", "$note$ $$", "$line$", "$above$"],
    "layers by heads": [*NAMES, "$\\label$"],
    "two attentions": [*NAMES, "$note$ $$"],
    "two attentions to an image": ["$note$ $$"],
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("spelled_out", [False, True])
def test_figures(name, spelled_out):
    with mpl.rc_context({"axes.formatter.use_mathtext": spelled_out}):  # numbers of ticks as formulas
        assert_as_written(FIGURES[name](), [TITLE, *OTHERS.get(name, NAMES)])


def test_numbers_of_ticks_keep_their_form():
    with mpl.rc_context({"axes.formatter.use_mathtext": True}):
        figure = plot_tokens(NAMES, torch.arange(COUNT) * 1e-9)
        figure.savefig(BytesIO())
        axes = figure.axes[0]
        assert r"\times" in axes.xaxis.get_offset_text().get_text()
        assert axes.xaxis.get_offset_text().get_parse_math()
        assert all(label.get_parse_math() for label in axes.get_xticklabels())


def test_matplotlib_itself_fails():
    """Or the tests above could not."""
    figure = Figure()
    figure.text(0, 0, "$$")
    with pytest.raises(ValueError, match=r"\$\$"):
        figure.savefig(BytesIO())
    as_written(figure).savefig(BytesIO())


def named(model, names):
    model.config.id2label = dict(enumerate(names))
    return model


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_comparison(modality):
    if modality == "text":
        model, tokenizer = load_text_model()
        inputs = ["the price is $ $ x $ _ but good"]
    else:
        model, tokenizer, inputs = load_image_model(), None, torch.rand(1, 1, 8, 8)
    names = [f"$\\class_{number}$" for number in range(model.config.num_labels)]
    named(model, names)
    methods = {
        "$$": ShapleyGradAttention(model, tokenizer=tokenizer),
        "$a_b$": GradSAM(model, tokenizer=tokenizer),
        "$\\foo$": GradSAM(model, tokenizer=tokenizer),
    }
    found = compare(model, inputs, methods, tokenizer=tokenizer, show_progress=False)
    assert_as_written(found.plot(), [*methods, found.class_name(found.inputs[0].target)])
    assert found.class_name(0) == "$\\class_0$"


def test_an_evaluation():
    model, tokenizer = load_text_model()
    methods = {"$$": ShapleyGradAttention(model, tokenizer=tokenizer), "$a_b$": GradSAM(model, tokenizer=tokenizer)}
    found = evaluate(model, ["a gripping film", "not good"], methods, tokenizer=tokenizer, show_progress=False)
    families = {"$$": "$\\foo$", "$a_b$": "$$", "random": "random"}
    assert_as_written(found.plot(families=families), [*methods, "$\\foo$"])
    assert_as_written(found.plot_curves(), methods)
    own = Figure().add_subplot(title="$x^2$")
    found.plot(ax=own)
    assert own.title.get_parse_math()  # not ours
