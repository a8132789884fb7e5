"""The parts of a prompt that a response may come from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from captum_attn.core import warn_user
from captum_attn.generation.prompts import Prompt, Span

Sources = Literal["sentences", "paragraphs", "messages"] | Sequence[str] | Sequence[Span]
"""How a prompt is parted into sources; :func:`find_sources` says how."""

_ABBREVIATED = "".join(rf"(?<!\b{word})" for word in ("Mr", "Mrs", "Ms", "Dr", "Prof", "St", "vs", r"[^\W\d_]"))
_PARTS = {
    "paragraphs": re.compile(r"\S(?:[^\n]|\n(?![^\S\n]*\n))*"),
    "sentences": re.compile(
        rf"(?:\d+[.)] +)?\S[^\n]*?(?:(?:{_ABBREVIATED}\.|[!?…؟।])[\"'”’)\]]*(?=\s|\Z)|[。！？]|(?=\n)|\Z)"
    ),
}


@dataclass(frozen=True)
class Source:
    """A part of a prompt.

    Attributes:
        text: as it stands there.
        span: where, from and to.
    """

    text: str
    span: Span


def find_sources(prompt: Prompt, sources: Sources, question: str | None = None) -> list[Source]:
    """The sources in a prompt, in the order in which they stand there, or are given.

    Args:
        prompt: as the model reads it.
        sources: ``"messages"``, ``"paragraphs"`` (parted by empty lines) or ``"sentences"`` (parted by line breaks, and
            after . ! ? … and their like before a space, but not after an item's number, single letters as in "e.g." and
            initials, nor Mr. Mrs. Ms. Dr. Prof. St. vs.) of what was given; texts that stand in the prompt; or spans,
            from and to, of the ``text`` that :func:`captum_attn.generation.read_prompt` tells. Each image is a source,
            and of messages that have parts, each part is one.
        question: what is asked: where it stands in parts that this function finds, these are no sources. Default: the
            last part, if there are several. ``""``: nothing is.

    Raises:
        TypeError: other sources.
        ValueError: none; texts that stand nowhere in the prompt, or more than once; spans that are empty, overlap, or
            lie outside of it; a question that is nowhere.
    """
    if isinstance(sources, str):
        spans = _without_question(_parts(prompt, sources), prompt, question)
    elif not isinstance(sources, Sequence):
        raise _unknown_sources(sources)
    elif sources and all(isinstance(one, str) for one in sources):
        spans = [_only_place(str(one), prompt.text) for one in sources]
    else:
        spans = [_checked_span(one, prompt.text) for one in sources]
    if not spans:
        raise ValueError("there are no sources in the prompt")
    for first, second in pairwise(sorted(spans)):
        if second[0] < first[1]:
            raise ValueError(
                f"the sources {first} and {second} overlap at {_quoted(prompt.text[second[0] : first[1]])}: give each "
                "part of the prompt to one"
            )
    return [Source(_named(prompt, span), span) for span in spans]


def _named(prompt: Prompt, span: Span) -> str:
    """A source's text; of an image, its number."""
    of_images = [_trimmed(image, prompt.text) for image in prompt.image_spans]
    if _trimmed(span, prompt.text) not in of_images:
        return prompt.text[slice(*span)]
    return f"image {of_images.index(_trimmed(span, prompt.text)) + 1}" if len(of_images) > 1 else "image"


def source_of_each(prompt: Prompt, sources: Sequence[Source]) -> list[int]:
    """The number of the source in which most of each token stands; -1 for none."""

    def of(place: Span) -> int:
        shared = [min(place[1], end) - max(place[0], start) for start, end in (source.span for source in sources)]
        best = max(range(len(shared)), key=shared.__getitem__)
        return best if shared[best] > 0 else -1

    trimmed = ((place, _trimmed(place, prompt.text)) for place in prompt.offsets)
    return [of(inner if inner[0] < inner[1] else place) for place, inner in trimmed]


def _parts(prompt: Prompt, kind: str) -> list[Span]:
    if kind not in ("messages", *_PARTS):
        raise ValueError(f"sources must be 'sentences', 'paragraphs', 'messages', texts or spans, got {kind!r}")
    spans: list[Span] = []
    for content in prompt.contents:
        if kind == "messages" or content in prompt.image_spans:
            spans.append(content)
        else:
            spans += [match.span() for match in _PARTS[kind].finditer(prompt.text, *content)]
    return [_trimmed(span, prompt.text) for span in spans if prompt.text[slice(*span)].strip()]


def _without_question(spans: list[Span], prompt: Prompt, question: str | None) -> list[Span]:
    text = prompt.text
    if question is None:
        of_images = [_trimmed(image, text) for image in prompt.image_spans]
        return spans if spans and spans[-1] in of_images else _without_last(spans, text)
    if not question:
        return spans
    start, end = _only_place(question, text)
    return [span for span in spans if span[1] <= start or end <= span[0]]


def _without_last(spans: list[Span], text: str) -> list[Span]:
    """Without the question, which is the last part if there are several; a warning where it may be something else."""
    if len(spans) < 2:
        return spans
    last = text[slice(*spans[-1])]
    if not re.search("[?？؟]", last) or len(_PARTS["sentences"].findall(last)) > 1:
        warn_user(
            f"the last part of the prompt, {_quoted(last)}, is taken for the question, and so is no source. If it is "
            "something else, or more: give question=, or question='' where all parts are sources"
        )
    return spans[:-1]


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:59]}…")


def _only_place(part: str, text: str) -> Span:
    part = part.strip()
    start = text.find(part) if part else -1
    if start < 0 or text.find(part, start + 1) >= 0:
        where = "stands nowhere in the prompt" if start < 0 else "stands in it more than once"
        raise ValueError(
            f"the text {_quoted(part)} {where}: of sources, spans can be given, (from, to) in the prompt's text"
        )
    return start, start + len(part)


def _unknown_sources(given: object) -> TypeError:
    return TypeError(
        "sources must be 'sentences', 'paragraphs', 'messages', a list of texts, or a list of spans (from, to), got "
        f"{given!r}"
    )


def _checked_span(span: object, text: str) -> Span:
    if not isinstance(span, tuple | list) or len(span) != 2 or not all(type(place) is int for place in span):
        raise _unknown_sources(span)
    start, end = span
    if not 0 <= start < end <= len(text) or not text[start:end].strip():
        raise ValueError(f"the source {span} is empty, or lies outside of the prompt's {len(text)} characters")
    return start, end


def _trimmed(span: Span, text: str) -> Span:
    """Without the spaces around it."""
    part = text[slice(*span)]
    return span[0] + len(part) - len(part.lstrip()), span[1] - len(part) + len(part.rstrip())
