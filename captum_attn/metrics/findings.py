"""The numbers of an evaluation: which metrics it allows, and their values for each example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any, get_args

import pandas as pd
import torch
from torch import Tensor

from captum_attn._moved import moved_names
from captum_attn.metrics.catalogue import CATALOGUE, Metric, ReportScale, known_metrics, shares_of
from captum_attn.metrics.record import (
    BOTTOM_REMOVED,
    TOP_KEPT,
    TOP_REMOVED,
    UNTOUCHED,
    EvaluationSettings,
    Measured,
    Record,
    kept_as,
    removals_for,
)

REPORT_SCALES: tuple[ReportScale, ...] = get_args(ReportScale)

RANKINGS = ("scores", "reversed")
COLUMNS = ["method", "ranking", "intervention", "metric", "scale"]
_RESAMPLES = 200


class Findings:
    """The values of metrics, computed from what a record holds.

    Args:
        record: of an evaluation.
        wanted: the metrics that it was made for, as far as they are records of one's own.

    Attributes:
        unknown: names of metrics that it was made for, and of which it holds neither values nor the function.
    """

    def __init__(self, record: Record, wanted: Sequence[Metric] | None) -> None:
        self._record, self.settings = record, record.settings
        kept = [name for name in self.settings.kept if name not in CATALOGUE]
        self._own = {
            name: Metric(name, self.settings.kept[name]["higher_is_better"], ["scores"], _kept_alone) for name in kept
        }
        self._own |= {metric.name: metric for metric in wanted or () if metric.name not in CATALOGUE}
        every = CATALOGUE | self._own
        names = every if self.settings.wanted is None else self.settings.wanted
        self._usual = [every[name] for name in names if name in every]
        self.unknown = [name for name in names if name not in every]

    def scores(self, metrics: Sequence[Metric], scale: ReportScale) -> pd.DataFrame:
        """What :meth:`Evaluation.scores` documents, of metrics that were checked."""
        frames = [_frame([], "", "", "", "", "", [])]
        for metric in metrics:
            if metric.of_all:
                continue
            if metric.name in self.settings.kept or not metric.takes_tokens:
                frames += self._of_entries(metric)
            else:
                frames += self._of_probabilities(metric, scale)
        return pd.concat(frames[1:] or frames, ignore_index=True)

    def of_all(self, metrics: Sequence[Metric], scale: ReportScale) -> Iterator[tuple[Any, ...]]:
        """Rows of :meth:`Evaluation.table` for metrics of all examples together."""
        for metric in metrics:
            for group in self.groups() if metric.of_all else ():
                known = self._known(metric, group, scale)
                yield group.method, "scores", group.intervention, metric.name, "", *_bootstrapped(metric, known)

    def groups(self) -> Iterator[Group]:
        """What was measured of each method and intervention."""
        examples_of = self._record.examples
        for method, entries in self._record.measured.items():
            examples = sorted(entries)
            measured = [entries[example] for example in examples]
            whole = torch.tensor([examples_of[example].probability for example in examples])
            labels = [examples_of[example].label for example in examples]
            for place, intervention in enumerate(self.settings.interventions):
                removals = [removal for removal in self.settings.removals if place == 0 or removal != BOTTOM_REMOVED]
                yield Group(
                    method,
                    intervention,
                    examples,
                    whole,
                    {of: torch.tensor([entry.probabilities[place][of] for entry in measured]) for of in removals},
                    torch.tensor([entry.predictions[place] for entry in measured]),
                    None if None in labels else torch.tensor(labels),
                )

    def scale(self, given: ReportScale | None) -> ReportScale:
        """The scale that is asked for; by default the first whose percentages were evaluated."""
        if given is None:
            return next(
                scale
                for scale in REPORT_SCALES
                if {*shares_of(scale, self.settings.percentages)} <= {*self.settings.percentages}
            )
        if given not in REPORT_SCALES:
            raise ValueError(f"unknown scale {given!r}: expected {', '.join(map(repr, REPORT_SCALES))}")
        if not {*shares_of(given, self.settings.percentages)} <= {*self.settings.percentages}:
            raise ValueError(
                f"the scale {given!r} was not evaluated: call evaluate with {_percentages_of(self.settings, given)}"
            )
        return given

    def checked(self, metrics: Sequence[str | Metric] | None, scale: ReportScale) -> list[Metric]:
        """The metrics that are asked for; by default all that there are."""
        if metrics is None:
            return [metric for metric in self._usual if lack(metric, self.settings, scale) is None]
        asked = known_metrics(metrics, self._own)
        for metric in asked:
            if not self._is_kept(metric):
                raise ValueError(f"the values of {metric.name!r} are of another metric: give yours its own name")
            missing = lack(metric, self.settings, scale)
            if missing is not None:
                raise ValueError(f"{metric.name} was not evaluated: call evaluate with {missing}")
        return asked

    def _is_kept(self, metric: Metric) -> bool:
        """Whether values that were kept under its name, if there are any, are its own."""
        kept = self.settings.kept.get(metric.name)
        return kept is None or metric.function is _kept_alone or kept == kept_as(metric)

    def _of_entries(self, metric: Metric) -> Iterator[pd.DataFrame]:
        """Values that were kept, or need nothing but what is known of each explanation."""
        for method, entries in self._record.measured.items():
            examples = sorted(entries)
            for intervention, values in self._columns(metric, [entries[example] for example in examples]).items():
                yield _frame(examples, method, "scores", intervention, metric.name, "", values)

    def _columns(self, metric: Metric, measured: Sequence[Measured]) -> dict[str, list[float]]:
        """By intervention, a value for each example."""
        if metric.name not in self.settings.kept:
            wholes = [self._record.examples[entry.example] for entry in measured]
            known = {
                "seconds": torch.tensor([entry.seconds for entry in measured], dtype=torch.double),
                "whole": torch.tensor([whole.probability for whole in wholes]),
                "labels": torch.tensor([-1 if whole.label is None else whole.label for whole in wholes]),
                "percentages": metric.shares(self.settings.percentages, "all"),
                "scale": "eraser",
            }
            return {UNTOUCHED: metric.of(known).tolist()}
        kept = [entry.values[metric.name] for entry in measured]
        return {intervention: [values[intervention] for values in kept] for intervention in kept[0]}

    def _of_probabilities(self, metric: Metric, scale: ReportScale) -> Iterator[pd.DataFrame]:
        used = scale if metric.percentages == "scale" else ""
        for group in self.groups():
            turns = BOTTOM_REMOVED in group.perturbed and TOP_KEPT not in removals_for([metric])
            for ranking in RANKINGS if turns else RANKINGS[:1]:
                values = metric.of(self._known(metric, group, scale, ranking))
                names = (group.method, ranking, group.intervention, metric.name, used)
                yield _frame(group.examples, *names, values.tolist())

    def _known(self, metric: Metric, group: Group, scale: ReportScale, ranking: str = RANKINGS[0]) -> dict[str, Any]:
        """What metrics may need of a group of n examples, at the percentages that this one is about."""
        evaluated = self.settings.percentages
        shares = metric.shares(evaluated, scale)
        places = [evaluated.index(share) for share in shares]
        known = {
            "whole": group.whole,
            "percentages": shares,
            "scale": "eraser" if scale == "all" else scale,
            "labels": group.labels,
            "predictions": group.predictions[:, places] if group.predictions.numel() else group.predictions,
        }
        removals = {"without_top": TOP_REMOVED if ranking == RANKINGS[0] else BOTTOM_REMOVED, "top_alone": TOP_KEPT}
        for need, removal in removals.items():
            if removal in group.perturbed:
                known[need] = group.perturbed[removal][:, places]
        return known


@dataclass(frozen=True)
class Group:
    """Of a method and an intervention: the n examples, p of whole inputs (n,), p of perturbed inputs, (n, K) for each
    removal, the predictions int64 (n, K) from the top k %, and the gold classes int64 (n,)."""

    method: str
    intervention: str
    examples: list[int]
    whole: Tensor
    perturbed: Mapping[str, Tensor]
    predictions: Tensor
    labels: Tensor | None


def lack(metric: Metric, settings: EvaluationSettings, scale: ReportScale | None) -> str | None:
    """What an evaluation would have needed for a metric; None if it is there.

    Args:
        scale: of the report; None where any will do.
    """
    shares = settings.percentages
    if "rationales" in metric.needs and not settings.rationales:
        return "rationales="
    if "labels" in metric.needs and not settings.labels:
        return "labels=, the gold classes"
    if metric.percentages == "scale" and scale is not None and not {*shares_of(scale, shares)} <= {*shares}:
        return _percentages_of(settings, scale)
    if metric.percentages == "from 0 to 100" and not {0.0, 100.0} <= {*shares}:
        return "percentages from 0 to 100, such as range(0, 101, 10)"
    if not isinstance(metric.percentages, str) and not {*metric.percentages} <= {*shares}:
        return f"{', '.join(f'{share:g}' for share in metric.percentages)} among the percentages"
    if metric.at_once:
        return None if metric.name in settings.kept else f"it among metrics=, as {metric.name!r} is computed at once"
    if not {*removals_for([metric])} <= {*settings.removals}:
        return f"{metric.name!r} among metrics="
    return None


def _percentages_of(settings: EvaluationSettings, scale: ReportScale) -> str:
    return f"percentages={shares_of(scale, settings.percentages)} for the scale {scale!r}"


def _kept_alone(*_: Any) -> Tensor:
    raise AssertionError("of this metric nothing is known but its values")


def _frame(
    examples: list[int], method: str, ranking: str, intervention: str, metric: str, scale: str, values: list[float]
) -> pd.DataFrame:
    names = dict(zip(COLUMNS, (method, ranking, intervention, metric, scale), strict=True))
    return pd.DataFrame({**names, "example": examples, "value": values})


def _bootstrapped(metric: Metric, known: Mapping[str, Any]) -> tuple[float, float, int]:
    """A metric of all examples, its standard error by bootstrap, and their number."""
    columns = {name: value for name, value in known.items() if name in metric.needs}
    count = len(next(value for value in columns.values() if isinstance(value, Tensor)))
    found = float(metric.of(columns))
    if count < 2:
        return found, nan, count
    draws = torch.randint(count, (_RESAMPLES, count), generator=torch.Generator().manual_seed(0))
    return found, float(metric.of_draws(columns, draws).std()), count


__getattr__ = moved_names(__name__, "captum_attn.metrics", ["F1_PERCENTAGE"])
