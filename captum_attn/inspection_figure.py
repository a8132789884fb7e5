"""The figure of an inspection: how far the gradient of each attention call is off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from captum_attn.drawing import ShownFigure, as_written, new_figure, short_name, width_of

if TYPE_CHECKING:
    import pandas as pd

_ACROSS = 4.3  # inches, of bars and their notes
_OFF, _FINE = "#b45309", "#4b7f9f"


def gradients_by_call(calls: pd.DataFrame, tolerance: float, title: str) -> ShownFigure:
    """A bar for each attention call whose gradient was checked; a note at each.

    Args:
        calls: ``number``, ``module``, ``error`` (NaN where nothing was found), ``note``.
        tolerance: from which error on a gradient is wrong.
        title: above the axes.
    """
    names = [short_name(f"{call.module or '(no module)'}, {call.number}") for call in calls.itertuples()]
    lengths = (100 * calls.error.astype(float).fillna(0)).tolist()
    notes = [short_name(note) for note in calls.note]
    figure = new_figure(_ACROSS + 0.3 + width_of(names, 8), 0.9 + 0.24 * max(len(names), 2), title)
    axes = figure.add_subplot()
    colours = [_OFF if length > 100 * tolerance else _FINE for length in lengths]
    bars = axes.barh(range(len(names)), lengths, color=colours, height=0.7)
    axes.bar_label(bars, notes, padding=3, fontsize=7, color="#555")
    axes.axvline(100 * tolerance, color=_OFF, linestyle="--", linewidth=1, zorder=0)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, max([100 * tolerance, *lengths]) * _ACROSS / (_ACROSS - width_of(notes, 7) - 0.3))
    axes.set_xlabel("gradient off by, in % of its size (dashed: too much)")
    axes.spines[["top", "right"]].set_visible(False)
    return as_written(figure)
