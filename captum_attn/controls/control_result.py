"""What every control found: a row for each example, a table of means, Markdown, figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from captum_attn.controls.control_figures import layers_by_heads
from captum_attn.formatting import with_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ControlResult(ABC):
    """What a control of a model's attention found.

    Args:
        rows: what :meth:`frame` returns, in any order of the examples.
    """

    by: ClassVar[tuple[str, ...]] = ("layer", "head")
    """The columns that tell the table's rows apart."""

    measures: ClassVar[tuple[str, ...]]
    """The columns of which the table has means."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self._rows = rows.sort_values("example", kind="stable", ignore_index=True)

    def __len__(self) -> int:
        return int(self._rows.example.nunique())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} examples)"

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    @property
    @abstractmethod
    def title(self) -> str:
        """What stands above the figures."""

    @property
    @abstractmethod
    def caption(self) -> str:
        """What the table shows, and what it does not."""

    @abstractmethod
    def plot(self) -> Figure:
        """The distribution over the examples, by layer: a matplotlib figure that belongs to no window."""

    def frame(self) -> pd.DataFrame:
        """A row for each example, and each layer and head that was looked at; the class says what its columns are."""
        return self._rows.copy()

    def table(self) -> pd.DataFrame:
        """A row for each layer and head, and each measure, with its mean over the examples.

        Returns:
            The columns that tell rows apart; ``measure``; its ``mean`` over examples, and the ``standard_error``;
            ``n``, the number of examples in which the measure is defined.
        """
        measures = [measure for measure in self.measures if measure in self._rows]
        each = self._rows.groupby([*self.by, "example"], sort=False)[measures].mean().astype(float)
        long = each.melt(var_name="measure", ignore_index=False).reset_index()
        groups = long.groupby([*self.by, "measure"], sort=False).value
        table = groups.agg(mean="mean", standard_error="sem", n="count").reset_index()
        return table[table.n > 0].reset_index(drop=True)

    def to_markdown(self) -> str:
        """The table of means ± standard errors, with its caption; single heads are left to :meth:`table`."""
        table = self.table()
        together = table[~table["head"].map(_is_number)]
        shown = together if len(together) else table
        by = [column for column in self.by if shown[column].nunique() > 1 or column == "layer"]
        cells = [with_error(row.mean, row.standard_error, written=_NUMBER) for row in shown.itertuples()]
        shown = shown.assign(cell=cells)
        measures = shown.measure.unique()
        lines = [self.caption, "", f"| {' | '.join([*by, *map(_words, measures)])} |"]
        lines.append(f"|{'---|' * len(by)}{'--:|' * len(measures)}")
        for keys, part in shown.groupby(by, sort=False):
            cells = part.set_index("measure").cell
            lines.append(f"| {' | '.join([*map(str, keys), *(cells.get(measure, '') for measure in measures)])} |")
        return "\n".join(lines) + "\n"

    def plot_heads(self, measure: str | None = None) -> Figure:
        """The mean over the examples of each head in each layer, as a map.

        Args:
            measure: which one of the table's. Default: the first.

        Returns:
            A matplotlib figure that belongs to no window.

        Raises:
            ValueError: an unknown measure, or heads that were not looked at one by one.
        """
        measure = self.measures[0] if measure is None else measure
        if measure not in self.measures:
            raise ValueError(f"unknown measure {measure!r}: expected {', '.join(map(repr, self.measures))}")
        table = self.table()
        heads = table[table["head"].map(_is_number) & (table.measure == measure)]
        if heads.empty:
            raise ValueError(
                f"there is no {_words(measure)} of single heads: give per='head', where the control takes it, and "
                "labels for what is correct"
            )
        return layers_by_heads(self._of_heads(heads), _words(measure), self.title)

    def values_by_layer(self, measure: str, rows: pd.DataFrame | None = None) -> dict[str, Any]:
        """The values of a measure in each layer, all heads together, one for each example in which it is defined.

        Args:
            measure: a column of the frame.
            rows: some of the frame's rows. Default: all.

        Returns:
            NumPy arrays by the layers' names.
        """
        rows = self._rows if rows is None else rows
        together = rows[~rows["head"].map(_is_number)].dropna(subset=measure)
        each = together.groupby(["layer", "example"], sort=False)[measure].mean()
        return {str(layer): part.to_numpy(dtype=float) for layer, part in each.groupby("layer", sort=False)}

    def _of_heads(self, heads: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Means by layer (rows) and head (columns), for each panel of the figure."""
        return {"": heads.pivot(index="layer", columns="head", values="mean")}


_NUMBER = "{:.{}f}".format


def _is_number(value: Any) -> bool:
    return isinstance(value, int)


def _words(measure: str) -> str:
    return {"tvd": "TVD", "tau": "Kendall's τ"}.get(measure, measure.replace("_", " "))
