"""A bar for each token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from captum_attn.drawing.figures import (
    LOWERS,
    RAISES,
    ShownFigure,
    as_written,
    hex_colour,
    inches_across,
    new_figure,
    title_height,
    write_title,
)
from captum_attn.drawing.text_sizes import height_of, short_name, width_of, wrapped

_MOST_BARS = 40
_LONGEST = 28  # letters of a token beside its bar
_LONGEST_BELOW = 18  # and below a column
_SLANT = 60  # degrees
WIDTH = 7.2
"""Of a figure of one input, in inches."""


def plot_tokens(
    tokens: Sequence[str],
    values: Tensor,
    title: str = "",
    label: str = "attributed value",
    *,
    longest: int = _LONGEST,
) -> ShownFigure:
    """A bar for each token, in reading order from top to bottom; of long texts, for the 40 strongest tokens.

    Args:
        tokens: N strings.
        values: their attributions (N,).
        title: above the axes.
        label: what the values are, below them.
        longest: how many letters of a token are shown; of a longer one, its beginning and its end.

    Returns:
        A matplotlib figure that belongs to no window; ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: not one value for each token.

    Example:
        >>> plot_tokens(["not", "good"], torch.tensor([-0.2, 0.1]), "positive").savefig("tokens.png")
    """
    values = checked_values(tokens, values)
    figure = new_figure(WIDTH, bars_height(len(tokens)), title)
    draw_tokens(figure, tokens, values, "", label, longest)
    return as_written(figure)


def draw_tokens(
    figure: Figure | SubFigure,
    tokens: Sequence[str],
    values: Tensor,
    title: str,
    label: str,
    longest: int = _LONGEST,
) -> None:
    """What :func:`plot_tokens` shows, on a figure or a part of one."""
    write_title(figure, title)
    axes = figure.add_subplot()
    shown = sorted(values.abs().topk(min(len(tokens), _MOST_BARS)).indices.tolist())
    heights = [float(values[index]) for index in shown]
    bars = axes.barh(range(len(shown)), heights, color=[hex_colour(RAISES if h >= 0 else LOWERS) for h in heights])
    axes.bar_label(bars, fmt="%+.2g", padding=3, fontsize=8)
    names = [short_name(tokens[index], longest) for index in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.margins(x=0.15)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if len(shown) < len(tokens):
        axes.set_ylabel(f"the {len(shown)} strongest of {len(tokens)} tokens")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(wrapped(label, inches_across(figure) - width_of(names) - 0.5))


def bars_height(count: int, title: str = "") -> float:
    """How many inches so many bars take, with their title."""
    return 0.9 + 0.27 * min(count, _MOST_BARS) + title_height(title, WIDTH)


def name_columns(axes: Axes, names: Sequence[str], size: float = 8, longest: int = _LONGEST_BELOW) -> None:
    """Tokens, or other names, below columns, slanted, so that they do not meet, and no longer than so many letters."""
    slanted: dict[str, Any] = {"rotation": _SLANT, "ha": "right", "rotation_mode": "anchor", "fontsize": size}
    axes.set_xticks(range(len(names)), [short_name(name, longest) for name in names], **slanted)


def names_height(names: Sequence[str], size: float = 8, longest: int = _LONGEST_BELOW) -> float:
    """How many inches the names of columns take."""
    radians, across = math.radians(_SLANT), width_of([short_name(name, longest) for name in names], size)
    return math.sin(radians) * across + math.cos(radians) * height_of("a", size) + 0.1


def checked_values(tokens: Sequence[str], values: Tensor | Sequence[float]) -> Tensor:
    """The values as a tensor (N,) on the CPU; ``ValueError`` unless there is a finite one for each token."""
    checked = torch.as_tensor(values).detach().cpu().double()
    if checked.shape != (len(tokens),) or not checked.isfinite().all():
        raise ValueError(
            f"expected one finite value for each of the {len(tokens)} tokens, got shape {tuple(checked.shape)}"
        )
    return checked
