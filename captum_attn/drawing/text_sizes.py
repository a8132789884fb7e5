"""How much room texts take in a figure, and how they are made to take less."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterable

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from captum_attn.formatting import shorten

_POINTS = 72  # in an inch
_LINE = 1.25  # of the size of its letters
_SPARE = 0.94  # of a line is filled, for letters are not of one width
_LONGEST_NAME = 40


def width_of(texts: Iterable[str], size: float = 10) -> float:
    """How many inches the widest of some texts takes, in letters of so many points.

    Example:
        >>> width_of(["a", "wide"]) == width_of(["wide\\nlines"]) > 0.3
        True
    """
    lines = [line for text in texts for line in text.split("\n")]
    return max((_points(line, size) for line in lines), default=0) / _POINTS


def height_of(text: str, size: float = 10) -> float:
    """How many inches its lines take, one below the other; none without a text."""
    return (text.count("\n") + 1) * _LINE * size / _POINTS if text else 0


def wrapped(text: str, inches: float, size: float = 10) -> str:
    """A text in as many lines as it takes, none of them wider; words are broken that are.

    Example:
        >>> print(wrapped("a title, longer than its figure is wide", 1.5))
        a title, longer than
        its figure is wide
    """
    return "\n".join(_wrapped(line, inches, size) for line in text.split("\n"))


def short_name(name: str, longest: int = _LONGEST_NAME) -> str:
    """The name of a row, a column or a line, none of its own lines longer than so many characters."""
    return "\n".join(shorten(line, longest) for line in name.split("\n"))


def _wrapped(line: str, inches: float, size: float) -> str:
    whole = _points(line, size) / _POINTS
    return line if whole <= inches else textwrap.fill(line, max(1, int(_SPARE * len(line) * inches / whole)))


def _points(line: str, size: float) -> float:
    with warnings.catch_warnings():  # of letters that no font has: whoever draws them says so
        warnings.simplefilter("ignore", UserWarning)
        width, _, _ = TextToPath().get_text_width_height_descent(line or " ", FontProperties(size=size), ismath=False)
    return float(width)
