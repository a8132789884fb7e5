"""An image beside the attributions of its patches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from torch import Tensor

from captum_attn.core import Grid, PatchGrid, image_grid
from captum_attn.drawing.figures import (
    ShownFigure,
    as_written,
    diverging_colours,
    new_figure,
    scale_limit,
    title_height,
    write_title,
)
from captum_attn.drawing.text_sizes import height_of, wrapped

_WIDTH, _PANEL = 7.2, 3.0  # inches


def plot_patches(
    image: Tensor,
    patches: Tensor,
    title: str = "",
    label: str = "attributed value of each patch",
    *,
    grid: Grid = None,
) -> ShownFigure:
    """An image beside the attributions of its patches; where patches are coarser than pixels, over a faint copy of it.

    Args:
        image: pixels (C, h, w), C = 1 or 3, of any range, as they were given to the model.
        patches: attributions (rows, columns), or of each pixel, (h, w).
        title: above the figure.
        label: what the values are, above them.
        grid: where the patches lie, ``result.grid``; of an image beside a text, ``result.picture``. Without it, patches
            are drawn over the whole image, with a warning: a model that crops or pads images, or leaves over what makes
            no whole patch, has them elsewhere.

    Returns:
        A matplotlib figure that belongs to no window.

    Raises:
        ValueError: no such shapes, or a grid of other patches.

    Example:
        >>> from captum_attn import ShapleyGradAttention
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> config = ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
        >>> images, vit = torch.rand(2, 3, 32, 32), ViTForImageClassification(config).eval()
        >>> result = ShapleyGradAttention(vit).attribute_tokens(images)
        >>> plot_patches(images[1], result.patches[1], grid=result.grid).savefig("patches.png")
    """
    _check_image(image, patches)
    figure = new_figure(_WIDTH, image_height(image, label=label), title)
    draw_image(figure, image, patches, "", label, grid, stacklevel=3)
    return as_written(figure)


def draw_image(
    figure: Figure | SubFigure,
    image: Tensor,
    patches: Tensor,
    title: str,
    label: str,
    grid: Grid,
    stacklevel: int = 2,
) -> None:
    """What :func:`plot_patches` shows, on a figure or a part of one; warnings name the caller so far up."""
    picture = shown_pixels(image)
    values = patches.detach().cpu().double()
    limit = scale_limit(values)
    write_title(figure, title)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    pixels = (0, image.shape[2], image.shape[1], 0)
    left.imshow(picture, cmap="gray", extent=pixels)
    left.set_title("input", fontsize=10)
    if values.shape != image.shape[1:]:
        grey = picture if picture.ndim == 2 else picture.mean(-1)
        right.imshow(grey, cmap="gray", alpha=0.25, extent=pixels, zorder=2)
    extent = _extent(image, values, grid, stacklevel + 1)
    heat = draw_patches(right, values, image, extent, cmap=diverging_colours(), vmin=-limit, vmax=limit)
    right.set_title(wrapped(label, _PANEL), fontsize=10)
    figure.colorbar(heat, ax=right, shrink=0.85)
    for axes in (left, right):
        axes.set_xticks([])
        axes.set_yticks([])


def image_height(image: Tensor, title: str = "", label: str = "") -> float:
    """How many inches an image takes beside its patches, with their title and what the values are."""
    above = 0.3 + max(height_of(wrapped(label, _PANEL)), 0.2) + title_height(title, _WIDTH)
    return min(max(3.2 * image.shape[-2] / image.shape[-1], 1.2), 8) + above


def panel_size(shape: Sequence[int], side: float) -> tuple[float, float]:
    """Width and height in inches of the panel of an image (..., h, w): about as large as a square of this side.

    Example:
        >>> panel_size((3, 100, 400), side=1.0)
        (1.6, 0.4)
    """
    height, width = shape[-2:]
    across = side * min(max((width / height) ** 0.5, 0.65), 1.6)
    return across, across * height / width


def _check_image(image: Tensor, patches: Tensor) -> None:
    if image.dim() != 3 or image.shape[0] not in (1, 3) or patches.dim() != 2:
        raise ValueError(
            "expected one image (C, h, w) with C = 1 or 3 and its patches (rows, columns), got shapes "
            f"{tuple(image.shape)} and {tuple(patches.shape)}; of a result, give result.patches[i]"
        )


def draw_patches(axes: Axes, values: Tensor, image: Tensor, extent: Sequence[float], **options: Any) -> AxesImage:
    """Draw values (rows, columns) where their patches lie in an image (C, h, w), of which axes show all.

    Args:
        axes: what is drawn on.
        values: of the patches.
        image: of which only the size counts; draw it first.
        extent: left, right, bottom and top edge of the patches in pixels, as :attr:`PatchGrid.extent` says.
        options: of ``imshow``.
    """
    left, right, bottom, top = extent
    drawn = axes.imshow(values.cpu().double().numpy(), extent=(left, right, bottom, top), **options)
    axes.set_xlim(min(0, left), max(image.shape[-1], right))
    axes.set_ylim(max(image.shape[-2], bottom), min(0, top))
    return drawn


def shown_pixels(image: Tensor) -> npt.NDArray[Any]:
    """An image (C, h, w) as matplotlib shows it, (h, w, 3) or (h, w): in [0, 1] as it is, else stretched."""
    pixels = image.detach().cpu().float()
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        pixels = (pixels - low) / (high - low) if high > low else torch.full_like(pixels, 0.5)
    shown: npt.NDArray[Any] = pixels.movedim(0, -1).squeeze(-1).numpy()
    return shown


def _extent(image: Tensor, patches: Tensor, grid: Grid, stacklevel: int) -> tuple[float, float, float, float]:
    """Where patches lie in an image (C, h, w); a warning where that is not sure."""
    height, width = image.shape[1:]
    rows, columns = patches.shape
    whole = PatchGrid(rows, columns, height / rows, width / columns)
    if patches.shape == image.shape[1:] and grid is None:
        return whole.extent
    if grid is None:
        warnings.warn(
            "nothing says where in the image the patches lie, so they are drawn over the whole of it. That is wrong of "
            "a model that crops or pads images, or leaves over what makes no whole patch: give grid=result.grid, "
            "or result.picture of an image beside a text",
            stacklevel=stacklevel,
        )
        return whole.extent
    grid = image_grid(grid)
    if patches.shape != (grid.rows, grid.columns):
        raise ValueError(f"got {tuple(patches.shape)} patches and a grid of {grid.rows} × {grid.columns}")
    left, right, bottom, top = grid.extent
    shared = max(min(right, width) - max(left, 0), 0) * max(min(bottom, height) - max(top, 0), 0)
    if shared < max(height * width, (right - left) * (bottom - top)) / 2:
        warnings.warn(
            f"the patches lie in columns {left:g} to {right:g} and rows {top:g} to {bottom:g} of what the model was "
            f"given, but this image has {height} × {width} pixels: expected the pixels (C, h, w) as they were given to "
            "the model, after its processor",
            stacklevel=stacklevel,
        )
    return grid.extent
