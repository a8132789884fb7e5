"""One file that a browser shows: markup, style, script, pictures and data, and nothing that is fetched."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from io import BytesIO
from numbers import Integral, Real
from typing import Any

import numpy as np

from captum_attn.formatting import number

_PIXELS = 96  # of a page, in an inch
_WORDS = 28  # characters, from which on a cell is a text that may be broken
_HASHED = "'sha256-{}'"


def page(title: str, body: str, views: Sequence[Mapping[str, Any]] = (), *, wide: bool = False) -> str:
    """A page as HTML.

    A content security policy lets it run our script and no other, and fetch nothing.

    Args:
        title: shown in the browser's tab; escaped here.
        body: markup, in which what is not ours is escaped, without ``style`` attributes, which the policy forbids: the
            script colours what has ``data-shade`` (-1 to 1), and draws a meter in what has ``data-share`` (``"30%"``).
        views: what the script shows, each with its ``kind``, as JSON says it; no text in it can end the element.
        wide: whether it takes much room.

    Example:
        >>> "<script>alert(1)" in page("a", "", [{"kind": "response", "text": "</script><script>alert(1)</script>"}])
        False
    """
    style, code = _part("page.css"), _part("page.js")
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src {_hashed(style)}; "
        f"script-src {_hashed(code)}"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style></head>\n"
        f"<body class='{'wide' if wide else ''}'>\n{body}\n"
        f'<script type="application/json" id="data">{_as_json({"views": list(views)})}</script>\n'
        f"<script>{code}</script>\n</body></html>\n"
    )


def in_notebook(html: str, height: int = 640) -> str:
    """A page in a frame of its own, as a notebook shows it."""
    return (
        f'<iframe sandbox="allow-scripts" style="width: 100%; height: {height}px; border: 0" '
        f'srcdoc="{escape(html)}"></iframe>'
    )


def as_source(png: bytes) -> str:
    """A picture as an ``img`` tag names it, so that the page holds it itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def pixels_as_png(pixels: Any, **options: Any) -> bytes:
    """An array (h, w) or (h, w, 3), a pixel for each entry, with options of ``matplotlib.image.imsave``."""
    from matplotlib.image import imsave

    buffer = BytesIO()
    imsave(buffer, pixels, format="png", **options)
    return buffer.getvalue()


def opening(title: str, note: str, cautions: Sequence[str] = ()) -> str:
    """The beginning of a page, all of it escaped here: a title, what is to be seen, and what to be careful about."""
    items = "".join(f"<li>{escape(caution)}</li>" for caution in cautions)
    listed = f"<ul class='cautions'>{items}</ul>" if cautions else ""
    return f"<h1>{escape(title)}</h1><p class='note'>{escape(note)}</p>{listed}"


def figure_html(figure: Any, caption: str = "") -> str:
    """A matplotlib figure as a part of a page, in its own size or as wide as the page; the caption is escaped here."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    name = escape(caption)
    below = f"<figcaption>{name}</figcaption>" if caption else ""
    width = round(_PIXELS * figure.get_figwidth())
    return f"<figure><img src='{as_source(buffer.getvalue())}' alt='{name}' width='{width}'>{below}</figure>"


def table_html(frame: Any, digits: int = 3) -> str:
    """A data frame as a part of a page, every text in it escaped: a row for each of its own, named by its first column.

    Args:
        frame: its index is not shown.
        digits: of numbers that are not whole.

    Example:
        >>> import pandas as pd
        >>> "<th scope='row'>&lt;b&gt;</th><td>−0.50</td><td>yes</td>" in table_html(
        ...     pd.DataFrame({"name": ["<b>"], "value": [-0.5], "sure": [True]}), digits=2
        ... )
        True
    """
    columns = [[_cell(value, digits) for value in frame.iloc[:, place]] for place in range(frame.shape[1])]
    kinds = [" class='words'" if max(map(len, column), default=0) > _WORDS else "" for column in columns]
    head = "".join(f"<th scope='col'{kind}>{_name(name)}</th>" for name, kind in zip(frame, kinds, strict=True))
    rows = []
    for first, *others in zip(*columns, strict=True):
        cells = "".join(f"<td{kind}>{escape(text)}</td>" for text, kind in zip(others, kinds[1:], strict=True))
        rows.append(f"<tr><th scope='row'{kinds[0]}>{escape(first)}</th>{cells}</tr>")
    body = "\n".join(rows)
    return (
        f"<div class='scroll'><table class='rows'><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _name(column: Any) -> str:
    return escape(str(column).replace("_", " "))


def _cell(value: Any, digits: int) -> str:
    """A value as a table has it."""
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return str(value) if isinstance(value, Integral) or not isinstance(value, Real) else number(float(value), digits)


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    return _HASHED.format(base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())


def _as_json(data: Any) -> str:
    """JSON without characters that mean something in HTML."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
