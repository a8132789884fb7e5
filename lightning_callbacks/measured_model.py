"""A model and what is measured of it on a probe set: all measurements from the same passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from captum_attn import TokenAttributions
from captum_attn.core import ObservedForward, observed_forward
from captum_attn.core.readout import KnownRows
from captum_attn.methods import explain_in_one_pass
from lightning_callbacks.gathering import RowsOfExamples
from lightning_callbacks.history import ExplainedExample
from lightning_callbacks.measurement import (
    Measurement,
    SharedPass,
    check_mask,
    check_targets,
    checked_numbers,
    gradients_of,
)
from lightning_callbacks.probe_set import ProbeBatch, ProbeSet, fitted


@dataclass(frozen=True)
class MeasuredModel:
    """A model, and what is asked about it.

    Attributes:
        model: the model.
        probe: the examples.
        measurements: prepared for both.
    """

    model: nn.Module
    probe: ProbeSet
    measurements: Sequence[Measurement]

    @property
    def names(self) -> list[str]:
        """The names of all metrics but costs."""
        return [name for measurement in self.measurements for name in measurement.names]

    @property
    def widths(self) -> dict[str, int]:
        """How many numbers there are of each example, by the tables that measurements fill."""
        return {
            table: len(measurement.names) if measurement.width is None else measurement.width
            for table, measurement in self._tables.items()
        }

    @property
    def inputs(self) -> int:
        """How many inputs measurements read beside the probe set."""
        return sum(measurement.inputs for measurement in self.measurements)

    @property
    def examples(self) -> list[ExplainedExample]:
        """Those to look at, of the last validation on this process."""
        return next((list(one.examples) for one in self.measurements if one.examples), [])

    def few(self, count: int) -> MeasuredModel:
        """The same with so many examples, the first of which concerns all measurements if one does."""
        each = [[one.concerns(batch) for one in self.measurements] for batch in self.probe.batches]
        concerned = torch.cat([torch.stack(some).all(0) for some in each])
        first = int(concerned.int().argmax())
        rows = [first, *(row for row in range(len(self.probe)) if row != first)][:count]
        return replace(self, probe=self.probe[torch.isin(torch.arange(len(self.probe)), torch.tensor(rows))])

    def measure(
        self, batches: Iterable[ProbeBatch], table: RowsOfExamples, deadline: float, done: Callable[[int], object]
    ) -> None:
        """Explain batches, and write numbers of each example into a table; without a word to other processes.

        Args:
            batches: what falls to this process.
            table: of these ``widths``.
            deadline: the ``time.monotonic()`` after which no further batch is begun.
            done: called with the number of examples, and of other inputs, that are done.
        """
        for measurement in self.measurements:
            measurement.begin(done)
        for batch in batches:
            self._measure(replace(batch, inputs=fitted(batch.inputs, self.model)), table)
            done(len(batch.rows))
            if time.monotonic() > deadline:
                break

    def metrics(self, known: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
        """All metrics, by rows of examples and their numbers from each table; NaN where no example is known."""
        labels = self.probe.labels
        metrics: dict[str, float] = {}
        for table, measurement in self._tables.items():
            rows, numbers = known[table]
            found: Mapping[str, float] = dict.fromkeys(measurement.names, float("nan"))
            if len(rows):
                found = measurement.metrics(numbers.cpu(), None if labels is None else labels[rows.cpu()])
            if found.keys() != {*measurement.names}:
                raise ValueError(
                    f"{type(measurement).__name__} found {', '.join(found)}, expected {', '.join(measurement.names)}"
                )
            metrics |= {name: float(found[name]) for name in measurement.names}
        return metrics

    @property
    def _tables(self) -> dict[str, Measurement]:
        return {f"numbers_{place}": measurement for place, measurement in enumerate(self.measurements)}

    def _measure(self, batch: ProbeBatch, table: RowsOfExamples) -> None:
        count = len(batch.rows)
        each = ((name, one, check_mask(one, one.concerns(batch), count)) for name, one in self._tables.items())
        concerned = [(name, one, rows) for name, one, rows in each if rows.any()]
        if not concerned:
            return
        measurements, widths = [one for _, one, _ in concerned], self.widths
        methods = [method for one in measurements for method in one.methods]
        modules = {name for one in measurements for name in one.modules}
        modules |= {name for method in methods for name in method.modules}
        follows = any(method.after_attention for method in methods)
        with observed_forward(self.model, batch.inputs, modules=modules, after_attention=follows) as run:
            passes = _shared_passes(run, batch, measurements)
            for (name, measurement, rows), seen in zip(concerned, passes, strict=True):
                numbers = checked_numbers(measurement, seen, (count, widths[name]))
                table.update(name, batch.rows[rows], numbers[rows.to(numbers.device)])


def _shared_passes(run: ObservedForward, batch: ProbeBatch, measurements: Sequence[Measurement]) -> list[SharedPass]:
    """What each measurement sees. One backward pass serves all that explain the same classes."""
    predicted = run.output.detach().argmax(-1)
    targets = [check_targets(one, one.targets(batch, predicted), run.output) for one in measurements]
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, classes in enumerate(targets):
        groups.setdefault(tuple(classes.tolist()), []).append(place)
    found: dict[int, SharedPass] = {}
    for number, places in enumerate(groups.values(), 1):
        group = [measurements[place] for place in places]
        passes = _explained(run, batch, group, targets[places[0]], retain_graph=number < len(groups))
        found |= dict(zip(places, passes, strict=True))
    return [found[place] for place in range(len(measurements))]


def _explained(
    run: ObservedForward, batch: ProbeBatch, group: Sequence[Measurement], targets: Tensor, retain_graph: bool
) -> list[SharedPass]:
    """What measurements see that explain the same classes."""
    methods = [method for one in group for method in one.methods]
    states = [[state for state in run.states if state.module in one.modules] for one in group]
    modules = {name for one in group if one.needs_gradients for name in one.modules}
    wanted = [state for state in run.states if state.module in modules]
    values: list[TokenAttributions] = []
    readout = gradients = None
    if any(states) and not wanted:  # before the graph is gone
        readout = run.readout_rows(run.output.gather(1, targets[:, None]).squeeze(1)).weights()
    if methods or wanted:
        values, gradients = explain_in_one_pass(run, batch.inputs, methods, wanted, targets.tolist(), retain_graph)
    if gradients is not None:
        readout = gradients.readout.weights()
        gradients = gradients._replace(readout=KnownRows(readout))  # whatever is explained of the same pass next
    left = iter(values)
    return [
        SharedPass(
            run,
            batch,
            targets,
            list(islice(left, len(one.methods))),
            own,
            readout if own else None,
            gradients_of(gradients, wanted, own) if gradients is not None and one.needs_gradients else None,
        )
        for one, own in zip(group, states, strict=True)
    ]
