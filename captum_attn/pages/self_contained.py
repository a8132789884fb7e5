"""One file that a browser shows: markup, style, script and data, and nothing that is fetched."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from typing import Any

_HASHED = "'sha256-{}'"


def page(title: str, body: str, script: str, data: Any) -> str:
    """A page as HTML.

    A content security policy lets it run this script and no other, and fetch nothing.

    Args:
        title: shown in the browser's tab; escaped here.
        body: markup, in which what is not ours is escaped.
        script: the name of a file of this package, which reads ``data`` by ``JSON.parse`` of the element ``#data``.
        data: what JSON can say; no text in it can end the element.

    Example:
        >>> "<script>alert(1)" in page("a", "", "response.js", {"text": "</script><script>alert(1)</script>"})
        False
    """
    style, code = _part("page.css"), _part(script)
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src {_hashed(style)}; "
        f"script-src {_hashed(code)}"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style></head>\n<body>\n{body}\n"
        f'<script type="application/json" id="data">{_as_json(data)}</script>\n'
        f"<script>{code}</script>\n</body></html>\n"
    )


def in_notebook(html: str, height: int = 640) -> str:
    """A page in a frame of its own, as a notebook shows it."""
    return (
        f'<iframe sandbox="allow-scripts" style="width: 100%; height: {height}px; border: 0" '
        f'srcdoc="{escape(html)}"></iframe>'
    )


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    return _HASHED.format(base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())


def _as_json(data: Any) -> str:
    """JSON without characters that mean something in HTML."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
