"""The masker: SHAP values along a hierarchy of attention-game values."""

from __future__ import annotations

import io
import pickle
import re
from itertools import product
from math import factorial

import numpy as np
import pytest
import shap
import transformers as hf
from families import FAMILIES
from helpers.small_models import TEXT_MODEL, load_text_model
from hypothesis import given
from hypothesis import strategies as st
from models import left_untouched
from scipy.cluster.hierarchy import is_valid_linkage
from shap.utils import MaskedModel

from shap_attn import AttentionExplainer, AttentionText, plots
from shap_attn.hierarchy import influence_hierarchy

TEXTS = ["slow , yet a delight", "not good at all"]


@pytest.fixture(scope="module")
def pipe():
    return hf.pipeline("text-classification", model=str(TEXT_MODEL), top_k=None)


def groups(tree, size):
    """The members of every group, leaves first."""
    members = [{token} for token in range(size)]
    for left, right in tree[:, :2].astype(int):
        members.append(members[left] | members[right])
    return members


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.booleans()), min_size=2, max_size=40),
)
def test_it_is_a_hierarchy_of_all_tokens(tokens):
    values, players = map(np.array, zip(*tokens, strict=True))
    tree = influence_hierarchy(values, players)
    assert is_valid_linkage(tree)
    assert tree[-1, 3] == len(tokens)
    assert tree[-1, 2] == 1
    assert (tree[:, 2] >= 0).all()  # SHAP does not split groups of negative height
    members = groups(tree, len(tokens))
    assert [len(group) for group in members[len(tokens) :]] == tree[:, 3].tolist()
    assert all(max(group) - min(group) == len(group) - 1 for group in members)  # runs of tokens


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=200))
def test_it_is_never_deep(values):
    tree = influence_hierarchy(np.array(values), np.ones(len(values), dtype=bool))
    depth = np.zeros(len(values) + len(tree), dtype=int)
    for index, (left, right) in reversed(list(enumerate(tree[:, :2].astype(int)))):
        depth[[left, right]] = depth[len(values) + index] + 1
    assert depth.max() <= 2 + np.log(len(values)) / np.log(8 / 5)


def test_it_cuts_where_values_differ_most():
    values = np.array([0.1, 0.0, 0.1, 2.0, 2.1, 1.0, 1.1, 1.0])
    tree = influence_hierarchy(values, np.ones(8, dtype=bool))
    assert {frozenset(group) for group in groups(tree, 8)} >= {frozenset({0, 1, 2}), frozenset({3, 4})}


def test_special_tokens_stand_beside_a_player():
    values, players = np.array([0.0, 3.0, 0.0, 2.0, 0.0]), np.array([False, True, False, True, False])
    expected = {frozenset({0, 1, 2}), frozenset({3, 4})}
    assert {frozenset(group) for group in groups(influence_hierarchy(values, players), 5)} >= expected


def test_the_hierarchy_comes_from_the_explainers_values(pipe):
    masker = AttentionText(pipe, game="mutual", outputs="negative")
    tokens = AttentionExplainer(pipe, game="mutual", outputs="negative")(TEXTS[0]).values[0]
    expected = influence_hierarchy(np.array([0, *tokens, 0]), np.array([False, *[True] * len(tokens), False]))
    np.testing.assert_array_equal(masker.clustering(TEXTS[0]), expected)


@pytest.mark.parametrize(
    "build",
    [
        lambda pipe, m: shap.Explainer(pipe, m),
        lambda pipe, m: shap.PartitionExplainer(shap.models.TransformersPipeline(pipe), m),
    ],
)
def test_it_drops_into_shap(pipe, build):
    masker = AttentionText(pipe)
    with left_untouched(pipe.model):
        masker.clustering(TEXTS[1])
    explanation = build(pipe, masker)(TEXTS, max_evals=60, silent=True)
    reference = shap.Explainer(pipe)(TEXTS, max_evals=60, silent=True)
    for row in range(2):
        assert explanation.values[row].shape == reference.values[row].shape
        assert list(explanation.data[row]) == list(reference.data[row])
        total = explanation.values[row].sum(0) + explanation.base_values[row]
        np.testing.assert_allclose(total, reference.values[row].sum(0) + reference.base_values[row], atol=1e-6)


def exact_shapley(worth, size):
    """Brute force over all coalitions."""
    coalitions = np.array(list(product([False, True], repeat=size)))
    values = worth(coalitions)
    place = 2 ** np.arange(size)[::-1]
    result = []
    for player in range(size):
        without = ~coalitions[:, player]
        sizes = coalitions[without].sum(1)
        weights = np.array([factorial(s) * factorial(size - s - 1) / factorial(size) for s in sizes])
        gains = values[(coalitions[without] @ place) + place[player]] - values[without]
        result.append((weights[:, None] * gains).sum(0))
    return np.array(result)


def test_shaps_text_plot_shows_the_text_in_order(pipe):
    text = "a little slow , yet it is one of the most moving films i saw this year"
    explanation = shap.Explainer(pipe, AttentionText(pipe))([text], max_evals=100, silent=True)
    for html in (shap.plots.text(explanation[0, :, 0], display=False), plots.text(explanation[0, :, 0], display=False)):
        tokens = re.findall(r"id='_tp_\w+_ind_\d+'[^>]*>([^<]*)<", html)
        assert "".join(tokens).split() == text.split()


def test_owen_values_of_a_short_text_are_near_the_exact_shapley_values(pipe):
    text, model, masker = "a slow but moving film", shap.models.TransformersPipeline(pipe), AttentionText(pipe)
    masked = MaskedModel(model, masker, shap.links.identity, True, text)
    exact = exact_shapley(lambda c: masked(np.pad(c, ((0, 0), (1, 1)))), len(masked) - 2)
    owen = shap.Explainer(pipe, masker)([text], max_evals=2000, silent=True).values[0][1:-1]
    assert np.linalg.norm(owen - exact) < 0.25 * np.linalg.norm(exact)
    assert np.argmax(owen[:, 1]) == np.argmax(exact[:, 1])


def test_every_form_of_a_model(pipe):
    explainer = AttentionExplainer(pipe)
    expected = AttentionText(pipe).clustering(TEXTS[0])
    for given_model in ((explainer,), (pipe.model, pipe.tokenizer), (shap.models.TransformersPipeline(pipe),)):
        np.testing.assert_array_equal(AttentionText(*given_model).clustering(TEXTS[0]), expected)


@pytest.mark.parametrize("text", ["", "  ", "[MASK]"])
def test_texts_without_players(pipe, text):
    values = shap.Explainer(pipe, AttentionText(pipe))([text], silent=True).values
    assert np.isfinite(values).all()


def test_texts_that_are_too_long(pipe):
    text = "a good film " * 60
    with pytest.warns(UserWarning, match="were cut"):
        tree = AttentionText(pipe).clustering(text)
    assert is_valid_linkage(tree)
    assert tree[-1, 3] == 182


def test_texts_that_are_cut_on_the_left():
    model, tokenizer = load_text_model()
    tokenizer.truncation_side = "left"
    words = ["dull"] * 150 + ["good", "film"]
    with pytest.warns(UserWarning, match="were cut"):
        tree = AttentionText(model, tokenizer).clustering(" ".join(words))
    with pytest.warns(UserWarning, match="were cut"):
        values = AttentionExplainer(model, tokenizer, outputs="predicted")(" ".join(words)).values[0][:, 0]
    padded = np.concatenate([np.zeros(154 - 1 - len(values)), values, [0]])
    players = np.concatenate([np.zeros(154 - 1 - len(values)), np.ones(len(values)), [0]]).astype(bool)
    np.testing.assert_array_equal(tree, influence_hierarchy(padded, players))


def test_saved_and_pickled(pipe):
    masker = AttentionText(pipe, mask_token="...", collapse_mask_token=True, game="cls")
    file = io.BytesIO()
    masker.save(file)
    file.seek(0)
    for other in (AttentionText.load(file), pickle.loads(pickle.dumps(masker))):
        np.testing.assert_array_equal(other.clustering(TEXTS[0]), masker.clustering(TEXTS[0]))
        assert (other.mask_token, other.collapse_mask_token) == ("...", True)
        mask = np.arange(7) % 2 == 0
        assert other(mask, TEXTS[0])[0].tolist() == masker(mask, TEXTS[0])[0].tolist()


def test_what_it_refuses(pipe):
    with pytest.raises(TypeError, match="the model takes images"):
        AttentionText(FAMILIES["vit"].build())
    with pytest.raises(ValueError, match="2 classes, expected one"):
        AttentionText(pipe, outputs=[0, 1]).clustering(TEXTS[0])
