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

    Example:
        >>> mean_over_inputs(torch.tensor([1.0, 3.0, torch.nan])).mean
        tensor(2.)
    """
    count = values.isfinite().sum(0)
    mean = values.nanmean(0)
    squares = (values - mean).square().nansum(0)
    variance = torch.where(count > 1, squares / (count - 1).clamp(min=1), torch.nan)
    return Mean(mean, (variance / count).sqrt(), count)
