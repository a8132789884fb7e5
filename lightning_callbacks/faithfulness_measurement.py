"""How faithful attributions of a model are, from numbers of single examples that processes can share out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from captum_attn import OnePassAttribution, TokenAttributions
from captum_attn.bench import (
    INTERVENTIONS,
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
from captum_attn.core.perturb import Replacement
from captum_attn.functional import PERCENTAGES, top_and_rest
from captum_attn.metrics import Comprehensiveness, Sufficiency
from captum_attn.metrics.findings import F1, F1_PERCENTAGE, f1_of_classes
from lightning_callbacks.history import ExplainedExample, Group
from lightning_callbacks.history_figures import Panel
from lightning_callbacks.logged_names import check_names, plain_name
from lightning_callbacks.measurement import Measurement, SharedPass
from lightning_callbacks.method_factories import Methods, built, named_methods, tokenizer_of
from lightning_callbacks.probe_set import ProbeBatch, ProbeSet

if TYPE_CHECKING:
    import pandas as pd

SHARES = PERCENTAGES["eraser"]
DROPS = {"comprehensiveness": Comprehensiveness, "sufficiency": Sufficiency}
BETTER = {"comprehensiveness": "higher", "sufficiency": "lower", "f1_macro": "higher"}
"""The metrics that are drawn, and which values of each are better."""


class FaithfulnessMeasurement(Measurement):
    """Attributions of the predicted classes, and random scores beside them.

    Of each example, the probability of its predicted class is kept; and for each ranking that without the top k % and
    with the top k % alone, at each percentage, and the class predicted from the top 20 %.

    Args:
        methods: classes or functions that return attributions, as :class:`lightning_callbacks.ExplanationMonitor` says.
        processor: the model's tokenizer or image processor.
        intervention, replacement, batch_size: how tokens are taken away, and from how many inputs at a time.
        seed: of the random scores.
        looked_at: of how many examples attributions are kept.

    Raises:
        MisconfigurationException: methods or an intervention that are none; when prepared, labels of no class, or no
            tokenizer.
    """

    groups: Mapping[str, Group] = {"faithfulness": Group(), "faithfulness_error": Group(summarized=False)}

    def __init__(
        self,
        methods: Methods,
        processor: Any | None,
        intervention: Intervention,
        replacement: Replacement | None,
        batch_size: int,
        seed: int,
        looked_at: int,
    ) -> None:
        self._factories = named_methods(methods)
        check_names("methods", self._factories)
        if RANDOM in map(plain_name, self._factories):
            raise MisconfigurationException(f"the name {RANDOM!r} is taken by random scores, which are always measured")
        if intervention not in INTERVENTIONS:
            raise MisconfigurationException(
                f"expected intervention={' or '.join(map(repr, INTERVENTIONS))}, got {intervention!r}"
            )
        self._processor, self._intervention, self._replacement = processor, intervention, replacement
        self._batch_size, self._seed, self._looked_at = batch_size, seed, looked_at
        self._rankings = [*self._factories, RANDOM]
        self.width = 1 + len(self._rankings) * (2 * len(SHARES) + 1)

    def prepare(self, model: nn.Module, probe: ProbeSet) -> None:
        self._methods = {name: built(factory, model, self._processor) for name, factory in self._factories.items()}
        self.methods = [method for method in self._methods.values() if isinstance(method, OnePassAttribution)]
        self._masked = MaskedModel(
            model, tokenizer_of(self._processor), replacement=self._replacement, batch_size=self._batch_size
        )
        self._named = _metric_names(self._rankings, labelled=probe.labels is not None)
        self.names = list(self._named)
        self._check(probe.example(model), probe.labels)

    def _check(self, example: ModelInputs, labels: Tensor | None) -> None:
        """Try everything on one example; raises whatever is wrong with the model, a method, or a replacement."""
        if self._masked.tokenizer is None and example.modality == "ids" and not self._masked.replaces:
            raise MisconfigurationException(
                "faithfulness of texts needs processor=, the model's tokenizer, which says what replaces a token; or "
                "replacement=, the id of a token"
            )
        batch = _mapping(example)
        whole = self._masked.read(batch)
        classes = whole.probabilities.shape[1]
        if labels is not None and not ((labels >= 0) & (labels < classes)).all():
            raise MisconfigurationException(
                f"expected labels from 0 to {classes - 1}, the classes of the model, got {labels.unique().tolist()}"
            )
        scores = [token_scores(name, method, batch, whole) for name, method in self._methods.items()]
        self._numbers(whole, [0], scores)

    def begin(self, done: Callable[[int], object]) -> None:
        self.examples: list[ExplainedExample] = []

    def numbers(self, seen: SharedPass) -> Tensor:
        whole = self._masked.whole(seen.run, seen.batch.inputs)
        scores = self._scores(whole, seen.attributions)
        numbers = self._numbers(whole, seen.batch.rows.tolist(), scores)
        count = min(self._looked_at - len(self.examples), len(numbers))
        self.examples += [_explained(seen.batch, whole, scores[0], place) for place in range(count)]
        return numbers

    def _scores(self, whole: WholeInputs, of_shared: Sequence[TokenAttributions]) -> list[Tensor]:
        """Scores (B, N) by each method; those from the shared pass are known."""
        known, batch = iter(of_shared), _mapping(whole.inputs)
        return [
            next(known).values if method in self.methods else token_scores(name, method, batch, whole)
            for name, method in self._methods.items()
        ]

    def _numbers(self, whole: WholeInputs, rows: Sequence[int], scores: Sequence[Tensor]) -> Tensor:
        """What is kept of each example, float64 (B, width).

        Args:
            whole: the inputs.
            rows: their numbers in the probe set, on which random scores depend.
            scores: (B, N) of each method.
        """
        perturbed = PerturbedInputs(self._masked, whole)
        columns = [whole.confidence.cpu().double()[:, None]]
        for ranking in [*scores, random_scores(rows, whole.players, self._seed)]:
            taken = torch.stack(top_and_rest(ranking, whole.players, SHARES))
            probabilities, predictions = perturbed.answers(self._intervention, taken)
            from_top = predictions[1, SHARES.index(F1_PERCENTAGE)]
            columns += [probabilities.flatten(0, 1).mT.double(), from_top.double()[:, None]]
        return torch.cat(columns, 1)

    def metrics(self, numbers: Tensor, labels: Tensor | None) -> Mapping[str, float]:
        whole, *parts = numbers.split([1, *[2 * len(SHARES), 1] * len(self._rankings)], dim=1)
        found = {}
        for name, perturbed, predicted in zip(self._rankings, parts[::2], parts[1::2], strict=True):
            found[name] = _drops(whole.squeeze(1), perturbed)
            if labels is not None:
                classes = predicted.squeeze(1).long()
                found[name] |= {metric: f1_of_classes(classes, labels, metric.removeprefix("f1_")) for metric in F1}
        return {name: found[ranking][metric] for name, (ranking, metric) in self._named.items()}

    def panels(self, frame: pd.DataFrame) -> list[list[Panel]]:
        """A panel for each metric, with a line for each ranking."""
        shown = [metric for metric in BETTER if f"faithfulness/{metric}" in frame]
        return [[self._panel(frame, metric) for metric in shown]]

    def _panel(self, frame: pd.DataFrame, metric: str) -> Panel:
        named = [name for name in frame if name.startswith("faithfulness/") and name.endswith(f"/{metric}")]
        lines = {name.split("/")[1] if name.count("/") == 2 else next(iter(self._factories)): name for name in named}
        errors = {label: name.replace("faithfulness/", "faithfulness_error/", 1) for label, name in lines.items()}
        title = f"{metric.replace('_', ' ')} ({BETTER[metric]} is better)"
        return Panel(title, lines, errors={label: name for label, name in errors.items() if name in frame}, grey=RANDOM)


def _metric_names(rankings: Sequence[str], labelled: bool) -> dict[str, tuple[str, str]]:
    """The ranking and the metric by their name; the first ranking is the main one. Errors are standard errors."""
    metrics = [*DROPS, *(f"{name}_error" for name in DROPS), *(F1 if labelled else ())]
    named = {}
    for place, ranking in enumerate(rankings):
        method = f"{plain_name(ranking)}/" if place else ""
        for metric in metrics:
            group = "faithfulness_error" if metric.endswith("_error") else "faithfulness"
            named[f"{group}/{method}{metric.removesuffix('_error')}"] = ranking, metric
    return named


def _drops(whole: Tensor, perturbed: Tensor) -> dict[str, float]:
    found = {}
    for (name, kind), columns in zip(DROPS.items(), perturbed.split(len(SHARES), dim=1), strict=True):
        metric = kind(sync_on_compute=False)
        metric.update(whole, columns)
        found[name], found[f"{name}_error"] = float(metric.compute()), float(metric.standard_error)
    return found


def _explained(batch: ProbeBatch, whole: WholeInputs, scores: Tensor, place: int) -> ExplainedExample:
    players = whole.players[place].nonzero().flatten()
    if whole.grid:  # the patches, row by row
        players = whole.grid.tokens(whole.players.shape[1]).to(players.device)
    return ExplainedExample(
        int(batch.rows[place]),
        scores[place, players].tolist(),
        players.tolist(),
        int(whole.targets[place]),
        float(whole.confidence[place]),
        (whole.grid.rows, whole.grid.columns) if whole.grid else None,
        whole.probabilities.shape[1],
        whole.grid.extent if whole.grid else None,
    )


def _mapping(inputs: ModelInputs) -> dict[str, Any]:
    """The batch as a tokenizer or an image processor would return it."""
    return {inputs.name or FEATURE_NAMES[inputs.modality]: inputs.features, **inputs.keywords, **inputs.notes}
