"""What all our metrics are: a mean over examples, with its standard error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanOverExamples(Metric):
    """The mean over examples of a number, or of K numbers, for each. Batches and processes add up exactly.

    Subclasses call :meth:`add` in their ``update``.

    Args:
        shape: of what each example has: () or (K,).
        kwargs: of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    full_state_update = False

    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(shape, dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros(shape, dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self._error = torch.full(shape, torch.nan)

    def add(self, values: Tensor) -> None:
        """Take in the numbers (B, *shape) of a batch."""
        values = values.detach().double()
        self.total = self.total + values.sum(0)
        self.squares = self.squares + values.square().sum(0)
        self.count = self.count + len(values)

    def compute(self) -> Tensor:
        """The mean, float32; NaN without examples."""
        mean = self.total / self.count
        variance = (self.squares - self.count * mean.square()).clamp(min=0) / (self.count - 1).clamp(min=0)
        self._error = (variance / self.count).sqrt().float()
        return mean.float()

    @property
    def standard_error(self) -> Tensor:
        """Of the mean, over the same examples (and processes); NaN for fewer than two."""
        self.compute()
        return self._error
