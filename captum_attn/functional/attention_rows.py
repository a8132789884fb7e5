"""Rows of attention in other forms: uniform, or in another order. Keys that a query may not attend to stay as they are.

A (B, H, N, N) has a distribution over the keys in each row; keys are bool (B, 1 or H, N, N).
"""

from __future__ import annotations

import torch
from torch import Tensor


def uniform_rows(attention: Tensor, keys: Tensor) -> Tensor:
    """A' (B, H, N, N) with the same probability for each of a query's keys; rows without keys keep A.

    Args:
        attention: A (B, H, N, N), floating.
        keys: bool (B, 1 or H, N, N).

    Example:
        >>> keys = torch.tensor([[[[True, True, False]]]])
        >>> uniform_rows(torch.tensor([[[[0.9, 0.1, 0.0]]]]), keys)
        tensor([[[[0.5000, 0.5000, 0.0000]]]])

    Source: Wiegreffe and Pinter 2019, *Attention is not not Explanation*, section 3.2.
    """
    count = keys.sum(-1, keepdim=True)
    return torch.where(count > 0, keys / count.clamp(min=1).to(attention), attention)


def permuted_rows(attention: Tensor, keys: Tensor, order: Tensor) -> Tensor:
    """A' (B, H, N, N): each query's weights on its keys in the order of numbers.

    The weight of the key with the lowest number goes to the first key, and so on; other entries stay.

    Args:
        attention: A (B, H, N, N), of any dtype.
        keys: bool (B, 1 or H, N, N).
        order: numbers (B, H, N, N), floating.

    Example:
        >>> keys = torch.tensor([[[[True, True, False]]]])
        >>> permuted_rows(torch.tensor([[[[0.9, 0.1, 0.0]]]]), keys, torch.tensor([[[[0.7, 0.2, 0.4]]]]))
        tensor([[[[0.1000, 0.9000, 0.0000]]]])

    Source: Jain and Wallace 2019, *Attention is not Explanation*, section 4.2.1 (algorithm 2).
    """
    to = (~keys).expand_as(attention).int().argsort(dim=-1, stable=True)  # the keys first, from left to right
    taken = order.masked_fill(~keys, torch.inf).argsort(dim=-1, stable=True)  # the same keys first, in the order given
    return torch.empty_like(attention).scatter(-1, to, attention.gather(-1, taken))
