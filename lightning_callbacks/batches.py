"""Batches as data loaders give them: the inputs that are explained, and their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from captum_attn.core.inputs import FEATURE_NAMES, constant, modality

LABEL_NAMES = ("labels", "label")


class LabelledInputs(NamedTuple):
    """Inputs by the names that the model has for them, and labels or None."""

    inputs: Mapping[str, Any]
    labels: Any | None

    def __len__(self) -> int:
        """How many inputs there are: the first dimension of ids, embeddings or pixels; 0 where none is found."""
        return next((len(self.inputs[name]) for name in FEATURE_NAMES.values() if name in self.inputs), 0)

    def rows(self, wanted: Sequence[bool]) -> LabelledInputs:
        """Some of the inputs."""
        size, kept = len(self), [row for row, one in enumerate(wanted) if one]

        def cut(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[kept] if value.dim() and len(value) == size else value
            return [value[row] for row in kept] if isinstance(value, list | tuple) and len(value) == size else value

        return LabelledInputs({name: cut(value) for name, value in self.inputs.items()}, cut(self.labels))


def labelled_inputs(batch: Any) -> LabelledInputs:
    """Take a batch apart; tensors of inference mode become constants that autograd can save.

    Args:
        batch: a mapping of inputs, with ``labels`` or ``label`` among them or not; ids (B, N), embeddings (B, N, D) or
            pixels (B, C, h, w); or a sequence of such features and labels, as ``TensorDataset`` makes it.

    Raises:
        TypeError: anything else.

    Example:
        >>> inputs, labels = labelled_inputs([torch.zeros(2, 3, 8, 8), torch.tensor([4, 2])])
        >>> list(inputs), labels.tolist()
        (['pixel_values'], [4, 2])
    """
    labels = None
    if isinstance(batch, list | tuple) and len(batch) in (1, 2) and isinstance(batch[0], Tensor | Mapping):
        batch, labels = (*batch, None)[:2]
    if isinstance(batch, Tensor):
        batch = {FEATURE_NAMES[modality(batch)]: batch}
    if not isinstance(batch, Mapping):
        raise TypeError(
            f"the batch is {_described(batch)}, expected the mapping that a tokenizer or an image processor returns, "
            "a tensor, or (features, labels). Give batch_inputs=, a function that makes such a mapping of a batch"
        )
    found = [batch[name] for name in LABEL_NAMES if name in batch]
    inputs = {name: constant(value) for name, value in batch.items() if name not in LABEL_NAMES}
    return LabelledInputs(inputs, constant(found[0] if found and labels is None else labels))


def _described(batch: Any) -> str:
    parts = ", ".join(type(part).__name__ for part in batch[:4]) if isinstance(batch, list | tuple) else ""
    return f"a {type(batch).__name__}" + (f" of {len(batch)} ({parts})" if parts else "")
