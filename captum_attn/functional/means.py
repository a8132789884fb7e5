"""The mean over inputs, and how sure it is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Mean(NamedTuple):
    """Over the n inputs where a number is defined: its mean, and standard error (NaN for fewer than two)."""

    mean: Tensor
    standard_error: Tensor
    n: Tensor


def mean_over_inputs(values: Tensor) -> Mean:
    """The mean over E inputs of (E, ...), NaN left out; NaN where there is none.

    Args:
        values: (E, ...), floating.

    Returns:
        Three tensors (...): of the dtype of the values, and ``n`` int64.

    Example:
        >>> mean_over_inputs(torch.tensor([1.0, 3.0, torch.nan]))
        Mean(mean=tensor(2.), standard_error=tensor(1.), n=tensor(2))

    Source: the standard error of the mean, s / √n, with s² = Σ (x - x̄)² / (n - 1).
    """
    count = (~values.isnan()).sum(0)
    mean = values.nanmean(0)
    squares = (values - mean).square().nansum(0)
    variance = torch.where(count > 1, squares / (count - 1).clamp(min=1), torch.nan)
    return Mean(mean, (variance / count).sqrt(), count)


def mean_over_pairs(values: Tensor) -> Tensor:
    """The mean of what is measured between each two of M things, such as how far they agree; NaN left out.

    Args:
        values: (..., M, M), floating, of which the entries above the diagonal count.

    Returns:
        (...), of the same dtype; NaN where there is none.

    Example:
        >>> mean_over_pairs(torch.tensor([[1.0, 0.2, 0.4], [0.2, 1.0, torch.nan], [0.4, torch.nan, 1.0]]))
        tensor(0.3000)

    Source: Neely et al. 2021, *Order in the Court: Explainable AI Methods Prone to Disagreement*, for τ.
    """
    first, second = torch.triu_indices(values.shape[-2], values.shape[-1], offset=1)
    return values[..., first, second].nanmean(-1)
