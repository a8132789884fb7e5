"""Concepts of a model in training: read once, scored again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from captum_attn.concepts import TTCAV, ConceptScores, ConceptStates, ExperimentalSets, find_layers
from captum_attn.core.forward import plain_output
from captum_attn.core.models import device_of
from captum_attn.core.observers import ReadoutGradients
from captum_attn.core.run import ObservedForward, observed_forward
from captum_attn.core.states import States
from lightning_callbacks.classes import class_number
from lightning_callbacks.probe import ProbeBatch, ProbeSet, fitted


class ConceptProbe:
    """T-TCAV of one experimental set on a probe set.

    Args:
        model: the model.
        concepts: one experimental set, in any form that :meth:`captum_attn.TTCAV.interpret` takes.
        target: the class whose examples are scored, a number or a name; None for all, each by its predicted class.
        probe: the examples, by which the model gives logits (B, C).
        options: of :class:`captum_attn.TTCAV`.

    Attributes:
        ttcav: the method.
        layers: those that are scored.
        width: how many numbers there are of each example: what was explained, and the pooled gradients of all layers.

    Raises:
        MisconfigurationException: several sets; an unknown class; no labels, or none of this class.
    """

    def __init__(
        self,
        model: nn.Module,
        concepts: ExperimentalSets,
        target: int | str | None,
        probe: ProbeSet,
        options: Mapping[str, Any],
    ) -> None:
        self.ttcav = TTCAV(model, **options)
        read = self.ttcav.read_concepts(concepts)
        if len(read.sets) > 1:
            raise MisconfigurationException(
                f"concepts must be one experimental set, got {len(read.sets)}: use a monitor for each, with another "
                "log_prefix"
            )
        on_cpu = {id: [fitted(b, model).to(torch.device("cpu")) for b in parts] for id, parts in read.examples.items()}
        self._concepts = replace(read, examples=on_cpu)
        self._target = None if target is None else class_number(model, target)
        if target is not None and probe.labels is None:
            raise MisconfigurationException(
                f"target={target!r} needs labels of the probe set, to know which of its examples are of this class: "
                "give labels=, or batches with labels, or target=None to explain the predicted class of each"
            )
        if probe.labels is not None and self._target is not None and not (probe.labels == self._target).any():
            raise MisconfigurationException(
                f"none of the {len(probe)} examples of the probe set is labelled as target={target!r}: take more "
                "(max_samples=), or give some in probe="
            )
        example = fitted(probe.batches[0].inputs[:1], model)
        self.layers = find_layers(model, example, self.ttcav.layers)
        with observed_forward(model, example, gradients=False, modules=self.modules) as run:
            self._outputs = run.output.shape[-1]
            if target is not None:
                class_number(model, target, run.output.shape[1])
            self._widths = [states.hidden.shape[-1] for states in self.states(run)]
        self.width = 1 + sum(self._widths)
        for concept in read.sets[0]:
            try:
                plain_output(model, fitted(on_cpu[concept.id][0][:1], model))
            except Exception as error:
                error.add_note(f"while the model read the first example of concept {concept.name!r}")
                raise

    @property
    def concepts(self) -> list[str]:
        """The concepts' names."""
        return [concept.name for concept in self._concepts.sets[0]]

    @property
    def modules(self) -> set[str]:
        """The modules whose states are needed."""
        return {layer.module for layer in self.layers}

    def states(self, run: ObservedForward) -> list[States]:
        """The hidden states of the layers."""
        return [layer.of(run) for layer in self.layers]

    def scored(self, batch: ProbeBatch) -> Tensor:
        """bool (B,): the examples that count."""
        if self._target is None or batch.labels is None:
            return torch.ones(len(batch.rows), dtype=torch.bool)
        return batch.labels == self._target

    def targets(self, batch: ProbeBatch, predicted: Tensor) -> Tensor:
        """int64 (B,): the classes that are explained; the predicted ones where examples do not count."""
        if self._target is None:
            return predicted
        return predicted.masked_fill(self.scored(batch).to(predicted.device), self._target)

    def numbers(self, run: ObservedForward, readout: ReadoutGradients, targets: Tensor) -> Tensor:
        """What is kept of each example, float (B, width)."""
        pooled = self.ttcav.pooled_gradients(run, readout)
        return torch.cat([targets[:, None].to(pooled[0]), *pooled], 1)

    @property
    def examples(self) -> int:
        """How many examples the concepts have."""
        return sum(len(batch) for parts in self._concepts.examples.values() for batch in parts)

    def read_states(self, done: Callable[[int], object]) -> dict[int, ConceptStates]:
        """The states of the concepts' examples, as the model is now; ``done`` is told how many are read."""
        return self.ttcav.read_states(self._concepts, self.layers, keep=False, done=done)

    def score(self, states: Mapping[int, ConceptStates], numbers: Tensor) -> ConceptScores:
        """The scores by concepts' states and the numbers (m, width) of the examples that count, m > 0."""
        targets, pooled = numbers.split([1, self.width - 1], dim=1)
        each = pooled.float().to(device_of(self.ttcav.model)).split(self._widths, dim=1)
        known = (self._concepts, states, self.layers, each, targets.long().cpu())
        return self.ttcav.score(*known, outputs=self._outputs)
