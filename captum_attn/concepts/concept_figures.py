"""Figures of T-TCAV: concepts by layers, concepts by numbers of examples, and concepts on one input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from captum_attn.core import Grid, image_grid
from captum_attn.drawing import (
    ShownFigure,
    as_written,
    diverging_colours,
    draw_patches,
    height_of,
    name_columns,
    names_height,
    new_figure,
    panel_size,
    scale_limit,
    short_name,
    shown_pixels,
    width_of,
    wrapped,
)
from captum_attn.functional import SIGNIFICANT

if TYPE_CHECKING:
    from captum_attn.concepts.power import PowerCurve


def concepts_by_layers(
    scores: Tensor, effects: Tensor, p_values: Tensor, concepts: Sequence[str], layers: Sequence[str], title: str
) -> ShownFigure:
    """A map of effects, with T-TCAV scores in it, and marks where the effect is significant.

    Args:
        scores: (K, L), between 0 and 1; NaN where undefined.
        effects: (K, L), which colours show, in units of the largest in a layer; their signs are the marks.
        p_values: (K, L), corrected.
        concepts, layers: names of rows and columns.
        title: above the axes.
    """
    rows, slanted = [short_name(name, 44) for name in concepts], width_of(layers, 8) > 0.5
    below = names_height(layers, longest=_LONGEST_LAYER) if slanted else height_of("0")
    width = max(4.6, 0.4 + width_of(rows) + 0.58 * len(layers))
    figure = new_figure(width, 0.5 + 0.4 * len(concepts) + below, title, _OF_LAYERS)
    axes = figure.add_subplot()
    sure = p_values < SIGNIFICANT
    strength = effects / effects.abs().amax(0).clamp(min=torch.finfo(torch.float32).tiny)
    colours = diverging_colours()((0.5 + strength / 2).numpy())
    colours[..., 3] = np.where(sure.numpy(), 1.0, 0.35)
    colours[scores.isnan().numpy()] = (0.9, 0.9, 0.9, 1.0)
    axes.imshow(colours, aspect="auto")
    for row, column in np.ndindex(*scores.shape):
        score = float(scores[row, column])
        mark = (" ▲" if effects[row, column] > 0 else " ▼") if sure[row, column] else ""
        dark = sure[row, column] and abs(strength[row, column]) > 0.6
        axes.text(
            column,
            row,
            "none" if np.isnan(score) else f"{score:.2f}{mark}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "#555" if np.isnan(score) or not sure[row, column] else "black",
        )
    axes.set_yticks(range(len(rows)), rows)
    if slanted:
        name_columns(axes, layers, longest=_LONGEST_LAYER)
    else:
        axes.set_xticks(range(len(layers)), layers)
    axes.set_xlabel("layer")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return as_written(figure)


def scores_of_draws(
    scores: Sequence[Tensor],
    cosines: Sequence[Tensor],
    accuracies: Sequence[Tensor],
    separates: Tensor,
    concepts: Sequence[str],
    layers: Sequence[str],
    title: str,
) -> ShownFigure:
    """A panel for each layer, a row for each concept, and a dot for each vector's score.

    Args:
        scores: of each layer (K, m).
        cosines, accuracies: of each layer (K,), written beside the rows.
        separates: bool (L, K); dots are hollow where it is False.
        concepts, layers: names.
        title: above the panels.
    """
    columns = min(4, len(layers))
    rows = -(-len(layers) // columns)
    names, above = [short_name(name) for name in concepts], [wrapped(f"layer {name}", 2.3, 9) for name in layers]
    size = (0.3 + width_of(names) + 2.6 * columns, rows * (0.45 + 0.36 * len(concepts) + max(map(height_of, above))))
    figure = new_figure(*size, title, "T-TCAV score of each vector; hollow: vectors separate no better than chance")
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for axes in panels[len(layers) :]:
        axes.set_axis_off()
    for place, axes in enumerate(panels[: len(layers)]):
        for row, values in enumerate(scores[place].cpu()):
            spread = torch.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else torch.zeros(1)
            solid = bool(separates[place, row])
            axes.scatter(
                values, row + spread, s=14, color=_DOT if solid else "none", edgecolors=_DOT, linewidths=0.8, alpha=0.7
            )
            facts = f"cos {float(cosines[place][row]):.2f}, acc {float(accuracies[place][row]):.2f}"
            axes.text(1.04, row, facts, va="center", fontsize=7, color="#555")
        axes.axvline(0.5, color="0.8", linewidth=1, zorder=0)
        axes.set_xlim(-0.05, 1.85)
        axes.set_xticks([0, 0.5, 1])
        axes.set_title(above[place], fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    return as_written(figure)


def powers_by_examples(
    curves: Sequence[PowerCurve], wanted: float, concepts: Sequence[str], at_hand: Sequence[int], title: str
) -> ShownFigure:
    """A curve for each concept, with a dot at the number of examples at hand, and a line at the power wanted."""
    from matplotlib.ticker import LogLocator, NullLocator

    names = [short_name(name, 32) for name in concepts]
    figure = new_figure(4.9 + width_of(names, 8), max(3.4, 0.8 + 0.18 * len(names)), title)
    axes = figure.add_subplot()
    for curve, name, count in zip(curves, names, at_hand, strict=True):
        (line,) = axes.plot(curve.examples, curve.power, label=name)
        if count in curve.examples:
            axes.plot(count, curve.power[curve.examples.index(count)], "o", color=line.get_color())
    axes.axhline(wanted, color="0.8", linewidth=1, zorder=0)
    if any(curve.examples for curve in curves):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("examples of the concept (dot: at hand)")
    axes.set_ylabel("how often they would be significant")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
    return as_written(figure)


def concepts_over_image(
    pixels: Tensor, patches: Tensor, grid: Grid, names: Sequence[str], title: str, unit: str, mask: Tensor | None = None
) -> ShownFigure:
    """An image (C, h, w), and beside it the sensitivity of its patches (K, rows, columns) to each of K concepts.

    A mask, bool (h, w), is outlined; the scale's unit is written beside it.

    Raises:
        ValueError: nothing says where the patches lie.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    picture, limit = shown_pixels(pixels), scale_limit(patches)
    across, along = panel_size(pixels.shape, side=1.9)
    columns = min(len(names) + 1, int(_WIDEST / across))
    rows = -(-(len(names) + 1) // columns)
    above = [wrapped(short_name(name, 44), across - 0.1, 8) for name in names]
    room = 0.2 + max(height_of(name, 8) for name in above)
    figure = new_figure(max((across + 0.1) * columns + 0.9, 4), rows * (along + room), title)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    extent, whole = image_grid(grid).extent, (0, pixels.shape[2], pixels.shape[1], 0)
    panels[0].imshow(picture, cmap="gray", extent=whole)
    panels[0].set_title("input", fontsize=9)
    grey = picture.mean(-1) if picture.ndim == 3 else picture
    colours, scale = diverging_colours(), Normalize(-limit, limit)
    for axes, name, values in zip(panels[1:], above, patches.cpu().double(), strict=False):
        axes.imshow(grey, cmap="gray", extent=whole, vmin=0, vmax=1)
        strength = (values.abs() / limit).sqrt().numpy()  # what matters little shows the image
        draw_patches(axes, values, pixels, extent, cmap=colours, norm=scale, alpha=0.9 * strength)
        axes.set_title(name, fontsize=8)
    for axes in panels:
        if mask is not None and axes.images:
            centres = (0.5, pixels.shape[2] - 0.5, 0.5, pixels.shape[1] - 0.5)  # of the outermost pixels
            axes.contour(mask.cpu().numpy(), levels=[0.5], extent=centres, colors="black", linewidths=0.8)
        axes.set_axis_off()
    figure.colorbar(ScalarMappable(scale, colours), ax=panels, shrink=0.8).set_label(unit, fontsize=8)
    return as_written(figure)


def concepts_under_text(
    tokens: Sequence[str], values: Tensor, names: Sequence[str], title: str, unit: str
) -> ShownFigure:
    """The sensitivity (K, N) of N tokens to each of K concepts: a row for each, as many times as the text has lines."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colours, limit = diverging_colours(), scale_limit(values)
    scale = Normalize(-limit, limit)
    starts = range(0, len(tokens), _TOKENS_IN_A_LINE)
    longest = min(len(tokens), _TOKENS_IN_A_LINE)
    rows = [short_name(name, 44) for name in names]
    size = (1.3 + width_of(rows, 8) + max(0.34 * longest, 1.5), 0.36 * len(names) + 0.15 + names_height(tokens, 9))
    figure = new_figure(size[0], max(len(starts) * size[1], 1.6), title)
    lines = figure.subplots(len(starts), 1, squeeze=False)[:, 0]
    for axes, start in zip(lines, starts, strict=True):
        line = slice(start, start + _TOKENS_IN_A_LINE)
        shown = tokens[line]
        axes.imshow(values[:, line].cpu().double().numpy(), cmap=colours, norm=scale, aspect="auto")
        axes.set_xlim(-0.5, longest - 0.5)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        name_columns(axes, shown, 9)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=list(lines), shrink=0.9, aspect=12)
    bar.set_label(unit, fontsize=8)
    return as_written(figure)


_TOKENS_IN_A_LINE = 30
_LONGEST_LAYER = 36  # characters
_WIDEST = 10.5  # inches, of panels in a row
_DOT = "#1f77d6"
_OF_LAYERS = (
    "colour: effect, of the layer's largest; ▲ it raises, ▼ lowers the output; pale: not significant (5 %)\n"
    "number: T-TCAV score (none: no gradient); p: the concept's, of all layers (Holm)"
)


def written_p(p: float) -> str:
    """A p-value as figures have it: ``"p = .012"``."""
    return "undefined" if math.isnan(p) else "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".")
