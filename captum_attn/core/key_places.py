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
from captum_attn.core.cell_numbers import SEVERAL, WHOLE
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
        heads: how often each cell is a query of an example, which is the same for all: once in every head.
        others_ask: whether some queries are no cells: class tokens, or the padding of windows.
    """

    layout: PatchLayout
    numbers: Tensor
    heads: int
    others_ask: bool


class KeyPlaces:
    """The places of all keys of a forward pass, and of the smallest cells among them, which count as the tokens.

    Args:
        calls: the attention calls, in the order in which they ran.
        attended: which cells their keys are, as a trail has seen it.
        examples: the batch size B.
        size: of the input, along its dimensions.
        of_image: whether the input is an image.

    Attributes:
        layout: of the smallest cells.
        keys: of each call whose queries are cells, by its number.

    Raises:
        WrongWayError: keys of which nothing says where they lie; a matrix of all tokens in every layer.
    """

    def __init__(
        self,
        calls: Sequence[AttentionCall],
        attended: Sequence[Attended | None],
        examples: int,
        size: Sequence[int],
        of_image: bool,
    ) -> None:
        if len(calls) != len(attended):
            raise WrongWayError(
                f"{len(calls)} attention calls were seen, and the input could be followed to {len(attended)}. {LISTED}"
            )
        self.keys: dict[int, PlacedKeys] = {}
        sampled: set[tuple[int, ...]] = set()  # tokens that attention left, which stand for those around them
        for call, seen in zip(calls, attended, strict=True):
            keys = _placed(call, seen, examples, of_image, sampled)
            if keys is not None:
                self.keys[call.layer] = keys
        if not self.keys:
            raise WrongWayError(f"no attention has queries that are parts of the input. {LISTED}")
        if all(
            call.shape[0] == examples and call.shape[2:] == (len(keys.layout),) * 2 for call, keys in self._of(calls)
        ):
            raise WrongWayError("one matrix relates all tokens, as in a transformer without windows")
        finest = max((keys.layout for keys in self.keys.values()), key=len)
        self.layout = layout_of_sides(finest.sides, None, of_image)
        for call, keys in self._of(calls):
            if not all(_covers(*pair, size[pair[0].dim]) for pair in zip(finest.sides, keys.layout.sides, strict=True)):
                raise WrongWayError(
                    f"the keys of attention {call.module!r} lie where the smallest ones, {_described(finest)}, do not: "
                    "these are of a part of the input, or windows and strides leave something over, as where the "
                    f"image's sides are no multiples of the coarsest patch. {LISTED}"
                )

    def _of(self, calls: Sequence[AttentionCall]) -> list[tuple[AttentionCall, PlacedKeys]]:
        return [(call, self.keys[call.layer]) for call in calls if call.layer in self.keys]

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


def _placed(
    call: AttentionCall, seen: Attended | None, examples: int, of_image: bool, sampled: set[tuple[int, ...]]
) -> PlacedKeys | None:
    """The keys of a call; None if none of its queries is a cell: a pooling head, which reads the tokens.

    Queries that are a part of the tokens are added to ``sampled``.
    """
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
    (found, _), (asking_cells, asked) = (_of_each_example(tokens, examples) for tokens in (numbers, asking))
    cells = None if found is None else _occurring(seen.cells, found)
    windows_beside_heads = rows == examples and heads % max(asked, 1) == 0
    if found is None or cells is None or asking_cells is None or int(asking_cells.max()) >= SEVERAL:
        raise WrongWayError(_unknown(call, seen))
    if (numbers == WHOLE).any() or not (asked == heads or (asked < heads and windows_beside_heads)):
        raise WrongWayError(
            f"in attention {call.module!r}, tokens are there more than once, as in several views of an image, or some "
            f"keys are of the whole image. {LISTED}"
        )
    if len(found) < len(seen.cells) and tuple(found.tolist()) not in sampled:
        raise WrongWayError(
            f"the keys of attention {call.module!r} are some of the tokens alone ({seen.cells}), and no attention left "
            f"these. {LISTED}"
        )
    if len(asking_cells) < len(found):
        sampled.add(tuple(asking_cells.tolist()))
    places = torch.full((len(seen.cells) + 1,), -1).index_copy(0, found, torch.arange(len(found)))
    return PlacedKeys(
        cells.layout(torch.arange(len(cells)), of_image),
        places[numbers.clamp(min=-1)],
        asked,
        bool((asking < 0).any()) and rows * heads > examples * asked,
    )


def _of_each_example(numbers: Tensor, examples: int) -> tuple[Tensor | None, int]:
    """The numbers that occur in each example, ascending, and how often each; None and 0 unless these are the same."""
    of_each = numbers.reshape(examples, -1)
    found, counts = of_each[0][of_each[0] >= 0].unique(return_counts=True)
    same = bool((of_each == of_each[0]).all()) and len(counts.unique()) == 1
    return (found, int(counts[0])) if same else (None, 0)


def _unknown(call: AttentionCall, seen: Attended) -> str:
    return (
        f"the keys of attention {call.module!r} are not parts of the input, each one as often as any other "
        f"({seen.cells}): they were made of several parts, chosen by what is in the input, lie in windows that "
        "overlap, those of one example do not lie together, or windows and merged patches leave something over, as "
        f"where the image's sides are no multiples of the coarsest patch. {LISTED}"
    )


def _described(layout: PatchLayout) -> str:
    return " × ".join(map(str, layout.counts))


def _covers(finest: Side, side: Side, size: int) -> bool:
    """Whether the smallest cells cover what others cover of the input along a side, but for less than one of them."""
    (start, end), (first, last) = (
        (max(0, one.first), min(size, one.first + one.size * one.count)) for one in (side, finest)
    )
    return bool(first - start < finest.size and end - last < finest.size)


def _occurring(cells: Cells, numbers: Tensor) -> Cells | None:
    """Those of some numbers, ascending, as cells: all, or every n-th one from the first on; else None."""
    if not len(numbers) or int(numbers.max()) >= len(cells):
        return None
    places = torch.stack(torch.unravel_index(numbers, cells.counts))
    counts = [len(along.unique()) for along in places]
    one_of_several = any(count == 1 < whole for count, whole in zip(counts, cells.counts, strict=True))
    if one_of_several or math.prod(counts) != len(numbers) or places[:, 0].any():
        return None
    return cells.seen_in(numbers.view(counts))


def _shares(side: Side, finest: Side) -> Tensor:
    """(count, finer count), how much of each patch along a side lies in each of the finest ones; rows sum to 1."""
    start, first = (one.first + one.size * torch.arange(one.count, dtype=torch.double) for one in (side, finest))
    end, last = start + side.size, first + finest.size
    overlap = (torch.minimum(end[:, None], last) - torch.maximum(start[:, None], first)).clamp(min=0)
    return overlap / overlap.sum(1, keepdim=True)
