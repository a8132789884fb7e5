"""Transformers that see a part of their images, and, by autograd, which pixels each of their tokens reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.backend_bases import MouseEvent
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import Tensor, nn


def in_reading_order(patches: Tensor) -> Tensor:
    return patches.flatten(2).mT


def column_by_column(patches: Tensor) -> Tensor:
    return patches.transpose(2, 3).flatten(2).mT


def by_quadrants(patches: Tensor) -> Tensor:
    return patches.unflatten(2, (2, -1)).unflatten(4, (2, -1)).transpose(3, 4).flatten(2).mT


class Cutting(nn.Module):
    """Patches of 8 pixels among other tokens, and two layers of attention over them all."""

    def __init__(
        self,
        prepared: Callable[[Tensor], Tensor] = lambda x: x,
        order: Callable[[Tensor], Tensor] = in_reading_order,
        others: tuple[int, int] = (1, 0),
        convolution: nn.Module | None = None,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.prepared, self.order = prepared, order
        self.convolution = convolution or nn.Conv2d(3, 16, 8, 8)
        self.before, self.behind = (nn.Parameter(torch.randn(1, count, 16)) for count in others)
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)

    def tokens(self, pixel_values: Tensor) -> Tensor:
        """All tokens (B, N, 16), as they come to the first layer."""
        patches = self.order(self.convolution(self.prepared(pixel_values)))
        before, behind = (part.expand(len(patches), -1, -1) for part in (self.before, self.behind))
        return torch.cat((before, patches, behind), 1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        scores: Tensor = self.head(self.layers(self.tokens(pixel_values)).mean(1))
        return scores


def pictures(height: int = 32, width: int = 32) -> Tensor:
    """Two images in which no two pixels are alike, with 0 and 1 among their values."""
    drawn = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    drawn[:, :, 0, 0], drawn[:, :, 0, 1] = 0, 1
    return drawn


CUT: dict[str, tuple[Cutting, Tensor]] = {
    "cut out": (Cutting(lambda x: x[..., 4:28, 2:-6]), pictures()),
    "what is left over": (Cutting(), pictures(30, 27)),
    "padded around": (Cutting(lambda x: F.pad(x, (4, 4, 2, 6))), pictures(24, 24)),
    "tokens behind": (Cutting(others=(1, 3)), pictures(32, 24)),
    "column by column": (Cutting(order=column_by_column), pictures(24, 32)),
    "by quadrants, cut out": (Cutting(lambda x: x[..., :32], by_quadrants, (2, 1)), pictures(32, 40)),
    "resized": (Cutting(lambda x: F.interpolate(x, size=(32, 32), mode="bilinear")), pictures(18, 26)),
    "overlapping": (Cutting(convolution=nn.Conv2d(3, 16, 12, 6)), pictures(30, 41)),
}
"""Models with images: in one way or another, stretching the last tokens over the image is wrong of each."""


def read_by_each_token(model: Cutting, image: Tensor) -> Tensor:
    """bool (N, h, w): the pixels that each token depends on."""
    pixels = image[None].double().requires_grad_()
    weights = torch.rand(16, dtype=torch.double, generator=torch.Generator().manual_seed(3))
    each = (model.double().tokens(pixels) @ weights)[0]
    gradients = [torch.autograd.grad(token, pixels, retain_graph=True, allow_unused=True)[0] for token in each]
    model.float()
    return torch.stack([torch.zeros_like(image[0]) if g is None else g[0].abs().sum(0) for g in gradients]) > 0


def assert_over_its_pixels(shown: Any, values: Tensor, read: Tensor) -> None:
    """Assert that a map in a figure shows, at every pixel, the value of a token that reads it, and none elsewhere.

    Args:
        shown: matplotlib's image of the patches.
        values: (N,), of the tokens.
        read: bool (N, h, w), as :func:`read_by_each_token` says.
    """
    height, width = read.shape[1:]
    overlap = bool((read.sum(0) > 1).any())
    FigureCanvasAgg(shown.figure.get_figure(root=True)).draw()
    left, right, bottom, top = *shown.axes.get_xlim(), *shown.axes.get_ylim()
    assert left <= 0 < width <= right
    assert top <= 0 < height <= bottom
    for row in range(height):
        for column in range(width):
            place = shown.axes.transData.transform((column + 0.5, row + 0.5))
            readers = values[read[:, row, column]]
            if shown.get_window_extent().contains(*place):
                value = shown.get_cursor_data(MouseEvent("motion_notify_event", shown.figure.canvas, *place))
                assert len(readers)
                assert (readers - value).abs().min() < 1e-6
            else:  # patches that overlap count for a stride around their centres
                assert not len(readers) or overlap


def assert_under_its_values(values: Tensor, picture: Tensor, image: Tensor, tokens: Tensor, read: Tensor) -> None:
    """Assert that each pixel of a picture is one that is read by a token of the value that lies over it.

    Args:
        values: (rows, columns), which a plot stretches over the picture.
        picture: (h', w', 3); (.5, .5, .5) is no pixel.
        image: (3, h, w), in which no two pixels are alike.
        tokens: values of the tokens (N,).
        read: bool (N, h, w).
    """
    sides = zip(picture.shape, values.shape, strict=False)
    rows, columns = ((torch.arange(pixels) + 0.5) * (patches / pixels) for pixels, patches in sides)
    stretched = values[rows.long()[:, None], columns.long()]
    found = 0
    for value, colour in zip(stretched.flatten(), picture.flatten(0, 1), strict=True):
        if not (colour == 0.5).all():
            (place,) = ((image.movedim(0, -1).flatten(0, 1) - colour).abs().sum(1) < 1e-6).nonzero().flatten()
            assert (tokens[read.flatten(1)[:, place]] - value).abs().min() < 1e-6
            found += 1
    assert found > 0.6 * read.any(0).sum()
