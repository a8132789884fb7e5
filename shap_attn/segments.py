"""The segments of a text that an explanation shows, and which of them shows each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captum_attn.core import segment_starts, word_boundaries

__all__ = ["Segments", "joined", "segment_starts", "word_boundaries"]

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
