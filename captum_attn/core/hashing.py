"""Hash tensors by what they hold, and functions by what they do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from hashlib import sha256
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import torch
from torch import Tensor, nn


def add_to_hash(digest: Any, value: Any) -> None:
    """Add a tensor's dtype, shape and bytes to a hash of ``hashlib``; of containers each part; else the ``repr``.

    Of a tensor that processes share (``DTensor``), it is this process's piece.
    """
    value = value.to_local() if hasattr(value, "to_local") else value
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)}".encode())
        for name in sorted(value):
            digest.update(f"{len(str(name))} {name}".encode())
            add_to_hash(digest, value[name])
    elif isinstance(value, list | tuple):
        digest.update(f"sequence {len(value)}".encode())
        for part in value:
            add_to_hash(digest, part)
    elif hasattr(value, "__array__"):
        add_to_hash(digest, torch.as_tensor(value))
    else:
        digest.update(repr(value).encode())


def code_fingerprint(function: Any) -> str:
    """What tells a function from others: its code, and what is bound to it; not what it calls, nor globals.

    Example:
        >>> code_fingerprint(lambda x: x + 1) == code_fingerprint(lambda x: x + 2)
        False
    """
    digest = sha256()
    _add_code(digest, function, {})
    return digest.hexdigest()[:16]


def _add_code(digest: Any, value: Any, seen: dict[int, Any]) -> None:
    """Add what a function, or what is bound to one, is made of; nothing twice, as closures may hold themselves.

    What was seen is held, so that nothing else can have its ``id``. Constants may be shared or not, as Python likes.
    """
    if not isinstance(value, tuple | frozenset | CodeType):
        if id(value) in seen:
            digest.update(f"seen {[*seen].index(id(value))} ".encode())
            return
        seen[id(value)] = value
    for part in _parts_of(value):
        if isinstance(part, str | bytes | bool | int | float | NoneType):
            digest.update(repr(part).encode() + b" ")
        elif isinstance(part, Tensor) or hasattr(part, "__array__"):
            add_to_hash(digest, part)
        else:
            _add_code(digest, part, seen)


def _parts_of(value: Any) -> Iterable[Any]:
    """What a value is made of, in an order that does not depend on the process."""
    if isinstance(value, CodeType):
        return (value.co_code, *value.co_names, *value.co_consts)
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]  # that is an empty one
        return (value.__code__, value.__defaults__, value.__kwdefaults__, *cells)
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, partial):
        return value.func, value.args, value.keywords
    if isinstance(value, nn.Module):
        return _name_of(type(value)), value.state_dict()
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, Mapping):
        return [part for name in sorted(value, key=repr) for part in (repr(name), value[name])]
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, type | BuiltinFunctionType | ModuleType):
        return (_name_of(value),)
    kind = _name_of(type(value))
    if not hasattr(value, "__dict__"):
        return kind, repr(value)
    return kind, type(value).__dict__.get("__call__"), vars(value)


def _name_of(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}"
