"""SHAP's plots with labels that do not claim what the values are not."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import shap
from matplotlib.text import Text
from small_models import load_text_model

from shap_attn import AttentionExplainer, plots, pool, relabel

CLAIMS = re.compile(r"SHAP|f\(x\)|E\[|[Mm]odel output|base value|\(inputs\)")


@pytest.fixture(scope="module")
def explanation():
    return AttentionExplainer(*load_text_model())(["it is slow , yet beautiful", "not good at all", "a film"])


def labels():
    """Every text that the current figure shows."""
    plt.gcf().canvas.draw()
    return [text.get_text() for text in plt.gcf().findobj(Text) if text.get_text()]


ONE_ROW = {
    "bar": plots.bar,
    "decision": plots.decision,
    "force": plots.force,
    "waterfall": plots.waterfall,
}
GLOBAL = {
    "bar": plots.bar,
    "beeswarm": plots.beeswarm,
    "heatmap": plots.heatmap,
    "violin": plots.violin,
    "cohorts": lambda pooled, show: plots.bar(pooled.cohorts(["a", "b", "a"]).abs.mean(0), show=show),
}


@pytest.mark.parametrize("plot", ONE_ROW.values(), ids=ONE_ROW)
def test_labels_of_a_row(explanation, plot):
    plot(explanation[0, :, "positive"], show=False)
    assert not [label for label in labels() if CLAIMS.search(label)]
    assert any("beautiful" in label for label in labels())


@pytest.mark.parametrize("plot", GLOBAL.values(), ids=GLOBAL)
def test_labels_of_many_rows(explanation, plot):
    plot(pool(explanation)[:, :, "positive"], show=False)
    assert not [label for label in labels() if CLAIMS.search(label)]
    assert any(re.search(r"attention game|attention-game", label) for label in labels())


def test_shaps_own_labels_do_claim_it(explanation):
    """Or the tests above could not fail."""
    shap.plots.waterfall(explanation[0, :, "positive"], show=False)
    assert [label for label in labels() if CLAIMS.search(label)]
    relabel()
    assert not [label for label in labels() if CLAIMS.search(label)]


@pytest.mark.parametrize(
    ("factor", "unit"), [(1e3, ""), (1.0, ""), (0.999, " (× 0.001)"), (2e-3, " (× 0.001)"), (2e-5, " (× 0.000001)")]
)
@pytest.mark.parametrize("plot", [plots.bar, plots.force, plots.waterfall])
def test_small_values_are_printed_in_small_units(plot, factor, unit):
    row = shap.Explanation(
        np.array([1.0, -0.5]) * factor, 0.0, np.array(["good", "bad"]), feature_names=["good", "bad"]
    )
    plot(row, show=False)
    assert {label for label in labels() if "× 0" in label} == {label for label in labels() if unit and unit in label}
    assert any("× 0" in label for label in labels()) == bool(unit)
    scale = {"": 1, " (× 0.001)": 1e-3, " (× 0.000001)": 1e-6}[unit]
    if plot is not plots.force:
        shown = [float(label.replace("−", "-")) for label in labels() if re.fullmatch(r"[+−][\d.]+", label)]
        for value in (factor / scale, -0.5 * factor / scale):
            assert round(value, 2) in shown
    assert row.values.tolist() == [factor, -0.5 * factor]


@pytest.mark.parametrize(
    "part", [lambda e: e, lambda e: e[0], lambda e: e[:, :, "positive"], lambda e: e[0, :, "positive"]]
)
def test_text_has_colours_and_honest_labels(explanation, part):
    html = plots.text(part(explanation), display=False)
    assert "np.float64" not in html
    assert re.search(r"rgba\(\d", html)
    assert not CLAIMS.search(re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL))
    assert "v(N)" in html
    assert "beautiful" in html


def test_every_text_has_its_strongest_colour(explanation):
    html = plots.text(explanation[:, :, "positive"], display=False)
    strongest = [max(map(float, re.findall(r"rgba\([^)]*, ([\d.]+)\)", part))) for part in html.split("<hr>")[1:]]
    assert len(strongest) == 3
    assert min(strongest) > 0.9


def test_names_of_classes_are_not_coloured_by_their_worth(explanation):
    names = re.findall(r"<div style=[^>]*_name\"", plots.text(explanation[0], display=False))
    assert len(names) == 2
    assert not any("rgb" in name for name in names)


def test_only_the_given_axes_are_relabelled(explanation):
    _, (left, right) = plt.subplots(1, 2)
    shap.plots.bar(explanation[0, :, "positive"], ax=left, show=False)
    plt.figure()  # another current figure
    plots.bar(explanation[0, :, "positive"], ax=right, show=False)
    assert left.get_xlabel() == "SHAP value"
    assert right.get_xlabel() == "attention-game value (× 0.001)"


def test_explanations_of_shap_keep_shaps_labels(explanation):
    row = shap.Explanation(np.array([0.3, -0.001]), 0.5, np.array(["good", "bad"]), feature_names=["good", "bad"])
    for plot in ONE_ROW.values():
        plot(row, show=False)
        assert [label for label in labels() if CLAIMS.search(label)]
        assert not any("v(" in label or "× 0" in label for label in labels())
        plt.close("all")
    assert "base value" in plots.text(row, display=False)


def test_bars_of_many_texts_are_means_by_word(explanation):
    plots.bar(explanation[:, :, "positive"], show=False)
    ours = labels()
    plt.close("all")
    shap.plots.bar(explanation[:, :, "positive"], show=False)
    words = [label for label in labels() if label.isalpha()]
    assert words
    assert set(words) <= set(ours)


def test_a_dictionary_of_cohorts(explanation):
    pooled = pool(explanation)[:, :, "positive"]
    plots.bar({"first": pooled[:1].abs.mean(0), "rest": pooled[1:].abs.mean(0)}, show=False)
    assert any("first" in label for label in labels())


@pytest.mark.parametrize("plot", [plots.beeswarm, plots.heatmap, plots.violin])
def test_plots_that_need_pooling_say_so(explanation, plot):
    with pytest.raises(ValueError, match=r"needs the same features in each input: \w+\(pool"):
        plot(explanation[:, :, "positive"], show=False)


@pytest.mark.parametrize("part", [lambda e: e, lambda e: e[0], lambda e: e[:, :, "positive"]])
def test_a_waterfall_shows_one_input_and_output(explanation, part):
    with pytest.raises(ValueError, match="slice them"):
        plots.waterfall(part(explanation), show=False)


def test_pooled_values_are_no_text(explanation):
    with pytest.raises(ValueError, match="pooled"):
        plots.text(pool(explanation)[:, :, "positive"], display=False)


def test_force_takes_what_its_users_type(explanation):
    plots.force(explanation[0, :, "positive"], matplotlib=True, show=False)
    assert any("v(N)" in label for label in labels())


def test_tokens_are_escaped():
    html = plots.text(AttentionExplainer(*load_text_model())(["a <b>bold</b> & <i>film</i>"]), display=False)
    assert "<b>" not in html
    assert "<i>" not in html


def test_display_in_a_notebook(explanation, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    assert plots.text(explanation[0]) is None
    assert "beautiful" in shown[0].data
    figures = []
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
    plots.waterfall(explanation[0, :, "positive"])
    assert len(figures) == 1
