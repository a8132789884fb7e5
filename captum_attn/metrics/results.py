"""What an evaluation found: tables, one row for each finding or example, Markdown, plots, files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score

from captum_attn.metrics import reports
from captum_attn.metrics.functional import PERCENTAGES, aopc, area_under_curve, log_odds, mean_drop
from captum_attn.metrics.record import REMOVALS, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ReportScale = Literal["eraser", "paper", "all"]

TOP_REMOVED, TOP_KEPT, BOTTOM_REMOVED = REMOVALS
RANKINGS = ("scores", "reversed")

_SCALED = ("comprehensiveness", "sufficiency", "log_odds")
_AREAS = ("deletion", "insertion")
_F1 = ("f1_macro", "f1_weighted")
_PLAUSIBILITY = ("token_auprc", "token_f1", "token_iou")
METRICS = (*_SCALED, *_AREAS, *_F1, *_PLAUSIBILITY, "seconds")

F1_PERCENTAGE = 20.0
"""F1 is that of predictions from the top 20 % of tokens alone, as in arXiv 2508.08966."""

_COLUMNS = ["method", "ranking", "intervention", "metric", "scale"]
_RESAMPLES = 200


class Evaluation:
    """What :func:`~captum_attn.metrics.evaluate` found.

    Attributes:
        settings: what was evaluated, and how.
        methods: their names, random scores included.

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
    """

    def __init__(self, record: Record) -> None:
        self._record = record
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

        Raises:
            FileNotFoundError, ValueError: no such file, or a file of another kind.
        """
        return cls(Record.read(Path(path)))

    def table(self, metrics: Sequence[str] | None = None, scale: ReportScale | None = None) -> pd.DataFrame:
        """One row for each method, ranking, intervention and metric.

        Args:
            metrics: some of ``comprehensiveness, sufficiency, log_odds, deletion, insertion, f1_macro, f1_weighted,
                token_auprc, token_f1, token_iou, seconds`` (for the attributions of one example). Default: all that
                the evaluation allows.
            scale: ``"eraser"``, ``"paper"``, or ``"all"``, the mean over all percentages that were evaluated, of the
                first three. Default: the first of these whose percentages were.

        Returns:
            Columns ``method``; ``ranking``, "scores" or "reversed"; ``intervention``; ``metric``; ``scale``, where the
            metric has one; ``mean``; ``standard_error``, F1's by bootstrap; ``n``, the number of examples.

        Raises:
            ValueError: a metric or scale that was not evaluated, with what it needs.
        """
        scale = self._scale(scale)
        wanted = self._checked(metrics, scale)
        each = self._scores([metric for metric in wanted if metric not in _F1], scale)
        groups = each.groupby(_COLUMNS, sort=False).value
        means = groups.agg(mean="mean", standard_error="sem", n="count").reset_index()
        f1 = pd.DataFrame(self._f1([metric for metric in wanted if metric in _F1]), columns=means.columns)
        both = pd.concat([means, f1] if len(f1) else [means], ignore_index=True)
        orders: dict[Any, Sequence[str]] = {"method": self.methods, "ranking": RANKINGS, "metric": wanted}
        return both.sort_values(
            list(orders), key=lambda column: column.map(orders[column.name].index), kind="stable", ignore_index=True
        )

    def compare(
        self, reference: str, metrics: Sequence[str] | None = None, scale: ReportScale | None = None
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

    def scores(self, metrics: Sequence[str] | None = None, scale: ReportScale | None = None) -> pd.DataFrame:
        """One row for each example, method, ranking, intervention and metric: what :meth:`table` averages.

        Args:
            metrics: as in :meth:`table`, without F1, which one example does not have.
            scale: as in :meth:`table`.

        Returns:
            Columns ``method``, ``ranking``, ``intervention``, ``metric``, ``scale``, ``example``, ``value``.

        Raises:
            ValueError: as :meth:`table`.
        """
        scale = self._scale(scale)
        wanted = self._checked(metrics, scale)
        if metrics is not None and set(wanted) & set(_F1):
            raise ValueError(f"F1 belongs to all examples together: it is in table() alone, got {wanted}")
        return self._scores([metric for metric in wanted if metric not in _F1], scale)

    def curves(self) -> pd.DataFrame:
        """The mean probability of the predicted class, and the AOPC, by percentage of tokens.

        Returns:
            Columns ``method``; ``intervention``; ``removal``, "top removed", "top kept" or "bottom removed";
            ``percentage``; ``probability``, ``standard_error``; ``aopc``, the mean drop up to here: from the lowest
            percentage up where tokens are removed, from the highest one down where they are kept.
        """
        rows = []
        for group in self._groups():
            for removal, perturbed in group.perturbed.items():
                if removal == TOP_KEPT:
                    area = aopc(group.whole, perturbed.flip(-1)).flip(-1)
                else:
                    area = aopc(group.whole, perturbed)
                errors = _standard_error(perturbed)
                columns = (perturbed.mean(0).tolist(), errors.tolist(), area.mean(0).tolist())
                for values in zip(self.settings.percentages, *columns, strict=True):
                    rows.append((group.method, group.intervention, removal, *values))
        names = ["method", "intervention", "removal", "percentage", "probability", "standard_error", "aopc"]
        return pd.DataFrame(rows, columns=names)

    def to_markdown(self, metrics: Sequence[str] | None = None, scale: ReportScale | None = None) -> str:
        """A table of means ± standard errors: a row for each method, best first; the first metric reversed, too.

        Args:
            metrics, scale: as in :meth:`table`.
        """
        return reports.markdown(self.table(metrics, scale))

    def plot(
        self,
        metric: str = "comprehensiveness",
        *,
        scale: ReportScale | None = None,
        intervention: str | None = None,
        families: dict[str, str] | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """How a metric is distributed over the examples, for each method, best first.

        Boxes span the quartiles, whiskers reach to the last example within 1.5 times their width, dots are means, and
        hollow dots are the means of reversed rankings.

        Args:
            metric: one of :meth:`scores`.
            scale: as in :meth:`table`.
            intervention: which one. Default: the first that was evaluated.
            families: a family for each method, which has a colour.
            ax: where to draw. Default: a new figure.

        Raises:
            ValueError: as :meth:`table`, or an intervention that was not evaluated.
        """
        each = self.scores([metric], scale)
        return reports.distributions(each[each.intervention == self._intervention(intervention, metric)], families, ax)

    def plot_curves(
        self, removal: str = TOP_REMOVED, *, intervention: str | None = None, ax: Axes | None = None
    ) -> Axes:
        """The mean probability of the predicted class by percentage of tokens, for each method.

        Args:
            removal: "top removed", "top kept" or "bottom removed".
            intervention, ax: as in :meth:`plot`.

        Raises:
            ValueError: an unknown removal or intervention.
        """
        if removal not in REMOVALS:
            raise ValueError(f"unknown removal {removal!r}: expected {', '.join(map(repr, REMOVALS))}")
        frame = self.curves()
        intervention = self._intervention(intervention)
        if removal == BOTTOM_REMOVED and intervention != self.settings.interventions[0]:
            raise ValueError(
                f"rankings are reversed by the first intervention, {self.settings.interventions[0]!r}, only"
            )
        return reports.curves(frame[(frame.removal == removal) & (frame.intervention == intervention)], ax)

    def _scores(self, metrics: Sequence[str], scale: ReportScale) -> pd.DataFrame:
        frames = [_frame([], "", "", "", "", "", [])]
        for metric in metrics:
            if metric in (*_PLAUSIBILITY, "seconds"):
                frames += self._unperturbed(metric)
                continue
            used = scale if metric in _SCALED else ""
            for group in self._groups():
                for ranking, perturbed in zip(RANKINGS, _removals(metric, group), strict=False):
                    values = self._values(metric, group.whole, perturbed, scale)
                    names = (group.method, ranking, group.intervention, metric, used)
                    frames.append(_frame(group.examples, *names, values.tolist()))
        return pd.concat(frames[1:] or frames, ignore_index=True)

    def _values(self, metric: str, whole: Tensor, perturbed: Tensor, scale: ReportScale) -> Tensor:
        """A metric (n,) of each example."""
        shares = self.settings.percentages
        if metric in _AREAS:
            return area_under_curve(perturbed, shares)
        at_scale = perturbed[:, [shares.index(share) for share in self._shares(scale)]]
        if metric == "log_odds":
            return log_odds(whole, at_scale)
        return mean_drop(whole, at_scale, "eraser" if scale == "all" else scale)

    def _unperturbed(self, metric: str) -> Iterator[pd.DataFrame]:
        for method, entries in self._record.measured.items():
            examples = sorted(entries)
            if metric == "seconds":
                values = [entries[example].seconds for example in examples]
            else:
                place = _PLAUSIBILITY.index(metric)
                values = [(entries[example].plausibility or (np.nan,) * 3)[place] for example in examples]
            yield _frame(examples, method, "scores", "none", metric, "", values)

    def _f1(self, metrics: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        if not metrics:
            return
        share = self.settings.percentages.index(F1_PERCENTAGE)
        for group in self._groups():
            labels = torch.tensor([self._record.examples[example].label for example in group.examples])
            predicted = group.predictions[:, share]
            for metric in metrics:
                found = _f1_and_error(predicted, labels, metric.removeprefix("f1_"))
                yield group.method, "scores", group.intervention, metric, "", *found, len(labels)

    def _groups(self) -> Iterator[_Group]:
        """What was measured of each method and intervention."""
        for method, entries in self._record.measured.items():
            examples = sorted(entries)
            measured = [entries[example] for example in examples]
            whole = torch.tensor([self._record.examples[example].probability for example in examples])
            for place, intervention in enumerate(self.settings.interventions):
                probabilities = torch.tensor([entry.probabilities[place] for entry in measured])
                predictions = torch.tensor([entry.predictions[place] for entry in measured])
                perturbed = dict(zip(REMOVALS, probabilities.unbind(1), strict=False))
                of_kept = predictions[:, REMOVALS.index(TOP_KEPT)]
                yield _Group(method, intervention, examples, whole, perturbed, of_kept)

    def _intervention(self, given: str | None, metric: str = "") -> str:
        known = ("none",) if metric in (*_PLAUSIBILITY, "seconds") else self.settings.interventions
        if given is not None and given not in known:
            raise ValueError(f"intervention {given!r} was not evaluated, only {', '.join(known)}")
        return given or known[0]

    def _scale(self, given: ReportScale | None) -> ReportScale:
        known = get_args(ReportScale)
        if given is not None and given not in known:
            raise ValueError(f"unknown scale {given!r}: expected {', '.join(map(repr, known))}")
        if given is not None:
            self._checked(_SCALED[:1], given)
            return given
        return next(scale for scale in known if set(self._shares(scale)) <= set(self.settings.percentages))

    def _shares(self, scale: ReportScale) -> tuple[float, ...]:
        """The percentages over which a scale averages."""
        return self.settings.percentages if scale == "all" else PERCENTAGES[scale]

    def _checked(self, metrics: Sequence[str] | None, scale: ReportScale) -> list[str]:
        """The metrics that are asked for; by default all that there are."""
        if metrics is None:
            return [metric for metric in METRICS if self._lacks(metric, scale) is None]
        asked = [metrics] if isinstance(metrics, str) else list(metrics)
        for metric in asked:
            if metric not in METRICS:
                raise ValueError(f"unknown metric {metric!r}: expected some of {', '.join(METRICS)}")
            lack = self._lacks(metric, scale)
            if lack is not None:
                raise ValueError(f"{metric} was not evaluated: call evaluate with {lack}")
        return asked

    def _lacks(self, metric: str, scale: ReportScale) -> str | None:
        """What the evaluation would have needed for a metric; None if it is there."""
        shares = set(self.settings.percentages)
        if metric in _SCALED and not set(self._shares(scale)) <= shares:
            return f"percentages={self._shares(scale)} for the scale {scale!r}"
        if metric in _AREAS and not {0.0, 100.0} <= shares:
            return "percentages from 0 to 100, such as range(0, 101, 10)"
        if metric in _F1 and F1_PERCENTAGE not in shares:
            return f"{F1_PERCENTAGE:g} among the percentages"
        if metric in _F1 and any(example.label is None for example in self._record.examples.values()):
            return "labels=, the gold classes"
        if metric in _PLAUSIBILITY and not self.settings.rationales:
            return "rationales="
        return None


@dataclass(frozen=True)
class _Group:
    """Of a method and an intervention: the n examples, p of whole inputs (n,), p of perturbed inputs, (n, K) for each
    removal, and the predictions int64 (n, K) from the top k %."""

    method: str
    intervention: str
    examples: list[int]
    whole: Tensor
    perturbed: dict[str, Tensor]
    predictions: Tensor


def _removals(metric: str, group: _Group) -> list[Tensor]:
    """The perturbed inputs (n, K) that a metric is about: by the scores and, where tokens are removed, in reverse."""
    removals = (TOP_KEPT,) if metric in ("sufficiency", "insertion") else (TOP_REMOVED, BOTTOM_REMOVED)
    return [group.perturbed[removal] for removal in removals if removal in group.perturbed]


def _frame(
    examples: list[int], method: str, ranking: str, intervention: str, metric: str, scale: str, values: list[float]
) -> pd.DataFrame:
    names = dict(zip(_COLUMNS, (method, ranking, intervention, metric, scale), strict=True))
    return pd.DataFrame({**names, "example": examples, "value": values})


def _standard_error(values: Tensor) -> Tensor:
    """Of the mean over examples, of (n, ...); NaN for one."""
    return values.std(0) / len(values) ** 0.5 if len(values) > 1 else torch.full_like(values[0], torch.nan)


def _f1_and_error(predicted: Tensor, labels: Tensor, average: Any) -> tuple[float, float]:
    """F1 and its standard error by bootstrap."""
    classes = int(torch.cat((predicted, labels)).max()) + 1

    def f1(rows: Tensor) -> float:
        return float(multiclass_f1_score(predicted[rows], labels[rows], max(classes, 2), average))

    if len(labels) < 2:
        return f1(torch.arange(len(labels))), np.nan
    draws = torch.randint(len(labels), (_RESAMPLES, len(labels)), generator=torch.Generator().manual_seed(0))
    return f1(torch.arange(len(labels))), float(np.std([f1(rows) for rows in draws], ddof=1))
