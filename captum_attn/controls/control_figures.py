"""Figures of the controls: distributions by layer, heads by layers, and two attentions side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from captum_attn.core import Grid, image_grid, patch_values
from captum_attn.drawing import (
    ShownFigure,
    as_written,
    diverging_colours,
    height_of,
    name_columns,
    names_height,
    new_figure,
    panel_size,
    width_of,
    wrapped,
)

_COLOURS = ("#1f77d6", "#d6273e", "#888888")
_MOST_TOKENS = 40


def boxes_by_layer(
    series: Mapping[str, Mapping[str, Any]],
    label: str,
    title: str,
    note: str,
    lines: Mapping[str, float] | None = None,
    above: Mapping[str, str] | None = None,
) -> ShownFigure:
    """Boxes of values: one place for each layer, and there one box for each series.

    Boxes span the quartiles, whiskers reach to the last value within 1.5 times their width, small dots lie beyond, and
    large dots are means.

    Args:
        series: of each name, values (n,) by layer; some must have any.
        label: of the values.
        title: above the axes.
        note: below the figure.
        lines: horizontal lines, by name.
        above: what is written above a layer.
    """
    series = {name: values for name, values in series.items() if values}
    places = list(dict.fromkeys(place for values in series.values() for place in values))
    if not places:
        raise ValueError("there is nothing to plot: in no example is the measure defined; see frame()")
    width = 0.7 / len(series)
    named = len(series) + len(lines or {}) > 1
    key = 0.6 + width_of([*series, *(lines or {})], 8) if named else 0
    size = (max(4.8, 1.2 + len(places) * (0.25 + 0.15 * len(series))) + key, 3.2 + 0.15 * bool(above))
    figure = new_figure(*size, title, note)
    axes = figure.add_subplot()
    for number, (name, values) in enumerate(series.items()):
        colour = _COLOURS[number]
        style = {"color": colour}
        centres = [places.index(place) + (number - (len(series) - 1) / 2) * width for place in values]
        axes.boxplot(
            list(values.values()),
            positions=centres,
            widths=0.8 * width,
            flierprops={"marker": ".", "markersize": 2, "markeredgecolor": colour, "alpha": 0.6},
            patch_artist=True,
            boxprops={"facecolor": colour, "alpha": 0.35, "edgecolor": colour},
            medianprops=style,
            whiskerprops=style,
            capprops=style,
        )
        axes.plot(centres, [part.mean() for part in values.values()], "o", color=colour, markersize=4, label=name)
    for number, (name, height) in enumerate((lines or {}).items()):
        axes.axhline(height, color="0.35", linewidth=1, linestyle=("--", ":")[number % 2], zorder=0, label=name)
    for place, text in (above or {}).items():
        axes.annotate(
            text,
            (places.index(place), 1),
            (0, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color="#555",
        )
    axes.set_xticks(range(len(places)), places)
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.set_xlabel("layer")
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    if named:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return as_written(figure)


def layers_by_heads(values: Mapping[str, pd.DataFrame], label: str, title: str) -> ShownFigure:
    """A map for each panel: layers from top to bottom, heads from left to right, a number in each cell."""
    rows, columns = next(iter(values.values())).shape
    high = max(float(np.nanmax(panel.abs())) for panel in values.values()) or 1.0
    signed = any((panel < 0).any(axis=None) for panel in values.values())
    digits = 2 if high >= 0.1 else 3
    scale: dict[str, Any] = {"cmap": "Blues", "vmin": 0, "vmax": high}
    if signed:
        scale = {"cmap": diverging_colours(), "vmin": -high, "vmax": high}
    size = (1.6 + len(values) * max(2.4, 0.42 * columns + 0.5), max(0.9 + 0.34 * rows, 2))
    figure = new_figure(*size, title)
    panels = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axes, (name, panel) in zip(panels, values.items(), strict=True):
        cells = panel.to_numpy(dtype=float)
        heat = axes.imshow(cells, aspect="auto", **scale)
        for row, column in np.ndindex(*cells.shape):
            dark = abs(cells[row, column]) > 0.6 * high
            text = f"{cells[row, column]:.{digits}f}".replace("0.", ".", 1)
            axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "#333")
        axes.set_xticks(range(columns), panel.columns, fontsize=8)
        axes.set_yticks(range(rows), panel.index, fontsize=8)
        axes.set_xlabel("head")
        axes.set_title(name, fontsize=9)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("layer")
    figure.colorbar(heat, ax=list(panels), label=f"mean {label}", shrink=0.9)
    return as_written(figure)


def two_attentions(own: Tensor, other: Tensor, tokens: Sequence[str], grid: Grid, title: str, note: str) -> ShownFigure:
    """A token's attention before and after, side by side: heads by tokens, or of images the mean over heads by patch.

    Args:
        own, other: (H, n).
        tokens: the n tokens; of more than 40, those that are attended to most are shown.
        grid: how an image is cut into patches.
        title: above the panels.
        note: below the figure.
    """
    return _two_maps(own, other, tokens, title, note) if grid is None else _two_images(own, other, grid, title, note)


def _two_maps(own: Tensor, other: Tensor, tokens: Sequence[str], title: str, note: str) -> ShownFigure:
    most = (own + other).mean(0).topk(min(len(tokens), _MOST_TOKENS)).indices.sort().values
    left_out = len(tokens) - len(most)
    high = float(max(own.max(), other.max()))
    names = [tokens[index] for index in most.tolist()]
    width = max(2.2, 0.22 * len(most))
    left_out_of = f" ({left_out} of {len(tokens)} tokens left out)" if left_out else ""
    height = 0.5 + max(0.2 * len(own), 1) + names_height(names, 7)
    figure = new_figure(1.6 + 2 * width, height, title, note)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name, values in zip(panels, ("the model's own", "counterfactual"), (own, other), strict=True):
        heat = axes.imshow(values[:, most].double().numpy(), cmap="Blues", vmin=0, vmax=high, aspect="auto")
        name_columns(axes, names, 7)
        axes.set_yticks(range(len(own)), range(len(own)), fontsize=7)
        axes.set_title(wrapped(name + left_out_of, width, 9), fontsize=9)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("head")
    figure.colorbar(heat, ax=list(panels), label="attention", shrink=0.9)
    return as_written(figure)


def _two_images(own: Tensor, other: Tensor, grid: Grid, title: str, note: str) -> ShownFigure:
    maps = [patch_values(values.mean(0), grid).double().numpy() for values in (own, other)]
    high = max(values.max() for values in maps)
    left, right, bottom, top = image_grid(grid).extent
    across, along = panel_size((int(bottom - top), int(right - left)), side=2.8)
    name = wrapped("the model's own, mean over heads", across, 9)
    figure = new_figure(max(2 * across + 1.3, 4.6), along + 0.3 + height_of(name, 9), title, note)
    panels = figure.subplots(1, 2)
    for axes, name, values in zip(panels, ("the model's own", "counterfactual"), maps, strict=True):
        heat = axes.imshow(values, cmap="Blues", vmin=0, vmax=high, extent=(left, right, bottom, top))
        axes.set_title(wrapped(f"{name}, mean over heads", across, 9), fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.colorbar(heat, ax=list(panels), label="attention", shrink=0.85)
    return as_written(figure)
