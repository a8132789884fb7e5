"""How much better one method is than another, example by example: examples differ more than methods do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import pandas as pd

from captum_attn.bench import RANDOM
from captum_attn.formatting import listed, with_error


class Gain(NamedTuple):
    """The mean difference between two values of each example, and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{'+' * (self.mean > 0)}{with_error(self.mean, self.error)}"

    @property
    def sure(self) -> bool:
        """Whether it is positive by more than two standard errors."""
        return self.mean > 2 * self.error


@dataclass(frozen=True)
class PairedDifferences:
    """Differences between methods by one metric.

    Attributes:
        scores: of the metric, as :meth:`~captum_attn.metrics.Evaluation.scores` has them.
        higher_is_better: whether it is.
    """

    scores: pd.DataFrame
    higher_is_better: bool = True

    def gain(self, method: str, other: str, ranking: str = "scores", intervention: str | None = None) -> Gain:
        """By how much a method is better than another one, or than a reversed ranking."""
        each = self._of_each[intervention or self.interventions[0]]
        difference = each[method, "scores"] - each[other, ranking]
        sign = 1 if self.higher_is_better else -1
        return Gain(sign * float(difference.mean()), float(difference.sem()))

    def no_better_than_chance(self, methods: Sequence[str]) -> list[str]:
        """Sentences that name those which are not surely more faithful than random scores, or than their own reverse.

        Random scores are none of the methods; a reverse that was not evaluated says nothing.
        """
        found = []
        for ranking, what in (("scores", "random scores"), ("reversed", "their own reverse")):
            if ranking not in set(self.scores.ranking):
                continue
            gains = {
                method: self.gain(method, RANDOM if ranking == "scores" else method, ranking) for method in methods
            }
            weak = [f"{method} ({gain})" for method, gain in gains.items() if not gain.sure]
            if weak:
                found.append(f"Not surely more faithful than {what}, by paired differences: {listed(weak)}.")
        return found

    @cached_property
    def interventions(self) -> list[str]:
        return list(self.scores.intervention.unique())

    @cached_property
    def _of_each(self) -> dict[str, pd.DataFrame]:
        """By intervention, a row for each example and a column for each method and ranking."""
        return {
            str(intervention): part.pivot(index="example", columns=["method", "ranking"], values="value")
            for intervention, part in self.scores.groupby("intervention")
        }
