"""The examples on which explanations are followed: the same ones at every validation and on every process."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import accumulate, pairwise
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from captum_attn.bench import Reader, checked_labels
from captum_attn.core import ModelInputs, add_to_hash, config_of, device_of, mapping_inputs, warn_user
from lightning_callbacks.batches import LABEL_NAMES, BatchInputs, labelled_inputs
from lightning_callbacks.companions import is_padding_mask


@dataclass(frozen=True)
class ProbeBatch:
    """Some of the examples.

    Attributes:
        inputs: on the CPU.
        labels: int64 (B,), or None.
        rows: int64 (B,), their numbers in the probe set.
    """

    inputs: ModelInputs
    labels: Tensor | None
    rows: Tensor

    def __getitem__(self, places: Tensor) -> ProbeBatch:
        labels = None if self.labels is None else self.labels[places]
        return ProbeBatch(self.inputs[places], labels, self.rows[places])


@dataclass(frozen=True)
class ProbeSet:
    """All examples, in batches."""

    batches: list[ProbeBatch]

    def __len__(self) -> int:
        return sum(len(batch.rows) for batch in self.batches)

    @property
    def labels(self) -> Tensor | None:
        """int64 (n,), or None."""
        each = [batch.labels for batch in self.batches]
        known = [labels for labels in each if labels is not None]
        return torch.cat(known) if len(known) == len(each) else None

    def __getitem__(self, wanted: Tensor) -> ProbeSet:
        """Some of the examples, bool (n,), numbered anew."""
        parts = zip(self.batches, wanted.split([len(batch.rows) for batch in self.batches]), strict=True)
        kept = [batch[some] for batch, some in parts if some.any()]
        starts = list(accumulate((len(batch.rows) for batch in kept), initial=0))
        rows = [torch.arange(start, stop) for start, stop in pairwise(starts)]
        return ProbeSet([replace(batch, rows=own) for batch, own in zip(kept, rows, strict=True)])

    def with_players(self, special_ids: Collection[int] | None) -> ProbeSet:
        """The texts that hold more than padding and special tokens; a warning names the others."""
        if special_ids is None or self.batches[0].inputs.modality != "ids":
            return self
        special = torch.tensor(sorted(special_ids))
        kept = torch.cat([(~torch.isin(batch.inputs.features, special)).any(-1) for batch in self.batches])
        if kept.all():
            return self
        idle = (~kept).nonzero().flatten().tolist()
        warn_user(f"the examples {idle} of the probe set have no tokens but special ones: left out")
        if not kept.any():
            raise MisconfigurationException("the examples of the probe set have no tokens but special ones")
        return self[kept]

    def example(self, model: nn.Module) -> ModelInputs:
        """The first one, as the model takes it."""
        return fitted(self.batches[0].inputs[:1], model)

    @cached_property
    def fingerprint(self) -> str:
        """What tells these examples from others."""
        digest = sha256()
        for batch in self.batches:
            add_to_hash(digest, [batch.inputs.features, batch.rows, batch.labels])
        return digest.hexdigest()

    def inputs(self, row: int) -> ModelInputs:
        """One of the examples."""
        batch = next(batch for batch in self.batches if row in batch.rows)
        return batch.inputs[batch.rows == row]

    def shard(self, rank: int, processes: int) -> list[ProbeBatch]:
        """The examples that fall to one of several processes, dealt in turn."""
        parts = [batch[(batch.rows % processes == rank).nonzero().flatten()] for batch in self.batches]
        return [part for part in parts if len(part.rows)]


def read_probe(
    model: nn.Module,
    data: Any,
    labels: Sequence[int | str] | Tensor | None,
    processor: Any | None,
    max_samples: int | None,
    batch_size: int,
    batch_inputs: BatchInputs | None,
) -> ProbeSet:
    """The probe set, of the user's own data or of a validation loader.

    Args:
        model: that reads them.
        data: texts, images, paths, a tensor, the mapping that a tokenizer or an image processor returns; or a data
            loader or data set, whose first examples are taken in their own order, whatever its sampler does.
        labels: of the examples, numbers or names of classes, unless the data hold them.
        processor: the model's tokenizer or image processor, for texts, images and paths.
        max_samples: the most examples; None for all.
        batch_size: the most in a batch.
        batch_inputs: takes a loader's batch apart.

    Returns:
        The examples; none, of a loader or data set that has none.

    Raises:
        MisconfigurationException: data in which there are no inputs, or not one label for each.
    """
    data = DataLoader(data, batch_size) if isinstance(data, Dataset) else data
    if isinstance(data, DataLoader):
        found = list(_of_loader(model, data, max_samples, batch_inputs))
    elif batch_inputs is None and not _is_batch(data):
        reader = Reader(model, processor, batch_size)
        found = [(inputs, None) for inputs in reader.read(_first(data, max_samples), "the probe set")]
    else:
        found = [_read(model, data, batch_inputs)]
    return _in_order(found, labels, config_of(model), max_samples, batch_size)


class Batches(IterableDataset[Any]):
    """What an iterable that is no data loader yields."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)


def as_it_is(batch: Any) -> Any:
    """A batch that is one already."""
    return batch


def fitted(inputs: ModelInputs, model: nn.Module) -> ModelInputs:
    """Inputs on the model's device; pixels and embeddings in its precision."""
    moved = inputs.to(device_of(model))
    precision = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), torch.float32)
    features = moved.features.to(precision) if moved.features.is_floating_point() else moved.features
    return replace(moved, features=features)


def _of_loader(
    model: nn.Module, loader: DataLoader[Any], max_samples: int | None, batch_inputs: BatchInputs | None
) -> Iterable[tuple[ModelInputs, Tensor | None]]:
    data: Any = loader.dataset
    if not isinstance(data, IterableDataset):  # in the data's own order, which no sampler of a process changes
        count = len(data) if max_samples is None else min(max_samples, len(data))
        data = Subset(data, range(count))
    size = None if loader.batch_sampler is None else getattr(loader.batch_sampler, "batch_size", 1)
    read = 0
    for batch in DataLoader(data, size, collate_fn=loader.collate_fn):  # the loader itself may be in use
        inputs, labels = _read(model, batch, batch_inputs)
        yield inputs, labels
        read += len(inputs)
        if max_samples is not None and read >= max_samples:
            return


def _in_order(
    found: Iterable[tuple[ModelInputs, Tensor | None]],
    labels: Sequence[int | str] | Tensor | None,
    config: Any | None,
    max_samples: int | None,
    batch_size: int,
) -> ProbeSet:
    batches: list[ProbeBatch] = []
    start = 0
    for inputs, own in found:
        for part in inputs.parts(batch_size):
            piece = inputs[part].to(torch.device("cpu"))
            rows = torch.arange(start, start + len(piece))
            batches.append(ProbeBatch(piece, None if own is None else own[part].cpu().long(), rows))
            start += len(piece)
    if labels is not None:
        more = max_samples is not None and len(labels) > start
        given = torch.tensor(checked_labels(labels[:start] if more else labels, start, config))
        batches = [replace(batch, labels=given[batch.rows].cpu().long()) for batch in batches]
    if max_samples is not None:
        kept = [batch[batch.rows < max_samples] for batch in batches]
        batches = [batch for batch in kept if len(batch.rows)]
    return ProbeSet(batches)


def _class_labels(labels: Any) -> Tensor | None:
    """Labels int64 (B,); None, with a warning, for what are no numbers of classes."""
    try:
        given = None if labels is None else torch.as_tensor(labels)
    except (TypeError, ValueError):
        given = torch.empty(0)
    given = given.squeeze(1) if given is not None and given.dim() == 2 and given.shape[1] == 1 else given
    if given is None or (given.dim() == 1 and not given.is_floating_point()):
        return given
    warn_user(
        "the labels of the probe set are no numbers of classes, one for each example, so there is no F1: batch_inputs= "
        "can make some of a batch"
    )
    return None


def _first(data: Any, count: int | None) -> Any:
    """The first examples of a sequence; anything else as it is, to be cut when it is read."""
    return data[:count] if isinstance(data, Sequence) and not isinstance(data, str) else data


def _is_batch(data: Any) -> bool:
    """Whether it is one batch with labels or the like, as loaders yield it; a list of batches has parts of one kind."""
    if isinstance(data, Mapping):
        return any(name in data for name in LABEL_NAMES)
    if not isinstance(data, list | tuple) or len(data) < 2 or not isinstance(data[0], Tensor | Mapping):
        return False
    return isinstance(data, tuple) or any(_goes_along(part, data[0]) for part in data[1:])


def _goes_along(part: Any, first: Tensor | Mapping[str, Any]) -> bool:
    """Whether it is no further batch, or example, like the first one."""
    if not isinstance(first, Tensor) or not isinstance(part, Tensor):
        return isinstance(part, Tensor) or isinstance(first, Tensor)
    alike = (part.dim(), part.is_floating_point()) == (first.dim(), first.is_floating_point())
    return not alike or is_padding_mask(part, first)


def _read(model: nn.Module, batch: Any, batch_inputs: BatchInputs | None) -> tuple[ModelInputs, Tensor | None]:
    given = labelled_inputs(batch, model, batch_inputs)
    try:
        return mapping_inputs(model, given.inputs), _class_labels(given.labels)
    except (TypeError, ValueError) as error:
        raise MisconfigurationException(
            f"a batch holds no inputs of the model: {error}. Give batch_inputs=, a function from a batch to the "
            "mapping that is explained, with labels"
        ) from error
