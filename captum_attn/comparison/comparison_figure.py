"""The figure of a comparison: who agrees with whom, who is faithful, and one input as each method sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from captum_attn.bench import RANDOM
from captum_attn.comparison.compared_inputs import ComparedInput, Picture
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
    short_name,
    shown_pixels,
    title_height,
    width_of,
    wrapped,
    write_title,
)
from captum_attn.formatting import short
from captum_attn.metrics import CATALOGUE, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

AGREES, OPPOSES = "#0f766e", "#b45309"
"""Colours of τ = 1 and τ = -1; red and blue are for tokens."""

_BAR, _RANDOM_BAR = "#4b7f9f", "#999999"
_TOKENS_IN_A_LINE, _MOST_LINES = 26, 2
_LONGEST = 32  # characters of a method's name
_PLOTS, _MAPS = 6.6, 10.5  # inches: both plots of bars together; a row of maps


def clustered(matrix: pd.DataFrame) -> list[str]:
    """The names of a square table of τ, in an order in which those that agree stand together.

    Example:
        >>> import pandas as pd
        >>> tau = [[1, 0, 0.9], [0, 1, 0.1], [0.9, 0.1, 1]]
        >>> clustered(pd.DataFrame(tau, index=list("abc"), columns=list("abc")))
        ['b', 'c', 'a']
    """
    if len(matrix) < 3:
        return list(matrix.index)
    distance = 1 - matrix.fillna(0).to_numpy()
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    return [matrix.index[place] for place in leaves_list(tree)]


def comparison_figure(matrix: pd.DataFrame, table: pd.DataFrame, shown: ComparedInput, title: str) -> ShownFigure:
    """What :meth:`~captum_attn.comparison.Comparison.plot` documents.

    Args:
        matrix: τ of each two methods.
        table: a row for each method, as :meth:`~captum_attn.comparison.Comparison.table` has it.
        shown: one input, with each method's scores.
        title: what is said of it.
    """
    order = clustered(matrix)
    names = [short_name(method, _LONGEST) for method in order]
    square = 0.4 * max(len(order), 4)
    width = width_of(names) + square + _PLOTS
    if shown.picture is None:
        lines = min(_MOST_LINES, -(-len(shown.tokens) // _TOKENS_IN_A_LINE))
        below = lines * (0.2 + names_height(shown.tokens, 9) + 0.24 * len(order))
    else:
        columns, along, room = _maps(shown.picture, order)
        below = (along + room) * -(-(len(order) + 1) // columns)
    below += 0.6 + title_height(title, width)
    above = 0.8 + max(names_height(names, longest=_LONGEST), 0.6) + 0.34 * max(len(order), 4)
    figure = new_figure(width, above + below)
    top, bottom = figure.subfigures(2, 1, height_ratios=(above, below), squeeze=False)[:, 0]
    left, middle, right = top.subplots(1, 3, width_ratios=(square, _PLOTS / 2, _PLOTS / 2))
    _heat_map(left, matrix.loc[order, order])
    table = table.set_index("method").loc[order]
    _bars(middle, table, CATALOGUE["comprehensiveness"])
    _bars(right, table, CATALOGUE["sufficiency"])
    write_title(bottom, title)
    if shown.picture is None:
        _token_rows(bottom, shown, order)
    else:
        _patch_maps(bottom, shown, shown.picture, order)
    return as_written(figure)


def _heat_map(axes: Axes, matrix: pd.DataFrame) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("agreement", [OPPOSES, "#ffffff", AGREES]).with_extremes(bad="#e5e5e5")
    axes.imshow(matrix.to_numpy(), cmap=colours, vmin=-1, vmax=1, aspect="auto")
    for row, column in np.ndindex(*matrix.shape):
        value = matrix.iloc[row, column]
        colour = "white" if abs(value) > 0.6 else "#222"
        axes.text(column, row, short(value), ha="center", va="center", fontsize=7, color=colour)
    names = [short_name(name, _LONGEST) for name in matrix.index]
    axes.set_yticks(range(len(names)), names)
    name_columns(axes, names, longest=_LONGEST)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("agreement: Kendall's τ", fontsize=10, loc="left", x=0)


def _bars(axes: Axes, table: pd.DataFrame, of: Metric) -> None:
    """A bar for each method with its standard error; a dot for its reverse; a line at the level of random scores."""
    metric = of.name
    colours = [_RANDOM_BAR if method == RANDOM else _BAR for method in table.index]
    places = range(len(table))
    axes.barh(places, table[metric], xerr=table[f"{metric}_error"], color=colours, height=0.7, error_kw={"lw": 1})
    if f"{metric}_reversed" in table:
        axes.plot(table[f"{metric}_reversed"], places, "o", markerfacecolor="white", color="#222", markersize=4)
    axes.axvline(table.loc[RANDOM, metric], color=_RANDOM_BAR, linestyle="--", linewidth=1)
    axes.axvline(0, color="#222", linewidth=0.8)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    note = "hollow: reversed; " if f"{metric}_reversed" in table else ""
    axes.set_xlabel(f"{of.better}\n{note}dashed: random", fontsize=8)
    axes.set_title(metric, fontsize=10, loc="left")


def _token_rows(figure: SubFigure, shown: ComparedInput, order: Sequence[str]) -> None:
    """Methods by tokens, as many times as the text has lines."""
    values = np.stack([shown.relative(method).numpy() for method in order])
    starts = range(0, len(shown.tokens), _TOKENS_IN_A_LINE)[:_MOST_LINES]
    longest = min(len(shown.tokens), _TOKENS_IN_A_LINE)
    lines = figure.subplots(len(starts), 1, squeeze=False)[:, 0]
    for axes, start in zip(lines, starts, strict=True):
        line = slice(start, start + _TOKENS_IN_A_LINE)
        tokens = shown.tokens[line]
        axes.imshow(values[:, line], cmap=diverging_colours(), vmin=-1, vmax=1, aspect="auto")
        axes.set_xlim(-0.5, longest - 0.5)
        axes.set_yticks(range(len(order)), [short_name(method, _LONGEST) for method in order], fontsize=8)
        name_columns(axes, tokens, 9)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    hidden = len(shown.tokens) - len(starts) * _TOKENS_IN_A_LINE
    rest = f". {hidden} more tokens are not shown" if hidden > 0 else ""
    figure.supxlabel(f"{_LEGEND}{rest}", fontsize=8)


def _maps(picture: Picture, order: Sequence[str]) -> tuple[int, float, float]:
    """How many maps stand in a row, the height of one in inches, and of the longest name above it."""
    across, along = panel_size(picture.pixels.shape, side=1.2)
    columns = min(len(order) + 1, int(_MAPS / across))
    return columns, along, 0.2 + max(height_of(_above(method, across), 8) for method in order)


def _above(method: str, across: float) -> str:
    return wrapped(short_name(method, _LONGEST), across, 8)


def _patch_maps(figure: SubFigure, shown: ComparedInput, picture: Picture, order: Sequence[str]) -> None:
    """The image, and a map of its patches for each method."""
    columns, _, _ = _maps(picture, order)
    rows = -(-(len(order) + 1) // columns)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    _, height, width = picture.pixels.shape
    panels[0].imshow(shown_pixels(picture.pixels), cmap="gray", extent=(0, width, height, 0))
    panels[0].set_title("input", fontsize=8)
    for axes, method in zip(panels[1:], order, strict=False):
        patches = picture.patches(shown.relative(method))
        draw_patches(axes, patches, picture.pixels, picture.grid.extent, cmap=diverging_colours(), vmin=-1, vmax=1)
        axes.set_title(_above(method, panel_size((height, width), side=1.2)[0]), fontsize=8)
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_visible(axes is panels[0] or bool(axes.get_title()))
    figure.supxlabel(_LEGEND, fontsize=8)


_LEGEND = (
    "red speaks for the predicted class, blue against it, relative to each method's strongest token;\n"
    "methods without negative scores say how much, not which way"
)
