"""What T-TCAV found, on a page and in words."""

from __future__ import annotations

from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from captum_attn.concepts import ConceptScores
from captum_attn.pages import figure_html, page, table_html, write_page

ANSWERS = ["concept", "significant", "effect", "p", "p_holm", "layer", "score", "layers", "predicted", "near", "note"]
"""Columns of ``ConceptScores.concepts()`` that are shown."""

SHOWN = ["concept", "layer", "effect", "p", "p_holm", "significant", "score", "score_std", "accuracy", "cosine", "note"]
"""Columns of ``ConceptScores.table()`` that are shown."""


class Page:
    """What is found, printed and written to a page as it comes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._parts = folder, ["<h1>T-TCAV</h1>"]

    def title(self, text: str, note: str = "") -> None:
        print(f"\n{text}\n{'-' * len(text)}\n{note}")
        self._parts.append(f"<h2>{escape(text)}</h2><p class='note'>{escape(note)}</p>")

    def say(self, text: str) -> None:
        print(text)
        self._parts.append(f"<p>{escape(text)}</p>")

    def table(self, table: pd.DataFrame) -> None:
        print(table.to_string(index=False, float_format="%.3f"))
        self._parts.append(table_html(table))

    def figure(self, name: str, figure: Figure) -> None:
        self._parts.append(figure_html(figure, name))

    def write(self) -> None:
        file = write_page(page("T-TCAV", "\n".join(self._parts)), self.folder / "index.html")
        print(f"\nWrote {file}")


def verdict(scores: ConceptScores) -> str:
    """The concepts that are significant, with the signs of their effects, and in how many layers they are so."""
    found = scores.concepts().query("significant")
    rows = zip(found.concept, found.effect, found.layers, strict=True)
    return (
        ", ".join(f"{'+' if effect > 0 else '-'} {concept} in {layers}" for concept, effect, layers in rows) or "none"
    )
