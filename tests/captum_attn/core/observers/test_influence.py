"""The influence observer against sums over whole attention tensors."""

from __future__ import annotations

import pytest
import torch

from captum_attn.core.observers import VARIANTS, InfluenceObserver, Watched
from captum_attn.core.readout import KnownRows
from captum_attn.core.tiles import TILE_ELEMENTS, Attention

B, L, H, N, D = 3, 4, 4, 6, 5
SHAPE = (B, H, N)
TILE_SIZES = {"single rows": 1, "rows": 2 * N + 1, "heads": 2 * N * N, "examples": 2 * H * N * N, "whole": 1 << 19}
SELECTIONS = {
    "all": (range(L), range(H)),
    "one layer": ([2], range(H)),
    "first and last layer": ([0, 3], range(H)),
    "one head": (range(L), [1]),
    "heads apart": (range(L), [0, 2]),
    "last heads of two layers": ([1, 2], [2, 3]),
}

each_variant = pytest.mark.parametrize("variant", VARIANTS)
each_selection = pytest.mark.parametrize("selection", SELECTIONS)
each_size = pytest.mark.parametrize("tile_size", TILE_SIZES.values(), ids=TILE_SIZES, indirect=True)


@pytest.fixture
def tile_size(request, monkeypatch):
    """The number of entries that a tile may have."""
    monkeypatch.setitem(TILE_ELEMENTS, "cpu", request.param)


@pytest.fixture
def attentions():
    """Every layer's attention and the gradient of its output."""

    def random(heads):
        return torch.randn(B, heads, N, D, dtype=torch.float64)

    return [(Attention(random(H), random(2), random(2), None, False, 1.0), random(H)) for _ in range(L)]


def influences(attentions, variant):
    """The definition: (B, L, H, N, N) of every layer and head."""
    layers = []
    for attention, grad_output in attentions:
        key, value = attention.key.repeat_interleave(2, 1), attention.value.repeat_interleave(2, 1)
        probabilities = (attention.query @ key.mT).softmax(-1)
        gradient = grad_output @ value.mT
        influence = {
            "rectified": probabilities * gradient.clamp(min=0),
            "signed": probabilities * gradient,
            "attention": probabilities,
            "gradient": gradient.clamp(min=0) * (probabilities > 0),
        }
        layers.append(influence[variant])
    return torch.stack(layers, 1)


def observed(attentions, variant, selection="all", row_weights=None, per=None, dtype=torch.float64):
    """What an observer keeps of the selected layers' tiles, top layer first as in a backward pass."""
    layers, heads = SELECTIONS[selection]
    like = torch.empty(0, dtype=dtype)
    rows = None if row_weights is None else KnownRows(row_weights)
    observer = InfluenceObserver(Watched(SHAPE, [*layers], [*heads], like), variant, rows, per)
    for layer in reversed(range(L)):  # those that are not watched are passed over
        attention, grad_output = attentions[layer]
        attention.show(layer, observer, None if variant == "attention" else grad_output)
    return observer.influence


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


WEIGHTS = {
    "of one row": torch.eye(N, dtype=torch.float64)[2].expand(B, N),
    "of a row of each example": torch.eye(N, dtype=torch.float64)[[5, 0, 3]],
    "of some rows": torch.tensor([[0.5, 0, 0, 0.5, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.float64),
    "of all rows, some negative": torch.linspace(-1, 2, B * N, dtype=torch.float64).view(B, N),
    "true or false": torch.arange(B * N).view(B, N) % 4 == 1,
}
each_weighting = pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)


@each_size
@each_selection
@each_variant
def test_the_matrix_is_the_mean_over_selected_layers_and_heads(attentions, variant, selection, tile_size):
    layers, heads = SELECTIONS[selection]
    expected = influences(attentions, variant)[:, layers][:, :, heads].mean((1, 2))
    close(observed(attentions, variant, selection), expected)


@each_size
@each_selection
@each_variant
def test_layers_are_kept_apart_in_ascending_order(attentions, variant, selection, tile_size):
    layers, heads = SELECTIONS[selection]
    expected = influences(attentions, variant)[:, layers][:, :, heads].mean(2)
    close(observed(attentions, variant, selection, per="layer"), expected)


@each_size
@each_selection
@each_variant
def test_heads_are_kept_apart_in_ascending_order(attentions, variant, selection, tile_size):
    layers, heads = SELECTIONS[selection]
    close(observed(attentions, variant, selection, per="head"), influences(attentions, variant)[:, layers][:, :, heads])


@each_size
@each_weighting
@each_variant
def test_row_weights_give_the_weighted_rows_of_the_matrix(attentions, variant, weights, tile_size):
    matrix = influences(attentions, variant).mean((1, 2))
    expected = torch.einsum("bq,bqk->bk", weights.double(), matrix)
    close(observed(attentions, variant, row_weights=weights), expected)


@each_size
@pytest.mark.parametrize("selection", ["all", "heads apart", "last heads of two layers"])
@each_weighting
def test_weighted_rows_of_layers_and_heads_are_kept_apart_too(attentions, weights, selection, tile_size):
    layers, heads = SELECTIONS[selection]
    influence = influences(attentions, "signed")[:, layers][:, :, heads]
    expected = torch.einsum("bq,blhqk->blhk", weights.double(), influence)
    close(observed(attentions, "signed", selection, row_weights=weights, per="head"), expected)
    close(observed(attentions, "signed", selection, row_weights=weights, per="layer"), expected.mean(2))


@each_variant
def test_the_mean_over_layers_and_heads_kept_apart_is_the_matrix(attentions, variant):
    matrix = observed(attentions, variant, "last heads of two layers")
    close(observed(attentions, variant, "last heads of two layers", per="layer").mean(1), matrix)
    close(observed(attentions, variant, "last heads of two layers", per="head").mean((1, 2)), matrix)


def test_rectified_influence_is_the_positive_part_of_signed_influence_in_each_head(attentions):
    signed = observed(attentions, "signed", per="head")
    assert (signed < 0).any()
    assert torch.equal(observed(attentions, "rectified", per="head"), signed.clamp(min=0))


def test_row_weights_of_zero_give_zeros(attentions):
    influence = observed(attentions, "signed", row_weights=torch.zeros(B, N))
    assert torch.equal(influence, torch.zeros(B, N, dtype=torch.float64))


@each_size
@pytest.mark.parametrize("row_weights", [None, torch.eye(N, dtype=torch.float64)[[5, 0, 3]]], ids=["matrix", "rows"])
def test_an_example_that_no_gradient_reaches_gets_zeros(attentions, row_weights, tile_size):
    for _, grad_output in attentions:
        grad_output[1] = 0
    influence = observed(attentions, "signed", row_weights=row_weights)
    assert not influence[1].any()
    assert influence[0].any()


@pytest.mark.parametrize("row_weights", [None, torch.ones(B, N, dtype=torch.float64)], ids=["matrix", "rows"])
@pytest.mark.parametrize("per", [None, "layer", "head"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_results_have_the_dtype_that_was_asked_for(per, dtype, row_weights):
    like = torch.empty(0, dtype=dtype)
    rows = None if row_weights is None else KnownRows(row_weights)
    observer = InfluenceObserver(Watched(SHAPE, [*range(L)], [*range(H)], like), "signed", rows, per)
    shape = (B, *{None: (), "layer": (L,), "head": (L, H)}[per], *((N, N) if row_weights is None else (N,)))
    assert observer.influence.dtype == dtype
    assert observer.influence.shape == shape


@each_variant
def test_tiles_are_not_written_to(attentions, variant):
    attention, grad_output = attentions[0]
    tiles = []
    attention.show(0, tiles.append, grad_output)
    tensors = tiles[0].attention, tiles[0].gradient, tiles[0].relevance
    before = [tensor.clone() for tensor in tensors]
    for per in (None, "layer", "head"):
        observer = InfluenceObserver(Watched(SHAPE, [0], [*range(H)], before[0]), variant, per=per)
        observer(tiles[0])
        observer(tiles[0])
    assert all(map(torch.equal, tensors, before))
