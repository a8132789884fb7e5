"""Names on their way through SHAP's plots: told from SHAP's own labels, and shown as they are written.

SHAP hands names to matplotlib, which reads ``$`` as mathematics, among labels of its own, some of which are formulas.
So names get a mark that takes no room, and their dollars are escaped, as long as SHAP draws; then both are taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

_MARK = "\u2060\u200b\u2060"  # word joiners around a space of no width: no text has that


def marked(names: Any) -> Any:
    """A name, or lists or arrays of names, with marks; None stays None."""
    if names is None:
        return None
    if isinstance(names, str) or not hasattr(names, "__iter__"):
        return str(names).replace("$", r"\$") + _MARK
    return [marked(name) for name in names]


def is_marked(text: str) -> bool:
    """Whether there is a marked name, or the end of one, in a text."""
    return _MARK in text


def unmarked(text: str) -> str:
    """A text with its names as they were.

    Example:
        >>> unmarked("3 = " + marked("$a_b$"))
        '3 = $a_b$'
    """
    return text.replace(_MARK, "").replace(r"\$", "$") if is_marked(text) else text


def rewrite(every: Sequence[Axes], label: Callable[[str], str]) -> None:
    """Show names as they were, and pass all other texts through a function."""

    def written(text: str) -> str:
        return unmarked(text) if is_marked(text) else label(text)

    done: list[Any] = []  # twins share a formatter
    for axes in every:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            if isinstance(formatter, FuncFormatter) and formatter not in done:  # of tick labels that were set by hand
                done.append(FuncFormatter(lambda *tick, given=formatter: written(given(*tick))))
                axis.set_major_formatter(done[-1])
        for text in axes.findobj(Text):
            if is_marked(text.get_text()):
                text.set_parse_math(False)
            text.set_text(written(text.get_text()))
