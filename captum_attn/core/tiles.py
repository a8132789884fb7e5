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

from captum_attn.core.masks import closed_rows

TILE_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 24}
"""Entries of one tile: what stays in a CPU core's cache (2 MiB in float32), or few large kernels on a GPU."""


class Block(NamedTuple):
    """Where a tile lies in its layer's (B, H, Q, K) tensor; it always holds all K keys."""

    examples: slice
    heads: slice
    queries: slice

    def of_examples(self, rows: int, batch: int, device: torch.device) -> Tensor:
        """Of each of its rows the example, int64, where a layer's R rows are windows of B examples, one by one."""
        return torch.arange(self.examples.start, self.examples.stop, device=device) * batch // rows


@dataclass(frozen=True)
class Tile:
    """A block of one layer's attention probabilities A and of their gradient G.

    The tensors are workspace that the next tile overwrites: copy what you keep, and write to none of them.

    Attributes:
        layer: index of the layer, in the order in which the model calls its attention.
        block: where the tile lies in the layer.
        attention: A (b, h, q, K), float32 or float64.
        gradient: G (b, h, q, K), or None in a forward-only pass.
        relevance: A ⊙ G (b, h, q, K), or None in a forward-only pass.
    """

    layer: int
    block: Block
    attention: Tensor
    gradient: Tensor | None = None
    relevance: Tensor | None = None


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

    def same_scores(self, other: Attention) -> bool:
        """Whether the other one's probabilities are these, whatever its values are."""
        if (self.shape, self.scale, self.causal) != (other.shape, other.scale, other.causal):
            return False
        if self.mask is None or other.mask is None:
            same_mask = self.mask is other.mask
        else:
            same_mask = self.mask is other.mask or torch.equal(self.mask, other.mask)
        return same_mask and torch.equal(self.query, other.query) and torch.equal(self.key, other.key)

    def show(self, layer: int, observe: Callable[[Tile], None], grad_output: Tensor | None = None) -> None:
        """Show every tile of A, or of (A, G) where ``grad_output`` (B, H, Q, d_v) is given; backpropagate nothing."""
        groups = self._head_groups() if grad_output is None else self._differentiated(grad_output)
        with full_precision(self.query.device.type):
            for group in groups:
                for rows in group.row_blocks(self._row_step):
                    observe(group.tile(layer, rows))

    def show_whole_heads(self, layer: int, observe: Callable[[Tile], None]) -> None:
        """Show every tile of A, each with all heads: some queries of one example where not all fit."""
        batch, heads, queries, keys = self.shape
        step = min(max(1, self._budget // (heads * keys)), queries)
        example_step = max(1, self._budget // (heads * queries * keys))
        groups = chunks(0, batch, example_step)
        largest = min(example_step, batch) * heads * step * keys
        workspace = self.query.new_empty(4, largest + _STAGGER, dtype=widened(self.query.dtype))
        with full_precision(self.query.device.type):
            for examples in groups:
                group = _HeadGroup(self, examples, slice(0, heads), workspace)
                for rows in group.row_blocks(step):
                    observe(group.tile(layer, rows))

    def backward(
        self,
        layer: int,
        grad_output: Tensor,
        observe: Callable[[Tile], None] | None,
        mask_gradient: bool,
        scores_share: float = 1.0,
    ) -> InputGradients:
        """Backpropagate ``grad_output`` (B, H, Q, d_v), showing every tile of (A, G) on the way.

        ``scores_share`` is the part of the scores' gradient that queries, and keys, get; at 0, the mask gets none.
        """
        dtype = widened(self.query.dtype)
        query, key, value = (torch.zeros_like(t, dtype=dtype) for t in (self.query, self.key, self.value))
        mask = torch.zeros_like(self.wide_mask, dtype=dtype) if mask_gradient else None
        gradients = InputGradients(query, key, value, mask)
        with full_precision(self.query.device.type):
            for group in self._differentiated(grad_output):
                for rows in group.row_blocks(self._row_step):
                    tile = group.tile(layer, rows)
                    if observe is not None:
                        observe(tile)
                    group.backpropagate_to_values(tile)
                    if not scores_share:
                        continue
                    scores = group.backpropagate_to_scores(tile)
                    if mask is not None:
                        part = mask_block(mask, tile.block)
                        part += scores.sum_to_size(part.shape)
                group.add_to(gradients, scores_share)
        return InputGradients(
            query.to(self.query.dtype),
            key.to(self.key.dtype),
            value.to(self.value.dtype),
            None if mask is None or self.mask is None else mask.to(self.mask.dtype).view_as(self.mask),
        )

    def _head_groups(self) -> Iterator[_HeadGroup]:
        for examples, heads, workspace in self._groups():
            yield _HeadGroup(self, examples, heads, workspace)

    def _differentiated(self, grad_output: Tensor) -> Iterator[_DifferentiatedHeadGroup]:
        for examples, heads, workspace in self._groups():
            yield _DifferentiatedHeadGroup(self, examples, heads, workspace, grad_output)

    def _groups(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Whole examples, else some heads of one example, as fits into a tile; with the workspace for the tiles."""
        batch, heads, queries, keys = self.shape
        example_step, head_step = self._budget // (heads * queries * keys), self._budget // (queries * keys)
        groups = [(b, h) for b in chunks(0, batch, example_step) for h in chunks(0, heads, head_step)]
        largest = max((b.stop - b.start) * (h.stop - h.start) for b, h in groups) * min(self._row_step, queries) * keys
        workspace = self.query.new_empty(4, largest + _STAGGER, dtype=widened(self.query.dtype))
        return ((b, h, workspace) for b, h in groups)

    @property
    def _budget(self) -> int:
        return TILE_ELEMENTS.get(self.query.device.type, TILE_ELEMENTS["cuda"])

    @property
    def _row_step(self) -> int:
        return max(1, self._budget // self.shape[3])

    @cached_property
    def wide_mask(self) -> Tensor:
        """The mask with four dimensions, some of them 1."""
        if self.mask is None:
            raise ValueError("this attention has no mask")
        return self.mask[(None,) * (4 - self.mask.dim())]

    @cached_property
    def blind_queries(self) -> Tensor | None:
        """Queries that may attend to nothing, in the mask's shape with K = 1; None where there are none."""
        if self.mask is None:
            return None
        blind = closed_rows(self.wide_mask)
        return blind if blind.any() else None


_SCORES, _ATTENTION, _GRADIENT, _RELEVANCE = range(4)  # parts of the workspace
_STAGGER = (
    1104  # entries between them: at distances of 2 MiB, equal places share cache sets (measured: 1.4 times as slow)
)


class _HeadGroup:
    """Some heads of some examples, g in all, laid out for batched products: contiguous (g, Q or K, d)."""

    def __init__(self, attention: Attention, examples: slice, heads: slice, workspace: Tensor) -> None:
        self._attention, self._workspace = attention, workspace
        self._examples, self._heads = examples, heads
        self._sharing = attention.query.shape[1] // attention.key.shape[1]
        self._query = flat(widen(attention.query[examples, heads]) * attention.scale)
        self._key = flat(self._of_query_heads(attention.key))

    def row_blocks(self, step: int) -> list[slice]:
        """The queries in blocks of at most ``step``."""
        return chunks(0, self._query.shape[1], step)

    def tile(self, layer: int, rows: slice) -> Tile:
        """The tile of some queries."""
        block = Block(self._examples, self._heads, rows)
        return Tile(layer, block, self._probabilities(block))

    def _probabilities(self, block: Block) -> Tensor:
        """A (b, h, q, K); zero in rows that may attend to nothing, as in PyTorch's kernels."""
        attention, rows = self._attention, block.queries
        scores = self._product(_SCORES, self._query[:, rows], self._key.mT)
        if attention.causal:
            row = torch.arange(rows.start, rows.stop, device=scores.device)[:, None]
            scores.masked_fill_(torch.arange(scores.shape[-1], device=scores.device) > row, -math.inf)
        elif attention.mask is not None:
            mask = mask_block(attention.wide_mask, block)
            if mask.dtype == torch.bool:
                scores.masked_fill_(~mask, -math.inf)
            else:
                scores += mask
        probabilities = torch.softmax(scores, -1, out=self._buffer(_ATTENTION, scores.shape))
        if attention.blind_queries is not None:
            probabilities.masked_fill_(mask_block(attention.blind_queries, block), 0.0)
        return probabilities

    def _of_query_heads(self, keys_or_values: Tensor) -> Tensor:
        """Keys or values (b, h, K, d) of the group's query heads."""
        if self._sharing == 1:
            return widen(keys_or_values[self._examples, self._heads])
        return widen(keys_or_values[self._examples].index_select(1, self._shared_heads()))

    def _shared_heads(self) -> Tensor:
        """The key/value head (h,) of each query head."""
        return torch.arange(self._heads.start, self._heads.stop, device=self._workspace.device) // self._sharing

    def _product(self, part: int, left: Tensor, right: Tensor) -> Tensor:
        """The product of (g, q, d) and (g, d, K) in the workspace, as (b, h, q, K)."""
        examples, heads = (cut.stop - cut.start for cut in (self._examples, self._heads))
        product = self._buffer(part, (examples, heads, left.shape[1], right.shape[2]))
        torch.bmm(left, right, out=product.flatten(0, 1))
        return product

    def _buffer(self, part: int, shape: tuple[int, ...]) -> Tensor:
        return self._workspace[part, : math.prod(shape)].view(shape)


class _DifferentiatedHeadGroup(_HeadGroup):
    """The same with the gradient of the output, and the gradients of query, key and value so far."""

    def __init__(
        self, attention: Attention, examples: slice, heads: slice, workspace: Tensor, grad_output: Tensor
    ) -> None:
        super().__init__(attention, examples, heads, workspace)
        self._grad_output = flat(widen(grad_output[examples, heads]))
        self._value = flat(self._of_query_heads(attention.value))
        self._grad_query, self._grad_key, self._grad_value = map(
            torch.zeros_like, (self._query, self._key, self._value)
        )

    def row_blocks(self, step: int) -> list[slice]:
        """The queries that a gradient reaches: in the last layer of a classifier, those that it reads."""
        reached = self._grad_output.any(-1).any(0).nonzero()
        return chunks(int(reached[0]), int(reached[-1]) + 1, step) if len(reached) else []

    def tile(self, layer: int, rows: slice) -> Tile:
        """The tile of some queries, with G and A ⊙ G."""
        tile = super().tile(layer, rows)
        gradient = self._product(_GRADIENT, self._grad_output[:, rows], self._value.mT)
        relevance = torch.mul(tile.attention, gradient, out=self._buffer(_RELEVANCE, gradient.shape))
        return Tile(layer, tile.block, tile.attention, gradient, relevance)

    def backpropagate_to_values(self, tile: Tile) -> None:
        """Add the tile's share to the gradient of the values."""
        self._grad_value.baddbmm_(tile.attention.flatten(0, 1).mT, self._grad_output[:, tile.block.queries])

    def backpropagate_to_scores(self, tile: Tile) -> Tensor:
        """Add the tile's share to the gradients of query and key; return that of the scores (b, h, q, K)."""
        rows, relevance = tile.block.queries, self._buffer(_RELEVANCE, tile.attention.shape)
        sums = relevance.sum(-1, keepdim=True)
        scores = torch.addcmul(relevance, tile.attention, sums, value=-1, out=self._buffer(_SCORES, relevance.shape))
        self._grad_query[:, rows] = torch.bmm(scores.flatten(0, 1), self._key)
        self._grad_key.baddbmm_(scores.flatten(0, 1).mT, self._query[:, rows])
        return scores

    def add_to(self, gradients: InputGradients, scores_share: float) -> None:
        """Add the group's gradients to those of the whole call."""
        of_group = gradients.query[self._examples, self._heads]
        of_group += (self._grad_query * (self._attention.scale * scores_share)).view_as(of_group)
        of_keys = self._grad_key if scores_share == 1 else self._grad_key * scores_share
        for total, flat_part in ((gradients.key, of_keys), (gradients.value, self._grad_value)):
            part = flat_part.unflatten(0, (-1, self._heads.stop - self._heads.start))
            if self._sharing == 1:
                total[self._examples, self._heads] += part
            else:
                total[self._examples].index_add_(1, self._shared_heads(), part)


def chunks(start: int, stop: int, step: int) -> list[slice]:
    """Slices of at most ``step`` (at least one) elements that cover ``range(start, stop)``."""
    step = max(1, step)
    return [slice(first, min(first + step, stop)) for first in range(start, stop, step)]


def mask_block(mask: Tensor, block: Block) -> Tensor:
    """The block's part of a four-dimensional mask, broadcast dimensions kept."""
    return mask[tuple(slice(None) if size == 1 else cut for size, cut in zip(mask.shape, block, strict=False))]


def flat(tensor: Tensor) -> Tensor:
    """(b, h, n, d) as contiguous (b h, n, d)."""
    return tensor.flatten(0, 1).contiguous()


def widened(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, else unchanged: A and G need more digits than bfloat16 has."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def widen(tensor: Tensor) -> Tensor:
    """``tensor`` in the precision of the tiles."""
    return tensor.to(widened(tensor.dtype))


def full_precision(device_type: str) -> torch.autocast:
    """A context in which autocast does not round the tiles."""
    return torch.autocast(device_type, enabled=False)
