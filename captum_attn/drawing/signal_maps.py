"""Show attributions of sounds and videos: over the wave or spectrogram, and as a strip of frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_attn.core import Grid, PatchLayout, known_grid
from captum_attn.drawing.figures import ShownFigure, as_written, diverging_colours, new_figure, scale_limit
from captum_attn.drawing.patch_maps import panel_size, shown_pixels

_MOST_FRAMES = 8  # in a line


def plot_sound(
    sound: Tensor,
    patches: Tensor,
    title: str = "",
    label: str = "attributed value",
    *,
    grid: Grid,
    seconds: float | None = None,
) -> ShownFigure:
    """A wave on the colours of its intervals, or a spectrogram beside its patches.

    Args:
        sound: as it was given to the model: a wave (samples,), or features of it, (time, bands) or (bands, time).
        patches: attributions, ``result.patches[i]``.
        title: above the figure.
        label: what the values are, beside their colours.
        grid: where the patches lie, ``result.grid``.
        seconds: how long the sound is; without it, its entries are counted.

    Returns:
        A matplotlib figure that belongs to no window. Red raises the explained output, blue lowers it.

    Raises:
        ValueError: patches of another layout, or none known.

    Example:
        >>> from captum_attn import ShapleyGradAttention
        >>> from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification
        >>> sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
        >>> listener = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**sizes)).eval()
        >>> waves = torch.randn(1, 16000)
        >>> result = ShapleyGradAttention(listener).attribute_tokens(waves)
        >>> result.patches.shape, result.grid.sides[0].size  # each token is worth 20 ms
        (torch.Size([1, 49]), 320)
        >>> plot_sound(waves[0], result.patches[0], grid=result.grid, seconds=1.0).savefig("sound.png")
    """
    sound = torch.as_tensor(sound)
    layout = _checked(patches, grid, sound.dim() in (1, 2) and sound.dim() == patches.dim(), sound)
    order = [side for side in range(sound.dim()) if side != layout.time] + [layout.time]
    shown, values = sound.detach().cpu().float().permute(order), patches.detach().cpu().double().permute(order)
    sides = [layout.sides[side] for side in order]
    entry = 1.0 if seconds is None else seconds / shown.shape[-1]
    ends = [(side.first, side.first + side.count * side.size) for side in sides]
    start, end = (place * entry for place in ends[-1])
    limit = scale_limit(values)
    figure = new_figure(9, 2.6 if shown.dim() == 1 else 3.4, title)
    axes = figure.add_subplot()
    colours: Any = {"cmap": diverging_colours(), "vmin": -limit, "vmax": limit, "aspect": "auto", "origin": "lower"}
    length = shown.shape[-1] * entry
    if shown.dim() == 1:
        height = 1.05 * scale_limit(shown)
        heat = axes.imshow(values[None].numpy(), extent=(start, end, -height, height), **colours)
        axes.plot(torch.arange(len(shown)).numpy() * entry, shown.numpy(), color="0.15", linewidth=0.5)
        axes.set_ylim(-height, height)
    else:
        bands = shown.shape[0]
        axes.imshow(shown.numpy(), extent=(0, length, 0, bands), cmap="gray", aspect="auto", origin="lower")
        strength = (values.abs() / limit).sqrt().numpy()  # what matters little shows the sound
        heat = axes.imshow(values.numpy(), extent=(start, end, *ends[0]), alpha=0.85 * strength, **colours)
        axes.set_ylim(0, bands)
        axes.set_ylabel("band")
    axes.set_xlim(0, length)
    axes.set_xlabel("entry" if seconds is None else "seconds")
    figure.colorbar(heat, ax=axes, label=label)
    return as_written(figure)


def plot_video(
    video: Tensor, patches: Tensor, title: str = "", label: str = "attributed value", *, grid: Grid
) -> ShownFigure:
    """A strip of frames, one of each block of them that is a token's, and below each the attributions of its patches.

    Args:
        video: (frames, C, h, w), C = 1 or 3, of any range, as it was given to the model.
        patches: attributions (blocks of frames, rows, columns), ``result.patches[i]``.
        title: above the figure.
        label: what the values are, beside their colours.
        grid: where the patches lie, ``result.grid``.

    Returns:
        A matplotlib figure that belongs to no window.

    Raises:
        ValueError: patches of another layout, or none known.
    """
    layout = _checked(patches, grid, video.dim() == 4 and patches.dim() == 3, video)
    values = patches.detach().cpu().double()
    time, down, across = layout.sides
    count, limit = len(values), scale_limit(values)
    columns = min(count, _MOST_FRAMES)
    lines = -(-count // columns)
    width, height = panel_size(video.shape, side=1.4)
    figure = new_figure(max(1.2 + width * columns, 4), lines * (2 * height + 0.4), title)
    panels = figure.subplots(2 * lines, columns, squeeze=False, sharex=True, sharey=True)
    pixels = (0, video.shape[3], video.shape[2], 0)
    extent = (
        across.first,
        across.first + across.count * across.size,
        down.first + down.count * down.size,
        down.first,
    )
    pictures = shown_pixels(video.transpose(0, 1).flatten(1, 2))  # one scale for all frames
    pictures = pictures.reshape(len(video), video.shape[2], *pictures.shape[1:])
    for axes in panels.flat:
        axes.set_axis_off()
    for block in range(count):
        first = time.first + block * time.size
        frame = min(max(int(first + time.size / 2), 0), len(video) - 1)
        picture = pictures[frame]
        line, column = divmod(block, columns)
        above, below = panels[2 * line][column], panels[2 * line + 1][column]
        above.imshow(picture, cmap="gray", extent=pixels)
        above.set_title(f"frames {int(max(first, 0))} to {int(min(first + time.size, len(video))) - 1}", fontsize=7)
        below.imshow(picture if picture.ndim == 2 else picture.mean(-1), cmap="gray", extent=pixels)
        strength = (values[block].abs() / limit).sqrt().numpy()
        colours: Any = {"cmap": diverging_colours(), "vmin": -limit, "vmax": limit, "alpha": 0.9 * strength}
        heat = below.imshow(values[block].numpy(), extent=extent, **colours)
        below.set_xlim(0, video.shape[3])
        below.set_ylim(video.shape[2], 0)
    figure.colorbar(heat, ax=list(panels.flat), label=label, shrink=0.8)
    return as_written(figure)


def _checked(patches: Tensor, grid: Grid, fits: bool, given: Tensor) -> PatchLayout:
    """The layout, if patches have it."""
    layout = known_grid(grid)
    if not fits or tuple(patches.shape) != layout.counts:
        raise ValueError(
            f"expected one input and its patches {layout.counts}, got shapes {tuple(given.shape)} and "
            f"{tuple(patches.shape)}; of a result, give result.patches[i]"
        )
    return layout
