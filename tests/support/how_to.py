"""The blocks of ``captum_attn/EXTENDING.md``: how to write what is one's own."""

from __future__ import annotations

import ast
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "captum_attn" / "EXTENDING.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.M | re.S))


def blocks(text: str) -> str:
    """The Python code of a part of the page."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S))


@cache
def ran() -> dict[str, Any]:
    """The names that all blocks, run in order, define."""
    names: dict[str, Any] = {"__name__": "how_to_page"}
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        exec(compile(blocks(PAGE), "captum_attn/EXTENDING.md", "exec"), names)
    finally:
        os.chdir(before)
    return names


def body_lines(name: str) -> int:
    """How many lines a class or function of the page has in its body, its docstring included, blank lines left out."""
    code = blocks(PAGE)
    node = next(node for node in ast.parse(code).body if getattr(node, "name", None) == name)
    return len([line for line in ast.get_source_segment(code, node).splitlines()[1:] if line.strip()])
