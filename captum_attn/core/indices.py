"""Whole numbers that choose layers, heads, tokens and classes: Python's, NumPy's or a tensor's, but no bool."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any


def as_index(value: Any) -> int:
    """The number as an int.

    Raises:
        TypeError: no whole number, or an array of them; or a bool, which Python would count as 0 or 1: ``readout=True``
            is no second token.

    Example:
        >>> import numpy
        >>> as_index(torch.tensor(3)), as_index(numpy.int64(-1))
        (3, -1)
    """
    number = operator.index(value)
    is_bool = isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))
    if is_bool or tuple(getattr(value, "shape", ())):
        raise TypeError(f"expected a whole number, got {value!r}")
    return number


def is_index(value: Any) -> bool:
    """Whether :func:`as_index` takes it.

    Example:
        >>> import numpy
        >>> is_index(2), is_index(numpy.uint8(2)), is_index(True), is_index(2.0), is_index("2")
        (True, True, False, False, False)
    """
    try:
        as_index(value)
    except TypeError:
        return False
    return True


def listed_indices(name: str, given: Any) -> list[int] | None:
    """One index or several as a list; None, for all, as it is.

    Args:
        name: of the argument, for the message.
        given: an index; a sequence, array or tensor of them; None.

    Raises:
        TypeError: anything else.

    Example:
        >>> listed_indices("layers", 1), listed_indices("layers", torch.tensor([0, -1])), listed_indices("layers", None)
        ([1], [0, -1], None)
    """
    if given is None:
        return None
    try:
        return [as_index(given)] if is_index(given) else [as_index(index) for index in given]
    except TypeError:
        raise TypeError(f"{name} must be an index, a sequence of indices or None for all, got {given!r}") from None


def resolve_indices(name: str, indices: Sequence[int] | None, count: int) -> list[int]:
    """Ascending indices in ``range(count)``; ``IndexError`` for one that is out of range, ``ValueError`` for none."""
    if indices is None:
        return list(range(count))
    if not indices:
        raise ValueError(f"{name} is empty: expected indices below {count}, or None for all")
    outside = [index for index in indices if not -count <= index < count]
    if outside:
        raise IndexError(f"{name} {outside} out of range: the model has {count}, so expected {-count}..{count - 1}")
    return sorted({index % count for index in indices})
