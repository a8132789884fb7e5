"""Rows of attention made uniform or permuted, against loops over single rows."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_attn.functional import permuted_rows, uniform_rows


@given(st.integers(1, 6), st.integers(0, 2**31), st.booleans())
def test_a_permutation_moves_the_weights_of_the_keys_alone(length, seed, causal):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.rand(2, 1, length, length, generator=generator) < 0.7
    keys &= torch.ones(length, length, dtype=torch.bool).tril() if causal else keys
    attention = torch.rand(2, 3, length, length, generator=generator)
    order = torch.rand(2, 3, length, length, generator=generator)
    found = permuted_rows(attention, keys, order)
    for example, head, row in np.ndindex(2, 3, length):
        allowed = keys[example, 0, row]
        before, after = attention[example, head, row], found[example, head, row]
        assert torch.equal(before[~allowed], after[~allowed])
        ranks = order[example, head, row][allowed].argsort()
        assert torch.equal(before[allowed][ranks], after[allowed])


def test_all_orders_of_the_keys_are_equally_likely():
    generator = torch.Generator().manual_seed(0)
    attention = torch.tensor([1.0, 2.0, 3.0]).expand(1, 600, 1, 3)
    keys = torch.ones(1, 1, 1, 3, dtype=torch.bool)
    found = permuted_rows(attention, keys, torch.rand(1, 600, 1, 3, generator=generator))
    orders, counts = found.view(-1, 3).unique(dim=0, return_counts=True)
    assert len(orders) == 6
    assert ((counts - 100).abs() < 35).all()  # 3.8 standard deviations


def test_uniform_rows_sum_to_one_and_padding_keeps_its_own():
    keys = torch.tensor([[[[True, True, False], [False, False, False]]]])
    attention = torch.tensor([[[[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]]]])
    expected = torch.tensor([[[[0.5, 0.5, 0.0], [0.3, 0.3, 0.4]]]])
    torch.testing.assert_close(uniform_rows(attention, keys), expected)


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(0, 2**31))
def test_uniform_rows_are_those_of_a_loop(length, seed):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.rand(2, 3, length, length, generator=generator) < 0.6
    attention = torch.rand(2, 3, length, length, generator=generator)
    found = uniform_rows(attention, keys)
    for example, head, row in np.ndindex(2, 3, length):
        allowed = keys[example, head, row].tolist()
        own = attention[example, head, row].tolist()
        expected = [is_key / sum(allowed) for is_key in allowed] if any(allowed) else own
        torch.testing.assert_close(found[example, head, row], torch.tensor(expected))
