"""Means over inputs and over pairs, against loops and SciPy."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from captum_attn.functional import mean_over_inputs, mean_over_pairs

NUMBERS = st.one_of(st.floats(-100, 100), st.just(math.nan))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_means_are_over_the_inputs_where_a_number_is_defined(rows):
    found = mean_over_inputs(torch.tensor(rows, dtype=torch.double))
    for column, values in enumerate(zip(*rows, strict=True)):
        defined = [value for value in values if not math.isnan(value)]
        mean = sum(defined) / len(defined) if defined else math.nan
        error = float(stats.sem(defined)) if len(defined) > 1 else math.nan
        assert int(found.n[column]) == len(defined)
        assert float(found.mean[column]) == pytest.approx(mean, nan_ok=True, abs=1e-9)
        assert float(found.standard_error[column]) == pytest.approx(error, nan_ok=True, abs=1e-6)


@given(st.integers(1, 5), st.data())
def test_the_mean_over_pairs_is_that_of_a_loop(count, data):
    square = st.lists(st.lists(NUMBERS, min_size=count, max_size=count), min_size=count, max_size=count)
    values = data.draw(square)
    defined = [values[i][j] for i, j in combinations(range(count), 2) if not math.isnan(values[i][j])]
    expected = sum(defined) / len(defined) if defined else math.nan
    found = mean_over_pairs(torch.tensor([values, values], dtype=torch.double))
    assert found.tolist() == [pytest.approx(expected, nan_ok=True, abs=1e-9)] * 2
