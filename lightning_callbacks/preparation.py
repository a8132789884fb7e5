"""From what a monitor was told to what it measures: all that can be wrong with it is found before training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from captum_attn.core import special_ids_of
from captum_attn.core.forward import plain_output
from lightning_callbacks.batches import BatchInputs
from lightning_callbacks.consensus import FailedSomewhereError, all_or_none
from lightning_callbacks.logged_names import check_metric_names
from lightning_callbacks.measured_model import MeasuredModel
from lightning_callbacks.measurement import Measurement, check_prepared
from lightning_callbacks.method_factories import tokenizer_of
from lightning_callbacks.model_in_module import ModelChoice, check_head, find_model
from lightning_callbacks.neutrality import without_trace
from lightning_callbacks.probe_set import Batches, ProbeSet, as_it_is, read_probe

MAX_SAMPLES = 64
"""So many examples of the validation loader are explained, unless another number is given."""

_FEW = 2  # examples under fast_dev_run


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked about a model that is known only when training starts.

    Attributes:
        measurements: not prepared yet.

    The others are arguments of :class:`lightning_callbacks.ExplanationMonitor`.
    """

    measurements: Sequence[Measurement]
    probe: Any | None
    labels: Sequence[int | str] | Tensor | None
    model: ModelChoice
    processor: Any | None
    max_samples: int | None
    batch_size: int
    batch_inputs: BatchInputs | None
    seed: int

    def on_all_processes(self, trainer: Trainer, module: LightningModule, who: str) -> MeasuredModel | None:
        """The :meth:`measured_model`, without a trace, if all processes have the same one.

        Args:
            trainer, module: as in :meth:`measured_model`.
            who: asks, in messages.

        Raises:
            MisconfigurationException: whatever is wrong, on this process or another.
        """

        def prepare() -> MeasuredModel | None:
            with without_trace(module, self.seed):
                return self.measured_model(trainer, module)

        try:
            measured = all_or_none(trainer, prepare)
        except FailedSomewhereError as error:
            cause = error.__cause__ or error
            expected = isinstance(cause, TypeError | ValueError | MisconfigurationException)
            named = "" if expected else f"{type(cause).__name__}: "
            notes = "".join(f" ({note})" for note in getattr(cause, "__notes__", ()))
            raise MisconfigurationException(f"{who}: {named}{cause}{notes}") from cause
        fingerprint = "" if measured is None else measured.probe.fingerprint
        same = trainer.strategy.broadcast(fingerprint) == fingerprint
        if not trainer.strategy.reduce_boolean_decision(same):
            raise MisconfigurationException(
                f"{who}: the processes read different validation examples, of which no common numbers can be had: give "
                "all of them the same ones in probe="
            )
        return measured

    def measured_model(self, trainer: Trainer, module: LightningModule) -> MeasuredModel | None:
        """The model in the module, with all examples read and copies of the measurements prepared for them.

        Under ``fast_dev_run``, as many examples are read as otherwise and two of them are kept.

        Returns:
            None if the validation loader has no examples.

        Raises:
            MisconfigurationException, TypeError, ValueError: whatever is wrong with the arguments.
        """
        model = find_model(module, self.model)
        probe = self._probe(trainer, model)
        if not len(probe):
            return None
        probe = probe.with_players(special_ids_of(tokenizer_of(self.processor)))
        check_head(module, model, plain_output(model, probe.example(model), hidden_states=True))
        measurements = [copy(measurement) for measurement in self.measurements]
        for measurement in measurements:
            measurement.prepare(model, probe)
            check_prepared(measurement, model)
        whole = MeasuredModel(model, probe, measurements)
        check_metric_names(whole.names)
        return whole.few(_FEW) if trainer.fast_dev_run else whole  # type: ignore[attr-defined]

    def _probe(self, trainer: Trainer, model: nn.Module) -> ProbeSet:
        """The examples; none, of a validation loader without any."""
        data, most = self.probe, self.max_samples
        if data is None:
            data, most = validation_loader(trainer), self.max_samples or MAX_SAMPLES
            if data is None:
                raise MisconfigurationException("there is no validation loader: give one, or examples in probe=")
            if not isinstance(data, DataLoader):
                data = DataLoader(Batches(data), batch_size=None, collate_fn=as_it_is)
            if self.labels is not None:
                raise MisconfigurationException("labels= go with probe=; those of the validation loader are in it")
            if trainer.world_size > 1 and isinstance(getattr(data, "dataset", data), IterableDataset):
                raise MisconfigurationException(
                    "the validation data are an IterableDataset, of which each process may read other examples: give "
                    "the examples to explain in probe="
                )
        found = read_probe(model, data, self.labels, self.processor, most, self.batch_size, self.batch_inputs)
        if self.probe is not None and not len(found):
            raise MisconfigurationException("the probe set is empty: there are no examples in probe=")
        return found


def validation_loader(trainer: Trainer) -> Any | None:
    """The first validation loader."""
    loaders = trainer.val_dataloaders
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        return loaders[0] if loaders else None
    return loaders
