"""The segments of a text that an explanation shows, and which of them shows each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import regex

Array = npt.NDArray[Any]


class Segments(NamedTuple):
    """T segments of a text, and for each of its N tokens the number of the one that shows it; -1 if none does."""

    texts: list[str]
    places: list[int]

    def sums(self, values: Array) -> Array:
        """Sums (T, ...) over the tokens (N, ...) of each segment.

        Example:
            >>> import numpy as np
            >>> Segments(["un", "likely"], [0, 1, 1, -1]).sums(np.array([1.0, 2.0, 3.0, 4.0]))
            array([1., 5.])
        """
        places = np.array(self.places, dtype=int)
        sums = np.zeros((len(self.texts), *values.shape[1:]))
        np.add.at(sums, places[places >= 0], values[places >= 0])
        return sums


def joined(parts: Sequence[Segments]) -> Segments:
    """The segments of a text from those of its parts, in order.

    Example:
        >>> joined([Segments(["[CLS]"], [0]), Segments(["so", " dull"], [0, 1, 1])])
        Segments(texts=['[CLS]', 'so', ' dull'], places=[0, 1, 2, 2])
    """
    texts: list[str] = []
    places: list[int] = []
    for part in parts:
        places += [place if place < 0 else len(texts) + place for place in part.places]
        texts += part.texts
    return Segments(texts, places)


def segment_starts(text: str, spans: Sequence[tuple[int, int]], *, words: bool = False) -> tuple[list[int], list[int]]:
    """Cut a text into segments, one for each token, or for all tokens that share a character or a word.

    Args:
        text: the text.
        spans: where each token starts and ends in it.
        words: whether the tokens of a word share a segment. A word is what Unicode's text segmentation takes for one.

    Returns:
        Where each segment starts (the first one at 0), and for each token the number of its segment.

    Example:
        >>> segment_starts("so unlikely !", [(0, 2), (3, 5), (5, 11), (12, 13)])
        ([0, 3, 5, 12], [0, 1, 2, 3])
        >>> segment_starts("so unlikely !", [(0, 2), (3, 5), (5, 11), (12, 13)], words=True)
        ([0, 3, 12], [0, 1, 1, 2])
    """
    starts, covered = [0], 0
    places: list[int] = []
    boundaries = word_boundaries(text) if words else None
    for start, end in spans:
        fresh = covered <= start < end and bool(places)
        if boundaries is not None:  # white space alone is no word, it goes with the next one
            fresh = fresh and start in boundaries and bool(text[starts[-1] : start].strip())
        if fresh:
            starts.append(start)
        places.append(len(starts) - 1)
        covered = max(covered, end)
    return starts, places


def word_boundaries(text: str) -> set[int]:
    """Where words start and end in a text, by Unicode's text segmentation (UAX 29).

    Example:
        >>> sorted(word_boundaries("don't go"))
        [0, 5, 6, 8]
    """
    return {match.start() for match in regex.finditer(r"(?w)\b", text)}
