"""SHAP's plots with labels that do not claim what the values are not."""

from __future__ import annotations

import itertools
import re
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pytest
import shap
import torch
from dollars import NAMES, assert_as_written
from helpers.small_models import load_text_model
from matplotlib.text import Text

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
    "violin": lambda pooled, show: plots.violin(pooled, show=show, max_display=4),
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
    assert any(re.search("attributed value", label) for label in labels())


@pytest.mark.parametrize("plot", ONE_ROW.values(), ids=ONE_ROW)
def test_what_is_shown_is_not_returned_for_a_notebook_to_print(explanation, plot, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    assert plot(explanation[0, :, "positive"]) is None


def test_the_sum_of_a_waterfall_stands_beside_its_number(explanation):
    plots.waterfall(explanation[0, :, "positive"], show=False)
    plt.gcf().canvas.draw()
    name, number = plt.gcf().axes[-1].get_xticklabels()
    assert name.get_text() == "sum"
    assert name.get_window_extent().x1 < number.get_window_extent().x0


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
    assert ">sum " in html
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
    assert right.get_xlabel() == "attributed value (× 0.001)"


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
    assert any("sum" in label for label in labels())


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


# Names as they are written

NAMES_OF_LABELS = ["f(x)", "SHAP value", "base value", "$f(x)$", "a=$b$"]
HOSTILE = [*NAMES, *NAMES_OF_LABELS]


def hostile(rows=4, base=0.0):
    """As :func:`pool` makes it: one column for each name."""
    values = np.random.default_rng(0).uniform(0.5, 1, (rows, len(HOSTILE)))
    return shap.Explanation(values, np.full(rows, base), np.ones(values.shape), feature_names=list(HOSTILE))


def assert_formulas(figure):
    """SHAP's formulas stay formulas."""
    for text in figure.findobj(Text):
        written = text.get_text()
        if re.search(r"\$(v\(|E\[|\\leftarrow|\\rightarrow)", written):
            assert text.get_parse_math(), written
        assert "\u2060" not in written
        assert "\u200b" not in written


@pytest.mark.parametrize("base", [0.0, 0.5])
@pytest.mark.parametrize("plot", ONE_ROW.values(), ids=ONE_ROW)
def test_names_of_a_row_are_shown_as_they_are(plot, base):
    options = {"max_display": 99}
    if plot in (plots.force, plots.decision):
        options = {"contribution_threshold": 0} if plot is plots.force else {"title": "$title$ $$"}
    row = hostile(base=base)[0]
    row.data = None if plot in (plots.force, plots.decision) else row.data
    plot(row, show=False, **options)
    assert_as_written(plt.gcf(), [name for name in HOSTILE if not base or name != "$f(x)$"])  # SHAP has that one, too
    assert_as_written(plt.gcf(), ["$title$ $$"] * (plot is plots.decision))
    assert_formulas(plt.gcf())
    assert row.feature_names == HOSTILE


@pytest.mark.parametrize("plot", [plots.bar, plots.beeswarm, plots.heatmap, plots.violin, plots.decision])
def test_names_of_columns_are_shown_as_they_are(plot):
    columns = hostile()
    options = {} if plot is plots.decision else {"max_display": 99}
    plot(columns, show=False, **options)
    assert_as_written(plt.gcf(), HOSTILE)
    assert_formulas(plt.gcf())
    assert columns.feature_names == HOSTILE


def test_names_of_cohorts_are_shown_as_they_are():
    columns = hostile()
    plots.bar({"$$": columns[:2], "$\\foo$": columns[2:]}, show=False, max_display=99)
    assert_as_written(plt.gcf(), [*HOSTILE, "$$", "$\\foo$"])


def test_names_of_decisions_are_given_back_as_they_are():
    result = plots.decision(hostile()[0], show=False, return_objects=True, legend_labels=["$$"])
    assert_as_written(plt.gcf(), ["$$"])
    assert sorted(result.feature_names) == sorted(HOSTILE)


def test_names_of_classes_and_outputs_are_shown_as_they_are():
    values, pictures = (
        np.random.default_rng(0).normal(size=(2, 3, 3, 1, 2)),
        np.random.default_rng(0).random((2, 6, 6, 3)),
    )
    images = shap.Explanation(values, np.zeros((2, 2)), pictures, output_names=["$$", "$a_b$"])
    plots.image(images, show=False, true_labels=["$\\foo$", 3])
    assert_as_written(plt.gcf(), ["$$", "$a_b$", "$\\foo$", "3"])
    for part in (images[:, :, :, :, "$$"], images[0, :, :, :, "$$"], images[1]):
        plots.image(part, show=False)
        assert_as_written(plt.gcf(), ["$$"])
    plots.image(images, show=False, labels=[["$x$", "$y$"], ["$z^$", "$"]])
    assert_as_written(plt.gcf(), ["$x$", "$y$", "$z^$"])
    plots.force(hostile()[0], show=False, out_names="$\\class$ $$")
    assert_as_written(plt.gcf(), ["$\\class$ $$"])


def test_texts_in_a_notebook_are_no_formulas():
    texts = (np.array(["$$", " $a_b$ "]), np.array(["$x$", "$"]))
    html = plots.text(shap.Explanation(np.ones((2, 2)), np.zeros(2), texts), display=False)
    assert html.count('<div class="mathjax_ignore tex2jax_ignore">') == 2
    for token in ("$$", "$a_b$", "$x$"):
        assert token in html


def test_texts_of_the_same_axes_that_are_not_shaps_stay_formulas():
    axes = plt.figure().add_subplot(title="$x^2$")
    plots.bar(hostile()[0], show=False, ax=axes)
    assert axes.title.get_parse_math()
    assert axes.get_title() == "$x^2$"


def test_a_tokens_dollars_from_the_text_to_the_figure(explanation):
    texts = ["the price is $$ , but $a_b$ is good", "US$ 5"]
    shown = AttentionExplainer(*load_text_model(), outputs="positive", words=True)(texts)
    for plot in ONE_ROW.values():
        plot(shown[0], show=False)
        plt.gcf().savefig(BytesIO())
        plt.close("all")
    plots.heatmap(pool(shown), show=False)
    assert_as_written(plt.gcf(), [name for name in pool(shown).feature_names if "$" in name and len(name) > 1])


# What they take

SHAP_OF_ALL = {**ONE_ROW, **{name: getattr(plots, name) for name in ("beeswarm", "heatmap", "violin", "image", "text")}}


@pytest.mark.parametrize("name", SHAP_OF_ALL)
@pytest.mark.parametrize("given", [np.ones(3), [1.0, 2.0], None, "text", torch.ones(3)])
def test_what_is_no_explanation(name, given):
    with pytest.raises(TypeError, match=rf"plots.{name} takes a shap.Explanation, .* got {type(given).__name__}"):
        SHAP_OF_ALL[name](given, show=False)


@pytest.mark.parametrize("name", SHAP_OF_ALL)
def test_a_list_of_explanations(explanation, name):
    with pytest.raises(TypeError, match="got list; of a list, give one"):
        SHAP_OF_ALL[name]([explanation[0], explanation[1]], show=False)


SLICES = {
    "a batch of texts": (lambda e: e, r"explanation\[0, :, 'positive'\]"),
    "one text": (lambda e: e[0], r"explanation\[:, 'positive'\]"),
    "one class": (lambda e: e[:, :, "positive"], r"explanation\[0\]"),
    "texts of one length": (
        lambda e: AttentionExplainer(*load_text_model())(["a b", "c d"]),
        r"explanation\[0, :, 'positive'\]",
    ),
    "predicted classes": (
        lambda e: AttentionExplainer(*load_text_model())(["good", "not bad at"], outputs="predicted"),
        r"explanation\[0, :, (0|'\w+')\]",
    ),
    "pooled": (pool, r"explanation\[0, :, 'positive'\]"),
    "columns": (lambda e: pool(e)[:, :, "positive"], r"explanation\[0\]"),
}


@pytest.mark.parametrize("plot", ["waterfall", "force"])
@pytest.mark.parametrize("name", SLICES)
def test_the_slice_that_is_named_can_be_shown(explanation, plot, name):
    part, advice = SLICES[name]
    given = part(explanation)
    with pytest.raises(
        ValueError, match=rf"a {plot} shows one input and one output, .*slice them, e.g. {advice}$"
    ) as error:
        SHAP_OF_ALL[plot](given, show=False)
    SHAP_OF_ALL[plot](eval(str(error.value).rpartition("e.g. ")[2], {"explanation": given}), show=False)


@pytest.mark.parametrize("name", ["a batch of texts", "one text", "texts of one length", "pooled"])
def test_bars_are_of_one_output(explanation, name):
    given = SLICES[name][0](explanation)
    with pytest.raises(ValueError, match=r"a bar shows one output, .* of several: slice one out") as error:
        plots.bar(given, show=False)
    plots.bar(eval(str(error.value).rpartition("e.g. ")[2], {"explanation": given}), show=False)


@pytest.mark.parametrize(
    ("plot", "name"),
    [
        *itertools.product(
            ["decision", "beeswarm", "heatmap"], ["a batch of texts", "one class", "texts of one length", "pooled"]
        ),
        ("violin", "pooled"),  # which is slow
    ],
)
def test_columns_are_of_one_output(explanation, plot, name):
    given = SLICES[name][0](explanation)
    with pytest.raises(ValueError, match=f"{plot} needs the same features|a {plot} shows one output") as error:
        SHAP_OF_ALL[plot](given, show=False)
    advice = re.search(r"(pool\(explanation\)(\[[^]]*\])?|explanation\[[^]]*\])\)?$", str(error.value))[1]
    options = {"max_display": 4} if plot == "violin" else {}
    SHAP_OF_ALL[plot](eval(advice, {"explanation": given, "pool": pool}), show=False, **options)


@pytest.mark.parametrize("plot", ["beeswarm", "heatmap", "violin"])
def test_columns_are_of_many_inputs(explanation, plot):
    with pytest.raises(ValueError, match=r"many inputs \(N, features\), got values of shape \(\d+,\)"):
        SHAP_OF_ALL[plot](pool(explanation)[0, :, "positive"], show=False)


def test_images_are_shown_as_images():
    images = shap.Explanation(
        np.ones((2, 3, 3, 1, 2)), np.zeros((2, 2)), np.ones((2, 6, 6, 3)), output_names=["a", "b"]
    )
    for name, plot in SHAP_OF_ALL.items():
        if name not in ("image", "text"):
            for part in (images, images[0], images[0, :, :, :, "a"]):
                with pytest.raises(ValueError, match=f"a {name} shows values of named features, got those of images"):
                    plot(part, show=False)
    with pytest.raises(ValueError, match="got one of other data"):
        plots.text(images)
    images.data = None
    with pytest.raises(ValueError, match="the explanation has no pictures"):
        plots.image(images, show=False)
    with pytest.warns(UserWarning, match="pixel_values are stretched over the patches") as found:
        plots.image(images, pixel_values=np.ones((2, 6, 6, 3)), show=False)
    assert found[0].filename == __file__


def test_pixels_that_are_not_those_of_the_data_are_refused(recwarn):
    values, base, data = np.ones((2, 3, 3, 1, 2)), np.zeros((2, 2)), np.ones((2, 6, 6, 3))
    images = shap.Explanation(values, base, data, output_names=["a", "b"])
    with pytest.raises(ValueError, match=r"show what its patches cover, \(2, 6, 6, 3\), and pixel_values of shape"):
        plots.image(images, pixel_values=np.ones((2, 8, 8, 3)), show=False)
    with pytest.raises(ValueError, match="leave pixel_values out"):
        plots.image(images[0], pixel_values=np.ones((8, 6, 3)), show=False)
    recwarn.clear()
    plots.image(images, pixel_values=np.zeros((2, 6, 6, 3)), show=False)
    of_pixels = shap.Explanation(np.ones((2, 6, 6, 3, 2)), output_names=["a", "b"])
    plots.image(of_pixels, pixel_values=np.ones((2, 6, 6, 3)), show=False)
    assert not [warning for warning in recwarn.list if "pixel_values" in str(warning.message)]


def test_texts_are_no_images(explanation):
    for part in (explanation, explanation[0], pool(explanation)):
        with pytest.raises(ValueError, match=r"plots\.image shows images, got values of shape"):
            plots.image(part, show=False)


def test_cohorts_have_the_same_features(explanation):
    row = explanation[:, :, "positive"]
    with pytest.raises(ValueError, match="need the same features: take them from pool"):
        plots.bar({"one": row[0], "another": row[1]}, show=False)
    with pytest.raises(TypeError, match=r"plots.bar takes a shap.Explanation, .* got ndarray"):
        plots.bar({"one": row[0].values}, show=False)


def test_an_explanation_without_data_names_or_base_values():
    bare = shap.Explanation(np.array([0.5, -0.2]))
    for plot in ONE_ROW.values():
        plot(bare, show=False)
        assert not [label for label in labels() if CLAIMS.search(label)]
        plt.close("all")
    with pytest.raises(ValueError, match="got one of other data"):
        plots.text(bare, display=False)


def test_only_figures_are_relabelled():
    with pytest.raises(TypeError, match=r"takes a matplotlib Figure, got Axes: of axes, give axes.figure"):
        relabel(plt.gca())
