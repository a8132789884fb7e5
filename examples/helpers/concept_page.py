"""What T-TCAV found, on a page and in words."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from captum_attn.concepts import ConceptScores

ANSWERS = ["concept", "significant", "effect", "p", "p_holm", "layer", "score", "layers", "predicted", "near", "note"]
"""Columns of ``ConceptScores.concepts()`` that are shown."""

SHOWN = ["concept", "layer", "effect", "p", "p_holm", "significant", "score", "score_std", "accuracy", "cosine", "note"]
"""Columns of ``ConceptScores.table()`` that are shown."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 3rem auto; padding: 0 1.5rem; color: #222 }
h2 { font-size: 1.15rem; margin: 3rem 0 .3rem } img { max-width: 100% } .note { color: #555 }
table { border-collapse: collapse; font-size: 13px } td, th { padding: .15rem .6rem; text-align: right }
"""


class Page:
    """What is found, printed and written to a page as it comes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._parts = folder, [f"<style>{STYLE}</style><h1>T-TCAV</h1>"]
        folder.mkdir(parents=True, exist_ok=True)

    def title(self, text: str, note: str = "") -> None:
        print(f"\n{text}\n{'-' * len(text)}\n{note}")
        self._parts.append(f"<h2>{text}</h2><p class='note'>{note}</p>")

    def say(self, text: str) -> None:
        print(text)
        self._parts.append(f"<p>{text}</p>")

    def table(self, table: pd.DataFrame) -> None:
        print(table.to_string(index=False, float_format="%.3f"))
        self._parts.append(table.to_html(index=False, float_format="%.3f", border=0))

    def figure(self, name: str, figure: Figure) -> None:
        figure.savefig(self.folder / f"{name}.png", dpi=130)
        self._parts.append(f"<img src='{name}.png' alt='{name}'>")

    def write(self) -> None:
        document = "<!doctype html>\n<html lang='en'><meta charset='utf-8'><title>T-TCAV</title>"
        (self.folder / "index.html").write_text(document + "\n".join(self._parts) + "</html>\n", encoding="utf-8")
        print(f"\nWrote {self.folder / 'index.html'}")


def verdict(scores: ConceptScores) -> str:
    """The concepts that are significant, with the signs of their effects, and in how many layers they are so."""
    found = scores.concepts().query("significant")
    rows = zip(found.concept, found.effect, found.layers, strict=True)
    return (
        ", ".join(f"{'+' if effect > 0 else '-'} {concept} in {layers}" for concept, effect, layers in rows) or "none"
    )
