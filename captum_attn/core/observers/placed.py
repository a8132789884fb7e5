"""What each part of an input is worth as a key, where no matrix relates all of them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from captum_attn.core.key_places import KeyPlaces
from captum_attn.core.no_matrix import NoMatrixError
from captum_attn.core.observers.influence import Variant, check_variant, influence_in
from captum_attn.core.observers.watched import LayerObserver, Watched
from captum_attn.core.tiles import Tile


class PlacedObserver(LayerObserver):
    """Collect what all queries take from each key, and lay it where the key lies in the input.

    Args:
        watched: as of :class:`LayerObserver`, with all heads.
        places: of the keys.
        variant: as of :class:`~captum_attn.core.observers.InfluenceObserver`.
        per: ``layer`` keeps layers apart; None takes the mean over them.

    Raises:
        ValueError: an unknown variant.
    """

    def __init__(
        self, watched: Watched, places: KeyPlaces, variant: Variant, per: Literal["layer"] | None = None
    ) -> None:
        check_variant(variant)
        super().__init__(watched)
        others = [n for n in watched.layers if places.keys[n].others_ask]
        if variant == "attention" and others:
            raise NoMatrixError(
                "in some windows, queries are no parts of the input: class tokens, or padding, and without gradients "
                "nothing says which. Take ShapleyGradAttention, in which padding that is not read has no gradient"
            )
        self._places, self._variant, self._per = places, variant, per
        # A column more, for keys that are no cells.
        self._totals = {layer: watched.zeros(len(places.keys[layer].layout) + 1) for layer in watched.layers}
        self._numbers = {n: places.keys[n].numbers.to(total.device) for n, total in self._totals.items()}

    def take(self, tile: Tile) -> None:
        examples, heads, _ = tile.block
        total, numbers = self._totals[tile.layer], self._numbers[tile.layer]
        influence = influence_in(tile, self._variant, self.watched.heads).to(total.device)
        worth, count = influence.sum(-2), total.shape[1]
        rows = tile.block.of_examples(len(numbers), len(total), total.device)
        cells = rows.view(-1, 1, 1) * count + numbers[examples, heads] % count  # -1 is the last one
        total.view(-1).index_add_(0, cells.flatten(), worth.flatten())

    @property
    def influence(self) -> Tensor:
        """(B, N), the mean over heads and layers; (B, L, N) where layers are kept apart."""
        places = self._places
        each = torch.stack(
            [places.over_cells(n, total[:, :-1] / places.keys[n].heads) for n, total in self._totals.items()], 1
        )
        return each if self._per else each.mean(1)
