"""What is in the pages of this repository: Python blocks, links, anchors, and commands."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.main import get_command

from captum_attn.command import app

ROOT = Path(__file__).parents[2]
_OPTION = re.compile(r"(?<!\S)--[a-z][\w-]*")
_IN_HTML = re.compile(r"""(?:src|href)=["']([^"']+)""")
_ANCHOR_IN_HTML = re.compile(r"""(?:id|name)=["']([^"']+)""")


@dataclass(frozen=True)
class Block:
    """A Python block of a page, and what the page says that it prints, in a text block right below."""

    page: Path
    line: int
    code: str
    printed: str | None
    is_first: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Every page that git knows, or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted({ROOT / name for name in listed if (ROOT / name).exists()})


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> Iterator[Block]:
    fences = [(place, token) for place, token in enumerate(tokens(page)) if token.type == "fence"]
    ours = [(place, token) for place, token in fences if token.info == "python"]
    for place, token in ours:
        below = tokens(page)[place + 1 : place + 2]
        printed = below[0].content if below and below[0].type == "fence" and below[0].info == "text" else None
        yield Block(page, token.map[0] + 1, token.content, printed, token is ours[0][1])


def inlines(page: Path) -> Iterator[Token]:
    """The smallest parts of the page: words, code spans, links, images, HTML."""
    for token in tokens(page):
        yield from [token] if token.children is None else token.children


def links(page: Path) -> Iterator[str]:
    """Where links and images lead that stay in this repository."""
    for token in inlines(page):
        targets = [token.attrs[name] for name in ("href", "src") if name in token.attrs]
        if token.type.startswith("html"):
            targets = _IN_HTML.findall(token.content)
        yield from (target for target in targets if not urlsplit(str(target)).scheme)


def is_dead(page: Path, link: str) -> bool:
    """Whether a link leads to no file of ours, or to no heading of a page."""
    parts = urlsplit(link)
    file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not file.exists() or not file.is_relative_to(ROOT):
        return True
    return bool(parts.fragment) and file.suffix == ".md" and unquote(parts.fragment) not in anchors(file)


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings, and those written in HTML."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for before, token in zip(tokens(page), tokens(page)[1:], strict=False):
        if before.type == "heading_open":
            title = "".join(part.content for part in token.children or [] if part.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    for token in inlines(page):
        if token.type.startswith("html"):
            found.update(_ANCHOR_IN_HTML.findall(token.content))
    return found


def codes(page: Path) -> Iterator[str]:
    """All that is set as code, in lines of its own or within one."""
    for token in inlines(page):
        if token.type in ("fence", "code_block"):
            yield token.content.replace("\\\n", " ")
        elif token.type == "code_inline":
            yield token.content


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each script that the page runs, and the options that it gives it."""
    for code in codes(page):
        for script, rest in re.findall(r"python ([\w./-]+\.py)([^\n;&|#]*)", code):
            yield script, _OPTION.findall(rest)


@cache
def options_of_command() -> dict[str, set[str]]:
    """The options of ``captum-attn``, by what it is asked to do."""
    asked: Any = get_command(app)
    return {name: {flag for one in own.params for flag in one.opts} for name, own in asked.commands.items()}


def calls_of_command(page: Path) -> Iterator[tuple[str, list[str]]]:
    """What the page asks ``captum-attn`` to do, and the options that it gives it."""
    for code in codes(page):
        for asked, rest in re.findall(r"captum-attn ([\w]+)([^\n;&|#]*)", code):
            yield asked, _OPTION.findall(rest)


@cache
def options_of_script(script: Path) -> set[str]:
    """The options of a script, of helpers that read some for it, and of the command if it hands them on to it."""
    text = script.read_text(encoding="utf-8")
    imported = re.findall(r"^from helpers\.(\w+)", text, flags=re.M)
    helpers = [(ROOT / "examples" / "helpers" / f"{name}.py").read_text(encoding="utf-8") for name in imported]
    own = {option for one in (text, *helpers) for option in re.findall(r'"(--[a-z][\w-]*)"', one)}
    handed_on = options_of_command()["explain"] if "from captum_attn.command import app" in text else set()
    return {"--help", *own, *handed_on}


def files_named(page: Path) -> Iterator[str]:
    """Files of this repository that the page names in code, by their path from the root."""
    for code in codes(page):
        if re.fullmatch(r"(examples|tests|captum_attn|shap_attn|lightning_callbacks|\.github|\.ci)/[\w./-]*", code):
            yield code
