"""Figures that a notebook shows by themselves, in the colours that mean the same everywhere."""

from __future__ import annotations

from io import BytesIO
from typing import TypeVar

import torch
from matplotlib.artist import Artist
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

from captum_attn.drawing.text_sizes import height_of, wrapped

Drawn = TypeVar("Drawn", bound=Artist)

RAISES = (214, 39, 62)
"""RGB of what raises the explained output."""

LOWERS = (31, 119, 214)
"""RGB of what lowers it."""


_TITLE, _NOTE = 10, 7  # points
_MARGIN = 0.2  # inches, on both sides together
_FEW_COLOURS = 1024


class ShownFigure(Figure):  # type: ignore[misc]
    """A figure that belongs to no window, and that a notebook shows without ``%matplotlib`` or pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return smaller(buffer.getvalue())


def smaller(png: bytes) -> bytes:
    """The same picture in fewer bytes: a third of them where 256 colours will do.

    Of lines, bars and letters they do: none is off by what can be seen. Photographs have more, and keep theirs.
    """
    picture = Image.open(BytesIO(png)).convert("RGBA")
    if picture.getextrema()[3] != (255, 255):  # something can be seen through
        return png
    drawn = picture.convert("RGB")
    if drawn.getcolors(_FEW_COLOURS):
        drawn = drawn.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    buffer = BytesIO()
    drawn.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def new_figure(width: float, height: float, title: str = "", note: str = "") -> ShownFigure:
    """An empty figure whose parts make room for each other, between its title and a note.

    Args:
        width, height: in inches; what title and note take comes on top.
        title: above, in as many lines as it takes.
        note: below, in small letters.

    Example:
        >>> new_figure(4, 3)._repr_png_()[1:4]
        b'PNG'
        >>> f"{new_figure(4, 3, 'a title, longer than its figure is wide, ' * 2).get_figheight():.1f}"  # two lines
        '3.4'
    """
    below = wrapped(note, width - _MARGIN, _NOTE)
    figure = ShownFigure(figsize=(width, height + title_height(title, width) + height_of(below, _NOTE)))
    figure.set_layout_engine("constrained")
    write_title(figure, title)
    if note:
        figure.supxlabel(below, fontsize=_NOTE, color="#444")
    return figure


def write_title(figure: Figure | SubFigure, title: str) -> None:
    """A title above a figure, or a part of one, from its left edge on, in as many lines as it takes."""
    if title:
        width = inches_across(figure)
        left = _MARGIN / 2 / width
        figure.suptitle(wrapped(title, width - _MARGIN, _TITLE), x=left, ha="left", fontsize=_TITLE)


def inches_across(figure: Figure | SubFigure) -> float:
    """How wide a figure is, or a part of one."""
    return float(figure.bbox.width / figure.dpi)


def title_height(title: str, width: float) -> float:
    """How many inches a title takes above a figure, or a part of one, of some width."""
    return height_of(wrapped(title, width - _MARGIN, _TITLE), _TITLE) + 0.08 * bool(title)


def colours(values: Tensor) -> list[tuple[int, int, int]]:
    """An RGB background for each value (N,): white at 0, full colour at the largest magnitude.

    Example:
        >>> colours(torch.tensor([1.0, 0.0]))
        [(214, 39, 62), (255, 255, 255)]
    """
    largest = values.abs().max().clamp(min=torch.finfo(values.dtype).tiny)
    return [_blend(float(value), float(value.abs() / largest)) for value in values]


def as_written(drawn: Drawn) -> Drawn:
    """A finished figure, or a part of one, that shows its texts as they are: ``$`` begins no formula of matplotlib's.

    Tokens, names and titles are anybody's. ``$$`` would fail when the figure is saved, and ``$a_b$`` lose its signs.
    Numbers of ticks are written later, and keep their form.

    Example:
        >>> from matplotlib.figure import Figure, SubFigure
        >>> figure = Figure()
        >>> text = figure.text(0, 0, "$$")
        >>> as_written(figure).savefig("dollars.png")
    """
    for text in drawn.findobj(Text):
        if isinstance(text, Text) and "$" in text.get_text():
            text.set_parse_math(False)
    return drawn


def diverging_colours() -> Colormap:
    """Matplotlib's form of the colours: from what lowers the output over white to what raises it."""
    return LinearSegmentedColormap.from_list("lowers-raises", [hex_colour(LOWERS), "#ffffff", hex_colour(RAISES)])


def scale_limit(values: Tensor) -> float:
    """The end of a scale around 0; 1 where there is nothing to show."""
    return float(values.abs().max()) or 1.0


def hex_colour(colour: tuple[int, int, int]) -> str:
    """A colour as web pages and matplotlib write it.

    Example:
        >>> hex_colour(RAISES)
        '#d6273e'
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _blend(value: float, strength: float) -> tuple[int, int, int]:
    red, green, blue = (round(255 + strength * (c - 255)) for c in (RAISES if value >= 0 else LOWERS))
    return red, green, blue
