"""The patches of an image: which tokens they are, and which pixels of the image as it was given they cover."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor


class PatchGrid(NamedTuple):
    """How an image is cut into patches, in pixels of the image as it was given to the model.

    A model that enlarges images has smaller patches there than inside, and maybe no whole number of pixels wide. Where
    patches overlap (convolutions whose kernel is larger than their stride), each one counts for a stride around its
    centre.

    Attributes:
        rows, columns: of patches.
        height, width: of one patch.
        top, left: where the first one begins: not at 0 where patches overlap, or the model pads or crops images.
        positions: which of the N tokens the patches are, row by row; None for the last ones.
    """

    rows: int
    columns: int
    height: float
    width: float
    top: float = 0
    left: float = 0
    positions: tuple[int, ...] | None = None

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Where the patches lie in the image: their left, right, bottom and top edge, as matplotlib's ``extent``.

        Example:
            >>> PatchGrid(rows=3, columns=2, height=8, width=8, top=4, left=2).extent
            (2.0, 18.0, 28.0, 4.0)
        """
        right, bottom = self.left + self.columns * self.width, self.top + self.rows * self.height
        return float(self.left), float(right), float(bottom), float(self.top)

    def covers(self, height: int, width: int) -> bool:
        """Whether the patches make up an image of h × w pixels, with nothing left over on any side."""
        edges = zip(self.extent, (0, width, height, 0), strict=True)
        return all(math.isclose(own, side, abs_tol=1e-6) for own, side in edges)

    def tokens(self, length: int) -> Tensor:
        """int64 (rows · columns,): the places of the patches among ``length`` tokens."""
        last = range(length - self.rows * self.columns, length)
        return torch.tensor(last if self.positions is None else self.positions)


@dataclass(frozen=True)
class NoPatchGrid:
    """An image whose tokens cannot be laid over it, and why; as a condition, it is false."""

    reason: str

    def __bool__(self) -> Literal[False]:
        return False


Grid: TypeAlias = PatchGrid | NoPatchGrid | None
"""How an image is cut into patches, or why that is not known; None for text."""


def known_grid(grid: Grid) -> PatchGrid:
    """The grid, if there is one.

    Raises:
        ValueError: the inputs were texts, or nothing says how the image was cut.
    """
    if grid is None:
        raise ValueError("there are no patches, the inputs were no images: use .values")
    if isinstance(grid, NoPatchGrid):
        raise ValueError(
            f"{grid.reason}; so its tokens cannot be laid over the image. Their values are there without a map: "
            "attribute_tokens(..., players=...).values, or influence"
        )
    return grid


def patch_values(values: Tensor, grid: Grid) -> Tensor:
    """Values (..., N) of an image's tokens as those of its patches, (..., rows, columns).

    Raises:
        ValueError: no grid.
    """
    grid = known_grid(grid)
    patches: Tensor = values[..., grid.tokens(values.shape[-1]).to(values.device)]
    return patches.reshape(*values.shape[:-1], grid.rows, grid.columns)


def at_patches(values: Tensor, grid: PatchGrid, length: int) -> Tensor:
    """Values (B, rows, columns) of an image's patches, as values (B, N) of its tokens, 0 for those that are none."""
    tokens = grid.tokens(length).to(values.device)
    return values.new_zeros(len(values), length).index_copy(1, tokens, values.flatten(1))


def spread_over_pixels(values: Tensor, grid: Grid, height: int, width: int) -> Tensor:
    """Values (..., rows, columns) of patches, each spread evenly over the pixels (..., h, w) that its patch covers.

    Sums are kept: a pixel that two patches share gets a part of each, by area. Pixels that no patch covers get 0.

    Raises:
        ValueError: no grid, or patches of which the image has no pixel.
    """
    down, across = (side.to(values) for side in _coverage(known_grid(grid), height, width))
    areas = down.sum(1)[:, None] * across.sum(1)
    return down.mT @ (values / areas) @ across


def painted_over_pixels(values: Tensor, grid: Grid, height: int, width: int) -> Tensor:
    """Values (..., rows, columns) of patches as those of the pixels (..., h, w) that each covers, in part by its part.

    Raises:
        ValueError: as :func:`spread_over_pixels`.
    """
    down, across = (side.to(values) for side in _coverage(known_grid(grid), height, width))
    return down.mT @ values @ across


def patch_sums(pixels: Tensor, grid: Grid) -> Tensor:
    """Values (..., h, w) of pixels, summed over each patch, (..., rows, columns); of a pixel in two, a part for each.

    Raises:
        ValueError: as :func:`spread_over_pixels`.
    """
    down, across = (side.to(pixels) for side in _coverage(known_grid(grid), *pixels.shape[-2:]))
    return down @ pixels @ across.mT


def patch_means(pixels: Tensor, grid: Grid) -> Tensor:
    """Values (..., h, w) of pixels, averaged over each patch's part of the image, (..., rows, columns).

    Raises:
        ValueError: as :func:`spread_over_pixels`.
    """
    return patch_sums(pixels, grid) / patch_sums(torch.ones_like(pixels), grid)


def under_patches(pixels: Tensor, grid: Grid, beyond: float = 0.0) -> Tensor:
    """The part of images (..., h, w) that their patches cover, to be shown under a map that shows nothing but patches.

    Args:
        pixels: the images.
        grid: how they are cut.
        beyond: what is shown of patches beyond the image's edges, as where the model pads it.

    Returns:
        The images as they are, if patches make them up; else (..., rows · m, columns · n), each patch m × n pixels: its
        own, or the nearest ones where it is no whole number of them.

    Raises:
        ValueError: no grid.
    """
    grid = known_grid(grid)
    height, width = pixels.shape[-2:]
    if grid.covers(height, width):
        return pixels
    down, across = _nearest(grid.top, grid.height, grid.rows), _nearest(grid.left, grid.width, grid.columns)
    inside = ((down >= 0) & (down < height))[:, None] & (across >= 0) & (across < width)
    covered = pixels[..., down.clamp(0, height - 1)[:, None], across.clamp(0, width - 1)]
    return torch.where(inside.to(pixels.device), covered, torch.tensor(beyond).to(covered))


def with_patches_replaced(pixels: Tensor, chosen: Tensor, mean: bool, grid: Grid) -> Tensor:
    """A copy of images (B, C, h, w) in which some patches are replaced.

    Args:
        pixels: the images.
        chosen: bool (B, N), the tokens whose patches are replaced.
        mean: by the mean of the image's patches, pixel by pixel; else by zeros.
        grid: how the images are cut.

    Raises:
        ValueError: no grid, or one whose patches are no whole number of pixels, as where images are resized inside the
            model: those have no pixels of their own.
    """
    grid = known_grid(grid)
    sizes = (grid.height, grid.width, grid.top, grid.left)
    height, width, top, left = (int(size) for size in sizes)
    if (height, width, top, left) != sizes:
        raise ValueError(
            f"patches of {grid.height:g} × {grid.width:g} pixels, the first at ({grid.top:g}, {grid.left:g}), share "
            "pixels with each other, so one cannot be replaced alone: give images of a size of which each patch covers "
            "whole pixels (that which the model resizes them to), or take tokens away by knockout"
        )
    below = top + grid.rows * height - pixels.shape[2]
    right = left + grid.columns * width - pixels.shape[3]
    framed = _patches(F.pad(pixels, (-left, right, -top, below)), grid)  # padded, or cut where a size is negative
    filling = torch.zeros_like(framed[:, :1, :1])
    if mean:
        inside = _patches(F.pad(torch.ones_like(pixels[:1, :1]), (-left, right, -top, below)), grid)
        filling = framed.sum((1, 2), keepdim=True) / inside.sum((1, 2), keepdim=True).clamp(min=1)
    where = patch_values(chosen, grid)[..., None, None, None].expand(-1, -1, -1, 1, height, width)
    back = (left, -right, top, -below)
    whole = [F.pad(_joined(patches), back) for patches in (where, filling.expand_as(framed))]
    return torch.where(whole[0], whole[1], pixels)


def _patches(pixels: Tensor, grid: PatchGrid) -> Tensor:
    """Pixels (B, C, rows · height, columns · width) as patches (B, rows, columns, C, height, width)."""
    patches: Tensor = pixels.unflatten(3, (grid.columns, -1)).unflatten(2, (grid.rows, -1))
    return patches.permute(0, 2, 4, 1, 3, 5)


def _joined(patches: Tensor) -> Tensor:
    """What :func:`_patches` cut."""
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def _coverage(grid: PatchGrid, height: int, width: int) -> tuple[Tensor, Tensor]:
    """How much of each row and of each column of pixels lies in each of patches, float64 (rows, h), (columns, w)."""
    down = _overlap(grid.top, grid.height, grid.rows, height)
    across = _overlap(grid.left, grid.width, grid.columns, width)
    outside = int((down.sum(1)[:, None] * across.sum(1) == 0).sum())
    if outside:
        raise ValueError(
            f"{outside} of the {grid.rows} × {grid.columns} patches cover none of the given {height} × {width} pixels, "
            f"but what the model added to them: patches are {grid.height:g} × {grid.width:g} pixels, the first at "
            f"({grid.top:g}, {grid.left:g}). A map would lose their values: give images of the padded size, or use "
            "attribute_tokens(...).patches"
        )
    return down, across


def _nearest(first: float, size: float, count: int) -> Tensor:
    """The pixels, int64 (count · m,), that lie nearest to m places in each of some cells, one behind the other."""
    each = math.ceil(size)
    places = first + size / each * (torch.arange(count * each, device="cpu", dtype=torch.float64) + 0.5)
    return places.floor().long()


def _overlap(first: float, size: float, count: int, pixels: int) -> Tensor:
    """The length (count, pixels) that cells of some size, one behind the other, have in common with each pixel."""
    starts = first + size * torch.arange(count, dtype=torch.float64)[:, None]
    edges = torch.arange(pixels, dtype=torch.float64)
    common = (starts + size).minimum(edges + 1) - starts.maximum(edges)
    return torch.where(common > 1e-9, common, 0.0)
