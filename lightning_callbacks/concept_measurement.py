"""Concepts of a model in training: read once, scored again and again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from captum_attn.concepts import (
    TTCAV,
    ConceptScores,
    ConceptStates,
    ExperimentalSets,
    ExplainedInputs,
    find_layers,
    layer_labels,
    warn_of_weak_tests,
)
from captum_attn.core import device_of, observed_forward
from captum_attn.core.forward import plain_output
from captum_attn.functional import SIGNIFICANT
from lightning_callbacks.classes import class_number
from lightning_callbacks.history import Group
from lightning_callbacks.history_figures import Panel
from lightning_callbacks.logged_names import check_names, plain_name
from lightning_callbacks.measurement import Measurement, SharedPass, gradients_of
from lightning_callbacks.probe_set import ProbeBatch, ProbeSet, fitted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_COLUMNS = {"tcav": "score", "tcav_effect": "effect", "tcav_p": "p_holm"}
"""Groups of metrics, and the columns of :meth:`captum_attn.concepts.ConceptScores.table` that they hold.

``tcav_p/{concept}`` holds :attr:`captum_attn.concepts.ConceptScores.p_holm`.
"""


class ConceptMeasurement(Measurement):
    """T-TCAV of one experimental set.

    Of each example, the explained class and the pooled gradients of all layers are kept.

    Args:
        concepts: one experimental set, in any form that :meth:`captum_attn.TTCAV.interpret` takes.
        target: the class whose examples are scored, a number or a name; None for all, each by its predicted class.
        options: of :class:`captum_attn.TTCAV`.

    Attributes:
        scores: those of the last validation; None before, or where no example counts.

    Raises:
        MisconfigurationException: when prepared: several sets; an unknown class; no labels, or none of this class.
    """

    needs_gradients = True
    groups: Mapping[str, Group] = {
        "tcav": Group(summarized=False),
        "tcav_effect": Group(p_values="tcav_p"),
        "tcav_p": Group(summarized=False),
    }

    def __init__(self, concepts: ExperimentalSets, target: int | str | None, options: Mapping[str, Any]) -> None:
        self._given, self._target, self._options = concepts, target, options
        self.scores: ConceptScores | None = None
        self._warned = False

    def prepare(self, model: nn.Module, probe: ProbeSet) -> None:
        self._ttcav = TTCAV(model, **self._options)
        if not self._ttcav.propagation.is_plain:
            raise MisconfigurationException(
                f"propagation={self._ttcav.propagation.name!r}: the monitor's pass, which concepts share, has plain "
                "gradients; score them by TTCAV(propagation=...).interpret after training"
            )
        read = self._ttcav.read_concepts(self._given)
        read.check_different(())
        if len(read.sets) > 1:
            raise MisconfigurationException(
                f"concepts must be one experimental set, got {len(read.sets)}: use a monitor for each, with another "
                "log_prefix"
            )
        on_cpu = {id: [fitted(b, model).to(torch.device("cpu")) for b in parts] for id, parts in read.examples.items()}
        self._concepts = replace(read, examples=on_cpu)
        self._class = None if self._target is None else class_number(model, self._target)
        self._check_labels(probe)
        example = probe.example(model)
        self._layers = find_layers(model, example, self._ttcav.layers)
        self.modules = {layer.module for layer in self._layers}
        with observed_forward(model, example, gradients=False, modules=self.modules) as run:
            self._outputs = run.output.shape[-1]
            if self._target is not None:
                class_number(model, self._target, run.output.shape[1])
            self._widths = [layer.of(run).hidden.shape[-1] for layer in self._layers]
        self.width = 1 + sum(self._widths)
        for concept in read.sets[0]:
            try:
                plain_output(model, fitted(on_cpu[concept.id][0][:1], model))
            except Exception as error:
                error.add_note(f"while the model read the first example of concept {concept.name!r}")
                raise
        self.inputs = sum(len(batch) for parts in on_cpu.values() for batch in parts)
        concepts = [concept.name for concept in read.sets[0]]
        check_names("concepts", concepts)
        labelled = list(zip(self._layers, layer_labels(self._layers), strict=True))
        self._cells = {
            f"{group}/{plain_name(concept)}/layer_{label}": (column, concept, layer.name)
            for group, column in _COLUMNS.items()
            for concept in concepts
            for layer, label in labelled
        }
        self._concept_names = [f"tcav_p/{plain_name(concept)}" for concept in concepts]
        self.names = [*self._cells, *self._concept_names]

    def _check_labels(self, probe: ProbeSet) -> None:
        if self._target is not None and probe.labels is None:
            raise MisconfigurationException(
                f"target={self._target!r} needs labels of the probe set, to know which of its examples are of this "
                "class: give labels=, or batches with labels, or target=None to explain the predicted class of each"
            )
        if probe.labels is not None and self._class is not None and not (probe.labels == self._class).any():
            raise MisconfigurationException(
                f"none of the {len(probe)} examples of the probe set is labelled as target={self._target!r}: take "
                "more (max_samples=), or give some in probe="
            )

    def begin(self, done: Callable[[int], object]) -> None:
        self.scores = None
        self._states: Mapping[int, ConceptStates] = self._ttcav.read_states(
            self._concepts, self._layers, keep=False, done=done
        )

    def concerns(self, batch: ProbeBatch) -> Tensor:
        return super().concerns(batch) if self._class is None or batch.labels is None else batch.labels == self._class

    def targets(self, batch: ProbeBatch, predicted: Tensor) -> Tensor:
        """The class, or the predicted ones where examples do not count."""
        if self._class is None:
            return predicted
        return predicted.masked_fill(self.concerns(batch).to(predicted.device), self._class)

    def numbers(self, seen: SharedPass) -> Tensor:
        if seen.gradients is None:
            raise ValueError("the pass was made without gradients")
        layers = [layer.of(seen.run) for layer in self._layers]
        pooled = self._ttcav.pooled_gradients(seen.run, gradients_of(seen.gradients, seen.states, layers))
        return torch.cat([seen.targets[:, None].to(pooled[0]), *pooled], 1)

    def metrics(self, numbers: Tensor, labels: Tensor | None) -> Mapping[str, float]:
        targets, pooled = numbers.split([1, sum(self._widths)], dim=1)
        each = pooled.float().to(device_of(self._ttcav.model)).split(self._widths, dim=1)
        inputs = ExplainedInputs(each, targets.long())
        self.scores = self._ttcav.score(self._concepts, self._states, self._layers, inputs, outputs=self._outputs)
        if not self._warned:
            warn_of_weak_tests(self.scores.sets)
            self._warned = True
        rows = self.scores.table().set_index(["concept", "module"])
        of_layers = {
            name: rows.loc[(concept, module), column] for name, (column, concept, module) in self._cells.items()
        }
        (p_values,) = self.scores.p_holm
        return of_layers | dict(zip(self._concept_names, p_values.tolist(), strict=True))

    def panels(self, frame: pd.DataFrame) -> list[list[Panel]]:
        """T-TCAV scores, a panel for each layer; below, effects, then p-values; of one layer, side by side."""
        output = "the predicted class" if self._target is None else str(self._target)
        layers = list(dict.fromkeys(name.split("/")[2] for name in frame if name.startswith("tcav/")))
        of_layers = [
            [self._panel(frame, group, layer, f"{title}, {layer.replace('_', ' ')}", level, limits) for layer in layers]
            for group, title, level, limits in (
                ("tcav", "T-TCAV score", 0.5, (-0.05, 1.05)),
                ("tcav_effect", f"effect on {output}", 0.0, None),
            )
        ]
        concepts = {name.split("/")[1]: name for name in frame if re.fullmatch("tcav_p/[^/]+", name)}
        p_values = Panel("p-value of the concept (Holm)", concepts, level=SIGNIFICANT, limits=(-0.05, 1.05))
        rows = [*of_layers, [p_values]]
        return rows if len(layers) > 1 else [[panel for row in rows for panel in row]]

    @staticmethod
    def _panel(
        frame: pd.DataFrame, group: str, layer: str, title: str, level: float, limits: tuple[float, float] | None
    ) -> Panel:
        concepts = [name.split("/")[1] for name in frame if name.startswith(f"{group}/") and name.endswith(f"/{layer}")]
        lines = {concept: f"{group}/{concept}/{layer}" for concept in concepts}
        p_values = {concept: f"tcav_p/{concept}/{layer}" for concept in concepts}
        return Panel(title, lines, p_values=p_values, level=level, limits=limits)

    def figures(self) -> dict[str, Figure]:
        """A map of concepts and layers."""
        return {} if self.scores is None else {"tcav/map": self.scores.plot()}
