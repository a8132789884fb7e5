"""Batches as data loaders give them: the model's inputs, and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from captum_attn.core.inputs import COMPANION_NAMES, FEATURE_NAMES, TOKEN_NOTES, constant, modality
from captum_attn.core.models import parameter_names, takes_keyword

BatchInputs = Callable[[Any], Any]
"""A function from a batch of the user's own form to one of the forms of :func:`labelled_inputs`."""

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


def labelled_inputs(batch: Any, model: nn.Module, batch_inputs: BatchInputs | None = None) -> LabelledInputs:
    """Take a batch apart; tensors of inference mode become constants that autograd can save.

    Args:
        batch: a mapping of inputs, with ``labels`` or ``label`` among them or not, in which what the model does not
            take is left out; ids (B, N), embeddings (B, N, D) or pixels (B, C, h, w); or a sequence that starts with
            one of them, goes on with a mask and the like, and may end with labels, as ``TensorDataset`` makes it.
        model: that takes the inputs.
        batch_inputs: brings other batches into one of these forms.

    Raises:
        TypeError: anything else.

    Example:
        >>> inputs, labels = labelled_inputs([batch["input_ids"], batch["attention_mask"], torch.tensor([1, 0])], model)
        >>> list(inputs), labels.tolist()
        (['input_ids', 'attention_mask'], [1, 0])
    """
    given = batch if batch_inputs is None else batch_inputs(batch)
    features, *others = given if isinstance(given, list | tuple) and given else [given]
    others = [part for part in others if part is not None]
    labels = others.pop() if others and _are_labels(others[-1], features) else None
    names = [name for name in COMPANION_NAMES if name in parameter_names(model)]
    fits = isinstance(features, Mapping) or all(isinstance(part, Tensor) for part in (features, *others))
    if not fits or len(others) > (0 if isinstance(features, Mapping) else len(names)):
        raise _not_understood(given, batch_inputs)
    if not isinstance(features, Mapping):
        features = {FEATURE_NAMES[modality(features)]: features, **dict(zip(names, others, strict=False))}
    if not any(name in features for name in FEATURE_NAMES.values()):
        raise _not_understood(given, batch_inputs)
    found = [features[name] for name in LABEL_NAMES if name in features]
    taken = _taken(model, features)
    inputs = {name: constant(value) for name, value in features.items() if name in taken}
    return LabelledInputs(inputs, constant(found[0] if found and labels is None else labels))


def _taken(model: nn.Module, features: Mapping[str, Any]) -> set[str]:
    """The names that go to the model: of its arguments; all of them, if it takes any and does not name the first."""
    main = next(name for name in FEATURE_NAMES.values() if name in features)
    named = parameter_names(model)
    takes_all = main not in named and takes_keyword(model, main)
    return {main, *(features if takes_all else named), *TOKEN_NOTES} - {*LABEL_NAMES}


def _not_understood(given: Any, batch_inputs: BatchInputs | None) -> TypeError:
    who = "the batch is" if batch_inputs is None else "batch_inputs made of a batch"
    advice = (
        "Give batch_inputs=, a function that makes one of these of a batch"
        if batch_inputs is None
        else "Let it return one of these"
    )
    return TypeError(
        f"{who} {_described(given)}, expected the mapping that a tokenizer or an image processor returns, a tensor, or "
        f"(features, labels). {advice}"
    )


def _are_labels(part: Any, features: Any) -> bool:
    """Whether it is anything but a mask or the like, an integer for each token."""
    if not isinstance(part, Tensor) or not isinstance(features, Tensor) or features.dim() > 3:
        return True
    return part.is_floating_point() or part.shape != features.shape[:2]


def _described(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} with the keys {sorted(map(str, batch))}"
    parts = ", ".join(type(part).__name__ for part in batch[:4]) if isinstance(batch, list | tuple) else ""
    return f"a {type(batch).__name__}" + (f" of {len(batch)} ({parts})" if parts else "")
