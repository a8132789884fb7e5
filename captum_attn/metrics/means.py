"""What all our metrics are: a mean over examples, with its standard error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torchmetrics import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class MeanOverExamples(Metric):
    """The mean over examples of a number, or of K numbers, for each. Batches and processes add up exactly.

    Subclasses call :meth:`add` in their ``update``.

    Args:
        shape: of what each example has: () or (K,).
        settings: what tells metrics of one class apart. A ``MetricCollection`` shares states of the same name.
        kwargs: of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, shape: tuple[int, ...] = (), settings: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        name = f"{type(self).__name__}{settings}".lower().replace(".", "_")
        self._total, self._squares, self._count = (f"{name}_{part}" for part in ("total", "squares", "count"))
        self.add_state(self._total, torch.zeros(shape, dtype=torch.double), dist_reduce_fx="sum")
        self.add_state(self._squares, torch.zeros(shape, dtype=torch.double), dist_reduce_fx="sum")
        self.add_state(self._count, torch.tensor(0), dist_reduce_fx="sum")
        self._error = torch.full(shape, torch.nan)

    def add(self, values: Tensor) -> None:
        """Take in the numbers (B, *shape) of a batch."""
        values = values.detach().double()
        self._add_to(self._total, values.sum(0))
        self._add_to(self._squares, values.square().sum(0))
        self._add_to(self._count, len(values))

    def compute(self) -> Tensor:
        """The mean, float32; NaN without examples."""
        total, squares, count = (getattr(self, name) for name in (self._total, self._squares, self._count))
        mean: Tensor = total / count
        variance = (squares - count * mean.square()).clamp(min=0) / (count - 1).clamp(min=0)
        self._error = (variance / count).sqrt().float()
        return mean.float()

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Axes | None = None) -> tuple[Figure | None, Axes]:
        """Draw one value, or several as they evolve, as every metric of torchmetrics does.

        Args:
            val: what ``compute`` or ``forward`` returned, or a list of such. Default: the value now.
            ax: where to draw. Default: a new figure.

        Returns:
            The figure (None if ``ax`` was given) and the axes.
        """
        return cast("tuple[Figure | None, Axes]", self._plot(val, ax))

    @property
    def standard_error(self) -> Tensor:
        """Of the mean, over the same examples; NaN for fewer than two. Of several processes, all must read it."""
        self.compute()
        return self._error

    def _add_to(self, state: str, value: Tensor | int) -> None:
        setattr(self, state, getattr(self, state) + value)
