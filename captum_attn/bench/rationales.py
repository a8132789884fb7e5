"""What people chose in a text: the forms in which rationales come, and the tokens that they choose."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from torch import Tensor

from captum_attn.core import warn_user
from captum_attn.core.encoding import Encoded

Span = tuple[int, int]
Spans = list[Span]
SpansOfParts = tuple[Spans, ...]
"""The spans in a text, or in the first and the second text of a pair."""


@dataclass(frozen=True)
class GivenText:
    """A text, or a pair of texts.

    Attributes:
        parts: it, or both of them.
        words: where its words stand, if it was given as a list of words, for each part; else None.
    """

    parts: tuple[str, ...]
    words: SpansOfParts | None = None


def given_text(given: Any) -> GivenText | None:
    """A text, a list of its words, or a pair (a tuple) of either; None for anything else.

    Words are joined by spaces, so that the tokenizer sees a text as it saw them in training.

    Raises:
        ValueError: a list of longer texts instead of words.

    Example:
        >>> given_text(["a", "gripping", "film"])
        GivenText(parts=('a gripping film',), words=([(0, 1), (2, 10), (11, 15)],))
    """
    if isinstance(given, tuple) and len(given) != 2:
        return None
    parts = [_as_list(part) for part in (given if isinstance(given, tuple) else (given,))]
    if all(isinstance(part, str) for part in parts):
        return GivenText(tuple(map(str, parts)))
    if not all(isinstance(part, list) and part and all(isinstance(word, str) for word in part) for part in parts):
        return None
    for word in (word for part in parts for word in part):
        if len(word.split()) > 1:
            raise ValueError(
                f"a text that is given as a list of words holds {word!r}, which is more than a word: give a text as a "
                "string, and a pair of texts as a tuple, (text, second text)"
            )
    return GivenText(tuple(map(" ".join, parts)), tuple(map(_places, parts)))


def spans_of_rationales(given: Any, texts: Sequence[GivenText]) -> list[SpansOfParts]:
    """The spans that people chose in each text, from any form that :func:`captum_attn.metrics.evaluate` takes.

    Raises:
        TypeError: another form.
        ValueError: a mask of another number of words.
    """
    return [_spans(row, chosen, text) for row, (chosen, text) in enumerate(zip(given, texts, strict=True))]


def chosen_tokens(encoding: Any, row: int, spans: SpansOfParts) -> list[bool]:
    """Which tokens of a text, encoded with ``offset_mapping``, share a character with the spans."""
    return [
        source is not None
        and source < len(spans)
        and any(max(start, first) < min(stop, last) for first, last in spans[source])
        for (start, stop), source in zip(encoding["offset_mapping"][row], encoding.sequence_ids(row), strict=True)
    ]


def warn_of_lost_spans(
    rationales: Sequence[SpansOfParts], texts: Sequence[GivenText], encoded: Encoded, limit: int | None
) -> None:
    """Warn of rationales that lie outside their texts, or were cut with them, and say how many."""
    outside = [
        f"{span} in the {len(part)} characters of text {row}"
        for row, (spans, text) in enumerate(zip(rationales, texts, strict=True))
        for of_part, part in zip(spans, text.parts, strict=False)
        for span in [span for span in of_part if span[0] < 0 or span[1] > len(part)][:1]
    ]
    if outside:
        warn_user(
            f"the rationales of {len(outside)} of {len(texts)} texts lie outside of them, wholly or in part "
            f"({outside[0]}): what lies outside does not count"
        )
    chosen = {row: [sum(chosen_tokens(encoding, row, rationales[row])) for encoding in encoded] for row in encoded.cut}
    cut = {row: left for row, (before, left) in chosen.items() if left < before}
    if cut:
        warn_user(
            f"the rationales of {len(cut)} of {len(texts)} texts were cut with their texts at {limit} tokens, "
            f"{sum(not left for left in cut.values())} of them wholly: what was cut does not count; max_length= says "
            "how much is read, up to what the model reads"
        )


def _spans(row: int, given: Any, text: GivenText) -> SpansOfParts:
    try:
        if text.words is None:
            return ([_without_spaces(_span(span), text.parts[0]) for span in _as_list(given)],)
        masks = _masks(_as_list(given), len(text.words))
    except TypeError:
        form, shown = _CHARACTERS if text.words is None else _WORDS, repr(given)
        raise TypeError(
            f"expected rationales of such texts as {form}, and [] for none; got "
            f"{shown if len(shown) < 80 else shown[:77] + '...'} for text {row}"
        ) from None
    for mask, words in zip(masks, text.words, strict=False):
        if mask and len(mask) != len(words):
            raise ValueError(f"the rationale of text {row} marks {len(mask)} words, but the text has {len(words)}")
    return tuple(list(compress(words, mask)) for words, mask in zip(text.words, masks, strict=False))


_CHARACTERS = "character spans [(start, end), ...] (a mask of words needs texts that are lists of words)"
_WORDS = "masks with 0 or 1 for each word (of a pair, two of them, or that of the first text)"


def _masks(given: Any, parts: int) -> list[list[Any]]:
    """The mask of a text, or those of both; ``TypeError`` for anything else."""
    of_both = parts == 2 and len(given) == 2 and not any(map(_is_choice, given))
    masks = [_as_list(mask) for mask in (given if of_both else [given])]
    if not all(_is_choice(choice) for mask in masks for choice in mask):
        raise TypeError
    return masks


def _span(given: Any) -> Span:
    """A span as plain numbers; ``TypeError`` for anything else."""
    given = _as_list(given)
    if not isinstance(given, list | tuple) or len(given) != 2 or any(isinstance(end, bool | np.bool_) for end in given):
        raise TypeError
    start, stop = map(operator.index, given)
    if start >= stop:
        raise TypeError
    return start, stop


def _without_spaces(span: Span, text: str) -> Span:
    """The span without the spaces at its ends, which tokenizers take for a part of the next word, or the last one."""
    start, stop = span
    if start < 0 or stop > len(text):
        return span
    own = text[start:stop]
    start += len(own) - len(own.lstrip())
    return start, start + len(own.strip())


def _is_choice(given: Any) -> bool:
    return isinstance(given, bool | int | np.bool_ | np.integer) and int(given) in (0, 1)


def _as_list(given: Any) -> Any:
    return given.tolist() if isinstance(given, np.ndarray | Tensor) else given


def _places(words: Sequence[str]) -> Spans:
    """Where words stand that a space joins."""
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    return [(int(end) - len(word), int(end)) for word, end in zip(words, ends, strict=True)]
