"""What an attention mask forbids: one notion, for boolean masks, additive ones, and scores that one was added to.

Models forbid a key by False, or by adding -inf, the lowest number of a dtype, -1e9, -1e4 or the like, and its
probability is exactly 0. Biases of positions, which only weaken a key, are smaller.
"""

from __future__ import annotations

import torch
from torch import Tensor

FORBIDDEN = 1e3
"""How far an entry lies below the highest one of its row, at least, if its key is forbidden. exp(-104) is 0 in
float32, so that no query can find a key that a bias puts as low as this."""


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


def blind_rows(mask: Tensor) -> Tensor:
    """bool (..., Q, 1): the queries that the mask lets attend to nothing, such as those of padding.

    Example:
        >>> blind_rows(torch.tensor([[-1e9, -1e9], [-1e9, 0.0]])).flatten()
        tensor([ True, False])
    """
    if mask.dtype == torch.bool:
        return ~mask.any(-1, keepdim=True)
    return mask.amax(-1, keepdim=True) <= -FORBIDDEN


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
