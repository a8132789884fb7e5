"""Where in the input the keys of every attention lie, in models that attend in windows, or on coarser grids.

Swin, SegFormer and their like have no matrix of all tokens. What a key is worth is known all the same: the sum of what
all queries take from it. So an additive game can be played on the places of keys, if these are known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_attn.core.calls import AttentionCall
from captum_attn.core.capture import LISTED
from captum_attn.core.cells import Cells
from captum_attn.core.no_matrix import WrongWayError
from captum_attn.core.patch_trail import Attended
from captum_attn.core.patches import PatchLayout, Side, layout_of_sides, patch_values


@dataclass(frozen=True)
class PlacedKeys:
    """The keys of one attention.

    Attributes:
        layout: of the cells that they are.
        numbers: int64 (B', H', K), which cell each one is, in the order of the layout's sides; -1 for none.
        counted: bool (B', H', Q), the queries that are tokens: all but the padding of windows.
        copies: how often each cell is a key of an example, which is the same for all: as a rule, once in every head.
    """

    layout: PatchLayout
    numbers: Tensor
    counted: Tensor
    copies: int


class KeyPlaces:
    """The places of all keys of a forward pass, and of the smallest cells among them, which count as the tokens.

    Args:
        calls: the attention calls, in the order in which they ran.
        attended: which cells their keys are, as a trail has seen it.
        examples: the batch size B.
        of_image: whether the input is an image.

    Attributes:
        layout: of the smallest cells.
        keys: of each call whose queries are cells, by its number.

    Raises:
        WrongWayError: keys of which nothing says where they lie; a matrix of all tokens in every layer.
    """

    def __init__(
        self, calls: Sequence[AttentionCall], attended: Sequence[Attended | None], examples: int, of_image: bool
    ) -> None:
        if len(calls) != len(attended):
            raise WrongWayError(
                f"{len(calls)} attention calls were seen, and the input could be followed to {len(attended)}. {LISTED}"
            )
        shapes = {call.shape for call in calls}
        rows, _, queries, keys = calls[0].shape
        if len(shapes) == 1 and rows == examples and queries == keys:
            raise WrongWayError("one matrix relates all tokens, as in a transformer without windows")
        of_each = zip(calls, attended, strict=True)
        found = {call.layer: _placed(call, seen, examples, of_image) for call, seen in of_each}
        self.keys = {number: keys for number, keys in found.items() if keys is not None}
        if not self.keys:
            raise WrongWayError(f"no attention has queries that are parts of the input. {LISTED}")
        finest = max((keys.layout for keys in self.keys.values()), key=len)
        self.layout = layout_of_sides(finest.sides, None, of_image)

    def over_cells(self, number: int, values: Tensor) -> Tensor:
        """Values (B, K) of the cells of one call, each spread over the smallest cells that it covers, (B, N).

        Sums are kept. In whatever way a coarse key depends on the cells that it was merged of, their Shapley values are
        equal shares of its worth, as long as it depends on all of them alike.
        """
        layout = self.keys[number].layout
        spread = patch_values(values, layout)
        for place, (side, finest) in enumerate(zip(layout.sides, self.layout.sides, strict=True), 1):
            shares = _shares(side, finest).to(values)
            spread = (spread.movedim(place, -1) @ shares).movedim(-1, place)
        return spread.flatten(1)


def _placed(call: AttentionCall, seen: Attended | None, examples: int, of_image: bool) -> PlacedKeys | None:
    """The keys of a call; None if none of its queries is a cell: a pooling head, which reads the tokens."""
    rows, heads, queries, keys = call.shape
    if seen is None:
        raise WrongWayError(f"nothing says which parts of the input attention {call.module!r} attends to. {LISTED}")
    if seen.queries.numel() != rows * heads * queries or seen.keys.numel() != rows * heads * keys or rows % examples:
        raise WrongWayError(
            f"attention {call.module!r} has shape {call.shape} (batch, heads, queries, keys), and the input was "
            f"followed to one of {tuple(seen.queries.shape)} queries and {tuple(seen.keys.shape)} keys. {LISTED}"
        )
    numbers, asking = seen.keys.reshape(rows, heads, keys), seen.queries.reshape(rows, heads, queries)
    if not (asking >= 0).any():
        return None
    of_each = numbers.reshape(examples, -1)
    found, copies = of_each[0][of_each[0] >= 0].unique(return_counts=True)
    cells = None if (of_each != of_each[0]).any() or len(copies.unique()) != 1 else _occurring(seen.cells, found)
    if cells is None:
        raise WrongWayError(
            f"the keys of attention {call.module!r} are not parts of the input, each one as often as any other "
            f"({seen.cells}): they were made of several parts, chosen by what is in the input, lie in windows that "
            "overlap, those of one example do not lie together, or windows and merged patches leave something over, as "
            f"where the image's sides are no multiples of the coarsest patch. {LISTED}"
        )
    several_windows = rows * heads > examples * int(copies[0])
    places = torch.full((len(seen.cells) + 1,), -1).index_copy(0, found, torch.arange(len(found)))
    return PlacedKeys(
        cells.layout(torch.arange(len(cells)), of_image),
        places[numbers.clamp(min=-1)],
        (asking >= 0) | (not several_windows),
        int(copies[0]),
    )


def _occurring(cells: Cells, numbers: Tensor) -> Cells | None:
    """Those of some numbers, ascending, as cells: all of them, or every n-th one along each axis; else None."""
    if not len(numbers) or int(numbers.max()) >= len(cells):
        return None
    places = torch.stack(torch.unravel_index(numbers, cells.counts))
    counts = [len(along.unique()) for along in places]
    one_of_several = any(count == 1 < whole for count, whole in zip(counts, cells.counts, strict=True))
    return None if one_of_several or math.prod(counts) < len(numbers) else cells.seen_in(numbers.view(counts))


def _shares(side: Side, finest: Side) -> Tensor:
    """(count, finer count), how much of each patch along a side lies in each of the finest ones; rows sum to 1."""
    start, first = (one.first + one.size * torch.arange(one.count, dtype=torch.double) for one in (side, finest))
    end, last = start + side.size, first + finest.size
    overlap = (torch.minimum(end[:, None], last) - torch.maximum(start[:, None], first)).clamp(min=0)
    return overlap / overlap.sum(1, keepdim=True)
