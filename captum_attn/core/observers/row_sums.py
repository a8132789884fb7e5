"""What each token gathers: the row sums of the influence matrix."""

from __future__ import annotations

from torch import Tensor

from captum_attn.core.observers.influence import influence_in
from captum_attn.core.observers.watched import LayerObserver, Watched
from captum_attn.core.tiles import Tile


class GatheringObserver(LayerObserver):
    """Collect the row sums Σ_k M_qk of the rectified influence, in O(N) memory.

    Args:
        watched: as of :class:`LayerObserver`.
    """

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._total = watched.zeros(watched.length)

    def take(self, tile: Tile) -> None:
        gathered = influence_in(tile, "rectified", self.watched.heads).sum((1, 3))
        self._total[tile.block.examples, tile.block.queries] += gathered.to(self._total.device)

    @property
    def gathered(self) -> Tensor:
        """(B, N), the mean over layers and heads."""
        return self._total / (len(self.watched.heads) * len(self.watched.layers))
