"""A bar for each token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from captum_attn.drawing.figures import LOWERS, RAISES, ShownFigure, as_written, hex_colour, new_figure, wrapped
from captum_attn.formatting import shorten

_MOST_BARS = 40
_LONGEST = 28  # characters of a token beside its bar


def plot_tokens(tokens: Sequence[str], values: Tensor, title: str = "", label: str = "attributed value") -> ShownFigure:
    """A bar for each token, in reading order from top to bottom; of long texts, for the 40 strongest tokens.

    Args:
        tokens: N strings.
        values: their attributions (N,).
        title: above the axes.
        label: what the values are, below them.

    Returns:
        A matplotlib figure that belongs to no window; ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: not one value for each token.

    Example:
        >>> plot_tokens(["not", "good"], torch.tensor([-0.2, 0.1]), "positive").savefig("tokens.png")
    """
    values = checked_values(tokens, values)
    figure = new_figure(6.4, bars_height(len(tokens), title))
    draw_tokens(figure.add_subplot(), tokens, values, title, label)
    return as_written(figure)


def draw_tokens(axes: Axes, tokens: Sequence[str], values: Tensor, title: str, label: str) -> None:
    """What :func:`plot_tokens` shows, on some axes."""
    shown = sorted(values.abs().topk(min(len(tokens), _MOST_BARS)).indices.tolist())
    heights = [float(values[index]) for index in shown]
    bars = axes.barh(range(len(shown)), heights, color=[hex_colour(RAISES if h >= 0 else LOWERS) for h in heights])
    axes.bar_label(bars, fmt="%+.2g", padding=3, fontsize=8)
    axes.set_yticks(range(len(shown)), [shorten(tokens[index], _LONGEST) for index in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.margins(x=0.15)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if len(shown) < len(tokens):
        axes.set_ylabel(f"the {len(shown)} strongest of {len(tokens)} tokens")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(label)
    axes.set_title(wrapped(title), fontsize=10, loc="left")


def bars_height(count: int, title: str = "") -> float:
    """How many inches so many bars take, with their title."""
    return 1.1 + 0.27 * min(count, _MOST_BARS) + 0.17 * wrapped(title).count("\n")


def checked_values(tokens: Sequence[str], values: Tensor | Sequence[float]) -> Tensor:
    """The values as a tensor (N,) on the CPU; ``ValueError`` unless there is a finite one for each token."""
    checked = torch.as_tensor(values).detach().cpu().double()
    if checked.shape != (len(tokens),) or not checked.isfinite().all():
        raise ValueError(
            f"expected one finite value for each of the {len(tokens)} tokens, got shape {tuple(checked.shape)}"
        )
    return checked
