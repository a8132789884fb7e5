"""One file that a browser shows: markup, style, script, pictures and data, and nothing that is fetched."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from io import BytesIO
from typing import Any

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


def figure_html(figure: Any, caption: str = "") -> str:
    """A matplotlib figure as a part of a page; the caption is escaped here."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    name = escape(caption)
    below = f"<figcaption>{name}</figcaption>" if caption else ""
    return f"<figure><img src='{as_source(buffer.getvalue())}' alt='{name}'>{below}</figure>"


def table_html(frame: Any, digits: int = 3) -> str:
    """A data frame as a part of a page, every text in it escaped; its index is not shown."""

    def written(value: float) -> str:
        return f"{value:.{digits}f}".replace("-", "−")

    table = frame.to_html(index=False, border=0, classes="rows", na_rep="–", float_format=written)
    return f"<div class='scroll'>{table}</div>"


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    return _HASHED.format(base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())


def _as_json(data: Any) -> str:
    """JSON without characters that mean something in HTML."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
