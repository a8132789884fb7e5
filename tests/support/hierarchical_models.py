"""Vision models without a matrix of all tokens, and where by their papers the keys of each layer lie: for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch
import transformers as hf
from torch import Tensor

SIDE = 64


class Grid(NamedTuple):
    """A square of count × count cells, the first at (first, first), each of size × size pixels."""

    count: int
    size: Fraction | int
    first: Fraction | int = 0


class Keys(NamedTuple):
    """What the keys of one layer are.

    Attributes:
        grid: of their cells.
        cells: int64 (windows, keys), the cell of each, row by row; -1 for a class token.
        windows_first: whether windows stand before heads in the attention's shape, as part of the batch.
    """

    grid: Grid
    cells: Tensor
    windows_first: bool = True


class Hierarchical(NamedTuple):
    """A model's class, its configuration, the keys of its layers, whether it convolves between them; pixels a side."""

    model: Any
    config: Callable[[], Any]
    keys: Sequence[Keys]
    convolves: bool = False
    side: int = SIDE


def windows(count: int, size: int, shift: int = 0) -> Tensor:
    """Cells (windows, size²) of windows of a grid of count × count that was shifted."""
    cells = torch.arange(count * count).view(count, count).roll((-shift, -shift), (0, 1))
    return cells.view(count // size, size, count // size, size).transpose(1, 2).reshape(-1, size * size)


def row_by_row(count: int) -> Tensor:
    return torch.arange(count * count).view(1, -1)


def unrolled(count: int, levels: int, units: int) -> Tensor:
    """Hiera's order: neighbours within 2 × 2 first, then of these, …; the places of its units, units², last.

    Returns:
        Cells (units², 4 ** levels).
    """
    rows = columns = torch.zeros(1, dtype=torch.long)
    offset = torch.arange(4)
    for level in range(levels):
        rows = (rows[:, None] + (offset // 2) * 2**level).flatten()
        columns = (columns[:, None] + (offset % 2) * 2**level).flatten()
    unit = torch.arange(units * units)[:, None]
    reach = 2**levels
    return (unit // units * reach + rows) * count + unit % units * reach + columns


def unfolded(count: int) -> Tensor:
    """MobileViT's order: each of the 2 × 2 places within patches by itself, over all patches."""
    cells = torch.arange(count * count).view(count // 2, 2, count // 2, 2)
    return cells.permute(1, 3, 0, 2).reshape(4, -1)


def _swin(config: Any) -> Callable[[], Any]:
    return lambda: config(
        image_size=SIDE, patch_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, num_labels=3
    )


def _pyramid(config: Any) -> Callable[[], Any]:
    return lambda: config(
        image_size=SIDE,
        hidden_sizes=(16, 32, 32, 32),
        depths=(1, 1, 1, 1),
        num_attention_heads=(1, 2, 2, 2),
        num_labels=3,
    )


HALF = Fraction(1, 2)
_SWIN = [
    Keys(Grid(16, 4), windows(16, 4)),
    Keys(Grid(16, 4), windows(16, 4, shift=2)),
    Keys(Grid(8, 8), windows(8, 4)),
    Keys(Grid(8, 8), windows(8, 4, shift=2)),
]
# An overlapping embedding puts a token in the middle of its kernel: 7 pixels, or 3 tokens of the stage below.
_OVERLAPPING = [Keys(Grid(2, 32, first), row_by_row(2)) for first in (-3 * HALF, -7 * HALF, -15 * HALF, -31 * HALF)]
MODELS = {
    "swin": Hierarchical(hf.SwinForImageClassification, _swin(hf.SwinConfig), _SWIN),
    "swinv2": Hierarchical(hf.Swinv2ForImageClassification, _swin(hf.Swinv2Config), _SWIN),
    "pvt": Hierarchical(
        hf.PvtForImageClassification,
        _pyramid(hf.PvtConfig),
        [
            *[Keys(Grid(2, 32), row_by_row(2))] * 3,
            Keys(Grid(2, 32), torch.tensor([[-1, 0, 1, 2, 3]])),
        ],
    ),
    "pvt v2": Hierarchical(hf.PvtV2ForImageClassification, _pyramid(hf.PvtV2Config), _OVERLAPPING, True),
    "segformer": Hierarchical(hf.SegformerForImageClassification, _pyramid(hf.SegformerConfig), _OVERLAPPING, True),
    "hiera": Hierarchical(
        hf.HieraForImageClassification,
        lambda: hf.HieraConfig(
            image_size=[SIDE, SIDE], embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], num_labels=3
        ),
        [
            Keys(Grid(16, 4, -3 * HALF), unrolled(16, 3, 2), False),
            Keys(Grid(16, 4, -3 * HALF), unrolled(16, 3, 2), False),
            Keys(Grid(8, 8, -3 * HALF), unrolled(8, 2, 2), False),
            Keys(Grid(4, 16, -3 * HALF), unrolled(4, 1, 2).T.reshape(1, -1)),
        ],
    ),
    "mobilevit": Hierarchical(
        hf.MobileViTForImageClassification,
        lambda: hf.MobileViTConfig(
            image_size=SIDE, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 12, 12, 16, 16, 24], num_labels=3
        ),
        [
            *[Keys(Grid(8, 8, -7 * HALF), unfolded(8))] * 2,
            *[Keys(Grid(4, 16, -15 * HALF), unfolded(4))] * 4,
            *[Keys(Grid(2, 32, -31 * HALF), unfolded(2))] * 3,
        ],
        True,
    ),
    "levit": Hierarchical(
        hf.LevitForImageClassification,
        lambda: hf.LevitConfig(
            image_size=2 * SIDE,
            hidden_sizes=[16, 32, 48],
            num_attention_heads=[2, 2, 4],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
            num_labels=3,
        ),
        [
            *[Keys(Grid(8, 16, -15 * HALF), row_by_row(8))] * 2,
            *[Keys(Grid(4, 32, -15 * HALF), row_by_row(4))] * 2,
            Keys(Grid(2, 64, -15 * HALF), row_by_row(2)),
        ],
        side=2 * SIDE,
    ),
}


def build(name: str) -> Any:
    """The model with random weights, large enough for attention to matter."""
    torch.manual_seed(1)
    kind = MODELS[name]
    model = kind.model(kind.config()).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(3)
    return model


def pixels(name: str, count: int = 2) -> Tensor:
    """Images for the model."""
    side = MODELS[name].side
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


def overlap(grid: Grid, finest: Grid) -> Tensor:
    """(count, finer count), the part of each interval of one grid in each of another; rows sum to 1."""
    rows = []
    for number in range(grid.count):
        start = grid.first + number * grid.size
        row = []
        for other in range(finest.count):
            begin = finest.first + other * finest.size
            row.append(max(0, min(start + grid.size, begin + finest.size) - max(start, begin)))
        rows.append([float(Fraction(part) / sum(map(Fraction, row))) for part in row])
    return torch.tensor(rows, dtype=torch.double)


def laid_out(worth: Tensor, keys: Keys, finest: Grid, examples: int) -> Tensor:
    """The worth of keys as attention has them, (..., K), on the finest grid: (B, n, n), the mean over heads."""
    shape = (examples, len(keys.cells), -1) if keys.windows_first else (examples, -1, len(keys.cells))
    by_head = worth.reshape(*shape, keys.cells.shape[1])
    each = by_head.mean(2 if keys.windows_first else 1)  # (B, windows, K)
    found = torch.zeros(examples, keys.grid.count**2, dtype=each.dtype)
    for window, cells in enumerate(keys.cells.tolist()):
        for key, cell in enumerate(cells):
            if cell >= 0:
                found[:, cell] += each[:, window, key]
    square = found.view(examples, keys.grid.count, keys.grid.count)
    along = overlap(keys.grid, finest).to(square)
    return along.T @ square @ along
