"""Hash tensors by what they hold, and functions by what they do."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from types import CodeType
from typing import Any

import torch
from torch import Tensor


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
    """What tells a function from others, as far as its own code says, not that of what it calls.

    Example:
        >>> code_fingerprint(lambda x: x + 1) == code_fingerprint(lambda x: x + 2)
        False
    """
    if isinstance(function, partial):
        bound = repr((function.args, sorted(function.keywords.items())))
        return sha256(f"{code_fingerprint(function.func)} {bound}".encode()).hexdigest()[:16]
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    told = repr(function) if code is None else repr(_parts_of(code))
    return sha256(told.encode()).hexdigest()[:16]


def _parts_of(code: CodeType) -> tuple[Any, ...]:
    constants = [_parts_of(part) if isinstance(part, CodeType) else part for part in code.co_consts]
    return code.co_code, code.co_names, constants
