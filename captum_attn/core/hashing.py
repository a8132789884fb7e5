"""Hash tensors by what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def add_to_hash(digest: Any, value: Any) -> None:
    """Add a tensor's dtype, shape and bytes to a hash of ``hashlib``; of a mapping each part; else the ``repr``."""
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        for name in sorted(value):
            digest.update(str(name).encode())
            add_to_hash(digest, value[name])
    else:
        digest.update(repr(value).encode())
