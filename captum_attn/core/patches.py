"""The patches of an input: which tokens they are, and which part of the input as it was given to the model each covers.

A patch is what the model made a token of: a rectangle of an image, a piece of a sound, a block of a video.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Side:
    """Patches along one dimension of the input: patch i covers ``size`` of its entries, from first + i · size on.

    Attributes:
        dim: the dimension, counted from that of the batch, 0.
        count: of patches.
        size: of one patch, in entries: pixels, samples, frames.
        first: where the first one begins.
    """

    dim: int
    count: int
    size: float
    first: float = 0

    def covers(self, entries: int) -> bool:
        """Whether the patches make up so many entries, with nothing left over at either end."""
        ends = (self.first, 0), (self.first + self.count * self.size, entries)
        return all(math.isclose(own, end, abs_tol=1e-6) for own, end in ends)


@dataclass(frozen=True)
class PatchLayout:
    """How an input is cut into patches, in entries of the input as it was given to the model.

    A model that enlarges images has smaller patches there than inside, and maybe no whole number of pixels wide. Where
    patches overlap (convolutions whose kernel is larger than their stride), each one counts for a stride around its
    centre. Along a dimension without a side, a patch covers everything: the channels of an image.

    Attributes:
        sides: along which dimensions, in their order.
        positions: which of the N tokens the patches are, the last side's first; None for the last ones.
    """

    sides: tuple[Side, ...]
    positions: tuple[int, ...] | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """Of patches along each side."""
        return tuple(side.count for side in self.sides)

    @property
    def sizes(self) -> tuple[float, ...]:
        """Of one patch along each side, in entries."""
        return tuple(side.size for side in self.sides)

    @property
    def time(self) -> int:
        """Of a sound or a video, the place among the sides of the one along which time goes.

        It is the first one; of features whose first one patches cover whole, as bands come first in Whisper's, the
        other.
        """
        return int(len(self.sides) == 2 and self.sides[0].count == 1 < self.sides[1].count)

    def __len__(self) -> int:
        return math.prod(self.counts)

    def tokens(self, length: int) -> Tensor:
        """int64 (number of patches,): the places of the patches among ``length`` tokens."""
        last = range(length - len(self), length)
        return torch.tensor(last if self.positions is None else self.positions)


class PatchGrid(PatchLayout):
    """The layout of an image (B, C, h, w): rows and columns of patches.

    Attributes:
        rows, columns: of patches.
        height, width: of one patch.
        top, left: where the first one begins: not at 0 where patches overlap, or the model pads or crops images.
        positions: which of the N tokens the patches are, row by row; None for the last ones.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        height: float,
        width: float,
        top: float = 0,
        left: float = 0,
        positions: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__((Side(2, rows, height, top), Side(3, columns, width, left)), positions)

    def __repr__(self) -> str:
        sizes = f"height={self.height}, width={self.width}, top={self.top}, left={self.left}"
        return f"PatchGrid(rows={self.rows}, columns={self.columns}, {sizes}, positions={self.positions})"

    @property
    def rows(self) -> int:
        return self.sides[0].count

    @property
    def columns(self) -> int:
        return self.sides[1].count

    @property
    def height(self) -> float:
        return self.sides[0].size

    @property
    def width(self) -> float:
        return self.sides[1].size

    @property
    def top(self) -> float:
        return self.sides[0].first

    @property
    def left(self) -> float:
        return self.sides[1].first

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
        down, across = self.sides
        return down.covers(height) and across.covers(width)


@dataclass(frozen=True)
class NoPatchGrid:
    """An input whose tokens cannot be laid over it, and why; as a condition, it is false."""

    reason: str

    def __bool__(self) -> Literal[False]:
        return False


Grid: TypeAlias = PatchLayout | NoPatchGrid | None
"""How an input is cut into patches, or why that is not known; None for text."""


def dims_of_entries(features: Tensor) -> tuple[int, ...]:
    """The dimensions along which an input can be cut: not those of channels, of images (B, C, h, w) and videos."""
    return {4: (2, 3), 5: (1, 3, 4)}.get(features.dim(), tuple(range(1, features.dim())))


def layout_of_sides(sides: Sequence[Side], positions: tuple[int, ...] | None, of_image: bool) -> PatchLayout:
    """The layout of an image, or of another input."""
    if not of_image:
        return PatchLayout(tuple(sides), positions)
    down, across = sides
    return PatchGrid(down.count, across.count, down.size, across.size, down.first, across.first, positions)


def known_grid(grid: Grid) -> PatchLayout:
    """The layout, if there is one.

    Raises:
        ValueError: the inputs were texts, or nothing says how the input was cut.
    """
    if grid is None:
        raise ValueError("there are no patches, the inputs were no images: use .values")
    if isinstance(grid, NoPatchGrid):
        raise ValueError(
            f"{grid.reason}; so its tokens cannot be laid over the image. Their values are there without a map: "
            "attribute_tokens(..., players=...).values, or influence"
        )
    return grid


def image_grid(grid: Grid) -> PatchGrid:
    """The layout of an image, if it is one. ``ValueError`` as :func:`known_grid`, and for another input."""
    grid = known_grid(grid)
    if not isinstance(grid, PatchGrid):
        raise ValueError(f"this is for images, but the input is cut along the dimensions {[s.dim for s in grid.sides]}")
    return grid


def patch_values(values: Tensor, grid: Grid) -> Tensor:
    """Values (..., N) of an input's tokens as those of its patches: of an image, (..., rows, columns).

    Raises:
        ValueError: no grid.
    """
    grid = known_grid(grid)
    patches: Tensor = values[..., grid.tokens(values.shape[-1]).to(values.device)]
    return patches.reshape(*values.shape[:-1], *grid.counts)


def at_patches(values: Tensor, grid: PatchLayout, length: int) -> Tensor:
    """Values (B, rows, columns) of an image's patches, as values (B, N) of its tokens, 0 for those that are none."""
    tokens = grid.tokens(length).to(values.device)
    return values.new_zeros(len(values), length).index_copy(1, tokens, values.flatten(1))


def spread_over(values: Tensor, grid: Grid, shape: Sequence[int]) -> Tensor:
    """Values (B, rows, columns) of patches, each spread evenly over what it covers of an input of some shape.

    Sums are kept: an entry that two patches share gets a part of each, by its share. What no patch covers gets 0.

    Raises:
        ValueError: no grid, or patches of which the input has no entry.
    """
    grid = known_grid(grid)
    sizes, _ = _covered(grid, shape)
    others = math.prod(shape[1:]) // math.prod(shape[side.dim] for side in grid.sides)
    return painted_over(values / (sizes.to(values) * others), grid, shape).expand(*shape).contiguous()


def painted_over(values: Tensor, grid: Grid, shape: Sequence[int]) -> Tensor:
    """Values (B, rows, columns) of patches as those of the entries that each covers, in part by its part.

    Returns:
        Of the shape of the input, but 1 along dimensions without a side: of images (B, 1, h, w).

    Raises:
        ValueError: no grid, or patches of which the input has no entry.
    """
    grid = known_grid(grid)
    _, pieces = _covered(grid, shape)
    for place, (side, (entries, parts)) in enumerate(zip(grid.sides, pieces, strict=True), 1):
        each = values.movedim(place, -1)[..., None] * parts.to(values)
        laid = values.new_zeros(*each.shape[:-2], shape[side.dim])
        laid = laid.index_add(-1, entries.flatten().to(values.device), each.flatten(-2))
        values = laid.movedim(-1, place)
    return values.view(len(values), *_along_sides(grid, shape))


def patch_sums(values: Tensor, grid: Grid) -> Tensor:
    """Values of entries (..., h, w), along the sides alone, summed over each patch, (..., rows, columns).

    Of an entry in two patches, each has a part.

    Raises:
        ValueError: no grid, or patches of which the input has no entry.
    """
    grid = known_grid(grid)
    shape = dict(zip((side.dim for side in grid.sides), values.shape[-len(grid.sides) :], strict=True))
    _, pieces = _covered(grid, [shape.get(dim, 1) for dim in range(max(shape) + 1)])
    for place, (entries, parts) in enumerate(pieces):
        dim = place - len(pieces)
        of_each = values.movedim(dim, -1)[..., entries.to(values.device)]
        values = (of_each * parts.to(values)).sum(-1).movedim(-1, dim)
    return values


def patch_means(values: Tensor, grid: Grid) -> Tensor:
    """Values of entries (..., h, w), averaged over each patch's part of the input, (..., rows, columns).

    Raises:
        ValueError: no grid, or patches of which the input has no entry.
    """
    return patch_sums(values, grid) / patch_sums(torch.ones_like(values), grid)


def feature_sums(features: Tensor, grid: Grid) -> Tensor:
    """Values in the shape of the input, (B, C, h, w), summed over each patch, (B, rows, columns).

    Raises:
        ValueError: no grid, or patches of which the input has no entry.
    """
    along = {side.dim for side in known_grid(grid).sides}
    others = [dim for dim in range(1, features.dim()) if dim not in along]
    return patch_sums(features.sum(others) if others else features, grid)


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
        ValueError: no grid of an image.
    """
    grid = image_grid(grid)
    height, width = pixels.shape[-2:]
    if grid.covers(height, width):
        return pixels
    down, across = map(_nearest, grid.sides)
    inside = ((down >= 0) & (down < height))[:, None] & (across >= 0) & (across < width)
    covered = pixels[..., down.clamp(0, height - 1)[:, None], across.clamp(0, width - 1)]
    return torch.where(inside.to(pixels.device), covered, torch.tensor(beyond).to(covered))


def with_patches_replaced(
    features: Tensor, chosen: Tensor, mean: bool, grid: Grid, real: Tensor | None = None
) -> Tensor:
    """A copy of inputs (B, ...) in which some patches are replaced.

    Args:
        features: images, sounds or videos.
        chosen: bool (B, N), the tokens whose patches are replaced.
        mean: by the mean of the input's patches, entry by entry; else by zeros.
        grid: how the inputs are cut. Patches begin with the nearest whole entry.
        real: bool (B, T), the entries along dimension 1 that are no padding; patches with padding have no part in the
            mean. None for all.

    Raises:
        ValueError: no grid, or one whose patches are no whole number of entries, as where images are resized inside the
            model: those have no pixels of their own.
    """
    grid = known_grid(grid)
    if any(size != int(size) for size in grid.sizes):
        raise ValueError(
            f"patches of {_described(grid)} share pixels with each other, so one cannot be replaced alone: give images "
            "of a size of which each patch covers whole pixels (that which the model resizes them to), or take tokens "
            "away by knockout"
        )
    sides = tuple(replace(side, first=math.floor(side.first + 0.5)) for side in grid.sides)
    grid = PatchLayout(sides, grid.positions)
    dims = [side.dim for side in sides]
    ends = list(range(-len(dims), 0))
    entries = features.movedim(dims, ends)
    patch, within = (part.to(features.device) for part in _numbered(grid, entries.shape[-len(dims) :]))
    flat = entries.flatten(-len(dims))
    covered = patch >= 0
    where = patch_values(chosen, grid).flatten(1)[:, patch.clamp(min=0)] & covered
    where = where.view(len(flat), *[1] * (flat.dim() - 2), -1)
    filling = flat.new_zeros(*flat.shape[:-1], int(within.max()) + 1)
    if mean:
        counted = flat.new_ones(len(flat), flat.shape[-1])
        if real is not None:
            padding = ~real.view(*real.shape, *[1] * (len(dims) - 1)).expand(
                entries.shape[0], *entries.shape[-len(dims) :]
            )
            lost = flat.new_zeros(len(flat), len(grid)).index_add(
                1, patch[covered], padding.flatten(1)[:, covered].to(flat)
            )
            counted = (lost == 0)[:, patch.clamp(min=0)].to(flat)
        counted = counted[:, covered].view(len(flat), *[1] * (flat.dim() - 2), -1)
        seen = torch.zeros_like(filling).index_add(-1, within[covered], counted.expand_as(flat[..., covered]))
        filling = filling.index_add(-1, within[covered], flat[..., covered] * counted) / seen.clamp(min=1)
    replaced = torch.where(where, filling[..., within], flat)
    return replaced.view(entries.shape).movedim(ends, dims).contiguous()


def _numbered(grid: PatchLayout, entries: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The patch of each entry along the sides, int64 (entries,), -1 for none; and the entry's place in its patch."""
    patch, within = torch.zeros((), dtype=torch.long), torch.zeros((), dtype=torch.long)
    outside = torch.zeros((), dtype=torch.bool)
    for side, count in zip(grid.sides, entries, strict=True):
        places = torch.arange(count) - int(side.first)
        number = places.div(int(side.size), rounding_mode="floor")
        patch = patch[..., None] * side.count + number.clamp(0, side.count - 1)
        within = within[..., None] * int(side.size) + places % int(side.size)
        outside = outside[..., None] | (number < 0) | (number >= side.count)
    return patch.masked_fill(outside, -1).flatten(), within.flatten()


def _along_sides(grid: PatchLayout, shape: Sequence[int]) -> list[int]:
    """The input's shape without the batch, 1 along dimensions without a side."""
    along = {side.dim for side in grid.sides}
    return [shape[dim] if dim in along else 1 for dim in range(1, len(shape))]


Pieces: TypeAlias = tuple[Tensor, Tensor]
"""The entries that each patch covers along a side, int64 (count, m), and which part of each, float64."""


def _covered(grid: PatchLayout, shape: Sequence[int]) -> tuple[Tensor, list[Pieces]]:
    """How many entries each patch covers along the sides, float64 (rows, columns), and which ones along each.

    Raises:
        ValueError: a patch covers none.
    """
    pieces = [_pieces(side, shape[side.dim]) for side in grid.sides]
    sizes = torch.ones((), dtype=torch.float64)
    for _, parts in pieces:
        sizes = sizes[..., None] * parts.sum(1)
    outside = int((sizes == 0).sum())
    if outside:
        patches = " × ".join(map(str, grid.counts))
        given = " × ".join(str(shape[side.dim]) for side in grid.sides)
        raise ValueError(
            f"{outside} of the {patches} patches cover none of the given {given} pixels, but what the model added to "
            f"them: patches are {_described(grid)}. A map would lose their values: give images of the padded size, or "
            "use attribute_tokens(...).patches"
        )
    return sizes, pieces


def _pieces(side: Side, entries: int) -> Pieces:
    starts = side.first + side.size * torch.arange(side.count, dtype=torch.float64)[:, None]
    places = starts.floor() + torch.arange(math.ceil(side.size) + 1, dtype=torch.float64)
    parts = (starts + side.size).minimum(places + 1) - starts.maximum(places)
    inside = (places >= 0) & (places < entries) & (parts > 1e-9)
    return places.clamp(0, entries - 1).long(), torch.where(inside, parts, 0.0)


def _described(grid: PatchLayout) -> str:
    sizes = " × ".join(f"{float(side.size):g}" for side in grid.sides)
    return f"{sizes} pixels, the first at ({', '.join(f'{float(side.first):g}' for side in grid.sides)})"


def _nearest(side: Side) -> Tensor:
    """The pixels, int64 (count · m,), that lie nearest to m places in each patch of a side, one behind the other."""
    each = math.ceil(side.size)
    places = side.first + side.size / each * (torch.arange(side.count * each, device="cpu", dtype=torch.float64) + 0.5)
    return places.floor().long()
