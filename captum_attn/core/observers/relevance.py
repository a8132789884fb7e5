"""Relevance that is pushed down the layers, from the tokens that an output is read from to those of the input.

One layer turns the relevance r of its outputs into that of its inputs by a matrix P of its head-mean influence Ā:
r ← r P. What is wanted is a row of the product P_L ⋯ P_1, or a weighted sum of its rows. A backward pass shows the top
layer first, so that the row alone needs O(N) memory, and no product of matrices is taken.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from captum_attn.core.observers.influence import Variant, check_variant, influence_in
from captum_attn.core.observers.watched import LayerObserver, Watched
from captum_attn.core.readout import RowWeights
from captum_attn.core.tiles import Block, Tile


class _DescendingObserver(LayerObserver):
    """Follow rows of relevance (B, R, N) from layer to layer. Layers that are not watched are passed over, as if P = I.

    Args:
        watched: as of :class:`LayerObserver`.
        variant: of the influence; see :mod:`captum_attn.core.observers.influence`.
        row_weights: weights (B, N) of the rows of the product, for their sum, R = 1; they are asked for when the first
            tile is shown. None keeps all rows, R = N.

    Raises:
        ValueError: an unknown variant.
    """

    def __init__(self, watched: Watched, variant: Variant, row_weights: RowWeights | None) -> None:
        check_variant(variant)
        super().__init__(watched)
        self._variant, self._given_weights = variant, row_weights
        self._layer: int | None = None

    def take(self, tile: Tile) -> None:
        if self._layer is None:
            self._own, self._given = self._first_rows, torch.zeros_like(self._first_rows)
        elif tile.layer > self._layer:
            raise ValueError(f"layer {tile.layer} was shown after layer {self._layer}: expected the top layer first")
        elif tile.layer < self._layer:
            self._own, self._given = self._below()
        if tile.layer != self._layer:
            self._layer, self._rows = tile.layer, self._own + self._given
            self._begin()
        influence = influence_in(tile, self._variant, self.watched.heads).sum(1).to(self.watched.like.device)
        self._add(tile.block, influence / len(self.watched.heads))

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
            batch, _, length = self.watched.shape
            like = self.watched.like
            return torch.eye(length, dtype=like.dtype, device=like.device).expand(batch, -1, -1)
        return given.weights().to(self.watched.like).unsqueeze(1)

    @abstractmethod
    def _begin(self) -> None:
        """Forget what was kept of the layer above."""

    @abstractmethod
    def _add(self, block: Block, influence: Tensor) -> None:
        """Take a part (b, q, N) of the layer's Ā, or the share of some of its heads in it."""

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
        watched, variant, row_weights: as of :class:`InfluenceObserver`.
    """

    def __init__(
        self, watched: Watched, variant: Variant, row_weights: RowWeights | None, *, kept: float, passed: float
    ) -> None:
        super().__init__(watched, variant, row_weights)
        self._kept, self._passed = kept, passed

    def _begin(self) -> None:
        self._through_attention = torch.zeros_like(self._rows)

    def _add(self, block: Block, influence: Tensor) -> None:
        part = self._through_attention[block.examples]
        part += self._rows[block.examples][:, :, block.queries] @ influence

    def _passed_on(self) -> Tensor:
        return self._passed * self._through_attention

    def _kept_share(self) -> float:
        return self._kept


class NormalizedRelevanceObserver(_DescendingObserver):
    """P = I + Ā with each row divided by its sum, which is known when all heads were seen: Ā of one layer is kept."""

    def _begin(self) -> None:
        self._mean = self.watched.zeros(self.watched.length, self.watched.length)

    def _add(self, block: Block, influence: Tensor) -> None:
        part = self._mean[block.examples, block.queries]
        part += influence

    def _passed_on(self) -> Tensor:
        return (self._rows * self._kept_share()) @ self._mean

    def _kept_share(self) -> Tensor:
        return 1 / (1 + self._mean.sum(-1)).unsqueeze(1)
