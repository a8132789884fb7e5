"""Findings for people: a Markdown table, and plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from captum_attn.drawing import as_written, new_figure, short_name, width_of, wrapped
from captum_attn.formatting import with_error
from captum_attn.metrics.catalogue import Metric
from captum_attn.metrics.record import UNTOUCHED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 4.6  # inches, of a plot without its names
_RANDOM_COLOUR = "#999999"
_COLOURS = [f"C{number}" for number in (0, 1, 2, 3, 4, 5, 6, 8, 9)]  # 7 is grey


def by_method(
    table: pd.DataFrame, metrics: Mapping[str, Metric], written: Callable[[float, int], str] = "{:.{}f}".format
) -> pd.DataFrame:
    """A row for each method, best first by the first metric; a column for each metric and intervention, as text."""
    if table.empty:
        raise ValueError("there are no metrics to show: expected some of those of table()")
    usual = table.intervention.iloc[0]
    table = table.assign(column=[_label(row, usual, metrics[row.metric]) for row in table.itertuples()])
    first = table.iloc[0]
    shown = table[(table.ranking == "scores") | (table.metric == first.metric)]
    cells = shown.assign(cell=[_cell(row, written) for row in shown.itertuples()]).pivot(
        index="method", columns="column", values="cell"
    )
    leading = table[table.column == first.column].set_index("method")["mean"]
    methods = leading.sort_values(ascending=not metrics[first.metric].higher_is_better).index
    return cells.loc[methods, shown.column.unique()].rename_axis(columns=None).reset_index()


def markdown(table: pd.DataFrame, metrics: Mapping[str, Metric]) -> str:
    """:func:`by_method`, below what holds for all of its columns."""
    rows = by_method(table, metrics)
    lines = [caption(table), "", f"| {' | '.join(map(_escaped, rows))} |", f"|---|{'--:|' * (rows.shape[1] - 1)}"]
    lines += [f"| {' | '.join(map(_escaped, row))} |" for row in rows.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def distributions(scores: pd.DataFrame, metric: Metric, families: dict[str, str] | None, ax: Axes | None) -> Figure:
    """A box for each method, of the values that its scores reach; see :meth:`Evaluation.plot`."""
    scale = scores.scale.iloc[0]
    means = scores[scores.ranking == "scores"].groupby("method", sort=False).value.mean()
    methods = means.sort_values(ascending=metric.higher_is_better).index.tolist()  # the best on top
    colour_of = _colours(list(means.index), families)
    names = list(map(short_name, methods))
    if ax is None:
        rows = max(len(methods), 4) + len(families or {}) / 2
        ax = new_figure(_ACROSS + 0.4 + width_of(names), 1.2 + 0.3 * rows).add_subplot()
    for place, method in enumerate(methods):
        own = scores[(scores.method == method) & (scores.ranking == "scores")].value.dropna()
        style = {"color": colour_of[method]}
        ax.boxplot(
            [own],
            positions=[place],
            orientation="horizontal",
            widths=0.6,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": colour_of[method], "alpha": 0.35, "edgecolor": colour_of[method]},
            medianprops=style,
            whiskerprops=style,
            capprops=style,
        )
        ax.plot(own.mean(), place, "o", color=colour_of[method])
        reverse = scores[(scores.method == method) & (scores.ranking == "reversed")].value
        if len(reverse):
            ax.plot(reverse.mean(), place, "o", markerfacecolor="white", color=colour_of[method])
    ax.set_yticks(range(len(methods)), names)
    as_written(ax.yaxis)
    notes = [f"{scale} scale"] * bool(scale) + [kind for kind in scores.intervention.unique() if kind != UNTOUCHED]
    label = f"{metric.title}, {metric.better}" + (f" ({', '.join(notes)})" if notes else "")
    ax.set_xlabel(wrapped(label, _ACROSS))
    if families is not None:
        colour_of_family = {families[method]: colour_of[method] for method in families if method in colour_of}
        for family, colour in colour_of_family.items():
            ax.plot([], [], "s", color=colour, label=short_name(family))
        columns = max(1, int(_ACROSS / (0.5 + width_of(map(short_name, colour_of_family)))))
        legend = ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, frameon=False)
        as_written(legend)
    return _figure_of(ax)


def means(table: pd.DataFrame, metric: Metric, ax: Axes | None) -> Figure:
    """A dot for each method, with its standard error, of a metric of all examples together."""
    shown = table.sort_values("mean", ascending=metric.higher_is_better)  # the best on top
    names = [short_name(method) for method in shown.method]
    ax = ax or new_figure(_ACROSS + 0.4 + width_of(names), 1.2 + 0.3 * max(len(names), 4)).add_subplot()
    colour_of = _colours(list(table.method), None)
    for place, row in enumerate(shown.itertuples()):
        ax.errorbar(row.mean, place, xerr=row.standard_error, fmt="o", color=colour_of[row.method], capsize=2)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(-0.6, len(names) - 0.4)
    as_written(ax.yaxis)
    ax.set_xlabel(f"{metric.title}, {metric.better}")
    return _figure_of(ax)


def curves(frame: pd.DataFrame, ax: Axes | None) -> Figure:
    """A line for each method; see :meth:`Evaluation.plot_curves`."""
    methods = frame.method.unique().tolist()
    if ax is None:
        size = (_ACROSS + 1.2 + width_of(map(short_name, methods)), max(3.8, 0.6 + 0.22 * len(methods)))
        ax = new_figure(*size).add_subplot()
    colour_of = _colours(methods, None)
    for place, (method, part) in enumerate(frame.groupby("method", sort=False)):
        ax.errorbar(
            part.percentage,
            part.probability,
            part.standard_error,
            label=short_name(method),
            color=colour_of[method],
            linestyle=("-", "--", ":")[place // len(_COLOURS) % 3],
            capsize=2,
        )
    ax.set_xlabel(f"% of tokens, {frame.removal.iloc[0]} ({frame.intervention.iloc[0]})")
    ax.set_ylabel("probability of the predicted class")
    as_written(ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False))
    return _figure_of(ax)


def _figure_of(ax: Axes) -> Figure:
    figure: Any = ax.get_figure(root=True)
    return figure  # type: ignore[no-any-return]


def _colours(methods: list[str], families: dict[str, str] | None) -> dict[str, str]:
    """A colour for each method, the same for those of a family; grey for random scores."""
    kinds = {method: (families or {}).get(method, method) for method in methods}
    known = [kind for kind in dict.fromkeys(kinds.values()) if kind != "random"]
    colours = {"random": _RANDOM_COLOUR, **{kind: _COLOURS[place % len(_COLOURS)] for place, kind in enumerate(known)}}
    return {method: colours[kind] for method, kind in kinds.items()}


def caption(table: pd.DataFrame) -> str:
    """What holds for all columns."""
    scales = [f"{scale} scale" for scale in table.scale.unique() if scale]
    kinds = [kind for kind in table.intervention.unique() if kind != UNTOUCHED]
    by = [f"tokens are taken by {kinds[0]}" + (", unless a column says otherwise" * (len(kinds) > 1))] if kinds else []
    most, least = table.n.max(), table.n.min()
    count = f"{most} examples" if most == least else f"{least} to {most} examples"
    return "; ".join([*scales, *by, f"mean ± standard error over {count}"]).capitalize() + "."


def _escaped(name: str) -> str:
    return name.replace("|", "\\|").replace("\n", " ")


def _label(row: Any, usual: str, metric: Metric) -> str:
    """What stands above a column."""
    own = [] if row.intervention in (usual, UNTOUCHED) else [row.intervention]
    notes = own + ([] if row.ranking == "scores" else [row.ranking])
    return f"{metric.title} {metric.arrow}" + "".join(f", {note}" for note in notes)


def _cell(row: Any, written: Callable[[float, int], str]) -> str:
    return with_error(row.mean, row.standard_error, 4 if row.metric == "seconds" else 3, written=written)
