"""How far two distributions are from each other: pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """The Jensen-Shannon divergence of distributions over the last dimension, with natural logarithms.

    ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = (p + q) / 2: symmetric, 0 for equal distributions, ln 2 ≈ .693 for distributions
    that share nothing. Its gradient is finite where probabilities are zero, too.

    Args:
        first, second: (..., K), of one floating dtype, each row non-negative with the sum 1, or all zero.

    Returns:
        (...), of the same dtype.

    Raises:
        ValueError: other shapes or dtypes.

    Example:
        >>> p, q = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.0, 1.0], [0.5, 0.5]])
        >>> jensen_shannon(p, q)
        tensor([0.6931, 0.0000])

    Source: Lin 1991, *Divergence measures based on the Shannon entropy*; Jain and Wallace 2019, section 3.
    """
    _check_alike(first, second)
    mean = (first + second) / 2
    divergence = (_pointwise(first, mean) + _pointwise(second, mean)).sum(-1) / 2
    return divergence.clamp(min=0)  # but for rounding, it is


def mean_jensen_shannon(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of the Jensen-Shannon divergences of N pairs of distributions: Σ_q w_q JS_q / Σ_q w_q.

    Args:
        first, second: (..., N, K), as :func:`jensen_shannon` takes them; the rows of two attentions, K = N.
        weights: (..., N), of the same dtype, not negative.

    Returns:
        (...), of the same dtype; 0 where all weights are.

    Raises:
        ValueError: other shapes or dtypes.

    Example:
        >>> p, q = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.0, 1.0], [0.5, 0.5]])
        >>> mean_jensen_shannon(p, q, torch.tensor([1.0, 3.0]))
        tensor(0.1733)

    Source: Jain and Wallace 2019, *Attention is not Explanation*, section 4.2.2, for one query.
    """
    shares = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return (jensen_shannon(first, second) * shares).sum(-1)


def total_variation(first: Tensor, second: Tensor) -> Tensor:
    """The total variation distance of distributions over the last dimension, ½ Σ ``|p - q|``, between 0 and 1.

    It is the most by which the probability of any event, such as any class, differs.

    Args:
        first, second: (..., K), of one floating dtype.

    Returns:
        (...), of the same dtype.

    Raises:
        ValueError: other shapes or dtypes.

    Example:
        >>> total_variation(torch.tensor([[0.9, 0.1]]), torch.tensor([[0.6, 0.4]]))
        tensor([0.3000])

    Source: Jain and Wallace 2019, *Attention is not Explanation*, section 3.
    """
    _check_alike(first, second)
    return (first - second).abs().sum(-1) / 2


def _pointwise(part: Tensor, mean: Tensor) -> Tensor:
    """p ln(p / m); zero where p is."""
    tiny = torch.finfo(part.dtype).tiny
    return part * (part.clamp(min=tiny) / mean.clamp(min=tiny)).log()


def _check_alike(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.dtype != second.dtype or not first.is_floating_point():
        raise ValueError(
            "expected two tensors of distributions with one shape and floating dtype, got "
            f"{first.dtype} {tuple(first.shape)} and {second.dtype} {tuple(second.shape)}"
        )
