"""What an attention mask forbids, said here alone: of boolean masks, additive ones, and scores that one was added to.

Models forbid a key by False, or by adding -inf, the lowest number of a dtype, -1e9, -1e4 or the like, and its
probability is exactly 0. Biases of positions, which only weaken a key, are smaller.

Of a query that may attend to nothing there are two notions. What it *computes*: softmax gives NaN where all entries are
-inf, and PyTorch's kernels zeros (:func:`closed_rows`), but where they are one finite number it gives each key the same
(:func:`open_keys`). What is *meant*: a row of low numbers forbids all keys, whatever comes of it (:func:`blind_rows`).
Who computes attention again asks for the first, who reads what a mask says, for the second.
"""

from __future__ import annotations

import torch
from torch import Tensor

FORBIDDEN = 1e3
"""How far an entry lies below the highest one of its row, at least, if its key is forbidden.

Far beyond what biases of positions reach, and what float32 can tell from 0 (exp(-104) is 0). So the -100 by which some
models (Swin's shifted windows) separate keys counts as a bias, not as a mask: its keys count as open, with a
probability of about 0."""


def open_keys(mask: Tensor) -> Tensor:
    """bool, in the shape of the mask: the keys that each query may attend to.

    Args:
        mask: (..., Q, K): bool (True = may attend), additive, or the scores themselves. Rows that hold one low number
            throughout forbid nothing: softmax does not see what all entries have in common.

    Example:
        >>> open_keys(torch.tensor([[0.0, -1e4], [-2.0, 0.0]]))
        tensor([[ True, False],
                [ True,  True]])
    """
    if mask.dtype == torch.bool:
        return mask
    return (mask >= mask.amax(-1, keepdim=True) - FORBIDDEN) & (mask > -torch.inf)


def closed_rows(mask: Tensor) -> Tensor:
    """bool (..., Q, 1): the queries that compute nothing, as all of their entries are False, or -inf.

    Example:
        >>> closed_rows(torch.tensor([[-torch.inf, -torch.inf], [-1e9, -1e9]])).flatten()
        tensor([ True, False])
    """
    if mask.dtype == torch.bool:
        return ~mask.any(-1, keepdim=True)
    return mask.amax(-1, keepdim=True) == -torch.inf


def blind_rows(mask: Tensor) -> Tensor:
    """bool (..., Q, 1): the queries that a mask means to attend to nothing, such as those of padding.

    An additive mask's 0 allows, so low is what lies far below 0; scores have no such number.

    Example:
        >>> blind_rows(torch.tensor([[-1e9, -1e9], [-1e9, 0.0]])).flatten()
        tensor([ True, False])
    """
    return closed_rows(mask) if mask.dtype == torch.bool else mask.amax(-1, keepdim=True) <= -FORBIDDEN


def is_causal(mask: Tensor) -> bool:
    """Whether a mask (..., Q, K) lets no query attend to a later key; that of one token alone says nothing.

    Example:
        >>> is_causal(torch.full((3, 3), -1e9).triu(1))
        True
    """
    queries, keys = mask.shape[-2:]
    seen = open_keys(mask) & ~blind_rows(mask)
    return queries == keys > 1 and bool(seen.any()) and not bool(seen.triu(1).any())


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """bool (Q, K): PyTorch's ``is_causal``, by which query i sees keys 0..i."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril()


def is_binary(values: Tensor) -> bool:
    """Whether all values are 0 or 1, of any dtype."""
    return values.dtype == torch.bool or bool(((values == 0) | (values == 1)).all())
