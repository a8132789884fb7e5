"""One batch of an evaluation: explained by each method, perturbed by its scores, and shown to the model again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.perturb import rank_players, reversed_ranks, top_players
from captum_attn.metrics.data import Examples, Rationales
from captum_attn.metrics.masked_model import Intervention, MaskedModel
from captum_attn.metrics.methods import RANDOM, random_scores, token_scores
from captum_attn.metrics.plausibility import token_auprc, token_f1, token_iou
from captum_attn.metrics.record import Example, Measured, Settings


@dataclass
class PerturbedBatch:
    """Some examples, and the probabilities of all perturbed inputs that any method wanted so far.

    Attributes:
        masked: the model.
        examples: the data, of which ``rows`` are the batch.
        labels, rationales: of all examples, or None.
        settings: what is measured.
        known: probability and predicted class, by intervention, place in the batch and the tokens that are taken.
        described: the whole inputs.
    """

    masked: MaskedModel
    examples: Examples
    rows: tuple[int, ...]
    labels: list[int] | None
    rationales: Rationales | None
    settings: Settings
    known: dict[tuple[str, int, bytes], tuple[float, int]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.batch = self.examples.batch(self.rows)
        self.whole = self.masked.read(self.batch)
        targets = self.whole.targets
        chosen = self.whole.probabilities.gather(1, targets[:, None]).squeeze(1).tolist()
        players, classes = self.whole.players.sum(-1).tolist(), self.whole.probabilities.shape[1]
        nothing = torch.zeros_like(self.whole.players[0]).cpu().numpy().tobytes()
        for intervention in self.settings.interventions:
            for place, probability in enumerate(chosen):
                self.known[intervention, place, nothing] = probability, int(targets[place])
        self.described = []
        for place, row in enumerate(self.rows):
            label = None if self.labels is None else self.labels[row]
            if label is not None and not 0 <= label < classes:
                raise ValueError(f"label {label} of example {row} is out of range: the model has {classes} classes")
            self.described.append(Example(row, players[place], int(targets[place]), chosen[place], label))

    def measure(self, name: str, method: Any) -> list[Measured]:
        """Explain the examples, and perturb them by the scores."""
        start = time.perf_counter()
        if name == RANDOM:
            scores = random_scores(self.rows, self.whole.players, self.settings.seed)
        else:
            scores = token_scores(name, method, self.batch, self.whole)
        seconds = (time.perf_counter() - start) / len(self.rows)
        taken = self._taken(scores)
        answers = [
            self._asked(intervention, taken if place == 0 else taken[:-1])
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
        ranks = rank_players(scores, players)
        top = torch.stack([top_players(ranks, players, share) for share in shares])
        bottom = torch.stack([top_players(reversed_ranks(ranks, players), players, share) for share in shares])
        return torch.stack((top, players & ~top, bottom))

    def _asked(self, intervention: Intervention, taken: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the predicted classes, and the classes predicted, (..., B), without tokens (..., B, N)."""
        rows = taken.flatten(0, -2)
        places = torch.arange(len(self.rows)).repeat(len(rows) // len(self.rows))
        contents = rows.cpu().numpy()
        keys = [(intervention, place, row.tobytes()) for place, row in zip(places.tolist(), contents, strict=True)]
        new = {key: index for index, key in enumerate(keys) if key not in self.known}
        if new:
            index, device = torch.tensor(list(new.values())), rows.device
            examples = places[index].to(device)
            answers = self.masked.probabilities(self.whole, examples, rows[index.to(device)], intervention)
            of_target = answers.gather(1, self.whole.targets[examples, None]).squeeze(1)
            self.known.update(zip(new, zip(of_target.tolist(), answers.argmax(-1).tolist(), strict=True), strict=True))
        probabilities, predictions = zip(*(self.known[key] for key in keys), strict=True)
        shape = taken.shape[:-1]
        return torch.tensor(probabilities).view(shape), torch.tensor(predictions).view(shape)

    def _plausibility(self, scores: Tensor) -> list[tuple[float, float, float] | None]:
        if self.rationales is None:
            return [None] * len(self.rows)
        players = self.whole.players
        shape = (players.shape[0], players.shape[1])
        chosen = self.examples.rationales(self.rationales, self.rows, shape, self.whole.grid)
        each = [metric(scores, chosen, players).tolist() for metric in (token_auprc, token_f1, token_iou)]
        return list(zip(*each, strict=True))
