"""How an image is cut into cells, and what functions of images (B, C, rows, columns) make of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.patches import PatchGrid


@dataclass(frozen=True)
class Axis:
    """Cells along one side of the given image: cell i covers its pixels from first + i · step on, ``step`` of them."""

    first: Fraction
    step: Fraction
    count: int

    def cut(self, start: int, every: int, count: int) -> Axis:
        """Some of the cells; or more than there are, with a negative ``start``."""
        return Axis(self.first + start * self.step, every * self.step, count)

    def resized(self, count: int, scale: Fraction) -> Axis:
        """Cells of another size, of which ``scale`` are as long as one of these."""
        return Axis(self.first, self.step / scale, count)

    def between_centres(self, count: int) -> Axis:
        """Cells of another size, of which the first and the last have the same centres as these."""
        if count == 1 or self.count == 1:
            return self.resized(count, Fraction(count, self.count))
        step = self.step * Fraction(self.count - 1, count - 1)
        return Axis(self.first + (self.step - step) / 2, step, count)

    def windows(self, reach: int, stride: int, padding: int, count: int) -> Axis:
        """What a convolution reads: for each window, a stride around its centre."""
        centred = Fraction(reach - stride, 2) - padding
        return Axis(self.first + centred * self.step, stride * self.step, count)


@dataclass(frozen=True)
class Cells:
    """Rows and columns of cells, and what cut the image so; pixels are cells, too."""

    rows: Axis
    columns: Axis
    made_by: str

    def __len__(self) -> int:
        return self.rows.count * self.columns.count

    def __str__(self) -> str:
        return f"{self.made_by} {self.rows.count} × {self.columns.count}"

    @property
    def place(self) -> tuple[Axis, Axis]:
        """What cells have in common that are the same, whatever made them."""
        return self.rows, self.columns

    def numbers(self, shape: Sequence[int]) -> Tensor:
        """The number of the cell that each entry of a tensor (B, C, rows, columns) belongs to, held once."""
        return torch.arange(len(self), device="cpu").view(self.rows.count, self.columns.count).expand(*shape)

    def seen_in_channels(self, numbers: Tensor) -> Cells | None:
        """The cells that a map (C, rows, columns) of their numbers consists of, over all channels; None for other maps.

        Channels may hold neighbours, such as the four pixels of each 2 × 2 in twelve channels: together, one cell.
        """
        kinds = numbers.unique(dim=0)
        seen = [self.seen_in(kind) for kind in kinds if (kind >= 0).any()]
        found = [cells for cells in seen if cells is not None]
        if not found or len(found) < len(seen):
            return None
        rows, columns = (_together([cells.place[side] for cells in found]) for side in (0, 1))
        return None if rows is None or columns is None else Cells(rows, columns, self.made_by)

    def seen_in(self, numbers: Tensor) -> Cells | None:
        """The cells that a map of their numbers, (rows, columns), consists of: all, or every n-th of some at a stretch.

        Around them, there may be entries that come from no cell. None for other maps.
        """
        down, across = ((numbers >= 0).any(side).nonzero().flatten().tolist() for side in (1, 0))
        inside = self._without_frame(numbers[down[0] : down[-1] + 1, across[0] : across[-1] + 1])
        if inside is None:
            return None
        rows, columns = (
            axis.cut(-before, 1, count)
            for axis, before, count in zip(inside.place, (down[0], across[0]), numbers.shape, strict=True)
        )
        return Cells(rows, columns, self.made_by)

    def _without_frame(self, numbers: Tensor) -> Cells | None:
        across = self.columns.count
        top, left = divmod(int(numbers[0, 0]), across)
        down = int(numbers[1, 0] - numbers[0, 0]) // across if len(numbers) > 1 else 1
        right = int(numbers[0, 1] - numbers[0, 0]) if numbers.shape[1] > 1 else 1
        lines, places = (torch.arange(count, device="cpu") for count in numbers.shape)
        expected = (top + down * lines)[:, None] * across + left + right * places
        inside = int(numbers[0, 0]) >= 0 and int(numbers[-1, -1]) < len(self)
        if not inside or down < 1 or right < 1 or left + right * (len(places) - 1) >= across:
            return None
        if not torch.equal(numbers, expected):
            return None
        return Cells(self.rows.cut(top, down, len(lines)), self.columns.cut(left, right, len(places)), self.made_by)

    def in_blocks(self, numbers: Tensor) -> tuple[Cells, Tensor] | None:
        """Larger cells, of which rows of numbers (N, K) hold one each: all that lie in it, and no others; which ones.

        None for other rows, and for one that is all.
        """
        upper = numbers.amax(1, keepdim=True)
        numbers = torch.where(numbers < 0, upper, numbers).sort(1).values
        if int(numbers.min()) < 0 or int(upper.max()) >= len(self):
            return None
        places = torch.stack([numbers // self.columns.count, numbers % self.columns.count])  # (2, N, K)
        starts, ends = places.amin(2), places.amax(2) + 1
        size = (ends - starts)[:, :1]
        first = starts.amin(1, keepdim=True)
        blocks = (starts - first) // size
        counts = blocks.amax(1) + 1
        within = (numbers.diff(dim=1) > 0).sum(1) + 1 == size.prod()
        even = (ends - starts == size).all() and ((starts - first) % size == 0).all()
        if not even or not within.all() or counts.prod() == 1:
            return None
        rows, columns = (
            axis.cut(int(first[side]), int(size[side]), int(counts[side])) for side, axis in enumerate(self.place)
        )
        return Cells(rows, columns, "a linear embedding to"), blocks[0] * columns.count + blocks[1]

    def grid(self, positions: tuple[int, ...]) -> PatchGrid:
        """The cells as patches, which are the tokens at some positions."""
        rows, columns = self.rows, self.columns
        height, width, top, left = map(_number, (rows.step, columns.step, rows.first, columns.first))
        return PatchGrid(rows.count, columns.count, height, width, top, left, positions)


Option = Callable[[str, int, Any], Any]
"""An argument of a function that was called, by its name, its place, and its default."""


def interpolated(cells: Cells, counts: tuple[int, int], option: Option) -> Cells:
    """After ``F.interpolate``."""
    given = option("scale_factor", 2, None)
    if option("align_corners", 4, None):
        rows, columns = (axis.between_centres(count) for axis, count in zip(cells.place, counts, strict=True))
    elif given is None or option("recompute_scale_factor", 5, None):
        return pooled_to_size(cells, counts, option)
    else:
        scales = (Fraction(scale).limit_denominator(10**6) for scale in _pair(given))
        rows, columns = (axis.resized(n, scale) for axis, n, scale in zip(cells.place, counts, scales, strict=True))
    return Cells(rows, columns, f"{cells.made_by}, resized to")


def pooled_to_size(cells: Cells, counts: tuple[int, int], option: Option) -> Cells:
    """After ``F.adaptive_avg_pool2d``, and whatever else divides a side evenly."""
    rows, columns = (axis.resized(n, Fraction(n, axis.count)) for axis, n in zip(cells.place, counts, strict=True))
    return Cells(rows, columns, f"{cells.made_by}, resized to")


def convolved(cells: Cells, counts: tuple[int, int], option: Option) -> Cells:
    """After ``F.conv2d``."""
    kernel = option("weight", 1, None).shape[2:]
    dilation, padding = _pair(option("dilation", 5, 1)), option("padding", 4, 0)
    reach = [(size - 1) * apart + 1 for size, apart in zip(kernel, dilation, strict=True)]
    if isinstance(padding, str):
        padding = [(size - 1) // 2 if padding == "same" else 0 for size in reach]
    return _windows(cells, counts, reach, _pair(option("stride", 3, 1)), _pair(padding), "a convolution to")


def max_pooled(cells: Cells, counts: tuple[int, int], option: Option) -> Cells | None:
    """After ``F.max_pool2d``; None with dilation."""
    return pooled(cells, counts, option) if _pair(option("dilation", 4, 1)) == (1, 1) else None


def pooled(cells: Cells, counts: tuple[int, int], option: Option) -> Cells:
    """After ``F.avg_pool2d``."""
    kernel = _pair(option("kernel_size", 1, None))
    stride = _pair(option("stride", 2, None) or kernel)
    return _windows(cells, counts, kernel, stride, _pair(option("padding", 3, 0)), f"{cells.made_by}, pooled to")


def _windows(
    cells: Cells,
    counts: tuple[int, int],
    reach: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    made_by: str,
) -> Cells:
    sides = zip(cells.place, reach, stride, padding, counts, strict=True)
    rows, columns = (axis.windows(size, apart, beside, count) for axis, size, apart, beside, count in sides)
    return Cells(rows, columns, made_by)


def _together(axes: Sequence[Axis]) -> Axis | None:
    """Cells that hold those of several axes; None where these lie further apart than within one cell."""
    first = min(axis.first for axis in axes)
    alike = len({(axis.step, axis.count) for axis in axes}) == 1
    near = all(axis.first - first < axis.step for axis in axes)
    return Axis(first, axes[0].step, axes[0].count) if alike and near else None


def _pair(value: Any) -> tuple[Any, ...]:
    pair = tuple(value) if isinstance(value, list | tuple) else (value,)
    return pair * 2 if len(pair) == 1 else pair


def _number(value: Fraction) -> float:
    return int(value) if value.denominator == 1 else float(value)
