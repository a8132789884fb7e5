"""What every control found: a row for each example, a table of means, Markdown, figures, a page."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import pandas as pd

from captum_attn.controls.control_figures import layers_by_heads
from captum_attn.drawing import ShownFigure
from captum_attn.formatting import number, strongest, with_error
from captum_attn.pages import Shown, figure_html, opening, page, table_html


class ControlResult(Shown):
    """What a control of a model's attention found.

    A notebook shows it as a page; :meth:`show`, :meth:`plot`, :meth:`to_html`, :meth:`frame` and :meth:`top` work
    anywhere.

    Args:
        rows: what :meth:`frame` returns, in any order of the examples.
    """

    by: ClassVar[tuple[str, ...]] = ("layer", "head")
    """The columns that tell the table's rows apart."""

    measures: ClassVar[tuple[str, ...]]
    """The columns of which the table has means."""

    page_height = 720

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
        """What the table shows."""

    def cautions(self) -> list[str]:
        """What it does not say, and what else to look at."""
        return []

    @abstractmethod
    def plot(self) -> ShownFigure:
        """The distribution over the examples, by layer: a matplotlib figure that belongs to no window."""

    def page(self) -> str:
        """The page, as HTML that needs nothing from elsewhere: the table, and figures of layers and of heads."""
        figures = [figure_html(figure, figure.get_suptitle()) for figure in self._figures()]
        parts = [opening(self.title, self.caption, self.cautions()), table_html(self._by_layer(number)), *figures]
        return page(self.title, "\n".join(parts))

    def _figures(self) -> list[ShownFigure]:
        """Those of the page; none where no measure is defined."""
        heads = [self.plot_heads()] if len(self._single_heads(self.measures[0])) else []
        return [self.plot(), *heads] if self._rows[self.measures[0]].notna().any() else []

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

    def top(self, k: int = 5) -> pd.DataFrame:
        """The k rows of :meth:`table` with the largest mean of the first measure, in magnitude."""
        table = self.table()
        return strongest(table[table.measure == self.measures[0]], k, ["measure"], "mean")

    def to_markdown(self) -> str:
        """The table of means ± standard errors, with its caption; single heads are left to :meth:`table`."""
        rows = self._by_layer("{:.{}f}".format)
        keys = sum(column in self.by for column in rows)
        lines = [
            " ".join([self.caption, *self.cautions()]),
            "",
            f"| {' | '.join(rows)} |",
            f"|{'---|' * keys}{'--:|' * (rows.shape[1] - keys)}",
        ]
        lines += [f"| {' | '.join(map(str, row))} |" for row in rows.itertuples(index=False)]
        return "\n".join(lines) + "\n"

    def _by_layer(self, written: Callable[[float, int], str]) -> pd.DataFrame:
        """The table of means ± standard errors, as text, a column for each measure; without single heads."""
        table = self.table()
        together = table[~table["head"].map(_is_number)]
        shown = together if len(together) else table
        by = [column for column in self.by if shown[column].nunique() > 1 or column == "layer"]
        cells = [with_error(row.mean, row.standard_error, written=written) for row in shown.itertuples()]
        shown = shown.assign(cell=cells, measure=shown.measure.map(_words))
        rows = [
            {**dict(zip(by, keys, strict=True)), **part.set_index("measure").cell.to_dict()}
            for keys, part in shown.groupby(by, sort=False)
        ]
        return pd.DataFrame(rows, columns=[*by, *shown.measure.unique()]).fillna("")

    def plot_heads(self, measure: str | None = None) -> ShownFigure:
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
        heads = self._single_heads(measure)
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

    def _single_heads(self, measure: str) -> pd.DataFrame:
        """The rows of the table for heads that were looked at one by one."""
        table = self.table()
        return table[table["head"].map(_is_number) & (table.measure == measure)]

    def _of_heads(self, heads: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Means by layer (rows) and head (columns), for each panel of the figure."""
        return {"": heads.pivot(index="layer", columns="head", values="mean")}


def _is_number(value: Any) -> bool:
    return isinstance(value, int)


def _words(measure: str) -> str:
    return {"tvd": "TVD", "tau": "Kendall's τ"}.get(measure, measure.replace("_", " "))
