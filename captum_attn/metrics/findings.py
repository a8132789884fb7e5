"""The numbers of an evaluation: which metrics it allows, and their values for each example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score

from captum_attn.functional import PERCENTAGES, area_under_curve, log_odds, mean_drop
from captum_attn.metrics.record import REMOVALS, Record

ReportScale = Literal["eraser", "paper", "all"]

TOP_REMOVED, TOP_KEPT, BOTTOM_REMOVED = REMOVALS
RANKINGS = ("scores", "reversed")

SCALED = ("comprehensiveness", "sufficiency", "log_odds")
AREAS = ("deletion", "insertion")
F1 = ("f1_macro", "f1_weighted")
PLAUSIBILITY = ("token_auprc", "token_f1", "token_iou")
METRICS = (*SCALED, *AREAS, *F1, *PLAUSIBILITY, "seconds")

F1_PERCENTAGE = 20.0
"""F1 is that of predictions from the top 20 % of tokens alone, as in arXiv 2508.08966."""

COLUMNS = ["method", "ranking", "intervention", "metric", "scale"]
_RESAMPLES = 200


class Findings:
    """The values of metrics, computed from the probabilities of a record."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.settings = record.settings

    def scores(self, metrics: Sequence[str], scale: ReportScale) -> pd.DataFrame:
        """What :meth:`Evaluation.scores` documents, of metrics that were checked."""
        frames = [_frame([], "", "", "", "", "", [])]
        for metric in metrics:
            if metric in (*PLAUSIBILITY, "seconds"):
                frames += self._unperturbed(metric)
                continue
            used = scale if metric in SCALED else ""
            for group in self.groups():
                for ranking, perturbed in zip(RANKINGS, _removals(metric, group), strict=False):
                    values = self._values(metric, group.whole, perturbed, scale)
                    names = (group.method, ranking, group.intervention, metric, used)
                    frames.append(_frame(group.examples, *names, values.tolist()))
        return pd.concat(frames[1:] or frames, ignore_index=True)

    def _values(self, metric: str, whole: Tensor, perturbed: Tensor, scale: ReportScale) -> Tensor:
        """A metric (n,) of each example."""
        shares = self.settings.percentages
        if metric in AREAS:
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
                place = PLAUSIBILITY.index(metric)
                values = [(entries[example].plausibility or (np.nan,) * 3)[place] for example in examples]
            yield _frame(examples, method, "scores", "none", metric, "", values)

    def f1(self, metrics: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Rows of :meth:`Evaluation.table` for F1."""
        if not metrics:
            return
        share = self.settings.percentages.index(F1_PERCENTAGE)
        for group in self.groups():
            labels = torch.tensor([self._record.examples[example].label for example in group.examples])
            predicted = group.predictions[:, share]
            for metric in metrics:
                found = _f1_and_error(predicted, labels, metric.removeprefix("f1_"))
                yield group.method, "scores", group.intervention, metric, "", *found, len(labels)

    def groups(self) -> Iterator[Group]:
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
                yield Group(method, intervention, examples, whole, perturbed, of_kept)

    def scale(self, given: ReportScale | None) -> ReportScale:
        """The scale that is asked for; by default the first whose percentages were evaluated."""
        known = get_args(ReportScale)
        if given is not None and given not in known:
            raise ValueError(f"unknown scale {given!r}: expected {', '.join(map(repr, known))}")
        if given is not None:
            self.checked(SCALED[:1], given)
            return given
        return next(scale for scale in known if set(self._shares(scale)) <= set(self.settings.percentages))

    def _shares(self, scale: ReportScale) -> tuple[float, ...]:
        """The percentages over which a scale averages."""
        return self.settings.percentages if scale == "all" else PERCENTAGES[scale]

    def checked(self, metrics: Sequence[str] | None, scale: ReportScale) -> list[str]:
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
        if metric in SCALED and not set(self._shares(scale)) <= shares:
            return f"percentages={self._shares(scale)} for the scale {scale!r}"
        if metric in AREAS and not {0.0, 100.0} <= shares:
            return "percentages from 0 to 100, such as range(0, 101, 10)"
        if metric in F1 and F1_PERCENTAGE not in shares:
            return f"{F1_PERCENTAGE:g} among the percentages"
        if metric in F1 and any(example.label is None for example in self._record.examples.values()):
            return "labels=, the gold classes"
        if metric in PLAUSIBILITY and not self.settings.rationales:
            return "rationales="
        return None


@dataclass(frozen=True)
class Group:
    """Of a method and an intervention: the n examples, p of whole inputs (n,), p of perturbed inputs, (n, K) for each
    removal, and the predictions int64 (n, K) from the top k %."""

    method: str
    intervention: str
    examples: list[int]
    whole: Tensor
    perturbed: dict[str, Tensor]
    predictions: Tensor


def _removals(metric: str, group: Group) -> list[Tensor]:
    """The perturbed inputs (n, K) that a metric is about: by the scores and, where tokens are removed, in reverse."""
    removals = (TOP_KEPT,) if metric in ("sufficiency", "insertion") else (TOP_REMOVED, BOTTOM_REMOVED)
    return [group.perturbed[removal] for removal in removals if removal in group.perturbed]


def _frame(
    examples: list[int], method: str, ranking: str, intervention: str, metric: str, scale: str, values: list[float]
) -> pd.DataFrame:
    names = dict(zip(COLUMNS, (method, ranking, intervention, metric, scale), strict=True))
    return pd.DataFrame({**names, "example": examples, "value": values})


def standard_error(values: Tensor) -> Tensor:
    """Of the mean over examples, of (n, ...); NaN for one."""
    return values.std(0) / len(values) ** 0.5 if len(values) > 1 else torch.full_like(values[0], torch.nan)


def f1_of_classes(predicted: Tensor, labels: Tensor, average: Any) -> float:
    """F1 of predictions int64 (n,), whatever the number of classes: those that occur nowhere do not count."""
    classes = int(torch.cat((predicted, labels)).max()) + 1
    return float(multiclass_f1_score(predicted, labels, max(classes, 2), average))


def _f1_and_error(predicted: Tensor, labels: Tensor, average: Any) -> tuple[float, float]:
    """F1 and its standard error by bootstrap."""
    f1 = f1_of_classes(predicted, labels, average)
    if len(labels) < 2:
        return f1, np.nan
    draws = torch.randint(len(labels), (_RESAMPLES, len(labels)), generator=torch.Generator().manual_seed(0))
    return f1, float(np.std([f1_of_classes(predicted[rows], labels[rows], average) for rows in draws], ddof=1))
