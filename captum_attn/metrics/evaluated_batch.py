"""One batch of an evaluation: explained by each method, perturbed by its scores, and shown to the model again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from captum_attn.bench import (
    RANDOM,
    Examples,
    Intervention,
    MaskedModel,
    PerturbedInputs,
    WholeInputs,
    check_label,
    random_scores,
    token_scores,
)
from captum_attn.functional import top_and_rest
from captum_attn.metrics.catalogue import Metric
from captum_attn.metrics.record import (
    BOTTOM_REMOVED,
    TOP_KEPT,
    TOP_REMOVED,
    UNTOUCHED,
    EvaluationSettings,
    Example,
    Measured,
)
from captum_attn.metrics.scored_batch import ScoredBatch


@dataclass
class EvaluatedBatch:
    """B examples as the model sees them, and what it says of all perturbed copies that any method wanted so far.

    Attributes:
        masked: the model.
        rows: the examples' numbers in the data.
        columns: the batch, as a tokenizer or an image processor returns it.
        whole: the inputs as they are.
        labels: gold classes, one for each; None without.
        chosen: bool (B, N), the players that people chose; None without rationales.
        settings: what is measured.
        metrics: those that are computed at once.
    """

    masked: MaskedModel
    rows: tuple[int, ...]
    columns: Mapping[str, Any]
    whole: WholeInputs
    labels: list[int] | None
    chosen: Tensor | None
    settings: EvaluationSettings
    metrics: Sequence[Metric]
    _parts: dict[tuple[int, ...], EvaluatedBatch] = field(default_factory=dict)

    def part(self, rows: tuple[int, ...]) -> EvaluatedBatch:
        """Some of the examples, by their numbers: all that is known of one part is known to whoever asks for it."""
        if rows == self.rows:
            return self
        if rows not in self._parts:
            where = [self.rows.index(row) for row in rows]
            places = torch.tensor(where, device=self.whole.players.device)
            self._parts[rows] = EvaluatedBatch(
                self.masked,
                rows,
                {name: column[places] for name, column in self.columns.items()},
                self.whole[places],
                None if self.labels is None else [self.labels[place] for place in where],
                None if self.chosen is None else self.chosen[places],
                self.settings,
                self.metrics,
            )
        return self._parts[rows]

    @cached_property
    def described(self) -> list[Example]:
        """The whole inputs, for the record."""
        whole = self.whole
        columns = (whole.players.sum(-1).tolist(), whole.targets.tolist(), whole.confidence.tolist())
        labels: Sequence[int | None] = self.labels or [None] * len(self.rows)
        return [Example(row, *rest) for row, *rest in zip(self.rows, *columns, labels, strict=True)]

    @cached_property
    def perturbed(self) -> PerturbedInputs:
        """What the model says without some of the tokens."""
        return PerturbedInputs(self.masked, self.whole)

    def explain(self, name: str, method: Any) -> tuple[Tensor, float]:
        """A method's scores of the tokens, (B, N), and the seconds that each example took."""
        start = time.perf_counter()
        if name == RANDOM:
            scores = random_scores(self.rows, self.whole.players, self.settings.seed)
        else:
            scores = token_scores(name, method, self.columns, self.whole)
        return scores, (time.perf_counter() - start) / len(self.rows)

    def measure(self, name: str, scores: Tensor, seconds: float) -> list[Measured]:
        """Perturb the examples by what :meth:`explain` found."""
        taken, answers = self._taken(scores), []
        for place, intervention in enumerate(self.settings.interventions):
            removals = {name: of for name, of in taken.items() if place == 0 or name != BOTTOM_REMOVED}
            answers.append(self._answers(removals, intervention))
        values = {metric.name: self._values(metric, scores) for metric in self.metrics}
        return [
            Measured(
                name,
                row,
                seconds,
                [{removal: of[..., place].tolist() for removal, (of, _) in one.items()} for one in answers],
                [one[TOP_KEPT][1][..., place].tolist() if TOP_KEPT in one else [] for one in answers],
                {metric: {by: float(of[place]) for by, of in each.items()} for metric, each in values.items()},
            )
            for place, row in enumerate(self.rows)
        ]

    def _answers(self, taken: Mapping[str, Tensor], intervention: Intervention) -> dict[str, tuple[Tensor, Tensor]]:
        """By removal, p of the predicted classes and the classes predicted, (K, B) each."""
        if not taken:
            return {}
        answers = self.perturbed.answers(intervention, torch.stack(list(taken.values())))
        return dict(zip(taken, zip(*answers, strict=True), strict=True))

    def _taken(self, scores: Tensor) -> dict[str, Tensor]:
        """By removal, the tokens to take away, bool (K, B, N) at K percentages."""
        if not self.settings.removals:
            return {}
        players, shares = self.whole.players, self.settings.percentages
        top, rest = top_and_rest(scores, players, shares)
        bottom, _ = top_and_rest(scores, players, shares, reverse=True)
        each = {TOP_REMOVED: top, TOP_KEPT: rest, BOTTOM_REMOVED: bottom}
        return {removal: each[removal] for removal in self.settings.removals}

    def _values(self, metric: Metric, scores: Tensor) -> dict[str, Tensor]:
        """A metric that is computed at once, by intervention, float64 (B,) each."""
        shares = self.settings.percentages
        labels = None if self.labels is None else torch.tensor(self.labels)
        interventions = self.settings.interventions if metric.takes_tokens else self.settings.interventions[:1]
        return {
            by if metric.takes_tokens else UNTOUCHED: ScoredBatch(
                self.perturbed, scores, by, shares, labels=labels, rationales=self.chosen
            ).value(metric)
            for by in interventions
        }


def read_batch(
    masked: MaskedModel,
    examples: Examples,
    rows: tuple[int, ...],
    labels: list[int] | None,
    rationales: Any | None,
    settings: EvaluationSettings,
    metrics: Sequence[Metric],
) -> EvaluatedBatch:
    """Run the model once on some of the examples.

    Args:
        labels, rationales: of all examples, or None; rationales as :meth:`Examples.read_rationales` returns them.

    Raises:
        ValueError: a label of no class; as :meth:`MaskedModel.read`.
    """
    columns = examples.batch(rows)
    whole = masked.read(columns)
    own = None if labels is None else [labels[row] for row in rows]
    for row, label in zip(rows, own or (), strict=False):
        check_label(label, row, whole.probabilities.shape[1])
    chosen = None
    if rationales is not None:
        shape = (len(rows), whole.players.shape[1])
        chosen = examples.chosen(rationales, rows, shape, whole.grid) & whole.players
    return EvaluatedBatch(masked, rows, columns, whole, own, chosen, settings, metrics)
