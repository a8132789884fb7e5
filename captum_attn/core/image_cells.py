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

    def seen_in(self, numbers: Tensor) -> Cells | None:
        """The cells that a map of their numbers, (rows, columns), consists of: all, or every n-th of some at a stretch.

        None for other maps.
        """
        across = self.columns.count
        top, left = divmod(int(numbers[0, 0]), across)
        down = int(numbers[1, 0] - numbers[0, 0]) // across if len(numbers) > 1 else 1
        right = int(numbers[0, 1] - numbers[0, 0]) if numbers.shape[1] > 1 else 1
        lines, places = (torch.arange(count, device="cpu") for count in numbers.shape)
        expected = (top + down * lines)[:, None] * across + left + right * places
        if down < 1 or right < 1 or left + right * (len(places) - 1) >= across or not torch.equal(numbers, expected):
            return None
        return Cells(self.rows.cut(top, down, len(lines)), self.columns.cut(left, right, len(places)), self.made_by)

    def grid(self, positions: tuple[int, ...]) -> PatchGrid:
        """The cells as patches, which are the tokens at some positions."""
        rows, columns = self.rows, self.columns
        height, width, top, left = map(_number, (rows.step, columns.step, rows.first, columns.first))
        return PatchGrid(rows.count, columns.count, height, width, top, left, positions)


Option = Callable[[str, int, Any], Any]
"""An argument of a function that was called, by its name, its place, and its default."""


def padded(cells: Cells, counts: tuple[int, int], option: Option) -> Cells | None:
    """After ``F.pad``; None where other sides are padded, too."""
    sides = [*option("pad", 1, ()), 0, 0, 0, 0]
    left, top = sides[0], sides[2]
    if any(sides[4:]):
        return None
    rows, columns = (axis.cut(-n, 1, count) for axis, n, count in zip(cells.place, (top, left), counts, strict=True))
    return Cells(rows, columns, f"{cells.made_by}, padded to")


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


def _pair(value: Any) -> tuple[Any, ...]:
    pair = tuple(value) if isinstance(value, list | tuple) else (value,)
    return pair * 2 if len(pair) == 1 else pair


def _number(value: Fraction) -> float:
    return int(value) if value.denominator == 1 else float(value)
