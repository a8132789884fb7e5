"""The data that explanations are evaluated on: texts, images or tensors, read in batches."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_attn.core.hashing import add_to_hash
from captum_attn.core.models import device_of
from captum_attn.core.patches import Grid, at_patches, known_grid, patch_means
from captum_attn.core.tokens import length_limit, special_token_ids

Data = Sequence[str] | Sequence[tuple[str, str]] | Tensor | Mapping[str, Any]
Rationales = Sequence[Sequence[tuple[int, int]]] | Tensor


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
    def rationales(self, given: Any, rows: Sequence[int], shape: tuple[int, int], grid: Grid) -> Tensor:
        """bool (B, N) = ``shape``: the tokens that people chose in some of the examples."""

    @abstractmethod
    def fingerprint(self) -> str:
        """What tells these examples from others."""


class Texts(Examples):
    """Texts, or pairs of texts, tokenized once and padded batch by batch.

    Raises:
        ValueError: no tokenizer.
    """

    def __init__(
        self,
        texts: Sequence[str] | Sequence[tuple[str, str]],
        tokenizer: Any | None,
        model: Callable[..., Any],
        max_length: int | None,
    ) -> None:
        if tokenizer is None:
            raise ValueError("texts need tokenizer=, the model's")
        limit = length_limit(tokenizer, model, max_length)
        columns = tuple(map(list, zip(*texts, strict=True))) if _are_pairs(texts) else (list(texts),)
        encode = partial(tokenizer, *columns, return_offsets_mapping=bool(tokenizer.is_fast), verbose=False)
        encoded = encode()
        cut = 0 if limit is None else sum(len(ids) > limit for ids in encoded["input_ids"])
        if cut and (max_length is None or max_length > (limit or 0)):
            warnings.warn(
                f"{cut} of {len(texts)} texts are longer than the {limit} tokens that the model reads, and were cut; "
                "max_length= sets a limit without this warning",
                stacklevel=3,
            )
        self._tokenizer = tokenizer
        self._encoded = encode(truncation=True, max_length=limit) if cut else encoded
        self._offsets = self._encoded.pop("offset_mapping", None)
        special = special_token_ids(tokenizer)
        empty = [row for row, ids in enumerate(self._encoded["input_ids"]) if special.issuperset(ids)]
        if empty:
            raise ValueError(f"the texts {empty} have no tokens but special ones: leave them out")
        self._device = device_of(model)
        self.lengths = [len(ids) for ids in self._encoded["input_ids"]]

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        part = {name: [column[row] for row in rows] for name, column in self._encoded.items()}
        if self._tokenizer.pad_token_id is None and len({self.lengths[row] for row in rows}) > 1:
            raise ValueError("the tokenizer has no pad token: set tokenizer.pad_token, or use batch_size=1")
        if self._tokenizer.pad_token_id is None:
            return {name: torch.tensor(column, device=self._device) for name, column in part.items()}
        padded = self._tokenizer.pad(part, padding=True, return_tensors="pt", verbose=False)
        return {name: column.to(self._device) for name, column in padded.items()}

    def rationales(self, given: Any, rows: Sequence[int], shape: tuple[int, int], grid: Grid) -> Tensor:
        if self._offsets is None:
            raise ValueError("rationales need a fast tokenizer, which knows where in the text its tokens stand")
        chosen = torch.zeros(shape, dtype=torch.bool, device=self._device)
        left = getattr(self._tokenizer, "padding_side", "right") == "left"
        for place, row in enumerate(rows):
            offsets, texts = self._offsets[row], self._encoded.sequence_ids(row)
            shift = shape[1] - len(offsets) if left else 0
            for token, (start, end) in enumerate(offsets):
                inside = any(start < stop and first < end for first, stop in given[row])
                chosen[place, token + shift] = inside and texts[token] == 0
        return chosen

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(sorted(self._encoded.items())).encode()).hexdigest()


class Tensors(Examples):
    """Examples that are tensors already: the mapping that a tokenizer or an image processor returns."""

    def __init__(self, columns: Mapping[str, Any], model: Callable[..., Any]) -> None:
        name = next((name for name in ("pixel_values", "input_ids") if name in columns), None)
        if name is None:
            raise TypeError(
                "expected texts, pixels (N, C, h, w), or a mapping with input_ids or pixel_values, got one with "
                f"{sorted(columns)}"
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

    def rationales(self, given: Any, rows: Sequence[int], shape: tuple[int, int], grid: Grid) -> Tensor:
        masks: Tensor = given[list(rows)].to(self._device)
        features = self._columns[self._main]
        expected = (len(features), *(features.shape[1:2] if grid is None else features.shape[2:]))
        if given.dtype != torch.bool or given.shape != expected:
            raise ValueError(f"rationales must be bool {expected}, got {given.dtype} {tuple(given.shape)}")
        if grid is None:
            return masks
        return at_patches(patch_means(masks.double(), grid) >= 0.5, known_grid(grid), shape[1])

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
        examples = Tensors({"pixel_values" if data.is_floating_point() else "input_ids": data}, model)
    else:
        texts = [data] if isinstance(data, str) else list(data)
        if not all(isinstance(text, str) for text in texts) and not _are_pairs(texts):
            kinds = sorted({type(text).__name__ for text in texts})
            raise TypeError(
                f"expected texts, pairs of texts, pixels (N, C, h, w) or a mapping of tensors, got a list of {kinds}; "
                "of images, give image_processor(images, return_tensors='pt')"
            )
        if not texts:
            raise ValueError("there is no data: expected at least one example")
        examples = Texts(texts, tokenizer, model, max_length)
    if not len(examples):
        raise ValueError("there is no data: expected at least one example")
    return examples


def rationale_fingerprint(given: Any) -> str:
    """What tells these rationales from others."""
    return hashlib.sha256(repr(given.tolist() if isinstance(given, Tensor) else given).encode()).hexdigest()


def check_rationales(given: Any, examples: Examples) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless there is a rationale for each example, in the form of their kind."""
    if len(given) != len(examples):
        raise ValueError(f"{len(given)} rationales for {len(examples)} examples: give one for each, [] for none")
    wrong = isinstance(examples, Texts) == isinstance(given, Tensor)
    if wrong or (isinstance(examples, Texts) and not all(map(_are_spans, given))):
        raise TypeError(
            "expected rationales of texts as lists of character spans [(start, end), ...], and of tensors as a bool "
            f"tensor, (N, T) for tokens or (N, h, w) for pixels; got {type(given).__name__}"
        )


def _are_spans(spans: Any) -> bool:
    return isinstance(spans, list | tuple) and all(
        isinstance(span, list | tuple) and [type(end) for end in span] == [int, int] and span[0] < span[1]
        for span in spans
    )


def _are_pairs(texts: Sequence[Any]) -> bool:
    return all(
        isinstance(text, tuple) and len(text) == 2 and all(isinstance(part, str) for part in text) for text in texts
    )


def check_label(label: int, example: int, classes: int) -> None:
    """Raise ``ValueError`` for a label of no class."""
    if not 0 <= label < classes:
        raise ValueError(f"label {label} of example {example} is out of range: the model has {classes} classes")
