"""What an evaluation found: tables, one row for each finding or example, Markdown, plots, files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from captum_attn.bench import RANDOM
from captum_attn.core import warn_user
from captum_attn.formatting import number
from captum_attn.functional import aopc, mean_over_inputs
from captum_attn.metrics import reports
from captum_attn.metrics.catalogue import Metric, ReportScale
from captum_attn.metrics.findings import COLUMNS, RANKINGS, Findings
from captum_attn.metrics.paired_differences import PairedDifferences
from captum_attn.metrics.record import BOTTOM_REMOVED, REMOVALS, TOP_KEPT, TOP_REMOVED, Record
from captum_attn.pages import Shown, figure_html, opening, page, table_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FEW = 30  # examples


class Evaluation(Shown):
    """What :func:`~captum_attn.metrics.evaluate` found: which method is the most faithful.

    A notebook shows it as a page; :meth:`show`, :meth:`plot`, :meth:`to_html`, :meth:`frame` and :meth:`top` work
    anywhere.

    Attributes:
        settings: what was evaluated, and how.
        methods: their names, random scores included.

    Args:
        record: what was measured.
        wanted: the metrics that it was made for; None for all that it allows.

    Example:
        >>> from captum_attn import ShapleyGradAttention
        >>> from captum_attn.metrics import Evaluation, evaluate
        >>> ours = {"gradients": ShapleyGradAttention(model, tokenizer=tokenizer)}
        >>> texts = ["a gripping film", "not good at all"]
        >>> result = evaluate(model, texts, ours, tokenizer=tokenizer, show_progress=False)
        >>> result
        Evaluation(2 examples, methods: gradients, random)
        >>> result.save("faithfulness.jsonl")
        >>> Evaluation.load("faithfulness.jsonl").table().equals(result.table())
        True
        >>> result.top(1).method.item() in result.methods
        True
        >>> path = result.to_html("faithfulness.html")
        >>> result.plot().savefig("faithfulness.png")
    """

    page_height = 760

    def __init__(self, record: Record, wanted: Sequence[Metric] | None = None) -> None:
        self._record, self._findings = record, Findings(record, wanted)
        self.settings = record.settings
        self.methods = tuple(record.measured)

    def __repr__(self) -> str:
        done = min(map(len, self._record.measured.values()), default=0)
        count = f"{done} of {self.settings.count}" if done < self.settings.count else f"{done}"
        return f"Evaluation({count} examples, methods: {', '.join(self.methods)})"

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def save(self, path: str | Path) -> None:
        """Write everything to a file of JSON lines, with which ``evaluate(..., file=path)`` can go on."""
        self._record.write(Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read a file that :meth:`save` or ``evaluate(..., file=path)`` wrote, be it complete or interrupted.

        Of metrics of one's own, it holds the values of those that need scores, rationales or ``"ask"``. Others are
        computed from the probabilities that it holds: give :meth:`table` their records; a warning names them.

        Raises:
            FileNotFoundError, ValueError: no such file, or a file of another kind.
        """
        result = cls(Record.read(Path(path)))
        if unknown := result._findings.unknown:
            warn_user(
                f"{path} was made for metrics of your own, {', '.join(unknown)}, that are computed from the "
                "probabilities in it: table([record, ...]) has them"
            )
        return result

    @property
    def metrics(self) -> list[Metric]:
        """Those of :meth:`table`, on its usual scale."""
        return self._findings.checked(None, self._findings.scale(None))

    def table(self, metrics: Sequence[str | Metric] | None = None, scale: ReportScale | None = None) -> pd.DataFrame:
        """One row for each method, ranking, intervention and metric.

        Args:
            metrics: some of ``comprehensiveness, sufficiency, log_odds, deletion, insertion, f1_macro, f1_weighted,
                token_auprc, token_f1, token_iou, seconds`` (for the attributions of one example), or
                :class:`Metric` records that need no scores. Default: those that were asked for, or all that the
                evaluation allows.
            scale: ``"eraser"``, ``"paper"``, or ``"all"``, the mean over all percentages that were evaluated, of the
                first three. Default: the first of these whose percentages were.

        Returns:
            Columns ``method``; ``ranking``, "scores" or "reversed"; ``intervention``; ``metric``; ``scale``, where the
            metric has one; ``mean``; ``standard_error``, F1's by bootstrap; ``n``, the number of examples.

        Raises:
            ValueError: a metric or scale that was not evaluated, with what it needs.
        """
        scale = self._findings.scale(scale)
        wanted = self._findings.checked(metrics, scale)
        groups = self._findings.scores(wanted, scale).groupby(COLUMNS, sort=False).value
        means = groups.agg(mean="mean", standard_error="sem", n="count").reset_index()
        of_all = pd.DataFrame(self._findings.of_all(wanted, scale), columns=means.columns)
        both = pd.concat([means, of_all] if len(of_all) else [means], ignore_index=True)
        names = [metric.name for metric in wanted]
        orders: dict[Any, Sequence[str]] = {"method": self.methods, "ranking": RANKINGS, "metric": names}
        return both.sort_values(
            list(orders), key=lambda column: column.map(orders[column.name].index), kind="stable", ignore_index=True
        )

    def frame(self) -> pd.DataFrame:
        """:meth:`table`, with all metrics that it has."""
        return self.table()

    def top(self, k: int = 5, metric: str | Metric | None = None) -> pd.DataFrame:
        """The rows of :meth:`table` of the k best methods, best first, random scores among them.

        Args:
            k: how many.
            metric: by which one. Default: the first, by the first intervention.

        Raises:
            ValueError: as :meth:`table`.
        """
        table = self.table(None if metric is None else [metric])
        rows = table[(table.ranking == "scores") & (table.metric == table.metric.iloc[0])]
        rows = rows[rows.intervention == rows.intervention.iloc[0]]
        (of,) = self._named([rows.metric.iloc[0] if metric is None else metric], None).values()
        best_first = rows.sort_values("mean", ascending=not of.higher_is_better, kind="stable")
        return best_first.head(k).reset_index(drop=True)

    def cautions(self) -> list[str]:
        """What to keep in mind: few examples, and methods that are not surely better than chance, by their numbers."""
        found = []
        if self.settings.count < _FEW:
            found.append(f"There are only {self.settings.count} examples: differences between methods may be chance.")
        faithful = next((metric for metric in self.metrics if metric.takes_tokens and not metric.of_all), None)
        if faithful is not None and self.settings.count > 1 and RANDOM in self.methods:
            scores = self.scores([faithful])
            methods = [method for method in self.methods if method != RANDOM]
            found += PairedDifferences(scores, faithful.higher_is_better).no_better_than_chance(methods)
        return found

    def page(self) -> str:
        """The page, as HTML that needs nothing from elsewhere: cautions, the table, and both plots."""
        count = len(self.methods) - (RANDOM in self.methods)
        title = f"Faithfulness of {count} method{'s' * (count > 1)}"
        table = self.table()
        if table.empty:
            return page(title, opening(title, "None of its metrics is known: table([record, ...]) has them."))
        turned = "; reversed: by the same scores from the lowest up" if "reversed" in set(table.ranking) else ""
        note = (
            f"{reports.caption(table)} The best is first; arrows say which way is better. Random scores show what "
            f"chance reaches{turned}."
        )
        parts = [opening(title, note, self.cautions())]
        rows = reports.by_method(table, self._named(None, None), number)
        parts.append(table_html(rows.rename(columns=lambda name: re.sub(" (?=[↑↓])", "\u00a0", name))))
        parts.append(figure_html(self.plot(), "Dots: means, hollow ones of reversed rankings; boxes: quartiles."))
        if TOP_REMOVED in self.settings.removals and len(self.settings.percentages) > 1:
            parts.append(figure_html(self.plot_curves(), "How the prediction falls when its top tokens go."))
        return page(title, "\n".join(parts), wide=True)

    def compare(
        self, reference: str, metrics: Sequence[str | Metric] | None = None, scale: ReportScale | None = None
    ) -> pd.DataFrame:
        """How much each method differs from one of them, example by example.

        Examples differ more than methods do, so that these paired differences have much smaller standard errors than
        the means of :meth:`table`.

        Args:
            reference: the method that is subtracted.
            metrics, scale: as in :meth:`scores`.

        Returns:
            Columns ``method``, ``intervention``, ``metric``, ``scale``; ``difference``, its mean; ``standard_error``;
            ``n``, the number of examples on which both were measured.

        Raises:
            ValueError: an unknown method; as :meth:`table`.
        """
        if reference not in self.methods:
            raise ValueError(f"unknown method {reference!r}: expected one of {', '.join(map(repr, self.methods))}")
        each = self.scores(metrics, scale).query("ranking == 'scores'")
        names = ["intervention", "metric", "scale", "example"]
        with_reference = each.merge(each[each.method == reference], on=names, suffixes=("", "_of_reference"))
        with_reference["gain"] = with_reference.value - with_reference.value_of_reference
        others = with_reference[with_reference.method != reference]
        groups = others.groupby(["method", *names[:-1]], sort=False).gain
        return groups.agg(difference="mean", standard_error="sem", n="count").reset_index()

    def scores(self, metrics: Sequence[str | Metric] | None = None, scale: ReportScale | None = None) -> pd.DataFrame:
        """One row for each example, method, ranking, intervention and metric: what :meth:`table` averages.

        Args:
            metrics: as in :meth:`table`, without F1, which one example does not have.
            scale: as in :meth:`table`.

        Returns:
            Columns ``method``, ``ranking``, ``intervention``, ``metric``, ``scale``, ``example``, ``value``.

        Raises:
            ValueError: as :meth:`table`.
        """
        scale = self._findings.scale(scale)
        wanted = self._findings.checked(metrics, scale)
        of_all = [metric.name for metric in wanted if metric.of_all]
        if metrics is not None and of_all:
            raise ValueError(f"{', '.join(of_all)} belongs to all examples together: it is in table() alone")
        return self._findings.scores(wanted, scale)

    def curves(self) -> pd.DataFrame:
        """The mean probability of the predicted class, and the AOPC, by percentage of tokens.

        Returns:
            Columns ``method``; ``intervention``; ``removal``, "top removed", "top kept" or "bottom removed";
            ``percentage``; ``probability``, ``standard_error``; ``aopc``, the mean drop up to here: from the lowest
            percentage up where tokens are removed, from the highest one down where they are kept.
        """
        rows = []
        for group in self._findings.groups():
            for removal, perturbed in group.perturbed.items():
                if removal == TOP_KEPT:
                    area = aopc(group.whole, perturbed.flip(-1)).flip(-1)
                else:
                    area = aopc(group.whole, perturbed)
                errors = mean_over_inputs(perturbed).standard_error
                columns = (perturbed.mean(0).tolist(), errors.tolist(), area.mean(0).tolist())
                for values in zip(self.settings.percentages, *columns, strict=True):
                    rows.append((group.method, group.intervention, removal, *values))
        names = ["method", "intervention", "removal", "percentage", "probability", "standard_error", "aopc"]
        return pd.DataFrame(rows, columns=names)

    def to_markdown(self, metrics: Sequence[str | Metric] | None = None, scale: ReportScale | None = None) -> str:
        """A table of means ± standard errors: a row for each method, best first; the first metric reversed, too.

        Args:
            metrics, scale: as in :meth:`table`.
        """
        return reports.markdown(self.table(metrics, scale), self._named(metrics, scale))

    def plot(
        self,
        metric: str | Metric | None = None,
        *,
        scale: ReportScale | None = None,
        intervention: str | None = None,
        families: dict[str, str] | None = None,
        ax: Axes | None = None,
    ) -> Figure:
        """How a metric is distributed over the examples, for each method, best first.

        Boxes span the quartiles, whiskers reach to the last example within 1.5 times their width, dots are means, and
        hollow dots are the means of reversed rankings. Metrics of all examples together, such as F1, have a dot with
        its standard error.

        Args:
            metric: one of :meth:`table`. Default: the first that each example has, else the first.
            scale: as in :meth:`table`.
            intervention: which one. Default: the first that was evaluated.
            families: a family for each method, which has a colour.
            ax: where to draw. Default: a new figure.

        Returns:
            The figure, which belongs to no window unless its ``ax`` does.

        Raises:
            ValueError: as :meth:`table`, or an intervention that was not evaluated.
        """
        if metric is None:
            metric = min(self.metrics, key=lambda one: one.of_all)
        (of,) = self._named([metric], scale).values()
        each = self.table([metric], scale) if of.of_all else self.scores([metric], scale)
        known = tuple(each.intervention.unique())
        shown = each[each.intervention == self._intervention(intervention, known)]
        return reports.means(shown, of, ax) if of.of_all else reports.distributions(shown, of, families, ax)

    def plot_curves(
        self, removal: str = TOP_REMOVED, *, intervention: str | None = None, ax: Axes | None = None
    ) -> Figure:
        """The mean probability of the predicted class by percentage of tokens, for each method.

        Args:
            removal: "top removed", "top kept" or "bottom removed".
            intervention, ax: as in :meth:`plot`.

        Returns:
            As :meth:`plot`.

        Raises:
            ValueError: an unknown removal or intervention.
        """
        if removal not in REMOVALS:
            raise ValueError(f"unknown removal {removal!r}: expected {', '.join(map(repr, REMOVALS))}")
        frame = self.curves()
        intervention = self._intervention(intervention, self.settings.interventions)
        if removal not in self.settings.removals:
            raise ValueError(f"inputs with {removal!r} were not evaluated: no metric of this evaluation needs them")
        if removal == BOTTOM_REMOVED and intervention != self.settings.interventions[0]:
            raise ValueError(
                f"rankings are reversed by the first intervention, {self.settings.interventions[0]!r}, only"
            )
        return reports.curves(frame[(frame.removal == removal) & (frame.intervention == intervention)], ax)

    def _intervention(self, given: str | None, known: Sequence[str]) -> str:
        if given is not None and given not in known:
            raise ValueError(f"intervention {given!r} was not evaluated, only {', '.join(known)}")
        return given or known[0]

    def _named(self, metrics: Sequence[str | Metric] | None, scale: ReportScale | None) -> dict[str, Metric]:
        return {metric.name: metric for metric in self._findings.checked(metrics, self._findings.scale(scale))}
