"""How faithful attributions of a model are, from numbers of single examples that processes can share out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from captum_attn import TokenAttributions
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
from captum_attn.core import ModelInputs, PatchGrid, Replacement
from captum_attn.functional import PERCENTAGES, mean_over_inputs
from captum_attn.metrics import Metric, Need, ScoredBatch, known_metrics
from lightning_callbacks.history import ExplainedExample, Group
from lightning_callbacks.history_figures import Panel
from lightning_callbacks.logged_names import check_names, plain_name
from lightning_callbacks.measurement import Measurement, SharedPass, shares_passes
from lightning_callbacks.method_factories import Methods, built, named_methods, tokenizer_of
from lightning_callbacks.probe_set import ProbeBatch, ProbeSet

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["mean", "error"]
USUAL = ("comprehensiveness", "sufficiency", "f1_macro", "f1_weighted")
"""The metrics that are logged unless others are given; F1 where there are labels."""


class FaithfulnessMeasurement(Measurement):
    """Attributions of the predicted classes, and random scores beside them.

    Of each example, the value of each metric by each ranking is kept; of metrics of all examples, what they need.

    Args:
        methods: classes or functions that return attributions, as :class:`lightning_callbacks.ExplanationMonitor` says.
        metrics: names or records, as of :func:`captum_attn.metrics.evaluate`; None for the usual ones.
        processor: the model's tokenizer or image processor.
        intervention, replacement, batch_size: how tokens are taken away, and from how many inputs at a time.
        seed: of the random scores.
        looked_at: of how many examples attributions are kept.

    Raises:
        MisconfigurationException: methods, metrics or an intervention that are none; when prepared, labels of no class,
            or no tokenizer.
    """

    groups: Mapping[str, Group] = {"faithfulness": Group(), "faithfulness_error": Group(summarized=False)}

    def __init__(
        self,
        methods: Methods,
        *,
        metrics: Sequence[str | Metric] | None,
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
        self._usual, self._metrics = metrics is None, _checked_metrics(USUAL if metrics is None else metrics)
        for metric in self._metrics:
            if not {"seconds", "rationales"}.isdisjoint(metric.needs):
                raise MisconfigurationException(
                    f"metric {metric.name!r} needs {', '.join(metric.needs)}, which a monitor does not have"
                )
        self._processor, self._intervention, self._replacement = processor, intervention, replacement
        self._batch_size, self._seed, self._looked_at = batch_size, seed, looked_at
        self._rankings = [*self._factories, RANDOM]

    def prepare(self, model: nn.Module, probe: ProbeSet) -> None:
        self._methods = {name: built(factory, model, self._processor) for name, factory in self._factories.items()}
        self.methods = [method for method in self._methods.values() if shares_passes(method)]
        self._masked = MaskedModel(
            model, tokenizer_of(self._processor), replacement=self._replacement, batch_size=self._batch_size
        )
        of_labels = [metric.name for metric in self._metrics if "labels" in metric.needs and probe.labels is None]
        if of_labels and not self._usual:
            raise MisconfigurationException(f"{', '.join(of_labels)} needs labels of the probe set: give labels=")
        self._metrics = [metric for metric in self._metrics if metric.name not in of_labels]
        self._named = _metric_names(self._rankings, self._metrics)
        self.names = list(self._named)
        self.width = len(self._rankings) * sum(sum(_widths(metric)) for metric in self._metrics)
        self._check(probe.example(model), probe.labels)

    def _check(self, example: ModelInputs, labels: Tensor | None) -> None:
        """Try everything on one example; raises whatever is wrong with the model, a method, or a replacement."""
        if self._masked.tokenizer is None and example.modality == "ids" and not self._masked.replaces:
            raise MisconfigurationException(
                "faithfulness of texts needs processor=, the model's tokenizer, which says what replaces a token; or "
                "replacement=, the id of a token"
            )
        batch = example.mapping()
        whole = self._masked.read(batch)
        classes = whole.probabilities.shape[1]
        if labels is not None and not ((labels >= 0) & (labels < classes)).all():
            raise MisconfigurationException(
                f"expected labels from 0 to {classes - 1}, the classes of the model, got {labels.unique().tolist()}"
            )
        scores = [token_scores(name, method, batch, whole) for name, method in self._methods.items()]
        self._numbers(whole, [0], None if labels is None else labels[:1], scores)

    def begin(self, done: Callable[[int], object]) -> None:
        self.examples: list[ExplainedExample] = []

    def numbers(self, seen: SharedPass) -> Tensor:
        whole = self._masked.whole(seen.run, seen.batch.inputs)
        scores = self._scores(whole, seen.attributions)
        numbers = self._numbers(whole, seen.batch.rows.tolist(), seen.batch.labels, scores)
        count = min(self._looked_at - len(self.examples), len(numbers))
        self.examples += [_explained(seen.batch, whole, scores[0], place) for place in range(count)]
        return numbers

    def _scores(self, whole: WholeInputs, of_shared: Sequence[TokenAttributions]) -> list[Tensor]:
        """Scores (B, N) by each method; those from the shared pass are known."""
        known, batch = iter(of_shared), whole.inputs.mapping()
        return [
            next(known).values if method in self.methods else token_scores(name, method, batch, whole)
            for name, method in self._methods.items()
        ]

    def _numbers(
        self, whole: WholeInputs, rows: Sequence[int], labels: Tensor | None, scores: Sequence[Tensor]
    ) -> Tensor:
        """What is kept of each example, float64 (B, width).

        Args:
            whole: the inputs.
            rows: their numbers in the probe set, on which random scores depend.
            labels: int64 (B,), or None.
            scores: (B, N) of each method.
        """
        perturbed = PerturbedInputs(self._masked, whole)
        columns = []
        for ranking in [*scores, random_scores(rows, whole.players, self._seed)]:
            for metric in self._metrics:
                scored = ScoredBatch(perturbed, ranking, self._intervention, _percentages(metric), labels=labels)
                if metric.of_all:
                    known = scored.needed(metric)
                    columns += [known[need].reshape(len(rows), -1).double() for need in _kept(metric)]
                else:
                    columns.append(scored.value(metric)[:, None])
        return torch.cat(columns, 1)

    def metrics(self, numbers: Tensor, labels: Tensor | None) -> Mapping[str, float]:
        left = iter(
            numbers.split([width for metric in self._metrics for width in _widths(metric)] * len(self._rankings), 1)
        )
        found: dict[tuple[str, str, Kind], float] = {}
        for ranking in self._rankings:
            for metric in self._metrics:
                if metric.of_all:
                    shares = metric.shares(_percentages(metric), "eraser")
                    known: dict[Need, Any] = {"labels": labels, "percentages": shares, "scale": "eraser"}
                    known |= {need: _as_needed(need, next(left)) for need in _kept(metric)}
                    found[ranking, metric.name, "mean"] = float(metric.of(known))
                else:
                    mean = mean_over_inputs(next(left).squeeze(1))
                    found[ranking, metric.name, "mean"] = float(mean.mean)
                    found[ranking, metric.name, "error"] = float(mean.standard_error)
        return {name: found[of] for name, of in self._named.items()}

    def panels(self, frame: pd.DataFrame) -> list[list[Panel]]:
        """A panel for each metric, with a line for each ranking; one F1 says enough."""
        shown = {one.name: one for one in self._metrics if f"faithfulness/{plain_name(one.name)}" in frame}
        if "f1_macro" in shown:
            shown.pop("f1_weighted", None)
        return [[self._panel(frame, metric) for metric in shown.values()]]

    def _panel(self, frame: pd.DataFrame, metric: Metric) -> Panel:
        last = f"/{plain_name(metric.name)}"
        named = [name for name in frame if name.startswith("faithfulness/") and name.endswith(last)]
        lines = {name.split("/")[1] if name.count("/") == 2 else next(iter(self._factories)): name for name in named}
        errors = {label: name.replace("faithfulness/", "faithfulness_error/", 1) for label, name in lines.items()}
        title = f"{metric.title} ({metric.better})"
        return Panel(title, lines, errors={label: name for label, name in errors.items() if name in frame}, grey=RANDOM)


def _checked_metrics(given: Sequence[str | Metric]) -> list[Metric]:
    """Metrics that can be told apart in a log."""
    try:
        metrics = known_metrics(given)
    except (TypeError, ValueError) as error:
        raise MisconfigurationException(str(error)) from None
    if not metrics:
        raise MisconfigurationException("metrics is empty: give some, or None for the usual ones")
    check_names("metrics", (metric.name for metric in metrics))
    return metrics


def _metric_names(rankings: Sequence[str], metrics: Sequence[Metric]) -> dict[str, tuple[str, str, Kind]]:
    """What is logged by each name: of a ranking and a metric, the mean or its standard error; the main ranking first.

    A metric of all examples has a value in place of a mean, and no error.
    """
    means, errors = [metric.name for metric in metrics], [metric.name for metric in metrics if not metric.of_all]
    each: list[tuple[str, Kind, list[str]]] = [("faithfulness", "mean", means), ("faithfulness_error", "error", errors)]
    methods = ["", *(f"{plain_name(ranking)}/" for ranking in rankings[1:])]
    return {
        f"{group}/{method}{plain_name(name)}": (ranking, name, kind)
        for ranking, method in zip(rankings, methods, strict=True)
        for group, kind, names in each
        for name in names
    }


def _percentages(metric: Metric) -> tuple[float, ...]:
    return tuple(range(0, 101, 10)) if metric.percentages == "from 0 to 100" else PERCENTAGES["eraser"]


def _kept(metric: Metric) -> list[Need]:
    """What must be kept of each example for a metric of all."""
    return [need for need in metric.needs if need in ("whole", "without_top", "top_alone", "predictions")]


def _widths(metric: Metric) -> list[int]:
    """How many numbers are kept of each example."""
    if not metric.of_all:
        return [1]
    return [1 if need == "whole" else len(metric.shares(_percentages(metric), "eraser")) for need in _kept(metric)]


def _as_needed(need: Need, columns: Tensor) -> Tensor:
    """What was kept, in the shape and dtype that metrics take."""
    if need == "predictions":
        return columns.long()
    return columns.squeeze(1) if need == "whole" else columns


def _explained(batch: ProbeBatch, whole: WholeInputs, scores: Tensor, place: int) -> ExplainedExample:
    players = whole.players[place].nonzero().flatten()
    grid = whole.grid if isinstance(whole.grid, PatchGrid) else None
    if whole.grid:  # the patches, row by row
        players = whole.grid.tokens(whole.players.shape[1]).to(players.device)
    return ExplainedExample(
        int(batch.rows[place]),
        scores[place, players].tolist(),
        players.tolist(),
        int(whole.targets[place]),
        float(whole.confidence[place]),
        (grid.rows, grid.columns) if grid else None,
        whole.probabilities.shape[1],
        grid.extent if grid else None,
    )
