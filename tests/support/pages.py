"""Pages: what they hold, and a browser that shows them."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

_OWN = ("file:", "data:")


def views_of(html: str) -> list[dict[str, Any]]:
    """What the page's script shows."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html)
    views: list[dict[str, Any]] = json.loads(text)["views"]
    return views


def assert_self_contained(html: str) -> None:
    """Nothing is fetched, no script runs but ours, and no attribute styles or acts."""
    tags = Tags(html)
    assert "http:" not in html.replace("http-equiv", "")
    assert "https:" not in html
    names = {name for name, _ in tags.attributes}
    assert not names & {"href", "action", "srcset", "style"}
    assert not any(name.startswith("on") for name in names)
    assert all(value.startswith("data:image/png;base64,") for name, value in tags.attributes if name == "src")
    assert tags.tags.count("script") == 2
    assert "url(" not in html
    assert "@import" not in html


def pictures_of(html: str) -> dict[str, Image.Image]:
    """The pictures that a page holds, by their names."""
    found = re.findall(r"<img src='data:image/png;base64,([^']*)' alt='([^']*)'", html)
    return {name: Image.open(BytesIO(base64.b64decode(data))) for data, name in found}


class Tags(HTMLParser):
    """The tags, attributes and texts of a page, whose tags must be balanced."""

    VOID = ("meta", "img", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, Any]] = []
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def chromium() -> str | None:
    """Where a browser is: as ``CHROMIUM`` says, or on the path."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def shown(html: str, folder: Path, width: int = 1000) -> Iterator[Any]:
    """The page in a browser; afterwards, nothing must have gone wrong in it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if chromium() is None:
        pytest.skip("there is no browser: .ci/browser fetches one")
    file = folder / "page.html"
    file.write_text(html, encoding="utf-8")
    problems: list[str] = []
    with playwright.sync_playwright() as running:
        arguments = ["--no-sandbox", "--disable-gpu", "--single-process", "--no-zygote"]
        browser = running.chromium.launch(executable_path=chromium(), args=arguments)
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.extend([request.url] * (not request.url.startswith(_OWN))))
        page.goto(file.as_uri())
        yield page
        browser.close()
    assert problems == []
