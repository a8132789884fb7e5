"""Relevance that is pushed down the layers, from the tokens that an output is read from to those of the input.

One layer turns the relevance r of its outputs into that of its inputs by a matrix P of its head-mean influence Ā:
r ← r P. What is wanted is a row of the product P_L ⋯ P_1, or a weighted sum of its rows. A backward pass shows the top
layer first, so that the row alone needs O(N) memory, and no product of matrices is taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from captum_attn.core.observers import Variant, check_variant, index, influence_in, within
from captum_attn.core.readout import RowWeights
from captum_attn.core.tiles import Block, Tile


class _DescendingObserver(ABC):
    """Follow rows of relevance (B, R, N) from layer to layer.

    Attributes:
        layers: the layers that count, by which tiles are chosen; the others are passed over, as if P = I.

    Args:
        shape: (B, H, N) of every layer's attention.
        layers, heads: those that count, in ascending order.
        variant: of the influence; see :mod:`captum_attn.core.observers`.
        row_weights: weights (B, N) of the rows of the product, for their sum, R = 1; they are asked for when the first
            tile is shown. None keeps all rows, R = N.
        like: a tensor of the dtype and on the device of the result.

    Raises:
        ValueError: an unknown variant.
    """

    whole_heads = False

    def __init__(
        self,
        shape: tuple[int, int, int],
        layers: Sequence[int],
        heads: Sequence[int],
        variant: Variant,
        row_weights: RowWeights | None,
        like: Tensor,
    ) -> None:
        check_variant(variant)
        self._batch, _, self._length = shape
        self.layers, self._heads, self._variant = list(layers), list(heads), variant
        self._given_weights, self._like = row_weights, like
        self._layer: int | None = None

    def __call__(self, tile: Tile) -> None:
        """Take one tile. A layer's tiles come together, and layers from the top down."""
        if tile.layer not in self.layers:
            return
        if self._layer is None:
            self._own, self._given = self._first_rows, torch.zeros_like(self._first_rows)
        elif tile.layer > self._layer:
            raise ValueError(f"layer {tile.layer} was shown after layer {self._layer}: expected the top layer first")
        elif tile.layer < self._layer:
            self._own, self._given = self._below()
        if tile.layer != self._layer:
            self._layer, self._rows = tile.layer, self._own + self._given
            self._begin()
        heads = within(self._heads, tile.block.heads)
        if heads:
            influence = influence_in(tile, self._variant, index(heads, tile.block.heads.start), slice(None))
            self._take(tile.block, influence.sum(1).to(self._like.device) / len(self._heads))

    @property
    def influence(self) -> Tensor:
        """The rows below the lowest layer: (B, N) under row weights, else all of them (B, N, N)."""
        own, given = self._below()
        return self._shaped(own + given)

    @property
    def by_attention(self) -> Tensor:
        """What of :attr:`influence` passed attention: all but what residual connections kept of the rows themselves."""
        _, given = self._below()
        return self._shaped(given)

    def _below(self) -> tuple[Tensor, Tensor]:
        """The rows (B, R, N) below the present layer: what tokens kept of themselves, and what attention gave them."""
        if self._layer is None:
            return self._first_rows, torch.zeros_like(self._first_rows)
        kept = self._kept_share()
        return kept * self._own, kept * self._given + self._passed_on()

    def _shaped(self, rows: Tensor) -> Tensor:
        return rows if self._given_weights is None else rows.squeeze(1)

    @cached_property
    def _first_rows(self) -> Tensor:
        given = self._given_weights
        if given is None:
            everything = torch.eye(self._length, dtype=self._like.dtype, device=self._like.device)
            return everything.expand(self._batch, -1, -1)
        return given.weights().to(self._like).unsqueeze(1)

    @abstractmethod
    def _begin(self) -> None:
        """Forget what was kept of the layer above."""

    @abstractmethod
    def _take(self, block: Block, influence: Tensor) -> None:
        """Keep what is needed of a part (b, q, N) of the layer's Ā, or of a share of its heads."""

    @abstractmethod
    def _passed_on(self) -> Tensor:
        """What the layer's attention makes of the rows above it, (B, R, N)."""

    @abstractmethod
    def _kept_share(self) -> Tensor | float:
        """The share of a token's relevance that the layer's residual connection keeps, (B, 1, N) or one for all."""


class RelevanceObserver(_DescendingObserver):
    """P = kept · I + passed · Ā: rows under weights in O(N) memory.

    Args:
        kept, passed: weights of the residual connection and of attention.
        shape, layers, heads, variant, row_weights, like: as of the other observers of this module.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        layers: Sequence[int],
        heads: Sequence[int],
        variant: Variant,
        row_weights: RowWeights | None,
        like: Tensor,
        *,
        kept: float,
        passed: float,
    ) -> None:
        super().__init__(shape, layers, heads, variant, row_weights, like)
        self._kept, self._passed = kept, passed

    def _begin(self) -> None:
        self._through_attention = torch.zeros_like(self._rows)

    def _take(self, block: Block, influence: Tensor) -> None:
        part = self._through_attention[block.examples]
        part += self._rows[block.examples][:, :, block.queries] @ influence

    def _passed_on(self) -> Tensor:
        return self._passed * self._through_attention

    def _kept_share(self) -> float:
        return self._kept


class NormalizedRelevanceObserver(_DescendingObserver):
    """P = I + Ā with each row divided by its sum, which is known when all heads were seen: Ā of one layer is kept."""

    def _begin(self) -> None:
        self._mean = self._like.new_zeros(self._batch, self._length, self._length)

    def _take(self, block: Block, influence: Tensor) -> None:
        part = self._mean[block.examples, block.queries]
        part += influence

    def _passed_on(self) -> Tensor:
        return (self._rows * self._kept_share()) @ self._mean

    def _kept_share(self) -> Tensor:
        return 1 / (1 + self._mean.sum(-1)).unsqueeze(1)
