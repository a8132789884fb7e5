"""Tests of the mean-shift effect against enumeration, simulation and hand-worked cases."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import helmert

from captum_attn.functional import (
    cauchy_combination,
    direction_p_value,
    examples_p_values,
    holm,
    holm_levels,
    t_test_p_values,
)


def enumerated_p_value(effects, own):
    """The same by all splits: twice the smaller share of splits that are as extreme on one side."""
    everyone = set(range(len(effects)))
    splits = [
        stats.ttest_ind(effects[list(chosen)], effects[list(everyone - set(chosen))], equal_var=False).statistic
        for chosen in combinations(everyone, int(own.sum()))
    ]
    observed = stats.ttest_ind(effects[own], effects[~own], equal_var=False).statistic
    above, below = (np.mean(sign * np.array(splits) >= sign * observed - 1e-9) for sign in (1, -1))
    return min(1.0, 2 * min(above, below))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_p_values_of_few_examples_are_those_of_all_splits(size):
    generator = torch.Generator().manual_seed(size)
    effects = torch.randn(4, 9, generator=generator).double()
    own = torch.arange(9) < size
    found = examples_p_values(effects, own, permutations=9999, seed=0)
    assert found.tolist() == pytest.approx([enumerated_p_value(row, own) for row in effects])


def test_p_values_of_many_examples_are_close_to_the_t_test():
    generator = torch.Generator().manual_seed(0)
    own = torch.arange(80) < 30
    effects = torch.randn(6, 80, generator=generator).double() + 0.5 * own
    found = examples_p_values(effects, own, permutations=9999, seed=0)
    expected = stats.ttest_ind(effects[:, own].numpy(), effects[:, ~own].numpy(), axis=1, equal_var=False).pvalue
    assert found.tolist() == pytest.approx(expected.tolist(), abs=0.02, rel=0.15)


def test_a_null_effect_is_significant_as_often_as_the_level_says():
    generator = torch.Generator().manual_seed(0)
    own = torch.arange(40) < 10
    p_values = examples_p_values(torch.randn(400, 40, generator=generator), own, permutations=999, seed=0)
    assert 0.03 < float((p_values < 0.05).double().mean()) < 0.075


def test_examples_that_spread_more_are_no_effect():
    generator, own = torch.Generator().manual_seed(0), torch.arange(120) < 20
    effects = torch.randn(300, 120, generator=generator) * torch.where(own, 3.0, 1.0)
    p_values = examples_p_values(effects, own, permutations=499, seed=0)
    assert float((p_values < 0.05).double().mean()) < 0.1  # differences of means alone: .3


def test_p_values_come_from_the_seed():
    effects, own = torch.randn(2, 40), torch.arange(40) < 12
    first, again, other = (examples_p_values(effects, own, 199, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_effect_at_all_has_no_p_value():
    assert examples_p_values(torch.zeros(1, 10), torch.arange(10) < 5, 99, 0).isnan().all()


@pytest.mark.parametrize("width", [2, 3, 8, 64])
def test_the_cosine_of_random_directions_is_significant_as_often_as_the_level_says(width):
    generator = torch.Generator().manual_seed(width)
    shift = torch.randn(width, generator=generator)
    p_values = [
        direction_p_value(torch.randn(width, generator=generator), shift, torch.eye(width)) for _ in range(1000)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


@settings(max_examples=50)
@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 1000))
def test_a_direction_has_no_length_and_no_sign(scale, seed):
    gradient, shift = torch.randn(2, 12, generator=torch.Generator().manual_seed(seed)).double()
    expected = direction_p_value(gradient, shift, torch.eye(12))
    assert direction_p_value(-scale * gradient, shift, torch.eye(12)) == pytest.approx(expected, rel=1e-6)
    assert direction_p_value(shift, gradient, torch.eye(12)) == pytest.approx(expected, rel=1e-6)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000))
def test_the_direction_test_is_the_same_in_all_coordinates(seed):
    generator = torch.Generator().manual_seed(seed)
    gradient, shift = torch.randn(2, 5, generator=generator).double()
    spread, change = (torch.randn(5, 5, generator=generator).double() for _ in range(2))
    covariance = spread @ spread.mT + 0.1 * torch.eye(5)
    change = change + 3 * torch.eye(5)
    expected = direction_p_value(gradient, shift, covariance)
    moved = direction_p_value(torch.linalg.solve(change.mT, gradient), change @ shift, change @ covariance @ change.mT)
    assert moved == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("width", [2, 3, 7])
def test_the_direction_test_is_pearsons_of_one_observation_more(width):
    generator = torch.Generator().manual_seed(width)
    for _ in range(5):
        gradient, shift = torch.randn(2, width, generator=generator).double()
        expected = stats.pearsonr(*(vector.numpy() @ helmert(width + 1) for vector in (gradient, shift))).pvalue
        assert direction_p_value(gradient, shift, torch.eye(width)) == pytest.approx(expected, rel=1e-8)


def test_directions_in_which_examples_spread_little_count_more():
    shift, gradient = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    covariance = torch.diag(
        torch.tensor([0.01, 1.0, 1.0])
    )  # the shift is 10 deviations along the gradient, and 1 beside it
    cosine = 10 / 101**0.5
    expected = 2 * stats.t.sf(cosine * (2 / (1 - cosine**2)) ** 0.5, 2)
    assert direction_p_value(gradient, shift, covariance) == pytest.approx(expected, rel=1e-6)


def test_a_line_has_one_direction_only():
    assert direction_p_value(torch.ones(1), torch.ones(1), torch.ones(1, 1)) == 1


def test_directions_that_are_parallel_or_missing():
    ones = torch.ones(3)
    assert direction_p_value(ones, 2 * ones, torch.eye(3)) == pytest.approx(0, abs=1e-6)
    assert direction_p_value(torch.zeros(3), ones, torch.eye(3)) != direction_p_value(
        torch.zeros(3), ones, torch.eye(3)
    )  # NaN


def test_holm_by_hand():
    p_values = torch.tensor([0.01, 0.04, 0.03, 0.005], dtype=torch.double)
    torch.testing.assert_close(holm(p_values), torch.tensor([0.03, 0.06, 0.06, 0.02], dtype=torch.double))


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    corrected = holm(torch.tensor(p_values, dtype=torch.double)).tolist()
    assert all(0 <= p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    rejected = []
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[place] * (len(p_values) - step) >= 0.05:
            break
        rejected.append(place)
    assert sorted(rejected) == [place for place, p in enumerate(corrected) if p < 0.05]
    levels = holm_levels(torch.tensor(p_values, dtype=torch.double)).tolist()
    assert sorted(rejected) == [place for place, p in enumerate(p_values) if p < levels[place]]


def test_undefined_tests_do_not_count():
    nan = float("nan")
    assert holm(torch.tensor([0.02, nan, nan]))[0] == pytest.approx(0.02)
    assert holm(torch.tensor([nan])).isnan().all()
    assert holm_levels(torch.tensor([0.02, nan, nan])).tolist() == pytest.approx([0.05, nan, nan], nan_ok=True)


def test_the_papers_test_is_a_t_test_against_one_half():
    scores = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    expected = stats.ttest_1samp(scores.double().numpy(), 0.5, axis=0).pvalue
    assert t_test_p_values(scores).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_constant_and_undefined_scores_have_no_t_test():
    scores = torch.stack([torch.ones(10), torch.full((10,), float("nan")), torch.linspace(0, 1, 10)], 1)
    assert t_test_p_values(scores).isnan().tolist() == [True, True, False]
    assert t_test_p_values(scores[:1]).isnan().all()


def test_in_one_dimension_there_is_no_direction_of_nothing():
    one, nothing = torch.ones(1), torch.zeros(1)
    assert direction_p_value(one, one, torch.eye(1)) == 1.0
    assert math.isnan(direction_p_value(one, nothing, torch.eye(1)))
    assert math.isnan(direction_p_value(nothing, one, torch.eye(1)))


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.95])
def test_tests_that_depend_on_each_other_are_significant_together_as_often_as_the_level_says(correlation):
    generator = torch.Generator().manual_seed(0)
    shared, own = torch.randn(100_000, generator=generator), torch.randn(12, 100_000, generator=generator)
    normal = correlation**0.5 * shared + (1 - correlation) ** 0.5 * own
    combined = cauchy_combination(torch.from_numpy(2 * stats.norm.sf(normal.abs().numpy())))
    assert float((combined < 0.05).double().mean()) < 0.0615
    assert float((combined < 0.01).double().mean()) < 0.0125


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=12))
@settings(max_examples=50)
def test_a_combination_lies_between_the_least_and_bonferronis(p_values):
    found = float(cauchy_combination(torch.tensor(p_values)))
    expected = stats.cauchy.sf(np.mean([math.tan((0.5 - min(p, 0.999)) * math.pi) for p in p_values]))
    assert found == pytest.approx(expected, rel=1e-3)
    assert found >= min(*p_values, 0.999) * (1 - 1e-3)
    assert cauchy_combination(torch.tensor([*p_values, math.nan])) == pytest.approx(found)


def test_no_tests_have_no_combination():
    assert cauchy_combination(torch.full((3, 2), math.nan)).isnan().all()
    assert float(cauchy_combination(torch.tensor([1e-4, 1.0]))) < 2.3e-4  # one test near 1 hides none


@pytest.mark.parametrize("p", [-0.1, 1.5])
def test_what_is_no_p_value_is_not_combined(p):
    with pytest.raises(ValueError, match="p-values must be between 0 and 1"):
        cauchy_combination(torch.tensor([0.5, p]))
