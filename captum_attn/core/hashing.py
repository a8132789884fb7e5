"""Hash tensors by what they hold."""

from __future__ import annotations

from collections.abc import Mapping
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
