"""Relevance pushed down the layers, tile by tile."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_attn.core.observers import NormalizedRelevanceObserver, RelevanceObserver, Watched
from captum_attn.core.readout import KnownRows
from captum_attn.core.tiles import Block, Tile

BATCH, LAYERS, HEADS, LENGTH = 2, 3, 4, 6


def attention_and_gradient(seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (LAYERS, BATCH, HEADS, LENGTH, LENGTH)
    return torch.randn(shape, generator=generator).softmax(-1), torch.randn(shape, generator=generator)


def show(observer, attention, gradient, rows=LENGTH, heads=HEADS):
    """All layers from the top down, cut into tiles of so many rows and heads."""
    for layer in reversed(range(LAYERS)):
        for example in range(BATCH):
            for head in range(0, HEADS, heads):
                for row in range(0, LENGTH, rows):
                    place = Block(slice(example, example + 1), slice(head, head + heads), slice(row, row + rows))
                    a, g = attention[layer][place], gradient[layer][place]
                    observer(Tile(layer, place, a, g, a * g))


def observers(weights):
    watched = Watched((BATCH, HEADS, LENGTH), [*range(LAYERS)], [*range(HEADS)], torch.zeros(0))
    yield RelevanceObserver(watched, "rectified", weights, kept=1, passed=1)
    yield RelevanceObserver(watched, "attention", weights, kept=0.3, passed=0.7)
    yield NormalizedRelevanceObserver(watched, "rectified", weights)


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), rows=st.sampled_from([1, 2, 6]), heads=st.sampled_from([1, 2, 4]))
def test_rows_under_weights_are_those_of_the_whole_matrix_however_it_is_cut(seed, rows, heads):
    attention, gradient = attention_and_gradient(seed)
    weights = torch.rand(BATCH, LENGTH, generator=torch.Generator().manual_seed(seed))
    for whole, row in zip(observers(None), observers(KnownRows(weights)), strict=True):
        show(whole, attention, gradient)
        show(row, attention, gradient, rows, heads)
        expected = (weights.unsqueeze(1) @ whole.influence).squeeze(1)
        torch.testing.assert_close(row.influence, expected, rtol=1e-4, atol=1e-6)


def test_a_row_needs_memory_in_proportion_to_the_tokens():
    attention, gradient = attention_and_gradient(0)
    weights = torch.rand(BATCH, LENGTH)
    for observer in list(observers(KnownRows(weights)))[:2]:
        show(observer, attention, gradient)
        kept = [part for part in vars(observer).values() if isinstance(part, torch.Tensor)]
        assert max(part.numel() for part in kept) == BATCH * LENGTH


def test_nothing_was_shown_so_tokens_are_relevant_to_themselves_alone():
    for observer in observers(None):
        assert torch.equal(observer.influence, torch.eye(LENGTH).expand(BATCH, -1, -1))


def test_layers_from_the_bottom_up_are_refused():
    attention, _ = attention_and_gradient(0)
    observer = next(iter(observers(None)))
    everything = Block(slice(0, BATCH), slice(0, HEADS), slice(0, LENGTH))
    observer(Tile(0, everything, attention[0], attention[0], attention[0]))
    with pytest.raises(ValueError, match="expected the top layer first"):
        observer(Tile(1, everything, attention[1], attention[1], attention[1]))
