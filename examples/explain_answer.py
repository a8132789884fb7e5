"""What in the documents made a language model write its answer?

    python examples/explain_answer.py
    python examples/explain_answer.py --model FOLDER_OR_HUB_NAME --documents report.txt notes.txt \\
        --question "Who signed the contract?" --sources paragraphs

Without arguments, a small decoder in ``examples/models`` answers a question from made-up facts, with no network. The
script prints the answer, how far each source contributed, from one pass over the answer, and what of it each of the
answer's words came from; and writes a page on which one can click the answer's words.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from helpers.small_models import ANSWER_MODEL
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers.utils.logging import disable_progress_bar

from captum_attn import GenerationAttention
from captum_attn.command.loading import load
from captum_attn.generation import ExplainedResponse
from captum_attn.visualization import colours

DOCUMENTS = [
    "The lighthouse of Dunmore was painted green. It was in the news last week.",
    "Ingrid works as a baker in Velmora. Everybody in town knows.",
    "Tobias sells lentils at the market. A neighbour told us so.",
    "The museum of Ashby is closed on Monday. It has long been so.",
]
QUESTION = "What colour was the lighthouse of Dunmore painted?"
SHOWN = 8


def main() -> None:
    disable_progress_bar()
    options = parse_arguments()
    documents = [path.read_text(encoding="utf-8").strip() for path in options.documents] or DOCUMENTS
    model, tokenizer = loaded(options.model)
    asked = f"Question: {options.question}"
    text = "\n\n".join([*documents, asked])
    prompt: Any = [{"role": "user", "content": text}] if tokenizer.chat_template else f"{text}\nAnswer:"
    sources: Any = documents if options.sources == "documents" else options.sources
    explainer = GenerationAttention(model, tokenizer)
    try:
        found = explainer.explain(
            prompt,
            options.response,
            sources=sources,
            question=asked,
            **({} if options.response else {"max_new_tokens": options.tokens, "do_sample": False}),
        )
    except ValueError as error:
        raise SystemExit(str(error)) from error
    console = Console()
    console.print(Text(options.question, style="bold"))
    console.print(by_probability(found))
    console.print(table_of(found))
    note = f"{found.share_outside:.0%} of what contributed is in no source: the question, the template, the answer"
    console.print(note, style="dim", highlight=False)
    page = found.to_html(options.out / "index.html")
    console.print(f"\nWrote {page}: click a word of the answer", soft_wrap=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ANSWER_MODEL), help="folder or hub name of a causal language model")
    parser.add_argument("--documents", type=Path, nargs="+", default=[], help="text files (default: made-up facts)")
    parser.add_argument("--question", help="what is asked about them")
    parser.add_argument("--response", help="an answer to explain (default: the model's own)")
    parser.add_argument(
        "--sources", choices=("sentences", "paragraphs", "documents"), default="sentences", help="default: %(default)s"
    )
    parser.add_argument("--tokens", type=int, default=64, help="the most tokens of an answer (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/answer"), help="where to write (default: %(default)s)")
    options = parser.parse_args()
    if options.documents and not options.question:
        parser.error("--documents needs --question, what is asked about them")
    for path in options.documents:
        if not path.is_file():
            parser.error(f"--documents {path}: there is no such file")
    options.question = options.question or QUESTION
    return options


def loaded(name: str) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    try:
        found = load(name)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if found.kind != "prompt":
        raise SystemExit(f"--model {name} is no causal language model, but {found.model.config.architectures}")
    return found.model, found.processor


def by_probability(found: ExplainedResponse) -> Text:
    """The answer; the darker a word, the surer the model was of it."""
    line = Text("→ ")
    for token, probability in zip(found.response_tokens, found.probabilities.tolist(), strict=True):
        line.append(token, style="bold" if probability > 0.9 else "" if probability > 0.5 else "dim")
    return line


def table_of(found: ExplainedResponse) -> Table:
    """The sources that contributed most, and which word of the answer each contributed most to."""
    table = Table("value", "share", "most to", "source", box=None, pad_edge=False)
    frame, of_sources = found.source_frame(), found.by_source(found.map)
    shades = colours(torch.tensor(frame.value.to_numpy()))
    for (number, row), (red, green, blue) in list(zip(frame.iterrows(), shades, strict=True))[:SHOWN]:
        word = word_of(found.response_tokens, int(of_sources[:, number].argmax()))
        text = " ".join(row.source.split())
        shown = text if len(text) <= 90 else f"{text[:89]}…"
        style = f"black on rgb({red},{green},{blue})"
        table.add_row(f"{row.value:+.3g}", f"{row.share:.0%}", Text(word), Text(shown, style=style))
    if len(frame) > SHOWN:
        table.add_row("", "", "", f"… and {len(frame) - SHOWN} more")
    return table


def word_of(tokens: Sequence[str], place: int) -> str:
    """The word that a token is part of."""
    starts = [number for number, token in enumerate(tokens) if number == 0 or token[:1].isspace()]
    first = max(number for number in starts if number <= place)
    last = min((number for number in starts if number > place), default=len(tokens))
    return "".join(tokens[first:last]).strip()


if __name__ == "__main__":
    main()
