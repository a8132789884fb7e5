"""How faithful attributions of a model are, from numbers of single examples that processes can share out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from captum_attn import OnePassAttribution, TokenAttributions
from captum_attn.bench import (
    RANDOM,
    Intervention,
    MaskedModel,
    PerturbedInputs,
    WholeInputs,
    random_scores,
    token_scores,
)
from captum_attn.core.feature_names import FEATURE_NAMES
from captum_attn.core.inputs import ModelInputs
from captum_attn.functional import PERCENTAGES, top_and_rest
from captum_attn.metrics import Comprehensiveness, Sufficiency
from captum_attn.metrics.catalogue import CATALOGUE, F1_PERCENTAGE

F1 = ("f1_macro", "f1_weighted")
SHARES = PERCENTAGES["eraser"]
DROPS = {"comprehensiveness": Comprehensiveness, "sufficiency": Sufficiency}


class FaithfulnessProbe:
    """Attributions of one model, and random scores beside them.

    Args:
        masked: the model.
        methods: attributions by name.
        intervention: how tokens are taken away.
        seed: of the random scores.

    Attributes:
        rankings: names of the methods and of random scores, which come last.
        width: how many numbers there are of each example: the probability of its predicted class; and for each ranking
            that without the top k % and with the top k % alone, at each percentage, and the class predicted from the
            top 20 %.
    """

    def __init__(self, masked: MaskedModel, methods: Mapping[str, Any], intervention: Intervention, seed: int) -> None:
        self.masked, self._methods, self._intervention, self._seed = masked, dict(methods), intervention, seed
        self.rankings = [*methods, RANDOM]
        self.width = 1 + len(self.rankings) * (2 * len(SHARES) + 1)

    def metric_names(self, labelled: bool) -> list[str]:
        """What :meth:`metrics` finds of each ranking."""
        drops = [*DROPS, *(f"{name}_error" for name in DROPS)]
        return [*drops, *F1] if labelled else drops

    def check(self, example: ModelInputs, labels: Tensor | None) -> None:
        """Try everything on one example.

        Raises:
            MisconfigurationException: labels of no class, or no tokenizer.
            Exception: whatever is wrong with the model, a method, or what replaces a token.
        """
        if self.masked.tokenizer is None and example.modality == "ids" and not self.masked.replaces:
            raise MisconfigurationException(
                "faithfulness of texts needs processor=, the model's tokenizer, which says what replaces a token; or "
                "replacement=, the id of a token"
            )
        batch = _mapping(example)
        whole = self.masked.read(batch)
        classes = whole.probabilities.shape[1]
        if labels is not None and not ((labels >= 0) & (labels < classes)).all():
            raise MisconfigurationException(
                f"expected labels from 0 to {classes - 1}, the classes of the model, got {labels.unique().tolist()}"
            )
        scores = [token_scores(name, method, batch, whole) for name, method in self._methods.items()]
        self.numbers(whole, [0], scores)

    @property
    def ours(self) -> list[OnePassAttribution]:
        """The methods that can share one backward pass."""
        return [method for method in self._methods.values() if _shares_a_pass(method)]

    def scores(self, whole: WholeInputs, of_ours: Sequence[TokenAttributions]) -> list[Tensor]:
        """Scores (B, N) by each method; of ours, they are known."""
        known, batch = iter(of_ours), _mapping(whole.inputs)
        return [
            next(known).values if _shares_a_pass(method) else token_scores(name, method, batch, whole)
            for name, method in self._methods.items()
        ]

    def numbers(self, whole: WholeInputs, rows: Sequence[int], scores: Sequence[Tensor]) -> Tensor:
        """What is kept of each example, float64 (B, width).

        Args:
            whole: the inputs.
            rows: their numbers in the probe set, on which random scores depend.
            scores: (B, N) of each method.
        """
        perturbed = PerturbedInputs(self.masked, whole)
        columns = [whole.confidence.cpu().double()[:, None]]
        for ranking in [*scores, random_scores(rows, whole.players, self._seed)]:
            taken = torch.stack(top_and_rest(ranking, whole.players, SHARES))
            probabilities, predictions = perturbed.answers(self._intervention, taken)
            from_top = predictions[1, SHARES.index(F1_PERCENTAGE)]
            columns += [probabilities.flatten(0, 1).mT.double(), from_top.double()[:, None]]
        return torch.cat(columns, 1)

    def metrics(self, numbers: Tensor, labels: Tensor | None) -> dict[str, dict[str, float]]:
        """Metrics of each ranking; ``comprehensiveness_error`` and ``sufficiency_error`` are standard errors.

        Args:
            numbers: (m, width) of m examples.
            labels: int64 (m,); None for no F1.
        """
        whole, *parts = numbers.cpu().split([1, *[2 * len(SHARES), 1] * len(self.rankings)], dim=1)
        found = {}
        for name, perturbed, predicted in zip(self.rankings, parts[::2], parts[1::2], strict=True):
            found[name] = _drops(whole.squeeze(1), perturbed)
            if labels is not None:
                classes = predicted.squeeze(1).long()
                found[name] |= {metric: float(CATALOGUE[metric].function(classes, labels)) for metric in F1}
        return found


def _shares_a_pass(method: Any) -> TypeGuard[OnePassAttribution]:
    """Whether it wants nothing but attention, and gradients, of a pass that others observe."""
    return isinstance(method, OnePassAttribution) and not method.after_attention


def _drops(whole: Tensor, perturbed: Tensor) -> dict[str, float]:
    found = {}
    for (name, kind), columns in zip(DROPS.items(), perturbed.split(len(SHARES), dim=1), strict=True):
        metric = kind(sync_on_compute=False)
        metric.update(whole, columns)
        found[name], found[f"{name}_error"] = float(metric.compute()), float(metric.standard_error)
    return found


def _mapping(inputs: ModelInputs) -> dict[str, Any]:
    """The batch as a tokenizer or an image processor would return it."""
    return {inputs.name or FEATURE_NAMES[inputs.modality]: inputs.features, **inputs.keywords, **inputs.notes}
