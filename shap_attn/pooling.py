"""From one row of tokens per text to one column per word of the vocabulary, for SHAP's global plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import shap

from shap_attn.segments import Segments, segment_starts

Array = npt.NDArray[Any]
_SPACE = "␣"


class _Words(NamedTuple):
    """What counts as the words of a text, nothing for an empty segment, and their values (n, ...)."""

    words: list[str]
    values: Array


def pool(
    explanation: shap.Explanation,
    *,
    words: bool = True,
    lowercase: bool = False,
    min_count: int = 1,
    top_k: int | None = None,
) -> shap.Explanation:
    """One value for each text and each word: what ``shap.plots.bar``, ``beeswarm``, ``heatmap`` and ``violin`` take.

    Args:
        explanation: of N texts; slice out a class first, ``explanation[:, :, "positive"]``, or pool all C at once.
        words: whether the pieces of a word are added up; else each segment is a feature of its own.
        lowercase: whether ``The`` and ``the`` are one word.
        min_count: leave out words of fewer occurrences in all texts.
        top_k: keep the words of the largest mean magnitude, over texts (and classes).

    Returns:
        Values (N, V) or (N, V, C), the sum over a word's occurrences in a text; ``data`` (N, V), how often it occurs;
        V ``feature_names``, the most frequent first, those of a tie in alphabetical order. Without ``min_count`` and
        ``top_k`` the values of a text sum to what they summed to before.

    Raises:
        TypeError: no explanation of texts.
        ValueError: one text alone, limits below 1, or limits that no word meets.

    Example:
        >>> texts = ["good , very good", "not good"]
        >>> dense = pool(AttentionExplainer(model, tokenizer, outputs="positive")(texts), min_count=2)
        >>> dense.feature_names, dense.data.tolist()
        (['good'], [[2.0], [1.0]])
        >>> shap.plots.bar(pool(AttentionExplainer(model, tokenizer)(texts))[:, :, "positive"], show=False).get_xlabel()
        'mean(|SHAP value|)'
    """
    rows = _values_of_texts(explanation)
    for name, limit in (("min_count", min_count), ("top_k", top_k)):
        if limit is not None and limit < 1:
            raise ValueError(f"{name} must be at least 1, got {limit}")
    texts = [_counted(list(map(str, text)), row, words) for text, row in zip(explanation.data, rows, strict=True)]
    if lowercase:
        texts = [text._replace(words=[word.lower() for word in text.words]) for text in texts]
    names = _vocabulary(texts, min_count)
    values, data = _in_columns(texts, names)
    if top_k is not None:
        strength = np.abs(values).mean(axis=(0, *range(2, values.ndim)))
        kept = np.sort(np.argsort(-strength, kind="stable")[:top_k])
        values, data, names = values[:, kept], data[:, kept], [names[index] for index in kept]
    return shap.Explanation(
        values, explanation.base_values, data, feature_names=names, output_names=explanation.output_names
    )


def _values_of_texts(explanation: Any) -> list[Array]:
    """The values (T,) or (T, C) of each text."""
    if not isinstance(explanation, shap.Explanation):
        raise TypeError(f"expected a shap.Explanation of texts, got {type(explanation).__name__}")
    data: Any = explanation.data if explanation.data is not None else [None]
    if isinstance(data[0], str):
        raise ValueError("this is one text alone: explain a list of texts, or slice with explanation[:1]")
    if not all(isinstance(segment, str) for segments in data for segment in np.ravel(segments)):
        raise TypeError("expected an explanation of texts, whose data are their segments; this one has other data")
    rows = [np.asarray(row, dtype=float) for row in explanation.values]
    if rows[0].ndim == 2 and np.ndim(explanation.output_names) != 1:
        raise ValueError("the texts have different classes: slice out one place first, e.g. explanation[:, :, 0]")
    return rows


def _counted(segments: list[str], values: Array, words: bool) -> _Words:
    if words:
        joined = "".join(segments)
        ends = list(accumulate(map(len, segments)))
        starts, places = segment_starts(joined, list(zip([0, *ends], ends, strict=False)), words=True)
        segments = [joined[start:end] for start, end in pairwise([*starts, len(joined)])]
        values = Segments(segments, places).sums(values)
    return _Words([segment.strip() or _SPACE * bool(segment) for segment in segments], values)


def _vocabulary(texts: Sequence[_Words], min_count: int) -> list[str]:
    """The words of all texts, the most frequent first; ``ValueError`` where none is frequent enough."""
    counts = Counter(word for text in texts for word in text.words if word)
    names = sorted((word for word in counts if counts[word] >= min_count), key=lambda word: (-counts[word], word))
    if not names:
        most = f"the most frequent is {counts.most_common(1)[0]}" if counts else "there are no words at all"
        raise ValueError(f"no word occurs min_count={min_count} times: {most}")
    return names


def _in_columns(texts: Sequence[_Words], names: Sequence[str]) -> tuple[Array, Array]:
    """The sums (N, V, ...) of each text's values, and the counts (N, V), of V words."""
    column = {name: index for index, name in enumerate(names)}
    sums = np.zeros((len(texts), len(names), *texts[0].values.shape[1:]))
    counts = np.zeros((len(texts), len(names)))
    for row, text in enumerate(texts):
        for word, value in zip(text.words, text.values, strict=True):
            if word in column:
                sums[row, column[word]] += value
                counts[row, column[word]] += 1
    return sums, counts
