"""The influence of keys on queries, reduced as far as a method allows.

The influence in one layer and head is A ⊙ ReLU(G) (``rectified``, the paper's), A ⊙ G (``signed``), A alone
(``attention``), or ReLU(G) where a query may attend (``gradient``). Its mean over layers and heads is the influence
matrix M of arXiv 2508.08966, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, get_args

from torch import Tensor

from captum_attn.core.observers.watched import LayerObserver, Watched, within
from captum_attn.core.readout import RowWeights
from captum_attn.core.tiles import Tile

Variant = Literal["rectified", "signed", "attention", "gradient"]
"""What influence is, of attention A and its gradient G: A ⊙ ReLU(G), A ⊙ G, A or G."""

VARIANTS: tuple[Variant, ...] = get_args(Variant)
"""All of them."""

Per = Literal["layer", "head"]
"""What is kept apart, instead of a mean over it."""

PER: tuple[Per, ...] = get_args(Per)
"""Both of them."""


class InfluenceObserver(LayerObserver):
    """Collect influence tile by tile: the whole matrix, or its rows under fixed weights.

    Args:
        watched: as of :class:`LayerObserver`.
        variant: ``rectified``, ``signed``, ``attention`` or ``gradient``.
        row_weights: weights (B, N) of the queries, to keep only Σ_q weight_q M_qi, for which no (N, N) tensor is
            needed; they are asked for when the first tile is shown. None keeps M.
        per: ``layer`` or ``head`` keeps these apart; None takes the mean over them.

    Raises:
        ValueError: an unknown variant or ``per``.
    """

    def __init__(
        self, watched: Watched, variant: Variant, row_weights: RowWeights | None = None, per: Per | None = None
    ) -> None:
        check_variant(variant)
        if per is not None and per not in PER:
            raise ValueError(f"per must be None, {' or '.join(map(repr, PER))}, got {per!r}")
        super().__init__(watched)
        self._variant, self._per, self._given_weights = variant, per, row_weights
        layers = 1 if per is None else len(watched.layers)
        heads = len(watched.heads) if per == "head" else 1
        matrix = (watched.length, watched.keys) if row_weights is None else (watched.keys,)
        self._total = watched.zeros(layers, heads, *matrix)

    def take(self, tile: Tile) -> None:
        examples, in_heads, in_queries = tile.block
        rows = within(self._rows, in_queries)
        if not rows:
            return
        influence = influence_in(tile, self._variant, self.watched.heads, rows)
        if self._weights is not None:
            influence = (self._weights[examples, None, None, _index(rows)] @ influence).squeeze(-2)
        layer = 0 if self._per is None else self.watched.layers.index(tile.layer)
        if self._per == "head":
            first = self.watched.heads.index(within(self.watched.heads, in_heads)[0])
            target = self._total[examples, layer, first : first + influence.shape[1]]
        else:
            target = self._total[examples, layer, 0]
            influence = influence.sum(1) if influence.shape[1] > 1 else influence.squeeze(1)  # no copy of one head
        if self._weights is None:
            target = target[..., in_queries, :]
        target = target[..., self.watched.of_keys(tile)]
        target += influence.to(target.device)

    @cached_property
    def _weights(self) -> Tensor | None:
        given = self._given_weights
        return None if given is None else given.weights().to(self._total)

    @cached_property
    def _rows(self) -> Sequence[int]:
        """The queries that count, in ascending order."""
        if self._weights is None:
            return range(self.watched.length)
        return self._weights.any(0).nonzero().flatten().tolist()

    @property
    def influence(self) -> Tensor:
        """M (B, N, N), or (B, N) under row weights; with (L,) or (L, H) after B where kept apart."""
        if self._per == "head":
            return self._total
        mean = self._total / len(self.watched.heads)
        return mean.squeeze(2) if self._per == "layer" else mean.squeeze((1, 2)) / len(self.watched.layers)


def check_variant(variant: str) -> None:
    """Raise ``ValueError`` for an unknown variant."""
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(map(repr, VARIANTS))}, got {variant!r}")


def influence_in(tile: Tile, variant: Variant, heads: Sequence[int], rows: Sequence[int] | None = None) -> Tensor:
    """The influence in those of some heads and rows, ascending, that lie in the tile.

    Args:
        tile: a block of the layer.
        variant: ``rectified``, ``signed``, ``attention`` or ``gradient``.
        heads: of the layer's H.
        rows: of its N queries; None for all.

    Returns:
        (b, h, q, N).

    Raises:
        ValueError: a variant that needs gradients, in a forward-only pass.
    """
    whole = tile.attention if variant == "attention" else tile.gradient if variant == "gradient" else tile.relevance
    if whole is None:
        raise ValueError(f"the variant {variant!r} needs gradients, and this was a forward-only pass")
    _, in_heads, in_queries = tile.block
    of_heads = _index(within(heads, in_heads), in_heads.start)
    of_rows = slice(None) if rows is None else _index(within(rows, in_queries), in_queries.start)
    kept = whole[:, of_heads][:, :, of_rows]
    if variant == "gradient":
        return kept.relu() * (tile.attention[:, of_heads][:, :, of_rows] > 0)
    return kept.relu() if variant == "rectified" else kept


def _index(indices: Sequence[int], origin: int = 0) -> slice | list[int]:
    """Ascending indices counted from ``origin``, as a slice (a view, no copy) where they have no gaps."""
    first, last = indices[0] - origin, indices[-1] - origin
    return slice(first, last + 1) if last - first + 1 == len(indices) else [index - origin for index in indices]
