"""Sensitivities, scores and effects of concepts, against loops, by hand, and against captum and scikit-learn."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from torch.nn.functional import normalize

from captum_attn.functional import (
    balanced_accuracy,
    mean_cosine,
    mean_shifts,
    pooled_gradient,
    tcav_scores,
    token_sensitivity,
)

SEEDS = st.integers(0, 2**31)


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_maps_by_hand():
    gradient = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]])
    attention, vectors = torch.tensor([[0.5, 0.25, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]])
    torch.testing.assert_close(token_sensitivity(gradient, attention, vectors, rescaled=False), expected)
    # derivatives (1, 0) and (0, 2) get the norm of (0.5, 0.25)
    norm = (0.5**2 + 0.25**2) ** 0.5
    expected = torch.tensor([[[0.5 * norm, 0.0, 0.0], [0.0, 0.25 * norm, 0.0]]])
    torch.testing.assert_close(token_sensitivity(gradient, attention, vectors, rescaled=True), expected)


@settings(max_examples=30)
@given(SEEDS, st.booleans())
def test_sensitivities_are_those_of_a_loop_and_add_up_to_the_inputs(seed, rescaled):
    gradient, vectors = drawn(seed, 2, 5, 3), drawn(seed + 1, 4, 3)
    attention = drawn(seed + 2, 2, 5).clamp(min=0)
    found = token_sensitivity(gradient, attention, vectors, rescaled)
    for example in range(2):
        for vector in range(4):
            weights = attention[example].tolist()
            slopes = [
                float(gradient[example, token] @ vectors[vector]) * (weight > 0) for token, weight in enumerate(weights)
            ]
            norms = [sum(value**2 for value in values) ** 0.5 for values in (weights, slopes)]
            scale = norms[0] / norms[1] if rescaled and norms[1] else 1.0
            expected = [weight * slope * scale for weight, slope in zip(weights, slopes, strict=True)]
            assert found[example, vector].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    if not rescaled:
        whole = pooled_gradient(gradient, attention) @ vectors.mT
        torch.testing.assert_close(found.sum(-1), whole, rtol=1e-4, atol=1e-5)


@settings(max_examples=30)
@given(SEEDS)
def test_pooled_gradients_are_those_of_a_loop(seed):
    gradient, attention = drawn(seed, 2, 5, 3), drawn(seed + 1, 2, 5).double()
    expected = [
        sum(weight * token for weight, token in zip(weights, tokens, strict=True))
        for weights, tokens in zip(attention, gradient.double(), strict=True)
    ]
    torch.testing.assert_close(pooled_gradient(gradient, attention), torch.stack(expected))


@settings(max_examples=30)
@given(SEEDS)
def test_scores_count_signs_and_average_magnitudes(seed):
    pooled, vectors = drawn(seed, 7, 3), drawn(seed + 1, 4, 3)
    sensitivities = [[float(p @ v) for p in pooled] for v in vectors]
    found = tcav_scores(pooled, vectors)
    assert found.sign_count.tolist() == pytest.approx([sum(s > 0 for s in own) / 7 for own in sensitivities])
    assert found.magnitude.tolist() == pytest.approx([sum(own) / 7 for own in sensitivities], abs=1e-5)


def test_without_any_gradient_there_is_no_sign_count():
    found = tcav_scores(torch.zeros(3, 2), torch.eye(2))
    assert found.sign_count.isnan().all()
    assert not found.magnitude.any()


def test_inputs_without_a_gradient_are_not_counted():
    pooled = torch.tensor([[1.0, -1.0], [0.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
    assert tcav_scores(pooled, torch.eye(2)).sign_count.tolist() == pytest.approx([2 / 3, 2 / 3])


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2), min_size=3, max_size=9), SEEDS)
def test_shifts_lead_from_the_mean_of_the_others(labels, seed):
    labels = [0, 1, 2, *labels]
    means = drawn(seed, len(labels), 4).double()
    found = mean_shifts(means, torch.tensor(labels))
    for concept, shift in enumerate(found):
        own = [mean for mean, label in zip(means, labels, strict=True) if label == concept]
        others = [mean for mean, label in zip(means, labels, strict=True) if label != concept]
        torch.testing.assert_close(shift, sum(own) / len(own) - sum(others) / len(others))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_mean_cosine_is_that_of_all_pairs(count):
    vectors = normalize(drawn(count, 3, count, 6).double(), dim=-1)
    pairs = list(combinations(range(count), 2))
    for found, own in zip(mean_cosine(vectors), vectors, strict=True):
        expected = sum(float(own[i] @ own[j]) for i, j in pairs) / len(pairs) if pairs else float("nan")
        assert float(found) == pytest.approx(expected, nan_ok=True)


@settings(max_examples=30)
@given(st.lists(st.booleans(), min_size=2, max_size=9), st.lists(st.booleans(), min_size=2, max_size=9))
def test_balanced_accuracy_is_scikit_learns_where_examples_are_whole(positives, negatives):
    truth = [True] * len(positives) + [False] * len(negatives)
    found, error = balanced_accuracy(torch.tensor(positives).double(), torch.tensor(negatives).double())
    assert float(found) == pytest.approx(balanced_accuracy_score(truth, [*positives, *negatives]))
    variances = []
    for side in (positives, negatives):
        mean = sum(side) / len(side)
        variances.append(sum((value - mean) ** 2 for value in side) / (len(side) - 1) / len(side))
    assert float(error) == pytest.approx((sum(variances) / 4) ** 0.5)
