"""Names that matplotlib would read as mathematics, and what has to become of them in a figure."""

from __future__ import annotations

from collections.abc import Collection
from io import BytesIO

from matplotlib.figure import Figure
from matplotlib.text import Text

NAMES = ["$$", r"$\foo$", "$a_b$", r"\$", "US$ 5 $x$"]
"""An empty formula, an unknown command, a subscript, what is an escape elsewhere, and a formula among words."""


def assert_as_written(figure: Figure, names: Collection[str]) -> None:
    """The figure can be saved in every way, and shows texts that contain each of the names, literally."""
    for form in ("svg", "png"):
        figure.savefig(BytesIO(), format=form)
    shown = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_visible()]
    for name in names:
        assert any(name in text.get_text() for text in shown), name
        assert "$" not in name or not any(text.get_parse_math() for text in shown if name in text.get_text()), name
