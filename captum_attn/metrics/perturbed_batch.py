"""One batch of an evaluation: explained by each method, perturbed by its scores, and shown to the model again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from captum_attn.bench import RANDOM, Examples, MaskedModel, PerturbedInputs, check_label, random_scores, token_scores
from captum_attn.functional import token_auprc, token_f1, token_iou, top_and_rest
from captum_attn.metrics.record import Example, Measured, Settings


@dataclass
class PerturbedBatch:
    """Some examples, and what the model says of all perturbed copies that any method wanted so far.

    Attributes:
        masked: the model.
        examples: the data, of which ``rows`` are the batch.
        labels, rationales: of all examples, or None; rationales as :meth:`Examples.read_rationales` returns them.
        settings: what is measured.
        whole, perturbed: the inputs as they are, and without some of their tokens.
        described: the whole inputs, for the record.
    """

    masked: MaskedModel
    examples: Examples
    rows: tuple[int, ...]
    labels: list[int] | None
    rationales: Any | None
    settings: Settings

    def __post_init__(self) -> None:
        self.batch = self.examples.batch(self.rows)
        self.whole = self.masked.read(self.batch)
        self.perturbed = PerturbedInputs(self.masked, self.whole)
        targets, chosen = self.whole.targets, self.whole.confidence.tolist()
        players, classes = self.whole.players.sum(-1).tolist(), self.whole.probabilities.shape[1]
        self.described = []
        for place, row in enumerate(self.rows):
            label = None if self.labels is None else self.labels[row]
            if label is not None:
                check_label(label, row, classes)
            self.described.append(Example(row, players[place], int(targets[place]), chosen[place], label))

    def explain(self, name: str, method: Any) -> tuple[Tensor, float]:
        """A method's scores of the tokens, (B, N), and the seconds that each example took."""
        start = time.perf_counter()
        if name == RANDOM:
            scores = random_scores(self.rows, self.whole.players, self.settings.seed)
        else:
            scores = token_scores(name, method, self.batch, self.whole)
        return scores, (time.perf_counter() - start) / len(self.rows)

    def measure(self, name: str, scores: Tensor, seconds: float) -> list[Measured]:
        """Perturb the examples by what :meth:`explain` found."""
        taken = self._taken(scores)
        answers = [
            self.perturbed.answers(intervention, taken if place == 0 else taken[:-1])
            for place, intervention in enumerate(self.settings.interventions)
        ]
        plausibility = self._plausibility(scores)
        return [
            Measured(
                name,
                row,
                seconds,
                [probabilities[..., place].tolist() for probabilities, _ in answers],
                [predictions[..., place].tolist() for _, predictions in answers],
                plausibility[place],
            )
            for place, row in enumerate(self.rows)
        ]

    def _taken(self, scores: Tensor) -> Tensor:
        """bool (removals, percentages, B, N): the tokens to take away."""
        players, shares = self.whole.players, self.settings.percentages
        top, rest = top_and_rest(scores, players, shares)
        bottom, _ = top_and_rest(scores, players, shares, reverse=True)
        return torch.stack((top, rest, bottom))

    def _plausibility(self, scores: Tensor) -> list[tuple[float, float, float] | None]:
        if self.rationales is None:
            return [None] * len(self.rows)
        players = self.whole.players
        each = [metric(scores, self.chosen, players).tolist() for metric in (token_auprc, token_f1, token_iou)]
        return list(zip(*each, strict=True))

    @cached_property
    def chosen(self) -> Tensor:
        """bool (B, N): the players that people chose."""
        players = self.whole.players
        shape = (players.shape[0], players.shape[1])
        return self.examples.chosen(self.rationales, self.rows, shape, self.whole.grid) & players

    @property
    def in_vain(self) -> list[int]:
        """The examples in which people chose something, but no token that plays."""
        if self.rationales is None:
            return []
        chosen_any = self.chosen.any(-1).tolist()
        return [
            row
            for row, some in zip(self.rows, chosen_any, strict=True)
            if not some and self.examples.has_rationale(self.rationales, row)
        ]
