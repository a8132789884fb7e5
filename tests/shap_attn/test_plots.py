"""SHAP's plots with labels that do not claim what the values are not."""

from __future__ import annotations

import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import shap
from matplotlib.text import Text
from small_models import load_text_model

from shap_attn import AttentionExplainer, plots, pool, relabel

mpl.use("Agg")
CLAIMS = re.compile(r"SHAP|f\(x\)|E\[|[Mm]odel output|base value|\(inputs\)")


@pytest.fixture(scope="module")
def explanation():
    return AttentionExplainer(*load_text_model())(["it is slow , yet beautiful", "not good at all", "a film"])


@pytest.fixture(autouse=True)
def _no_figures_left():
    yield
    plt.close("all")


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
    assert [label for label in labels() if unit and unit in label] or not any("× 0" in label for label in labels())
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
    strongest = [max(map(float, re.findall(r"rgba\([^)]*, ([\d.]+)\)", part))) for part in html.split("<hr>")]
    assert len(strongest) == 3
    assert min(strongest) > 0.9


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
