"""The data that explanations are evaluated on: texts, images or tensors, read in batches."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_attn.bench.rationales import GivenText, chosen_tokens, given_text, spans_of_rationales, warn_of_lost_spans
from captum_attn.core import (
    Grid,
    add_to_hash,
    class_number,
    device_of,
    encode,
    known_grid,
    length_limit,
    padded,
    parameter_names,
    special_token_ids,
)
from captum_attn.core.encoding import warn_of_cut
from captum_attn.core.feature_names import features_name, modality_of, name_for, usual_name
from captum_attn.core.patches import at_patches, dims_of_entries, patch_means

Words = Sequence[str]
Data = (
    Sequence[str]
    | Sequence[Words]
    | Sequence[tuple[str, str]]
    | Sequence[tuple[Words, Words]]
    | Tensor
    | Mapping[str, Any]
)
"""Examples, whole: texts, lists of words, pairs of either, a tensor, or what a tokenizer or processor returns."""

Rationales = Sequence[Any] | Tensor | np.ndarray[Any, Any]
"""What people chose in each example; :func:`captum_attn.metrics.evaluate` lists the forms."""


class Examples(ABC):
    """N examples.

    Attributes:
        lengths: of each, by which they are put into batches.
    """

    lengths: list[int]

    def __len__(self) -> int:
        return len(self.lengths)

    @abstractmethod
    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """Some of the examples, as the model takes them."""

    @abstractmethod
    def read_rationales(self, given: Any) -> Any:
        """What people chose, one for each example, in one form; a warning says what of it is not among the tokens.

        Raises:
            TypeError, ValueError: rationales of another kind.
        """

    @abstractmethod
    def chosen(self, rationales: Any, rows: Sequence[int], shape: tuple[int, int], grid: Grid) -> Tensor:
        """bool (B, N) = ``shape``: the tokens in some of the examples that :meth:`read_rationales` are about."""

    @abstractmethod
    def has_rationale(self, rationales: Any, row: int) -> bool:
        """Whether people chose anything in an example."""

    @abstractmethod
    def fingerprint(self) -> str:
        """What tells these examples from others."""


class Texts(Examples):
    """Texts, or pairs of texts, tokenized once and padded batch by batch.

    Raises:
        ValueError: no tokenizer.
    """

    def __init__(
        self, texts: Sequence[GivenText], tokenizer: Any | None, model: Callable[..., Any], max_length: int | None
    ) -> None:
        if tokenizer is None:
            raise ValueError("texts need tokenizer=, the model's")
        self._texts, self._tokenizer = texts, tokenizer
        self._limit = limit = length_limit(tokenizer, model, max_length)
        columns = zip(*(text.parts for text in texts), strict=True)
        self._both = encode(tokenizer, *columns, limit=limit, return_offsets_mapping=bool(tokenizer.is_fast))
        if max_length is None or max_length > (limit or 0):
            remark = "the model does not read the rest; max_length= sets a limit without this warning"
            warn_of_cut(len(self._both.cut), len(texts), limit, remark)
        self._encoded = {name: column for name, column in self._both.read.items() if name != "offset_mapping"}
        special = special_token_ids(tokenizer)
        empty = [row for row, ids in enumerate(self._encoded["input_ids"]) if special.issuperset(ids)]
        if empty:
            raise ValueError(f"the texts {empty} have no tokens but special ones: leave them out")
        self._model, self._device = model, device_of(model)
        self.lengths = [len(ids) for ids in self._encoded["input_ids"]]

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        part = {name: [column[row] for row in rows] for name, column in self._encoded.items()}
        return {name: column.to(self._device) for name, column in padded(self._tokenizer, part, self._model).items()}

    def read_rationales(self, given: Any) -> Any:
        if not self._tokenizer.is_fast:
            raise ValueError("rationales need a fast tokenizer, which knows where in the text its tokens stand")
        spans = spans_of_rationales(given, self._texts)
        warn_of_lost_spans(spans, self._texts, self._both, self._limit)
        return spans

    def chosen(self, rationales: Any, rows: Sequence[int], shape: tuple[int, int], grid: Grid) -> Tensor:
        chosen = torch.zeros(shape, dtype=torch.bool, device=self._device)
        left = self._tokenizer.padding_side == "left"
        for place, row in enumerate(rows):
            tokens = torch.tensor(chosen_tokens(self._both.read, row, rationales[row]))
            chosen[place, slice(-len(tokens), None) if left else slice(len(tokens))] = tokens.to(self._device)
        return chosen

    def has_rationale(self, rationales: Any, row: int) -> bool:
        return any(rationales[row])

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(sorted(self._encoded.items())).encode()).hexdigest()


class Tensors(Examples):
    """Examples that are tensors already: the mapping that a tokenizer or an image processor returns."""

    def __init__(self, columns: Mapping[str, Any], model: Callable[..., Any]) -> None:
        name = features_name({name: column for name, column in columns.items() if name != "inputs_embeds"})
        if name is None:
            raise TypeError(
                "expected texts, pixels (N, C, h, w), or a mapping with input_ids, pixel_values, pixel_values_videos, "
                f"input_values or input_features, got one with {sorted(columns)}"
            )
        for key, column in columns.items():
            if not isinstance(column, Tensor) or not column.dim() or len(column) != len(columns[name]):
                given = tuple(column.shape) if isinstance(column, Tensor) else type(column).__name__
                raise TypeError(
                    f"{key!r} must be a tensor with a row for each example (return_tensors='pt'), got {given}"
                )
        self._columns, count = dict(columns), len(columns[name])
        self._main, self._device = name, device_of(model)
        self.lengths = [columns[name].shape[1] if name == "input_ids" else 0] * count

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        return {name: column[list(rows)].to(self._device) for name, column in self._columns.items()}

    def read_rationales(self, given: Any) -> Any:
        masks = torch.as_tensor(given) if isinstance(given, np.ndarray) else given
        if not isinstance(masks, Tensor):
            raise TypeError(
                "expected rationales of tensors as a bool tensor or array, (N, T) for tokens, (N, h, w) for pixels, "
                f"(N, samples) for sound or (N, frames, h, w) for videos, got {type(given).__name__}"
            )
        features = self._columns[self._main]
        expected = (len(features), *(features.shape[dim] for dim in dims_of_entries(features)))
        if masks.dtype != torch.bool or masks.shape != expected:
            raise ValueError(f"rationales must be bool {expected}, got {masks.dtype} {tuple(masks.shape)}")
        return masks

    def chosen(self, rationales: Any, rows: Sequence[int], shape: tuple[int, int], grid: Grid) -> Tensor:
        masks: Tensor = rationales[list(rows)].to(self._device)
        if grid is None:
            return masks
        return at_patches(patch_means(masks.double(), grid) >= 0.5, known_grid(grid), shape[1])

    def has_rationale(self, rationales: Any, row: int) -> bool:
        return bool(rationales[row].any())

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        add_to_hash(digest, self._columns)
        return digest.hexdigest()


def examples_of(data: Any, tokenizer: Any | None, model: Callable[..., Any], max_length: int | None) -> Examples:
    """Data in any form that :func:`captum_attn.metrics.evaluate` takes.

    Raises:
        TypeError: anything else.
        ValueError: no data, or texts without a tokenizer.
    """
    if hasattr(data, "columns"):
        raise TypeError(f"expected texts, got a table of {list(data.columns)}: give the column that holds them")
    numbers = np.asarray(data) if isinstance(data, np.ndarray) and data.dtype.kind in "fiu" else None
    data = data if numbers is None else torch.as_tensor(numbers)
    if isinstance(data, Mapping):
        examples: Examples = Tensors(data, model)
    elif isinstance(data, Tensor):
        name = name_for(data, parameter_names(model)) or usual_name(modality_of(data, None))
        examples = Tensors({name: data}, model)
    else:
        given = [data] if isinstance(data, str) else list(data)
        texts = [text for text in map(given_text, given) if text is not None]
        if len(texts) < len(given) or len({(len(text.parts), text.words is None) for text in texts}) > 1:
            kinds = sorted({type(text).__name__ for text in given})
            raise TypeError(
                "expected texts, lists of words, pairs of either, pixels (N, C, h, w) or a mapping of tensors, got a "
                f"list of {kinds}; of images, give image_processor(images, return_tensors='pt')"
            )
        if not texts:
            raise ValueError("there is no data: expected at least one example")
        examples = Texts(texts, tokenizer, model, max_length)
    if not len(examples):
        raise ValueError("there is no data: expected at least one example")
    return examples


def rationale_fingerprint(rationales: Any) -> str:
    """What tells rationales, as :meth:`Examples.read_rationales` returns them, from others."""
    plain = rationales.tolist() if isinstance(rationales, Tensor) else rationales
    return hashlib.sha256(repr(plain).encode()).hexdigest()


def checked_rationales(given: Any, examples: Examples) -> Any:
    """Rationales in one form; ``TypeError`` or ``ValueError`` unless there is one for each example, of their kind."""
    if len(given) != len(examples):
        raise ValueError(f"{len(given)} rationales for {len(examples)} examples: give one for each, [] for none")
    return examples.read_rationales(given)


def check_label(label: int, example: int, classes: int) -> None:
    """Raise ``ValueError`` for a label of no class."""
    if not 0 <= label < classes:
        raise ValueError(f"label {label} of example {example} is out of range: the model has {classes} classes")


def batches(examples: Examples, size: int) -> list[list[int]]:
    """Examples of like length; the longest batch first, so that memory fails at once, and the others at random.

    What is known after an interruption is about a random part of the data then.
    """
    order = sorted(range(len(examples)), key=lambda row: -examples.lengths[row])
    longest, *others = [order[start : start + size] for start in range(0, len(order), size)]
    return [longest, *Random(0).sample(others, len(others))]


def checked_labels(labels: Any, count: int, config: Any | None) -> list[int] | None:
    """The gold classes as numbers, given as such or by name; ``TypeError`` or ``ValueError`` for others."""
    if labels is None:
        return None
    gold: list[Any] = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    try:
        numbers = {name: class_number(name, config) for name in {label for label in gold if isinstance(label, str)}}
    except ValueError as error:
        raise TypeError(f"labels must be numbers or names of classes, got {gold[:3]!r}, ...: {error}") from None
    gold = [numbers.get(label, label) if isinstance(label, str) else label for label in gold]
    if not all(isinstance(label, int | float) and label == int(label) for label in gold):
        raise TypeError(f"labels must be numbers or names of classes, got {gold[:3]!r}, ...")
    if len(gold) != count:
        raise ValueError(f"{len(gold)} labels for {count} examples: give one for each")
    return list(map(int, gold))
