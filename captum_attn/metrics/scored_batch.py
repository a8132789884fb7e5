"""Metrics of explanations that were just made: what they need is found where it is not known yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_attn.bench import Intervention, PerturbedInputs
from captum_attn.functional import Scale, top_and_rest
from captum_attn.metrics.catalogue import Metric, Need


@dataclass(frozen=True)
class ScoredBatch:
    """One explanation of each of B examples, and what can be asked about it.

    Attributes:
        perturbed: asks the model, which knows the inputs as they are; each distinct input is asked once.
        scores: (B, N), of the tokens.
        intervention: how tokens are taken away.
        percentages: of tokens, where a metric does not say which.
        scale: for metrics that need it.
        labels: int64 (B,), gold classes.
        rationales: bool (B, N), what people chose.
    """

    perturbed: PerturbedInputs
    scores: Tensor
    intervention: Intervention
    percentages: Sequence[float]
    scale: Scale = "eraser"
    labels: Tensor | None = None
    rationales: Tensor | None = None

    def value(self, metric: Metric) -> Tensor:
        """A metric of each example, float64 (B,)."""
        return metric.of(self.needed(metric)).double().cpu()

    def needed(self, metric: Metric) -> dict[Need, Any]:
        """What a metric needs, by name."""
        whole, shares = self.perturbed.whole, metric.shares(self.percentages, self.scale)

        def answers(place: int) -> tuple[Tensor, Tensor]:
            """(B, K) without the top, or with the top alone."""
            taken = top_and_rest(self.scores, whole.players, shares)[place]
            probabilities, predictions = self.perturbed.answers(self.intervention, taken)
            return probabilities.mT.to(whole.confidence.dtype), predictions.mT

        found: dict[Need, Callable[[], Any]] = {
            "whole": whole.confidence.cpu,
            "without_top": lambda: answers(0)[0],
            "top_alone": lambda: answers(1)[0],
            "predictions": lambda: answers(1)[1],
            "percentages": lambda: shares,
            "scale": lambda: self.scale,
            "labels": lambda: self.labels,
            "scores": lambda: self.scores,
            "players": lambda: whole.players,
            "rationales": lambda: self.rationales,
            "ask": lambda: self._ask,
        }
        return {need: found[need]() for need in metric.needs}

    def _ask(self, taken: Tensor) -> Tensor:
        """p of the predicted classes (..., B) without some of the players, bool (..., B, N)."""
        players = self.perturbed.whole.players
        if not isinstance(taken, Tensor) or taken.dtype != torch.bool or taken.shape[-2:] != players.shape:
            given = f"{taken.dtype} {tuple(taken.shape)}" if isinstance(taken, Tensor) else type(taken).__name__
            shape = tuple(players.shape)
            raise ValueError(f"ask takes bool (..., B, N), the players to take away, (B, N) = {shape}, got {given}")
        if (taken & ~players).any():
            raise ValueError("ask takes players away, not special tokens or padding: write ask(taken & players)")
        return self.perturbed.answers(self.intervention, taken)[0]
