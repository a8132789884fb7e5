"""What masks forbid, against softmax in float64 and definitions spelled out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from captum_attn.core.masks import blind_rows, causal_mask, closed_rows, is_binary, is_causal, open_keys

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
BIASES = [0.0, 0.5, 3.0, -0.25, -8.0, -40.0]
FORBIDDEN = [-5e3, -1e4, -1e9, "lowest", -torch.inf]


@st.composite
def masks(draw, entries=(*BIASES, *FORBIDDEN), square=False):
    """An additive mask (2, Q, K) of a dtype."""
    dtype = draw(st.sampled_from(DTYPES))
    queries = draw(st.integers(1, 4))
    keys = queries if square else draw(st.integers(1, 5))
    numbers = draw(st.lists(st.sampled_from(entries), min_size=2 * queries * keys, max_size=2 * queries * keys))
    lowest = torch.finfo(dtype).min
    values = [lowest if number == "lowest" else number for number in numbers]
    return torch.tensor(values, dtype=torch.float64).view(2, queries, keys).to(dtype)


@settings(max_examples=120)
@given(masks(), st.integers(0, 1000))
def test_open_keys_are_those_that_softmax_gives_a_probability(mask, seed):
    scores = 4 * torch.randn(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    probabilities = (scores.clamp(-12, 12) + mask.double()).softmax(-1).nan_to_num()  # rows of -inf alone
    assert torch.equal(open_keys(mask), probabilities > 0)


@settings(max_examples=50)
@given(masks(), st.sampled_from([-30.0, 2.0, 17.0]))
def test_what_all_keys_of_a_row_have_in_common_forbids_nothing(mask, common):
    mask = mask.double()
    assert torch.equal(open_keys(mask + common), open_keys(mask))


@settings(max_examples=50)
@given(masks(), st.integers(0, 1000))
def test_scores_that_a_mask_was_added_to_say_the_same(mask, seed):
    scores = torch.randn(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(open_keys(mask.double() + scores), open_keys(mask))


@settings(max_examples=50)
@given(masks())
def test_blind_rows_are_those_of_forbidden_keys_alone(mask):
    expected = [[all(entry <= -4e3 for entry in row) for row in example] for example in mask.tolist()]
    assert blind_rows(mask)[..., 0].tolist() == expected


@settings(max_examples=50)
@given(masks(entries=(0.0, -torch.inf)))
def test_boolean_masks_say_what_additive_ones_say(mask):
    allowed = mask == 0
    assert torch.equal(open_keys(allowed), open_keys(mask))
    assert torch.equal(blind_rows(allowed), blind_rows(mask))
    assert is_causal(allowed) == is_causal(mask)


@settings(max_examples=120)
@given(masks(square=True))
def test_a_mask_is_causal_if_no_query_sees_a_later_key(mask):
    rows = [(query, row) for example in mask.tolist() for query, row in enumerate(example) if max(row) > -1e3]
    seen = [(query, key) for query, row in rows for key, entry in enumerate(row) if entry > -1e3]
    assert is_causal(mask) == (mask.shape[-1] > 1 and bool(seen) and all(key <= query for query, key in seen))


@pytest.mark.parametrize("forbidden", FORBIDDEN)
@pytest.mark.parametrize("dtype", DTYPES)
def test_causal_masks_with_padding_and_biases(dtype, forbidden):
    low = torch.finfo(dtype).min if forbidden == "lowest" else forbidden
    later = ~causal_mask(6, 6, torch.device("cpu"))
    mask = torch.randn(2, 1, 6, 6, dtype=torch.float64).masked_fill(later, low).to(dtype)
    assert is_causal(mask)
    mask[0, 0, :2] = low  # padding in front: queries that see nothing
    mask[..., :1] = low
    assert is_causal(mask)
    mask[1, 0, 3, 5] = 0
    assert not is_causal(mask)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (3, 2)])
def test_a_single_token_and_rectangles_are_not_causal(shape):
    assert not is_causal(torch.ones(shape, dtype=torch.bool).tril())


def test_masks_that_hide_everything_are_not_causal():
    assert not is_causal(torch.zeros(3, 3, dtype=torch.bool))
    assert not is_causal(torch.full((3, 3), -1e9))


@pytest.mark.parametrize(("queries", "keys"), [(3, 3), (2, 4), (4, 2)])
def test_fused_attentions_own_causal_mask(queries, keys):
    query, key = torch.zeros(1, 1, queries, 2), torch.zeros(1, 1, keys, 2)
    value = torch.eye(keys).view(1, 1, keys, keys)
    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert torch.equal(causal_mask(queries, keys, mixed.device), mixed[0, 0] > 0)


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
