"""From what a monitor was told to what it measures: all that can be wrong with it is found before training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from captum_attn.bench import Intervention, MaskedModel
from captum_attn.concepts import ExperimentalSets
from captum_attn.core.forward import plain_output
from captum_attn.core.perturb import Replacement
from captum_attn.core.tokens import special_ids_of
from lightning_callbacks.batches import BatchInputs
from lightning_callbacks.concept_probe import ConceptProbe
from lightning_callbacks.faithfulness_probe import FaithfulnessProbe
from lightning_callbacks.methods import MethodFactory, built, tokenizer_of
from lightning_callbacks.model_in_module import ModelChoice, check_head, find_model
from lightning_callbacks.names import check_names
from lightning_callbacks.probe import Batches, ProbeSet, as_it_is, fitted, read_probe
from lightning_callbacks.probing import Probing

MAX_SAMPLES = 64
"""So many examples of the validation loader are explained, unless another number is given."""

_FEW = 2  # examples under fast_dev_run


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked about a model that is known only when training starts.

    Attributes:
        methods: attributions by name.

    The others are arguments of :class:`lightning_callbacks.ExplanationMonitor`.
    """

    concepts: ExperimentalSets | None
    methods: Mapping[str, MethodFactory]
    target: int | str | None
    probe: Any | None
    labels: Sequence[int | str] | Tensor | None
    model: ModelChoice
    processor: Any | None
    layers: Sequence[int | str] | int | str | None
    max_samples: int | None
    batch_size: int
    batch_inputs: BatchInputs | None
    intervention: Intervention
    replacement: Replacement | None
    concept_options: Mapping[str, Any]
    seed: int

    def probing(self, trainer: Trainer, module: LightningModule) -> Probing | None:
        """The model in the module, with examples and concepts read and everything tried on one of them.

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
        tokenizer = tokenizer_of(self.processor)
        probe = probe.with_players(special_ids_of(tokenizer))
        example = fitted(probe.batches[0].inputs[:1], model)
        check_head(module, model, plain_output(model, example, hidden_states=True))
        concepts = faithfulness = None
        if self.concepts is not None:
            options = {"processor": self.processor, "layers": self.layers, "batch_size": self.batch_size}
            options |= {"seed": self.seed, **self.concept_options}
            concepts = ConceptProbe(model, self.concepts, self.target, probe, options)
            check_names("concepts", concepts.concepts)
        if self.methods:
            methods = {name: built(factory, model, self.processor) for name, factory in self.methods.items()}
            masked = MaskedModel(model, tokenizer, replacement=self.replacement, batch_size=self.batch_size)
            faithfulness = FaithfulnessProbe(masked, methods, self.intervention, self.seed)
            faithfulness.check(example, probe.labels)
        whole = Probing(model, probe, concepts, faithfulness)
        return replace(whole, probe=probe[_few(whole)]) if trainer.fast_dev_run else whole  # type: ignore[attr-defined]

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


def _few(probing: Probing) -> Tensor:
    """Two examples, bool (n,): one that counts for concepts, and the first other one."""
    batches, concepts = probing.probe.batches, probing.concepts
    counts = [torch.ones(len(b.rows), dtype=torch.bool) if concepts is None else concepts.scored(b) for b in batches]
    first = int(torch.cat(counts).nonzero()[0])
    few = [first, *(row for row in range(len(probing.probe)) if row != first)][:_FEW]
    return torch.isin(torch.arange(len(probing.probe)), torch.tensor(few))
