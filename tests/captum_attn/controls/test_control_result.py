"""Tables, Markdown and figures of the controls, of small frames worked out by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from families import FAMILIES, text_batch
from matplotlib.figure import Figure

from captum_attn.controls import (
    AttentionEffects,
    Correlations,
    attention_correlation,
    counterfactual_attention,
    seed_variance,
    uniform_attention,
)
from captum_attn.controls.control_figures import boxes_by_layer, layers_by_heads, two_attentions

EFFECTS = pd.DataFrame(
    [
        (1, 0, "all", 0.3, 0.1, 0.0),
        (0, 0, "all", 0.1, 0.1, 1.0),
        (0, 0, 1, 0.2, 0.1, 0.0),
        (1, 0, 1, 0.4, 0.1, 0.0),
        (0, "all", "all", 0.5, 0.1, 1.0),
        (1, "all", "all", math.nan, 0.1, 1.0),
    ],
    columns=["example", "layer", "head", "tvd", "divergence", "changed"],
)


@pytest.fixture(scope="module")
def results():
    model, inputs = FAMILIES["bert"].build(), text_batch()
    other = FAMILIES["bert"].build()
    other.bert.encoder.layer[1].attention.self.query.weight.data *= 2
    quiet = {"show_progress": False}
    return {
        "correlation": attention_correlation(model, inputs, replacement=4, **quiet),
        "uniform": uniform_attention(model, inputs, per="head", labels=[0, 1, 2], **quiet),
        "counterfactual": counterfactual_attention(model, inputs, steps=5, **quiet),
        "seeds": seed_variance([model, other], inputs, **quiet),
    }


def test_the_table_has_means_and_standard_errors_over_examples():
    table = AttentionEffects(EFFECTS, "changed").table().set_index(["layer", "head", "measure"])
    assert table["mean"][0, "all", "tvd"] == pytest.approx(0.2)
    assert table.standard_error[0, "all", "tvd"] == pytest.approx(0.1)
    assert table["mean"][0, 1, "tvd"] == pytest.approx(0.3)
    assert table["mean"][0, "all", "changed"] == 0.5
    assert table.n[0, "all", "tvd"] == 2
    assert table.n["all", "all", "tvd"] == 1
    assert "correct" not in table.index.get_level_values("measure")


def test_the_frame_is_sorted_by_example_and_a_copy():
    result = AttentionEffects(EFFECTS, "changed")
    assert result.frame().example.tolist() == [0, 0, 0, 1, 1, 1]
    given = result.frame()
    given["tvd"] = 9
    assert result.frame().tvd.max() == 0.5
    assert len(result) == 2
    assert repr(result) == "AttentionEffects(2 examples)"


def test_markdown_shows_layers_and_leaves_heads_to_the_table():
    lines = AttentionEffects(EFFECTS, "changed").to_markdown().splitlines()
    assert lines[0].startswith("Attention changed, in a model that was not trained so")
    assert lines[2:] == [
        "| layer | TVD | divergence | changed |",
        "|---|--:|--:|--:|",
        "| 0 | 0.200 ± 0.100 | 0.100 ± 0.000 | 0.500 ± 0.500 |",
        "| all | 0.500 | 0.100 ± 0.000 | 1.000 ± 0.000 |",
    ]


def test_correlations_are_told_apart_by_pair():
    rows = [
        (0, "attention ~ gradient", 0, "mean", 0.5, 1.0),
        (0, "attention ~ gradient", 0, 0, 0.1, 1.0),
        (0, "gradient ~ leave-one-out", "none", "mean", 0.7, 0.0),
    ]
    frame = pd.DataFrame(rows, columns=["example", "pair", "layer", "head", "tau", "significant"])
    markdown = Correlations(frame, "the readout token's attention to").to_markdown()
    assert "| attention ~ gradient | 0 | 0.500 | 1.000 |" in markdown
    assert "| gradient ~ leave-one-out | none | 0.700 | 0.000 |" in markdown
    assert "0.100" not in markdown


@pytest.mark.parametrize("name", ["correlation", "uniform", "counterfactual", "seeds"])
def test_every_result_has_a_caption_a_table_and_figures(name, results, tmp_path):
    result = results[name]
    assert result._repr_markdown_() == result.to_markdown()
    assert result.caption in result.to_markdown()
    assert "nan" not in result.to_markdown()
    for figure in (result.plot(), result.plot_heads(), result.plot_heads(result.measures[1])):
        assert isinstance(figure, Figure)
    result.plot().savefig(tmp_path / "figure.png")


def test_the_figure_of_counterfactuals_shows_other_seeds_beside_them(results):
    axes = results["counterfactual"].plot(results["seeds"]).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["counterfactual", "other seeds", "threshold", "ln 2, the most"]
    alone = results["counterfactual"].plot().axes[0]
    assert [text.get_text() for text in alone.get_legend().get_texts()] == [labels[0], *labels[2:]]


def test_other_seeds_stand_beside_the_layers_that_were_searched_alone(results):
    some = counterfactual_attention(FAMILIES["bert"].build(), text_batch(), layers=[1], steps=2, show_progress=False)
    dots = [line for line in some.plot(results["seeds"]).axes[0].lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [2, 1]  # layer 1 and "all"; layer 1


def test_means_in_the_boxes_are_those_of_the_table(results):
    axes = results["uniform"].plot().axes[0]
    table = results["uniform"].table().query("measure == 'tvd' and head == 'all' and layer != 'none'")
    assert axes.lines[-1].get_ydata().tolist() == pytest.approx(table["mean"].tolist())
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "2", "all"]


def test_maps_of_heads_hold_the_tables_means(results):
    figure = results["correlation"].plot_heads()
    table = results["correlation"].table().query("measure == 'tau' and pair == 'attention ~ leave-one-out'")
    cells = figure.axes[1].images[0].get_array()
    row = table[(table.layer == 1) & (table["head"] == 2)]
    assert cells[1, 2] == pytest.approx(row["mean"].item())
    assert [axes.get_title() for axes in figure.axes[:2]] == ["attention ~ gradient", "attention ~ leave-one-out"]


def test_an_unknown_measure_and_heads_that_were_not_looked_at_are_named(results):
    with pytest.raises(ValueError, match="unknown measure 'entropy': expected 'tvd', 'divergence'"):
        results["uniform"].plot_heads("entropy")
    with pytest.raises(ValueError, match="no TVD of single heads: give per='head'"):
        AttentionEffects(EFFECTS[EFFECTS["head"] == "all"], "changed").plot_heads()
    with pytest.raises(ValueError, match="of single heads"):
        results["counterfactual"].plot_heads("tvd")


def test_two_attentions_show_the_tokens_attended_to_most(tmp_path):
    own, other = torch.zeros(2, 60), torch.zeros(2, 60)
    own[:, 7], other[:, 50] = 0.9, 0.8
    tokens = [f"${place}" for place in range(60)]
    figure = two_attentions(own, other, tokens, None, "title", "note")
    shown = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert len(shown) == 40
    assert {"$7", "$50"} <= set(shown)
    assert "20 of 60 tokens left out" in figure.axes[0].get_title()
    figure.savefig(tmp_path / "figure.png")


def test_boxes_of_different_layers_stand_at_their_own_places():
    series = {"one": {"0": torch.tensor([1.0, 2.0]).numpy()}, "two": {"1": torch.tensor([3.0]).numpy()}}
    axes = boxes_by_layer(series, "label", "title", "note", above={"1": "50%"}).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1"]
    centres = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert centres == pytest.approx([-0.175, 1.175])


def test_small_means_get_more_digits():
    figure = layers_by_heads({"": pd.DataFrame([[0.0012, 0.05]])}, "TVD", "title")
    assert [text.get_text() for text in figure.axes[0].texts] == [".001", ".050"]
