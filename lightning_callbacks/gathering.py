"""Numbers of single examples, each known to one process, and after a reduction to all of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class RowsOfExamples(Metric):
    """A table with a row for each of n examples, which processes fill in parts.

    States are sums of tables that are zero where a process knows nothing, so that every process ends up with exactly
    what one alone would have, however unevenly the examples were dealt.

    Args:
        count: n.
        widths: the columns of each table, by its name.
        kwargs: of ``torchmetrics.Metric``.

    Example:
        >>> table = RowsOfExamples(3, {"score": 2})
        >>> table.update("score", torch.tensor([2, 0]), torch.tensor([[0.5, 1.0], [2.0, 3.0]]))
        >>> rows, values = table.gathered()["score"]
        >>> rows, values
        (tensor([0, 2]), tensor([[2.0000, 3.0000],
                [0.5000, 1.0000]], dtype=torch.float64))
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, count: int, widths: Mapping[str, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.widths = dict(widths)
        for name, width in widths.items():
            self.add_state(name, torch.zeros(count, width, dtype=torch.double), dist_reduce_fx="sum")
            self.add_state(f"{name}_known", torch.zeros(count, dtype=torch.double), dist_reduce_fx="sum")

    def update(self, table: str, rows: Tensor, values: Tensor) -> None:
        """Fill in rows of a table.

        Args:
            table: its name.
            rows: int64 (B,), which of the n.
            values: (B, width).
        """
        state: Tensor = getattr(self, table)
        rows = rows.to(state.device)
        state[rows] = values.detach().to(state)
        getattr(self, f"{table}_known")[rows] = 1

    def gathered(self) -> dict[str, tuple[Tensor, Tensor]]:
        """What :meth:`compute` returns, in the same shapes where one row is known, or none here."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The ``compute`` method of metric", UserWarning)
            computed: dict[str, tuple[Tensor, Tensor]] = self.compute()
        return {
            name: (rows.view(-1), values.view(rows.numel(), self.widths[name]))
            for name, (rows, values) in computed.items()
        }

    def compute(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each table, which rows are known, int64 (m,), ascending, and these, float64 (m, width)."""
        known = {name: getattr(self, f"{name}_known").nonzero().flatten() for name in self.widths}
        return {name: (rows, getattr(self, name)[rows]) for name, rows in known.items()}
