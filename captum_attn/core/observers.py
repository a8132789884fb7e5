"""What is kept of each layer's (A, G): the influence of keys on queries, reduced as far as a method allows.

The influence in one layer and head is A ⊙ ReLU(G) (``rectified``, the paper's), A ⊙ G (``signed``), A alone
(``attention``), or ReLU(G) where a query may attend (``gradient``). Its mean over layers and heads is the influence
matrix M of arXiv 2508.08966, section 3.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, Protocol, get_args

from torch import Tensor

from captum_attn.core.readout import RowWeights
from captum_attn.core.tiles import Tile

Variant = Literal["rectified", "signed", "attention", "gradient"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
Per = Literal["layer", "head"]
PER: tuple[Per, ...] = get_args(Per)


class LayerObserver(Protocol):
    """Anything that is shown the attention, tile by tile; layers come from the top down.

    Attributes:
        layers: those that it wants to see.
        whole_heads: whether each tile must hold all heads, as only a forward pass can show them.
    """

    layers: list[int]
    whole_heads: bool

    def __call__(self, tile: Tile) -> None:
        """Take what is needed of one tile."""


class InfluenceObserver:
    """Collect influence tile by tile: the whole matrix, or its rows under fixed weights.

    Attributes:
        layers: the layers that count, by which tiles are chosen.

    Args:
        shape: (B, H, N) of every layer's attention.
        layers: the layers that count, in ascending order.
        heads: the heads that count in every layer, in ascending order.
        variant: ``rectified``, ``signed``, ``attention`` or ``gradient``.
        row_weights: weights (B, N) of the queries, to keep only Σ_q weight_q M_qi, for which no (N, N) tensor is
            needed; they are asked for when the first tile is shown. None keeps M.
        per: ``layer`` or ``head`` keeps these apart; None takes the mean over them.
        like: a tensor of the dtype and on the device of the result.

    Raises:
        ValueError: an unknown variant or ``per``.
    """

    whole_heads = False

    def __init__(
        self,
        shape: tuple[int, int, int],
        layers: Sequence[int],
        heads: Sequence[int],
        variant: Variant,
        row_weights: RowWeights | None,
        per: Per | None,
        like: Tensor,
    ) -> None:
        check_variant(variant)
        if per is not None and per not in PER:
            raise ValueError(f"per must be None, {' or '.join(map(repr, PER))}, got {per!r}")
        batch, _, length = shape
        self.layers = list(layers)
        self._heads, self._variant, self._per = list(heads), variant, per
        self._given_weights = row_weights
        self._length = length
        kept_layers = 1 if per is None else len(self.layers)
        kept_heads = len(self._heads) if per == "head" else 1
        matrix = (length, length) if row_weights is None else (length,)
        self._total = like.new_zeros(batch, kept_layers, kept_heads, *matrix)

    def __call__(self, tile: Tile) -> None:
        """Add one tile."""
        if tile.layer not in self.layers:
            return
        examples, in_heads, in_queries = tile.block
        heads, rows = within(self._heads, in_heads), within(self._rows, in_queries)
        if not heads or not rows:
            return
        influence = influence_in(tile, self._variant, index(heads, in_heads.start), index(rows, in_queries.start))
        if self._weights is not None:
            influence = (self._weights[examples, None, None, index(rows)] @ influence).squeeze(-2)
        layer = 0 if self._per is None else self.layers.index(tile.layer)
        if self._per == "head":
            target = self._total[examples, layer, self._heads.index(heads[0]) : self._heads.index(heads[-1]) + 1]
        else:
            target, influence = self._total[examples, layer, 0], influence.sum(1)
        if self._weights is None:
            target = target[..., in_queries, :]
        target += influence.to(target.device)

    @cached_property
    def _weights(self) -> Tensor | None:
        given = self._given_weights
        return None if given is None else given.weights().to(self._total)

    @cached_property
    def _rows(self) -> Sequence[int]:
        """The queries that count, in ascending order."""
        if self._weights is None:
            return range(self._length)
        return self._weights.any(0).nonzero().flatten().tolist()

    @property
    def influence(self) -> Tensor:
        """M (B, N, N), or (B, N) under row weights; with (L,) or (L, H) after B where kept apart."""
        if self._per == "head":
            return self._total
        mean = self._total / len(self._heads)
        return mean.squeeze(2) if self._per == "layer" else mean.squeeze((1, 2)) / len(self.layers)


class GatheringObserver:
    """Collect what each token gathers: the row sums Σ_k M_qk of the rectified influence, in O(N) memory.

    Args:
        shape, layers, heads, like: as of :class:`InfluenceObserver`.
    """

    whole_heads = False

    def __init__(self, shape: tuple[int, int, int], layers: Sequence[int], heads: Sequence[int], like: Tensor) -> None:
        batch, _, length = shape
        self.layers, self._heads = list(layers), list(heads)
        self._total = like.new_zeros(batch, length)

    def __call__(self, tile: Tile) -> None:
        """Add one tile."""
        examples, in_heads, in_queries = tile.block
        heads = within(self._heads, in_heads)
        if tile.layer in self.layers and heads:
            influence = influence_in(tile, "rectified", index(heads, in_heads.start), slice(None))
            self._total[examples, in_queries] += influence.sum((1, 3)).to(self._total.device)

    @property
    def gathered(self) -> Tensor:
        """(B, N), the mean over layers and heads."""
        return self._total / (len(self._heads) * len(self.layers))


def check_variant(variant: str) -> None:
    """Raise ``ValueError`` for an unknown variant."""
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(map(repr, VARIANTS))}, got {variant!r}")


def influence_in(tile: Tile, variant: Variant, heads: slice | list[int], rows: slice | list[int]) -> Tensor:
    """(b, h, q, K) of some heads and rows of a tile, counted from where it begins."""
    whole = tile.attention if variant == "attention" else tile.gradient if variant == "gradient" else tile.relevance
    if whole is None:
        raise ValueError(f"the variant {variant!r} needs gradients, and this was a forward-only pass")
    kept = whole[:, heads][:, :, rows]
    if variant == "gradient":
        return kept.relu() * (tile.attention[:, heads][:, :, rows] > 0)
    return kept.relu() if variant == "rectified" else kept


def within(indices: Sequence[int], cut: slice) -> Sequence[int]:
    """Those of ascending indices that lie in the slice."""
    return indices[bisect_left(indices, cut.start) : bisect_left(indices, cut.stop)]


def index(indices: Sequence[int], origin: int = 0) -> slice | list[int]:
    """Ascending indices counted from ``origin``, as a slice (a view, no copy) where they have no gaps."""
    first, last = indices[0] - origin, indices[-1] - origin
    return slice(first, last + 1) if last - first + 1 == len(indices) else [index - origin for index in indices]
