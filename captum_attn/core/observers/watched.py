"""What observers look at: tiles of some layers and heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from captum_attn.core.tiles import Tile


@dataclass(frozen=True)
class Watched:
    """The layers and heads of a forward pass that count for an observer.

    Attributes:
        shape: (B, H, N) of every layer's attention, N the queries.
        layers: the numbers of the attention calls, ascending; tiles have them.
        heads: those that count in every layer, ascending.
        like: an empty tensor of the dtype and on the device of what is kept.
        places: the number of keys, if it is not N. A layer with fewer has the last of them, but for the very last one,
            which is no query's.
    """

    shape: tuple[int, int, int]
    layers: list[int]
    heads: list[int]
    like: Tensor
    places: int | None = None

    @property
    def length(self) -> int:
        """N."""
        return self.shape[2]

    @property
    def keys(self) -> int:
        """The number of keys."""
        return self.length if self.places is None else self.places

    def of_keys(self, tile: Tile) -> slice:
        """The places of a tile's keys."""
        if self.places is None:
            return slice(0, self.length)
        return slice(self.places - 1 - tile.attention.shape[-1], self.places - 1)

    def zeros(self, *sizes: int) -> Tensor:
        """(B, ...) of these sizes, to add up in."""
        return self.like.new_zeros(self.shape[0], *sizes)


class LayerObserver(ABC):
    """What is shown the attention of a forward pass, tile by tile, and keeps what a method needs of it.

    Layers come from the top down, and all tiles of a layer together. Tiles without watched heads are passed over.

    Attributes:
        watched: as given.
        whole_heads: whether each tile must hold all heads, as only a forward pass can show them.

    Args:
        watched: what is looked at, of :meth:`captum_attn.core.ObservedForward.watched`.
    """

    whole_heads = False

    def __init__(self, watched: Watched) -> None:
        self.watched = watched

    def __call__(self, tile: Tile) -> None:
        """Look at one tile."""
        if tile.layer in self.watched.layers and within(self.watched.heads, tile.block.heads):
            self.take(tile)

    @abstractmethod
    def take(self, tile: Tile) -> None:
        """Keep what is needed of a tile of a watched layer, in which some of the watched heads lie."""


def within(indices: Sequence[int], cut: slice) -> Sequence[int]:
    """Those of ascending indices that lie in the slice."""
    return indices[bisect_left(indices, cut.start) : bisect_left(indices, cut.stop)]
