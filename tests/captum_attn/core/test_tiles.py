"""Tiles of attention and its gradients against attention written out in full and ``torch.autograd.grad``."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from captum_attn.core.tiles import TILE_ELEMENTS, Attention, chunks

B, H, Q, K, D, D_V = 3, 4, 5, 7, 4, 6
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
TILE_SIZES = {
    "single rows": 1,
    "cut into rows": 2 * K + 1,
    "cut into heads": 3 * Q * K,
    "cut into examples": 2 * H * Q * K,
    "whole": 1 << 19,
}


def allowed(*shape):
    """A boolean mask in which every query sees something."""
    mask = torch.rand(shape) < 0.6
    mask[..., -1] = True
    return mask


def blind(*shape):
    """A boolean mask in which the second query (example, where they share one row) sees nothing."""
    mask = allowed(*shape)
    mask[(1,) if shape[-2] == 1 else (..., 1, slice(None))] = False
    return mask


def additive(mask):
    """Noise where the mask is True, -∞ elsewhere."""
    return torch.randn(mask.shape, dtype=torch.float64).masked_fill(~mask, -math.inf)


MASKS = {
    "boolean (B,1,1,K)": lambda: allowed(B, 1, 1, K),
    "boolean (B,1,Q,K)": lambda: allowed(B, 1, Q, K),
    "boolean (1,H,Q,K)": lambda: allowed(1, H, Q, K),
    "boolean (1,1,Q,K)": lambda: allowed(1, 1, Q, K),
    "boolean (B,H,Q,K)": lambda: allowed(B, H, Q, K),
    "boolean (H,Q,K)": lambda: allowed(H, Q, K),
    "boolean (Q,K)": lambda: allowed(Q, K),
    "boolean (B,1,Q,1)": lambda: torch.arange(Q).expand(B, 1, Q)[..., None] != 2,
    "boolean (B,1,1,K) with a blind example": lambda: blind(B, 1, 1, K),
    "boolean (1,H,Q,K) with a blind row": lambda: blind(1, H, Q, K),
    "boolean (Q,K) with a blind row": lambda: blind(Q, K),
    "boolean (B,H,Q,K) all blind": lambda: torch.zeros(B, H, Q, K, dtype=torch.bool),
    "additive (B,1,1,K)": lambda: torch.randn(B, 1, 1, K, dtype=torch.float64),
    "additive (1,H,Q,K)": lambda: torch.randn(1, H, Q, K, dtype=torch.float64),
    "additive (Q,K)": lambda: torch.randn(Q, K, dtype=torch.float64),
    "additive (B,H,Q,K)": lambda: torch.randn(B, H, Q, K, dtype=torch.float64),
    "additive, expanded to (B,H,Q,K)": lambda: torch.randn(B, 1, 1, K, dtype=torch.float64).expand(B, H, Q, K),
    "-∞ (B,1,1,K)": lambda: additive(allowed(B, 1, 1, K)),
    "-∞ (H,Q,K)": lambda: additive(allowed(H, Q, K)),
    "-∞ (B,1,Q,K) with a blind row": lambda: additive(blind(B, 1, Q, K)),
    "-∞ (B,1,1,K) with a blind example": lambda: additive(blind(B, 1, 1, K)),
    "lowest float (B,1,1,K)": lambda: (~allowed(B, 1, 1, K)).double() * torch.finfo(torch.float32).min,
    "lowest float (B,1,1,K) on a whole example": lambda: (~blind(B, 1, 1, K)).double() * torch.finfo(torch.float32).min,
}
LAYOUTS = {
    "plain": {},
    "as many queries as keys": {"queries": K},
    "causal": {"queries": K, "causal": True},
    "causal, fewer queries than keys": {"causal": True},
    "causal, more queries than keys": {"queries": K + 2, "causal": True},
    "scaled": {"scale": -1.7},
    "two key heads": {"key_heads": 2},
    "one key head": {"key_heads": 1},
    "two key heads, causal": {"queries": K, "key_heads": 2, "causal": True},
    "two key heads, masked": {"key_heads": 2, "mask": lambda: additive(blind(B, 1, Q, K))},
    "one example": {"batch": 1},
    "one query": {"queries": 1},
    "keys of one head, expanded": {"key_heads": 1, "expand": True},
}
CASES = LAYOUTS | {name: {"mask": mask} for name, mask in MASKS.items()}

each_case = pytest.mark.parametrize("case", CASES)
each_size = pytest.mark.parametrize("tile_size", TILE_SIZES.values(), ids=TILE_SIZES, indirect=True)


@pytest.fixture
def tile_size(request, monkeypatch):
    """The number of entries that a tile may have."""
    for kind in ("cpu", "cuda"):
        monkeypatch.setitem(TILE_ELEMENTS, kind, request.param)
    return request.param


@pytest.fixture
def make(device):
    """Makes attention calls with the strides that models have, (B, N, H, d) transposed, and gradients of the output."""

    def made(case, dtype=torch.float64):
        usual = {"batch": B, "queries": Q, "key_heads": H, "causal": False, "scale": 0.5, "expand": False}
        wanted = usual | CASES[case]
        batch, queries, heads = wanted["batch"], wanted["queries"], wanted["key_heads"]

        def random(*shape):
            return torch.randn(shape, dtype=torch.float64).to(device, dtype).transpose(1, 2)

        key, value = random(batch, K, heads, D), random(batch, K, heads, D_V)
        if wanted["expand"]:
            key, value = key.expand(-1, H, -1, -1), value.expand(-1, H, -1, -1)
        mask = wanted["mask"]().to(device) if "mask" in wanted else None
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(dtype)
        attention = Attention(random(batch, queries, H, D), key, value, mask, wanted["causal"], wanted["scale"])
        return attention, random(batch, queries, H, D_V)

    return made


def written_out(attention, grad_output):
    """A, G and the gradients of query, key, value and a floating-point mask, in float64 by autograd."""
    inputs = [tensor.double().requires_grad_() for tensor in (attention.query, attention.key, attention.value)]
    query, key, value = inputs
    groups = query.shape[1] // key.shape[1]
    scores = attention.scale * query @ key.repeat_interleave(groups, 1).mT
    seen = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
    if attention.causal:
        seen = seen.tril()
    elif attention.mask is not None and attention.mask.dtype == torch.bool:
        seen = seen & attention.mask
    elif attention.mask is not None:
        inputs.append(attention.mask.double().requires_grad_())
        scores, seen = scores + inputs[-1], seen & (attention.mask != -math.inf)
    some = seen.any(-1, keepdim=True)
    scores = torch.where(some, scores.masked_fill(~seen, -math.inf), 0.0)
    probabilities = scores.softmax(-1) * some
    output = probabilities @ value.repeat_interleave(groups, 1)
    gradients = torch.autograd.grad(output, [probabilities, *inputs], grad_output.double())
    return probabilities.detach(), *gradients


def clone(tensor):
    return None if tensor is None else tensor.clone()


class Kept(list):
    """An observer that copies what it is shown."""

    def __call__(self, tile):
        parts = ("attention", "gradient", "relevance")
        self.append(replace(tile, **{part: clone(getattr(tile, part)) for part in parts}))


def shown_by(attention, grad_output=None, layer=0):
    kept = Kept()
    attention.show(layer, kept, grad_output)
    return kept


def assembled(attention, tiles):
    """A and G (B, H, Q, K) from tiles, which must not overlap; NaN where there was no tile."""
    whole = torch.full((2, *attention.shape), math.nan, dtype=torch.float64, device=attention.query.device)
    for tile in tiles:
        part = whole[:, *tile.block]
        assert part.isnan().all()
        part[0] = tile.attention
        if tile.gradient is not None:
            part[1] = tile.gradient
    return whole.unbind()


def assert_near(actual, expected, tolerance):
    """Equal to ``tolerance`` times the largest number; NaN is equal to nothing."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@each_size
@each_case
def test_probabilities_and_all_gradients_equal_attention_written_out(case, tile_size, dtype, make):
    attention, grad_output = make(case, dtype)
    shown, floating = Kept(), attention.mask is not None and attention.mask.dtype != torch.bool
    gradients = attention.backward(0, grad_output, shown, mask_gradient=floating)
    actual = *assembled(attention, shown), *gradients
    for got, expected in zip(actual[: 6 if floating else 5], written_out(attention, grad_output), strict=True):
        assert_near(got, expected, TOLERANCE[dtype])
    assert floating or gradients.mask is None


@each_size
@each_case
def test_tiles_without_gradients_equal_the_probabilities(case, tile_size, make):
    attention, grad_output = make(case)
    probabilities, gradient = assembled(attention, shown_by(attention))
    assert_near(probabilities, written_out(attention, grad_output)[0], 1e-12)
    assert gradient.isnan().all()


@each_size
@each_case
def test_observing_shows_what_backward_shows(case, tile_size, make):
    attention, grad_output = make(case)
    observed, shown = shown_by(attention, grad_output, layer=2), Kept()
    attention.backward(2, grad_output, shown, mask_gradient=False)
    for one, other in zip(observed, shown, strict=True):
        assert (one.layer, one.block) == (other.layer, other.block)
        assert torch.equal(one.attention, other.attention)
        assert torch.equal(one.gradient, other.gradient)


@each_case
def test_probabilities_times_values_are_the_output_of_the_fused_kernel(case, make):
    attention, _ = make(case)
    probabilities, _ = assembled(attention, shown_by(attention))
    groups = attention.query.shape[1] // attention.value.shape[1]
    output = F.scaled_dot_product_attention(
        attention.query,
        attention.key,
        attention.value,
        attention.mask,
        is_causal=attention.causal,
        scale=attention.scale,
        enable_gqa=groups > 1,
    )
    assert_near(probabilities @ attention.value.repeat_interleave(groups, 1), output, 1e-12)


@pytest.mark.parametrize("case", [case for case in MASKS if "blind" in case])
def test_rows_that_see_nothing_have_zero_probability_and_finite_gradients(case, make):
    attention, grad_output = make(case)
    mask = attention.mask if attention.mask.dtype == torch.bool else attention.mask != -math.inf
    unseen = ~mask.any(-1).expand(attention.shape[:3])
    shown = Kept()
    gradients = attention.backward(0, grad_output, shown, mask_gradient=attention.mask.dtype != torch.bool)
    probabilities, _ = assembled(attention, shown)
    assert unseen.any()
    assert not probabilities[unseen].any()
    assert not gradients.query[unseen].any()
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize(
    ("tile_size", "reached"),
    [(1, [0]), (15, [0]), (105, [0]), (280, [0, 1]), (1 << 19, [0, 1, 2])],
    indirect=["tile_size"],
)
def test_blocks_that_no_gradient_reaches_are_left_out(tile_size, reached, make):
    attention, grad_output = make("two key heads")
    grad_output[1:] = 0
    shown = Kept()
    gradients = attention.backward(0, grad_output, shown, mask_gradient=False)
    probabilities, gradient = assembled(attention, shown)
    assert [b for b in range(B) if not probabilities[b].isnan().any()] == reached
    expected = written_out(attention, grad_output)
    assert_near(gradient[0], expected[1][0], 1e-12)
    for got, wanted in zip(gradients[:3], expected[2:], strict=True):
        assert_near(got, wanted, 1e-12)


def test_backward_needs_no_observer(make):
    attention, grad_output = make("two key heads, masked")
    silent = attention.backward(0, grad_output, None, mask_gradient=True)
    for got, expected in zip(silent, attention.backward(0, grad_output, lambda tile: None, True), strict=True):
        assert torch.equal(got, expected)


def test_a_mask_gets_a_gradient_only_where_asked_for(make):
    attention, grad_output = make("additive (B,1,1,K)")
    assert attention.backward(0, grad_output, None, mask_gradient=False).mask is None
    assert attention.backward(0, grad_output, None, mask_gradient=True).mask.shape == (B, 1, 1, K)


@pytest.mark.parametrize("case", ["plain", "causal", "two key heads, masked", "boolean (Q,K) with a blind row"])
def test_inputs_are_not_modified(case, make):
    attention, grad_output = make(case)
    tensors = [attention.query, attention.key, attention.value, grad_output]
    tensors += [] if attention.mask is None else [attention.mask]
    before = [tensor.clone() for tensor in tensors]
    attention.backward(0, grad_output, lambda tile: None, mask_gradient=case == "two key heads, masked")
    shown_by(attention)
    assert all(map(torch.equal, tensors, before))


# Precision.

HALF = [torch.bfloat16, torch.float16]
half_cases = pytest.mark.parametrize("case", ["plain", "two key heads, masked", "additive (B,1,1,K)"])


@pytest.mark.parametrize("dtype", HALF, ids=str)
@half_cases
def test_half_precision_inputs_have_float32_tiles_and_gradients_of_their_own_dtype(case, dtype, make):
    attention, grad_output = make(case, dtype)
    shown = Kept()
    gradients = attention.backward(0, grad_output, shown, mask_gradient=attention.mask is not None)
    probabilities, gradient, *expected = written_out(attention, grad_output)
    assert {tile.attention.dtype for tile in shown} == {tile.gradient.dtype for tile in shown} == {torch.float32}
    for got, wanted in zip(assembled(attention, shown), (probabilities, gradient), strict=True):
        assert_near(got, wanted, 1e-5)
    for got, wanted in zip(gradients, expected, strict=False):
        assert got.dtype == dtype
        assert_near(got, wanted, 1e-2)


def test_a_float32_mask_of_half_precision_inputs_keeps_its_precision(make):
    attention, grad_output = make("additive (B,1,1,K)", torch.bfloat16)
    attention = replace(attention, mask=torch.randn(B, 1, 1, K).to(attention.query.device))
    gradients = attention.backward(0, grad_output, None, mask_gradient=True)
    assert gradients.mask.dtype == torch.float32
    assert_near(gradients.mask, written_out(attention, grad_output)[-1], 1e-5)


@half_cases
def test_autocast_does_not_round_tiles_or_gradients(case, make, device):
    attention, grad_output = make(case, torch.float32)
    shown = Kept()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        tiles = shown_by(attention)
        gradients = attention.backward(0, grad_output, shown, mask_gradient=attention.mask is not None)
        observed = shown_by(attention, grad_output)
        assert torch.is_autocast_enabled(device.type)
    probabilities, gradient, *expected = written_out(attention, grad_output)
    for some in (tiles, shown, observed):
        assert_near(assembled(attention, some)[0], probabilities, 1e-5)
    for some in (shown, observed):
        assert_near(assembled(attention, some)[1], gradient, 1e-5)
    for got, wanted in zip(gradients, expected, strict=False):
        assert_near(got, wanted, 1e-5)


def test_an_observer_under_autocast_computes_in_full_precision(make, device):
    attention, grad_output = make("plain", torch.float32)
    dtypes = []
    with torch.autocast(device.type, dtype=torch.bfloat16):
        for gradient in (None, grad_output):
            attention.show(0, lambda tile: dtypes.append((tile.attention @ tile.attention.mT).dtype), gradient)
    assert dtypes == [torch.float32] * 2


# Tiles.


@pytest.mark.parametrize(
    ("tile_size", "count"), [(1, 60), (15, 36), (105, 6), (280, 2), (1 << 19, 1)], indirect=["tile_size"]
)
def test_tiles_are_as_large_as_the_limit_allows(tile_size, count, make):
    tiles = shown_by(make("plain")[0])
    assert len(tiles) == count
    assert all(tile.attention.numel() <= max(tile_size, K) for tile in tiles)


@pytest.mark.parametrize(
    ("length", "step", "expected"),
    [(5, 2, [(0, 2), (2, 4), (4, 5)]), (4, 2, [(0, 2), (2, 4)]), (3, 9, [(0, 3)]), (2, 0, [(0, 1), (1, 2)])],
)
def test_chunks_cover_a_range_in_steps(length, step, expected):
    assert [(part.start, part.stop) for part in chunks(0, length, step)] == expected


def test_relevance_is_probability_times_gradient(make):
    attention, grad_output = make("plain")
    shown = shown_by(attention, grad_output)
    assert torch.equal(shown[0].relevance, shown[0].attention * shown[0].gradient)


def test_a_forward_only_tile_has_no_gradient(make):
    (tile,) = shown_by(make("plain")[0])
    assert tile.gradient is tile.relevance is None
