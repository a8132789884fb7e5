"""What is measured of a model on a probe set: concept scores, faithfulness, or both from the same passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captum_attn import TokenAttributions
from captum_attn.bench import WholeInputs
from captum_attn.concepts import layer_labels
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.observers import ReadoutGradients
from captum_attn.core.run import ObservedForward, observed_forward
from captum_attn.methods.one_pass import explain_in_one_pass
from lightning_callbacks.concept_probe import ConceptProbe
from lightning_callbacks.faithfulness_probe import FaithfulnessProbe
from lightning_callbacks.gathering import RowsOfExamples
from lightning_callbacks.names import CONCEPT_COLUMNS, concept_name, faithfulness_names
from lightning_callbacks.probe import ProbeBatch, ProbeSet, fitted

CONCEPTS, FAITHFULNESS = "concepts", "faithfulness"


@dataclass(frozen=True)
class ExplainedExample:
    """The attributions of one example, to be looked at.

    Attributes:
        row: its number in the probe set.
        values: of its players.
        players: where these stand among its tokens.
        target: the explained class.
        probability: of that class.
        grid: rows and columns of an image's patches; None for text.
        outputs: how many classes the model tells apart; 0 where that was not kept.
        extent: left, right, bottom and top edge of the patches in the image, in pixels; None where that is not known.
    """

    row: int
    values: list[float]
    players: list[int]
    target: int
    probability: float
    grid: tuple[int, int] | None
    outputs: int = 0
    extent: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Probing:
    """A model, and what is asked about it.

    Attributes:
        model: the model.
        probe: the examples.
        concepts, faithfulness: the two halves; either may be None.
    """

    model: nn.Module
    probe: ProbeSet
    concepts: ConceptProbe | None
    faithfulness: FaithfulnessProbe | None

    @property
    def widths(self) -> dict[str, int]:
        """How many numbers there are of each example."""
        halves = {CONCEPTS: self.concepts, FAITHFULNESS: self.faithfulness}
        return {name: half.width for name, half in halves.items() if half is not None}

    @property
    def faithfulness_names(self) -> dict[tuple[str, str], str]:
        """The names of metrics of faithfulness, by ranking and metric."""
        if self.faithfulness is None:
            return {}
        labelled = self.probe.labels is not None
        return faithfulness_names(self.faithfulness.rankings, self.faithfulness.metric_names(labelled))

    @property
    def concept_names(self) -> dict[tuple[str, str, str], str]:
        """The names of scores of concepts, by group, concept and module."""
        if self.concepts is None:
            return {}
        labelled = list(zip(self.concepts.layers, layer_labels(self.concepts.layers), strict=True))
        return {
            (group, concept, layer.name): concept_name(group, concept, label)
            for group in CONCEPT_COLUMNS
            for concept in self.concepts.concepts
            for layer, label in labelled
        }

    @property
    def names(self) -> list[str]:
        """The names of all metrics but costs."""
        return [*self.faithfulness_names.values(), *self.concept_names.values()]

    def measure(
        self,
        batches: Iterable[ProbeBatch],
        table: RowsOfExamples,
        examples: int,
        deadline: float,
        done: Callable[[int], object],
    ) -> list[ExplainedExample]:
        """Explain batches, and write numbers of each example into a table; without a word to other processes.

        Args:
            batches: what falls to this process.
            table: of these ``widths``.
            examples: how many are wanted to look at.
            deadline: the ``time.monotonic()`` after which no further batch is begun.
            done: called with the number of examples that are done.

        Returns:
            The first examples, explained by the first method.
        """
        kept: list[ExplainedExample] = []
        for batch in batches:
            kept += self._measure(batch, table, examples - len(kept))
            done(len(batch.rows))
            if time.monotonic() > deadline:
                break
        return kept

    def _measure(self, batch: ProbeBatch, table: RowsOfExamples, examples: int) -> list[ExplainedExample]:
        inputs, concepts, faithfulness = fitted(batch.inputs, self.model), self.concepts, self.faithfulness
        scored = torch.zeros(len(batch.rows), dtype=torch.bool) if concepts is None else concepts.scored(batch)
        modules = concepts.modules if concepts is not None and scored.any() else set()
        with observed_forward(self.model, inputs, modules=modules) as run:
            whole = None if faithfulness is None else faithfulness.masked.whole(run, inputs)
            values, readout, targets = self._explain(run, inputs, batch)
            if concepts is not None and readout is not None:
                numbers = concepts.numbers(run, readout, targets)
                table.update(CONCEPTS, batch.rows[scored], numbers[scored.to(numbers.device)])
        if faithfulness is None or whole is None:
            return []
        scores = faithfulness.scores(whole, values)
        table.update(FAITHFULNESS, batch.rows, faithfulness.numbers(whole, batch.rows.tolist(), scores))
        return [_explained(batch, whole, scores[0], place) for place in range(min(examples, len(batch.rows)))]

    def _explain(
        self, run: ObservedForward, inputs: ModelInputs, batch: ProbeBatch
    ) -> tuple[list[TokenAttributions], ReadoutGradients | None, Tensor]:
        """Attributions of the predicted classes; gradients for concepts, and the classes that these are of.

        One backward pass serves both, and there is a second one only where they explain different classes.
        """
        predicted = run.output.detach().argmax(-1)
        targets = predicted if self.concepts is None else self.concepts.targets(batch, predicted)
        states = self.concepts.states(run) if self.concepts is not None and run.states else []
        ours = [] if self.faithfulness is None else self.faithfulness.ours
        if not ours and not states:
            return [], None, targets
        again = bool(ours and states) and not torch.equal(predicted, targets)
        explained = predicted if ours else targets
        values, readout = explain_in_one_pass(run, inputs, ours, states, explained.tolist(), retain_graph=again)
        if again:
            readout = run.readout_gradients(run.output.gather(1, targets[:, None]).squeeze(1), states)
        return values, readout, targets


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
