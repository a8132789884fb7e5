"""What was found, in a terminal's colours."""

from __future__ import annotations

from unicodedata import category

from rich.console import Console
from rich.text import Text

from captum_attn.drawing import colours
from captum_attn.exploration import Exploration
from captum_attn.generation import ExplainedResponse


def print_explored(found: Exploration, title: str = "") -> None:
    """The tokens of each text on their colours, by the first method; of what is no text, what was predicted."""
    console = Console(soft_wrap=True)
    first = next(iter(found.results.values()))[0]
    result = first.words() if found.in_words else first
    for example, shown in enumerate(result.shown):
        console.print()
        said = f"{title}: {first.title(example)}" if title else first.title(example)
        console.print(Text(_printable(said), style="bold"))
        if shown.grid is not None:
            continue
        line = Text()
        values = result.shown_values(example)
        for piece, colour, plays in zip(shown.pieces, colours(values), shown.playing.tolist(), strict=True):
            if plays:
                line.append(_printable(piece), style=f"black on rgb({colour[0]},{colour[1]},{colour[2]})")
        console.print(line)


def print_answer(found: ExplainedResponse) -> None:
    """The answer, and the sources that it came from, most of all first."""
    console = Console(soft_wrap=True)
    console.print(Text(_printable(found.response.strip()), style="bold"))
    for row in found.top(3).itertuples():
        console.print(Text(_printable(f"{row.share:4.0%}  {' '.join(row.source.split())}")))


def _printable(text: str) -> str:
    """A text without what steers a terminal."""
    return "".join(one if one in "\n\t" or category(one) != "Cc" else "\N{REPLACEMENT CHARACTER}" for one in text)
