"""How an input is cut into cells along its dimensions, and what functions of several dimensions make of these."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.patches import PatchLayout, Side, layout_of_sides


@dataclass(frozen=True)
class Axis:
    """Cells along one dimension of the given input: cell i covers ``step`` of its entries, from first + i · step on."""

    dim: int
    first: Fraction
    step: Fraction
    count: int

    def cut(self, start: int, every: int, count: int) -> Axis:
        """Some of the cells; or more than there are, with a negative ``start``."""
        return Axis(self.dim, self.first + start * self.step, every * self.step, count)

    def resized(self, count: int, scale: Fraction) -> Axis:
        """Cells of another size, of which ``scale`` are as long as one of these."""
        return Axis(self.dim, self.first, self.step / scale, count)

    def between_centres(self, count: int) -> Axis:
        """Cells of another size, of which the first and the last have the same centres as these."""
        if count == 1 or self.count == 1:
            return self.resized(count, Fraction(count, self.count))
        step = self.step * Fraction(self.count - 1, count - 1)
        return Axis(self.dim, self.first + (self.step - step) / 2, step, count)

    def windows(self, reach: int, stride: int, padding: int, count: int) -> Axis:
        """What a convolution reads: for each window, a stride around its centre."""
        centred = Fraction(reach - stride, 2) - padding
        return Axis(self.dim, self.first + centred * self.step, stride * self.step, count)


@dataclass(frozen=True)
class Cells:
    """Cells along some dimensions, and what cut the input so; its entries are cells, too.

    Attributes:
        axes: in the order in which cells are numbered, the last one's first.
        made_by: what cut the input so.
        moved: whether a convolution read between them, which counts as reading them, once.
    """

    axes: tuple[Axis, ...]
    made_by: str
    moved: bool = False

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __str__(self) -> str:
        return f"{self.made_by} {' × '.join(map(str, self.counts))}"

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(axis.count for axis in self.axes)

    @property
    def place(self) -> tuple[tuple[Axis, ...], frozenset[Axis]]:
        """What cells have in common that have the same numbers, whatever made them."""
        alone = frozenset(axis for axis in self.axes if axis.count == 1)
        return tuple(axis for axis in self.axes if axis.count > 1), alone

    def numbers(self, shape: Sequence[int], sides: Sequence[int]) -> Tensor:
        """The number of the cell that each entry of a tensor belongs to, held once.

        Args:
            shape: the tensor's.
            sides: its dimensions along which the first axes run; the other axes have one cell.
        """
        lying = [1] * len(shape)
        for side, count in zip(sides, self.counts, strict=False):
            lying[side] = count
        return torch.arange(len(self), device="cpu").view(*lying).expand(*shape)

    def seen_in_channels(self, numbers: Tensor) -> Cells | None:
        """The cells that a map (C, ...) of their numbers consists of, over all channels; None for other maps.

        Channels may hold neighbours, such as the four pixels of each 2 × 2 in twelve channels, or all bands of a
        spectrogram: together, one cell.

        Returns:
            Cells whose first axes run along the map's sides, in their order; what channels hold follows.
        """
        kinds = numbers.unique(dim=0)
        seen = [self.seen_in(kind) for kind in kinds if (kind >= 0).any()]
        found = [cells for cells in seen if cells is not None]
        if not found or len(found) < len(seen):
            return None
        each, sides = list(zip(*(cells.axes for cells in found), strict=True)), numbers.dim() - 1
        axes = [_together(axes) for axes in each[:sides]] + [_united(axes) for axes in each[sides:]]
        held = len({cells.axes[sides:] for cells in found})
        known = tuple(axis for axis in axes if axis is not None)
        if len(known) < len(axes) or held * math.prod(axes[0].step for axes in each[sides:]) != math.prod(
            axis.step for axis in known[sides:]
        ):
            return None
        return replace(self, axes=known)

    def seen_in(self, numbers: Tensor) -> Cells | None:
        """The cells that a map of their numbers consists of: all, or every n-th of some at a stretch.

        Around them, there may be entries that come from no cell. None for other maps. The axes are in the order of the
        map's sides, then those of which it has one cell.
        """
        places = [
            (numbers >= 0).movedim(side, 0).reshape(count, -1).any(1).nonzero().flatten().tolist()
            for side, count in enumerate(numbers.shape)
        ]
        inside = numbers[tuple(slice(each[0], each[-1] + 1) for each in places)]
        cells = self._without_frame(inside)
        if cells is None:
            return None
        framed = [
            axis.cut(-each[0], 1, count) for axis, each, count in zip(cells.axes, places, numbers.shape, strict=False)
        ]
        return replace(cells, axes=(*framed, *cells.axes[len(framed) :]))

    def _without_frame(self, numbers: Tensor) -> Cells | None:
        if int(numbers.min()) < 0 or int(numbers.max()) >= len(self):
            return None
        origin = (0,) * numbers.dim()
        start = self._coordinates(numbers[origin])
        steps: dict[int, tuple[int, int]] = {}  # of a side: the axis that it runs along, and cells to the next one
        for side, count in enumerate(numbers.shape):
            if count > 1:
                next_one = self._coordinates(numbers[(*origin[:side], 1, *origin[side + 1 :])])
                moved = [(axis, b - a) for axis, (a, b) in enumerate(zip(start, next_one, strict=True)) if a != b]
                if len(moved) != 1 or moved[0][1] < 1 or moved[0][0] in [axis for axis, _ in steps.values()]:
                    return None
                steps[side] = moved[0]
        left = [axis for axis in range(len(self.axes)) if axis not in [taken for taken, _ in steps.values()]]
        still = [side for side in range(numbers.dim()) if side not in steps]
        if len(left) < len(still):
            return None
        steps |= {side: (axis, 1) for side, axis in zip(still, left[len(left) - len(still) :], strict=True)}
        expected = numbers[origin].clone()
        for side, (axis, every) in steps.items():
            if start[axis] + every * (numbers.shape[side] - 1) >= self.counts[axis]:
                return None
            apart = torch.arange(numbers.shape[side], device="cpu") * (every * math.prod(self.counts[axis + 1 :]))
            expected = expected + apart.view(-1, *[1] * (numbers.dim() - 1 - side))
        if not torch.equal(numbers, expected):
            return None
        along = (steps[side] for side in range(numbers.dim()))
        run = [self.axes[a].cut(start[a], every, n) for (a, every), n in zip(along, numbers.shape, strict=True)]
        rest = [self.axes[axis].cut(start[axis], 1, 1) for axis in left[: len(left) - len(still)]]
        return replace(self, axes=(*run, *rest))

    def _coordinates(self, number: Tensor) -> list[int]:
        return [int(place) for place in torch.unravel_index(number, self.counts)]

    def in_blocks(self, numbers: Tensor) -> tuple[Cells, Tensor] | None:
        """Larger cells, of which rows of numbers (N, K) hold one each: all that lie in it, and no others; which ones.

        None for other rows, and for one that is all.
        """
        upper = numbers.amax(1, keepdim=True)
        numbers = torch.where(numbers < 0, upper, numbers).sort(1).values
        if int(numbers.min()) < 0 or int(upper.max()) >= len(self):
            return None
        places = torch.stack(torch.unravel_index(numbers, self.counts))  # (axes, N, K)
        starts, ends = places.amin(2), places.amax(2) + 1
        size = (ends - starts)[:, :1]
        first = starts.amin(1, keepdim=True)
        blocks = (starts - first) // size
        counts = blocks.amax(1) + 1
        within = (numbers.diff(dim=1) > 0).sum(1) + 1 == size.prod()
        even = (ends - starts == size).all() and ((starts - first) % size == 0).all()
        if not even or not within.all() or counts.prod() == 1:
            return None
        axes = tuple(
            axis.cut(int(first[place]), int(size[place]), int(counts[place])) for place, axis in enumerate(self.axes)
        )
        number = torch.zeros_like(blocks[0])
        for place, count in zip(blocks, counts, strict=True):
            number = number * count + place
        return Cells(axes, "a linear embedding to"), number

    def layout(self, tokens: Tensor, of_image: bool) -> PatchLayout:
        """The cells as patches, which are some tokens, int64 (number of cells,)."""
        order = sorted(range(len(self.axes)), key=lambda place: self.axes[place].dim)
        sides = [_side(self.axes[place]) for place in order]
        positions = tuple(tokens.view(self.counts).permute(order).flatten().tolist())
        return layout_of_sides(sides, positions, of_image)


Option = Callable[[str, int, Any], Any]
"""An argument of a function that was called, by its name, its place, and its default."""


def interpolated(cells: Cells, counts: Sequence[int], option: Option) -> Cells:
    """After ``F.interpolate``."""
    given = option("scale_factor", 2, None)
    if option("align_corners", 4, None):
        axes = [axis.between_centres(count) for axis, count in zip(cells.axes, counts, strict=False)]
    elif given is None or option("recompute_scale_factor", 5, None):
        return pooled_to_size(cells, counts, option)
    else:
        scales = (Fraction(scale).limit_denominator(10**6) for scale in _each(given, counts))
        axes = [axis.resized(n, scale) for axis, n, scale in zip(cells.axes, counts, scales, strict=False)]
    return _changed(cells, axes, f"{cells.made_by}, resized to")


def pooled_to_size(cells: Cells, counts: Sequence[int], option: Option) -> Cells:
    """After ``F.adaptive_avg_pool2d``, and whatever else divides a side evenly."""
    axes = [axis.resized(n, Fraction(n, axis.count)) for axis, n in zip(cells.axes, counts, strict=False)]
    return _changed(cells, axes, f"{cells.made_by}, resized to")


def convolved(cells: Cells, counts: Sequence[int], option: Option) -> Cells:
    """After ``F.conv1d``, ``F.conv2d`` or ``F.conv3d``."""
    kernel = option("weight", 1, None).shape[2:]
    dilation, padding = _each(option("dilation", 5, 1), counts), option("padding", 4, 0)
    reach = [(size - 1) * apart + 1 for size, apart in zip(kernel, dilation, strict=True)]
    if isinstance(padding, str):
        padding = [(size - 1) // 2 if padding == "same" else 0 for size in reach]
    return _windows(cells, counts, reach, option("stride", 3, 1), padding, "a convolution to")


def max_pooled(cells: Cells, counts: Sequence[int], option: Option) -> Cells | None:
    """After ``F.max_pool2d``; None with dilation."""
    return pooled(cells, counts, option) if set(_each(option("dilation", 4, 1), counts)) == {1} else None


def pooled(cells: Cells, counts: Sequence[int], option: Option) -> Cells:
    """After ``F.avg_pool2d``."""
    kernel = _each(option("kernel_size", 1, None), counts)
    stride = option("stride", 2, None) or kernel
    return _windows(cells, counts, kernel, stride, option("padding", 3, 0), f"{cells.made_by}, pooled to")


def _windows(
    cells: Cells, counts: Sequence[int], reach: Sequence[int], stride: Any, padding: Any, made_by: str
) -> Cells:
    sides = zip(cells.axes, reach, _each(stride, counts), _each(padding, counts), counts, strict=False)
    return _changed(cells, [axis.windows(*of_axis) for axis, *of_axis in sides], made_by)


def _changed(cells: Cells, axes: Sequence[Axis], made_by: str) -> Cells:
    """Cells whose first axes are others."""
    return replace(cells, axes=(*axes, *cells.axes[len(axes) :]), made_by=made_by)


def _together(axes: Sequence[Axis]) -> Axis | None:
    """Cells that hold those of several axes; None where these lie further apart than within one cell."""
    first = min(axis.first for axis in axes)
    alike = len({(axis.dim, axis.step, axis.count) for axis in axes}) == 1
    near = all(axis.first - first < axis.step for axis in axes)
    return replace(axes[0], first=first) if alike and near else None


def _united(axes: Sequence[Axis]) -> Axis | None:
    """The cell that holds one cell of each of several axes, which lie beside each other; None where they do not."""
    first, last = min(axis.first for axis in axes), max(axis.first for axis in axes)
    if len({(axis.dim, axis.step, axis.count) for axis in axes}) > 1 or axes[0].count > 1:
        return None
    length = last - first + axes[0].step
    beside = len({axis.first for axis in axes}) * axes[0].step == length
    return replace(axes[0], first=first, step=length) if beside else None


def _each(value: Any, counts: Sequence[int]) -> tuple[Any, ...]:
    """An option of each side, where one may stand for all."""
    each = tuple(value) if isinstance(value, list | tuple) else (value,)
    return each * len(counts) if len(each) == 1 else each


def _side(axis: Axis) -> Side:
    step, first = (int(number) if number.denominator == 1 else float(number) for number in (axis.step, axis.first))
    return Side(axis.dim, axis.count, step, first)
