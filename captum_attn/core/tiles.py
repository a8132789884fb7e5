"""Attention probabilities and their gradients, one cache-sized tile at a time.

A fused attention kernel never shows its probabilities A. They are recomputed here from the saved queries and
keys, in tiles of at most ``TILE_ELEMENTS`` entries, so that no (N, N) tensor is kept for any head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

TILE_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Entries of one tile: what stays in a CPU core's cache (2 MiB in float32), or few large kernels on a GPU."""


class Block(NamedTuple):
    """Where a tile lies in its layer's (B, H, Q, K) tensor; it always holds all K keys."""

    examples: slice
    heads: slice
    queries: slice


@dataclass(frozen=True)
class Tile:
    """A block of one layer's attention probabilities A and of their gradient G.

    Attributes:
        layer: index of the layer, in the order in which the model calls its attention.
        block: where the tile lies in the layer.
        attention: A (b, h, q, K), float32 or float64.
        gradient: G (b, h, q, K), or None in a forward-only pass.
    """

    layer: int
    block: Block
    attention: Tensor
    gradient: Tensor | None = None

    @cached_property
    def relevance(self) -> Tensor:
        """A ⊙ G (b, h, q, K). Not to be written to."""
        if self.gradient is None:
            raise ValueError("this tile comes from a forward-only pass and has no gradient")
        return self.attention * self.gradient


class InputGradients(NamedTuple):
    """Gradients of one attention call with respect to what went in; the mask's is None where not asked for."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class Attention:
    """The inputs of one scaled-dot-product attention, from which A and G are computed again.

    Attributes:
        query: (B, H, Q, d).
        key: (B, H_kv, K, d), H a multiple of H_kv (grouped-query attention).
        value: (B, H_kv, K, d_v).
        mask: None, bool (True = may attend) or additive float, broadcastable to (B, H, Q, K).
        causal: query i sees keys 0..i only (the mask is None then, as PyTorch demands).
        scale: factor of the scores.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    causal: bool
    scale: float

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, H, Q, K)"""
        batch, heads, queries, _ = self.query.shape
        return batch, heads, queries, self.key.shape[2]

    def tiles(self, layer: int) -> Iterator[Tile]:
        """A, block by block."""
        with full_precision(self.query.device.type):
            for block in self._blocks():
                yield Tile(layer, block, self._probabilities(block, self._expanded(self.key, block)))

    def backward(
        self, layer: int, grad_output: Tensor, observe: Callable[[Tile], None] | None, mask_gradient: bool
    ) -> InputGradients:
        """Backpropagate ``grad_output`` (B, H, Q, d_v), showing every tile of (A, G) to ``observe`` on the way."""
        query = torch.zeros_like(self.query, dtype=widened(self.query.dtype))
        key, value = (torch.zeros_like(kv, dtype=widened(kv.dtype)) for kv in (self.key, self.value))
        mask = torch.zeros_like(self._mask, dtype=query.dtype) if mask_gradient else None
        for tile, grad_tile, keys in self._gradient_tiles(layer, grad_output):
            if observe is not None:
                observe(tile)
            relevance, block = tile.relevance, tile.block
            scores = torch.addcmul(relevance, tile.attention, relevance.sum(-1, keepdim=True), value=-1)
            queries = widen(self.query[block]) * self.scale
            query[block] = (scores @ keys).mul_(self.scale)
            self._accumulate(key, scores.transpose(-1, -2) @ queries, block)
            self._accumulate(value, tile.attention.transpose(-1, -2) @ grad_tile, block)
            if mask is not None:
                part = self._mask_block(mask, block)
                part += scores.sum_to_size(part.shape)
        return InputGradients(
            query.to(self.query.dtype),
            key.to(self.key.dtype),
            value.to(self.value.dtype),
            None if mask is None or self.mask is None else mask.to(self.mask.dtype).view_as(self.mask),
        )

    def observe(self, layer: int, grad_output: Tensor, observe: Callable[[Tile], None]) -> None:
        """Show every tile of (A, G) to ``observe`` and stop there: nothing below this layer is asked for."""
        for tile, _, _ in self._gradient_tiles(layer, grad_output):
            observe(tile)

    def _gradient_tiles(self, layer: int, grad_output: Tensor) -> Iterator[tuple[Tile, Tensor, Tensor]]:
        """(tile, its part of grad_output, its keys), leaving out queries that no gradient reaches.

        In the last layer of a classifier these are all but the readout token.
        """
        with full_precision(self.query.device.type):
            for block in self._blocks():
                reached = grad_output[block].any(-1).flatten(0, 1).any(0).nonzero()
                if not len(reached):
                    continue
                first, last = block.queries.start + int(reached[0]), block.queries.start + int(reached[-1])
                block = block._replace(queries=slice(first, last + 1))
                grad_tile = widen(grad_output[block])
                key, value = self._expanded(self.key, block), self._expanded(self.value, block)
                attention = self._probabilities(block, key)
                yield Tile(layer, block, attention, grad_tile @ value.transpose(-1, -2)), grad_tile, key

    def _blocks(self) -> Iterator[Block]:
        """Cover the layer with blocks of whole examples, else whole heads, else rows, as fits into a tile."""
        batch, heads, queries, keys = self.shape
        budget = TILE_ELEMENTS.get(self.query.device.type, TILE_ELEMENTS["cuda"])
        steps = (budget // (heads * queries * keys), budget // (queries * keys), budget // keys)
        examples, heads_, rows = (chunks(n, step) for n, step in zip((batch, heads, queries), steps, strict=True))
        return (Block(e, h, q) for e in examples for h in heads_ for q in rows)

    def _probabilities(self, block: Block, key: Tensor) -> Tensor:
        """A of one block (b, h, q, K); zero in rows that may attend to nothing, as in PyTorch's kernels."""
        scores = (widen(self.query[block]) * self.scale) @ key.transpose(-1, -2)
        if self.causal:
            _, _, queries, keys = self.shape
            row = torch.arange(queries, device=scores.device)[block.queries, None]
            scores.masked_fill_(torch.arange(keys, device=scores.device) > row, -math.inf)
        elif self.mask is not None:
            mask = self._mask_block(self._mask, block)
            if mask.dtype == torch.bool:
                scores.masked_fill_(~mask, -math.inf)
            else:
                scores += mask
        attention = scores.softmax(-1)
        if self._blind_queries is not None:
            attention.masked_fill_(self._mask_block(self._blind_queries, block), 0.0)
        return attention

    @cached_property
    def _mask(self) -> Tensor:
        """The mask with four dimensions, some of them 1."""
        if self.mask is None:
            raise ValueError("this attention has no mask")
        return self.mask[(None,) * (4 - self.mask.dim())]

    @cached_property
    def _blind_queries(self) -> Tensor | None:
        """Queries that may attend to nothing, in the mask's shape with K = 1; None where there are none."""
        if self.mask is None:
            return None
        seen = self._mask if self.mask.dtype == torch.bool else self._mask != -math.inf
        blind = ~seen.any(-1, keepdim=True)
        return blind if blind.any() else None

    @staticmethod
    def _mask_block(mask: Tensor, block: Block) -> Tensor:
        """The block's part of a four-dimensional mask, broadcast dimensions kept."""
        return mask[tuple(slice(None) if size == 1 else cut for size, cut in zip(mask.shape, block, strict=False))]

    @property
    def _groups(self) -> int:
        """Query heads that share one key/value head."""
        return self.query.shape[1] // self.key.shape[1]

    def _shared_heads(self, block: Block) -> Tensor:
        """The key/value head (h,) of each of the block's query heads."""
        return torch.arange(block.heads.start, block.heads.stop, device=self.key.device) // self._groups

    def _expanded(self, keys_or_values: Tensor, block: Block) -> Tensor:
        """Keys or values (b, h, K, d) of the block's query heads."""
        if self._groups == 1:
            return widen(keys_or_values[block.examples, block.heads])
        return widen(keys_or_values[block.examples].index_select(1, self._shared_heads(block)))

    def _accumulate(self, total: Tensor, part: Tensor, block: Block) -> None:
        """Add the gradient (b, h, K, d) of a block's keys or values to that of the shared heads."""
        if self._groups == 1:
            total[block.examples, block.heads] += part
        else:
            total[block.examples].index_add_(1, self._shared_heads(block), part)


def chunks(length: int, step: int) -> list[slice]:
    """Slices of at most ``step`` (at least one) elements that cover ``range(length)``."""
    step = min(max(1, step), length)
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def widened(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, else unchanged: A and G need more digits than bfloat16 has."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def widen(tensor: Tensor) -> Tensor:
    """``tensor`` in the precision of the tiles."""
    return tensor.to(widened(tensor.dtype))


def full_precision(device_type: str) -> torch.autocast:
    """A context in which autocast does not round the tiles."""
    return torch.autocast(device_type, enabled=False)
