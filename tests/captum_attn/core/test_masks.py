"""What masks forbid, and the two notions of a query that may attend to nothing."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from captum_attn.core.masks import blind_rows, closed_rows, is_binary, is_causal, open_keys

LOW = [-torch.inf, torch.finfo(torch.float32).min, -1e9, -1e4]


@pytest.mark.parametrize("low", LOW)
def test_a_row_that_is_meant_to_be_blind_and_one_that_computes_nothing(low):
    mask = torch.tensor([[low, low], [low, 0.0]])
    states = torch.ones(1, 1, 2, 4)
    output = scaled_dot_product_attention(states, states, states, mask[None, None])[0, 0]
    assert blind_rows(mask).flatten().tolist() == [True, False]
    assert closed_rows(mask).flatten().tolist() == (output == 0).all(-1).tolist()
    assert torch.equal(closed_rows(mask), ~open_keys(mask).any(-1, keepdim=True))
    assert torch.equal(blind_rows(mask), closed_rows(mask == 0))


def test_minus_100_is_a_bias():
    mask = torch.zeros(3, 3).masked_fill(torch.ones(3, 3).triu(1).bool(), -100.0)
    assert open_keys(mask).all()
    assert not is_causal(mask)
    assert is_causal(100 * mask)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32, torch.bfloat16])
def test_zeros_and_ones_of_any_dtype(dtype):
    assert is_binary(torch.tensor([0, 1, 1]).to(dtype))
    assert is_binary(torch.tensor([0, 2]).to(dtype)) == (dtype == torch.bool)
