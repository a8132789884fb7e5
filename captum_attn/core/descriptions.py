"""What a value looks like, in the words of messages: types, dtypes and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ENTRIES = 6
_LETTERS = 60


def described(value: Any) -> str:
    """A value in a line: tensors and arrays by dtype and shape, inside containers too; other plain data as it is.

    Example:
        >>> print(described(torch.zeros(2, 3)))
        a tensor of shape (2, 3)
        >>> print(described((torch.zeros(2, 3), torch.tensor([1, 0]), None)))
        a tuple of 3: float32 (2, 3), int64 (2,), NoneType
        >>> print(described({"logits": torch.zeros(2, 3)}))
        a dict of logits: float32 (2, 3)
        >>> print(described("good"))
        'good' (str)
    """
    kind = type(value).__name__
    if isinstance(value, str | bytes | int | float | complex):
        return f"{_shortened(repr(value))} ({kind})"
    if value is None:
        return "None"
    if _is_array(value):
        kind = "tensor" if "torch" in str(value.dtype) else "array"
        dtype = "" if "float" in _dtype(value) else f"{_dtype(value)} "
        article = "an" if (dtype or kind)[0] in "aeiou" else "a"
        return f"{'' if value.shape else 'one number, '}{article} {dtype}{kind} of shape {tuple(value.shape)}"
    named = f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"
    if isinstance(value, Mapping):
        return f"{named} of {_listed([f'{name}: {_entry(entry)}' for name, entry in value.items()])}"
    if isinstance(value, list | tuple):
        count = f"{len(value)}: " if value else ""
        return f"{named} of {count}{_listed([_entry(entry) for entry in value])}"
    return kind


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and isinstance(getattr(value, "shape", None), tuple)  # torch.Size is a tuple


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def _entry(value: Any) -> str:
    return f"{_dtype(value)} {tuple(value.shape)}" if _is_array(value) else type(value).__name__


def _listed(entries: list[str]) -> str:
    return ", ".join(entries[:_ENTRIES]) + (", ..." if len(entries) > _ENTRIES else "") or "nothing"


def _shortened(text: str) -> str:
    return text if len(text) < _LETTERS else f"{text[: _LETTERS - 3]}..."
