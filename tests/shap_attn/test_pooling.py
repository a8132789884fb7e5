"""Pooling: what SHAP's global plots need."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import shap
from helpers.small_models import load_text_model
from hypothesis import given, settings
from hypothesis import strategies as st

from shap_attn import AttentionExplainer, plots, pool

TEXTS = [
    "good , very good",
    "Not good : unwatchable drivel",
    "it isn't good",
    "a funny film",
    "drivel",
    "a very funny , very good film",
]


def explanation_of(texts, values, names=None):
    """Texts given as lists of segments."""
    rows = np.empty(len(texts), dtype=object)
    rows[:] = [np.asarray(row, dtype=float) for row in values]
    base = np.zeros((len(texts), *rows[0].shape[1:]))
    return shap.Explanation(rows, base, tuple(map(np.array, texts)), output_names=names)


@pytest.fixture(scope="module")
def explanation():
    return AttentionExplainer(*load_text_model())(TEXTS)


def test_by_hand():
    pooled = pool(
        explanation_of(
            [["un", "like", "ly ", "good ", "good"], ["good", "! "], [""]], [[1, 2, 4, 8, 16], [32, 64], [0]], "yes"
        )
    )
    assert pooled.feature_names == ["good", "!", "unlikely"]
    assert pooled.values.tolist() == [[24, 0, 7], [32, 64, 0], [0, 0, 0]]
    assert pooled.data.tolist() == [[2, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert pooled.output_names == "yes"


def test_pieces_or_words():
    texts, values = [["un", "likely"], ["un", "done"]], [[1, 2], [4, 8]]
    assert pool(explanation_of(texts, values)).feature_names == ["undone", "unlikely"]
    pieces = pool(explanation_of(texts, values), words=False)
    assert pieces.feature_names == ["un", "done", "likely"]
    assert pieces.values.tolist() == [[1, 0, 2], [4, 8, 0]]


def test_case():
    texts, values = [["The ", "end"], ["the ", "end"]], [[1, 2], [4, 8]]
    assert pool(explanation_of(texts, values)).feature_names == ["end", "The", "the"]
    lower = pool(explanation_of(texts, values), lowercase=True)
    assert lower.feature_names == ["end", "the"]
    assert lower.values.tolist() == [[2, 1], [8, 4]]


def test_rare_words_and_weak_words_can_go():
    texts, values = [["a ", "b ", "c"], ["a ", "b"], ["a"]], [[1, -9, 3], [1, 9], [1]]
    assert pool(explanation_of(texts, values), min_count=2).feature_names == ["a", "b"]
    strong = pool(explanation_of(texts, values), top_k=2)
    assert strong.feature_names == ["a", "b"]
    assert pool(explanation_of(texts, values), top_k=1).feature_names == ["b"]
    assert pool(explanation_of(texts, values), top_k=99).feature_names == ["a", "b", "c"]


@settings(max_examples=50)
@given(
    texts=st.lists(st.lists(st.text("ab' .é我", max_size=3), min_size=1, max_size=6), min_size=1, max_size=4),
    words=st.booleans(),
    lowercase=st.booleans(),
)
def test_totals_are_kept(texts, words, lowercase):
    if not any(segment for text in texts for segment in text):
        return
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(len(text), 2)) * np.array([[bool(segment)] for segment in text]) for text in texts]
    pooled = pool(explanation_of(texts, values, ["no", "yes"]), words=words, lowercase=lowercase)
    np.testing.assert_allclose(pooled.values.sum(1), [row.sum(0) for row in values], atol=1e-12)
    assert (pooled.data.sum(0) >= 1).all()


def test_classes_pooled_together_or_apart(explanation):
    together = pool(explanation)
    assert together.output_names == ["negative", "positive"]
    apart = pool(explanation[:, :, "positive"])
    np.testing.assert_array_equal(together[:, :, "positive"].values, apart.values)
    assert apart.feature_names == together.feature_names
    np.testing.assert_allclose(together.values.sum(1), [row.sum(0) for row in explanation.values], atol=1e-12)


GLOBAL_PLOTS = {
    "bar": lambda library, pooled: library.bar(pooled, show=False),
    "bar of maxima": lambda library, pooled: library.bar(pooled.abs.max(0), show=False),
    "beeswarm": lambda library, pooled: library.beeswarm(pooled, show=False),
    "heatmap": lambda library, pooled: library.heatmap(pooled, show=False),
    "violin": lambda library, pooled: library.violin(pooled, show=False, max_display=4),
    "cohorts by name": lambda library, pooled: library.bar(
        pooled.cohorts(["short", "long"] * 3).abs.mean(0), show=False
    ),
    "cohorts by tree": lambda library, pooled: library.bar(pooled.cohorts(2).abs.mean(0), show=False),
    "waterfall of a row": lambda library, pooled: library.waterfall(pooled[0], show=False),
}


@pytest.mark.parametrize("library", [shap.plots, plots], ids=["shap.plots", "shap_attn.plots"])
@pytest.mark.parametrize("plot", GLOBAL_PLOTS.values(), ids=GLOBAL_PLOTS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_global_plots(explanation, library, plot):
    plot(library, pool(explanation[:, :, "positive"]))
    assert plt.gcf().axes


@pytest.mark.parametrize("plot", ["bar", "beeswarm", "cohorts by tree"])
@pytest.mark.parametrize("options", [{"min_count": 2}, {"top_k": 3}, {"words": False}], ids=str)
def test_global_plots_of_other_columns(explanation, plot, options):
    GLOBAL_PLOTS[plot](plots, pool(explanation[:, :, "positive"], **options))
    assert plt.gcf().axes


def test_scatter_and_slices_by_word(explanation):
    pooled = pool(explanation)[:, :, "positive"]
    assert pooled[:, "good"].data.tolist() == [2, 1, 1, 0, 0, 1]
    shap.plots.scatter(pooled[:, "good"], show=False)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: pool(e[0]), ValueError, "one text alone"),
        (lambda e: pool(e[0, :, "positive"]), ValueError, "one text alone"),
        (lambda e: pool(e.values), TypeError, "expected a shap.Explanation of texts, got ndarray"),
        (lambda e: pool(e, min_count=100), ValueError, "no word occurs min_count=100 times"),
        (lambda e: pool(e, min_count=0), ValueError, "min_count must be at least 1"),
        (lambda e: pool(e, top_k=0), ValueError, "top_k must be at least 1"),
        (lambda e: pool(pool(e)), TypeError, "other data"),
        (lambda e: pool(shap.Explanation(np.zeros((2, 3)))), TypeError, "other data"),
    ],
)
def test_what_it_cannot_pool(explanation, call, error, message):
    with pytest.raises(error, match=message):
        call(explanation)


def test_different_classes_are_not_pooled_into_one(explanation):
    explainer = AttentionExplainer(*load_text_model(), outputs=shap.Explanation.argsort.flip[:1])
    best = explainer(TEXTS)
    with pytest.raises(ValueError, match="different classes"):
        pool(best)
    assert pool(best[:, :, 0]).shape[0] == len(TEXTS)
