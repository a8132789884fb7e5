"""Distances of distributions against SciPy and by their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon

from captum_attn.functional import jensen_shannon, mean_jensen_shannon, total_variation


def distributions(rows):
    """Rows of 5 probabilities, zeros among them."""
    weights = arrays(np.float64, (rows, 5), elements=st.sampled_from([0.0, 1e-30, 1e-3, 0.3, 1.0, 50.0]))
    return weights.filter(lambda w: (w.sum(-1) > 1e-20).all()).map(lambda w: torch.tensor(w / w.sum(-1, keepdims=True)))


@given(distributions(2))
def test_jensen_shannon_is_the_square_of_scipys_distance(pair):
    first, second = pair
    found = jensen_shannon(first, second).item()
    expected = np.nan_to_num(jensenshannon(first.numpy(), second.numpy()) ** 2)  # rounding may make SciPy's root NaN
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("distance", "most"), [(jensen_shannon, math.log(2)), (total_variation, 1.0)])
@given(pair=distributions(2))
def test_both_are_symmetric_bounded_and_zero_for_equals(distance, most, pair):
    first, second = pair
    assert -1e-12 <= distance(first, second).item() <= most + 1e-12
    assert distance(first, second).item() == pytest.approx(distance(second, first).item(), abs=1e-14)
    assert distance(first, first).item() == 0


@given(distributions(3))
def test_total_variation_and_the_root_of_jensen_shannon_obey_the_triangle_inequality(three):
    first, second, third = three
    for distance in (total_variation, lambda p, q: jensen_shannon(p, q).clamp(min=0).sqrt()):
        assert distance(first, third) <= distance(first, second) + distance(second, third) + 1e-6


@given(distributions(2))
def test_total_variation_is_the_most_that_an_events_probability_differs(pair):
    events = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 5).double()
    differences = (events @ (pair[0] - pair[1])).abs()
    assert total_variation(*pair).item() == pytest.approx(differences.max().item(), abs=1e-12)


@given(distributions(3), distributions(3), st.lists(st.sampled_from([0.0, 0.25, 3.0]), min_size=3, max_size=3))
def test_the_weighted_mean_is_that_of_a_loop(first, second, weights):
    each = [np.nan_to_num(jensenshannon(p.numpy(), q.numpy()) ** 2) for p, q in zip(first, second, strict=True)]
    whole = sum(weight * value for weight, value in zip(weights, each, strict=True))
    expected = whole / sum(weights) if any(weights) else 0.0
    found = mean_jensen_shannon(first, second, torch.tensor(weights).double())
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_distributions_that_share_nothing_are_at_the_bounds():
    first, second = torch.tensor([0.5, 0.5, 0, 0]), torch.tensor([0, 0, 0.1, 0.9])
    assert jensen_shannon(first, second).item() == pytest.approx(math.log(2))
    assert total_variation(first, second).item() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_where_probabilities_are_zero(dtype):
    scores = torch.tensor([[0.0, -torch.inf, -200.0, 1.0]], dtype=dtype, requires_grad=True)
    other = torch.tensor([[0.0, 0.0, 1.0, 0.0]], dtype=dtype)
    gradient = torch.autograd.grad(jensen_shannon(scores.softmax(-1), other).sum(), scores)[0]
    assert gradient.isfinite().all()


def test_the_gradient_is_that_of_finite_differences():
    scores = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    other = torch.randn(3, 6, dtype=torch.float64).softmax(-1)
    assert torch.autograd.gradcheck(lambda s: jensen_shannon(s.softmax(-1), other), scores)


@pytest.mark.parametrize(
    ("first", "second"),
    [(torch.ones(2), torch.ones(3)), (torch.ones(2), torch.ones(2).double()), (torch.ones(2).long(),) * 2],
)
@pytest.mark.parametrize("distance", [jensen_shannon, total_variation])
def test_other_shapes_and_dtypes_are_named(distance, first, second):
    with pytest.raises(ValueError, match="two tensors of distributions with one shape and floating dtype, got"):
        distance(first, second)
