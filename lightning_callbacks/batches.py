"""Batches as data loaders give them: the model's inputs, and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor, nn

from captum_attn.core import parameter_names
from captum_attn.core.descriptions import described
from captum_attn.core.feature_names import features_name, modality_of, name_for, usual_name
from captum_attn.core.inputs import TOKEN_NOTES, check_features, constant
from captum_attn.core.models import takes_keyword
from lightning_callbacks.companions import class_counts, companion_names, could_be_companion

BatchInputs = Callable[[Any], Any]
"""A function from a batch of the user's own form to one of the forms of :func:`labelled_inputs`."""

LABEL_NAMES = ("labels", "label")


@dataclass(frozen=True, eq=False)
class LabelledInputs:
    """Inputs by the names that the model has for them, ids, embeddings or pixels among them; and labels or None."""

    inputs: Mapping[str, Any]
    labels: Any | None

    def __len__(self) -> int:
        """How many inputs there are: the first dimension of what is explained."""
        return len(self.inputs[features_name(self.inputs) or ""])

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
            one of them and may end with labels, one for each of the B inputs. Between ids or embeddings and labels
            there may be, each an integer or bool (B, N) that the model takes: an attention mask, of padding; token
            types; positions. Without labels behind it, a mask of ones, or types of zeros, may be labels itself if the
            model may have N classes.
        model: that takes the inputs.
        batch_inputs: brings other batches into one of these forms.

    Raises:
        TypeError: anything else, such as (features, labels, indices) or (features, labels, weights); what has an entry
            for each token and is none of the above, so that it may be labels.

    Example:
        >>> given = labelled_inputs([batch["input_ids"], batch["attention_mask"], torch.tensor([1, 0])], model)
        >>> list(given.inputs), given.labels.tolist()
        (['input_ids', 'attention_mask'], [1, 0])
    """
    given = batch if batch_inputs is None else batch_inputs(batch)
    named, rest = _inputs_and_rest(given, model)
    main = features_name(named)
    if main is None:
        raise _not_understood(given, batch_inputs)
    labels = [named[name] for name in LABEL_NAMES if name in named][:1] + rest
    of_mapping = isinstance(_first(given), Mapping)
    if len(labels) > 1 or not all(_is_labels(part, main, named[main], of_mapping) for part in rest):
        raise _ambiguous(given, main, named[main], batch_inputs)
    taken = _taken(model, main, named)
    inputs = {name: constant(value) for name, value in named.items() if name in taken}
    return LabelledInputs(inputs, constant(labels[0] if labels else None))


def _inputs_and_rest(given: Any, model: nn.Module) -> tuple[Mapping[str, Any], list[Any]]:
    """Inputs by name, and what else may be labels; no inputs, where a batch starts with nothing to attribute."""
    features, others = _first(given), list(given[1:]) if isinstance(given, list | tuple) else []
    named = features if isinstance(features, Mapping) else {}
    taken, classes = parameter_names(model), class_counts(model)
    name = name_for(features, taken) if isinstance(features, Tensor) else None
    if isinstance(features, Tensor) and (not others or _can_be_attributed(features, name)):
        kind = modality_of(features, name)
        names = companion_names(features, others, taken, classes) if kind in ("ids", "embeddings", "sound") else []
        named = {name or usual_name(kind): features, **dict(zip(names, others, strict=False))}
        others = others[len(names) :]
    return named, [] if len(others) == 1 and others[0] is None else others


def _first(given: Any) -> Any:
    """What a batch starts with."""
    return given[0] if isinstance(given, list | tuple) and given else given


def _is_labels(part: Any, main: str, features: Any, of_mapping: bool) -> bool:
    """Whether it holds one label for each input, and is nothing else for certain; beside a mapping, no companion is."""
    if isinstance(part, list | tuple):
        parts = any(isinstance(label, Tensor) and label.dim() for label in part)  # (labels, indices), put together
        return len(part) == len(features) and not parts
    if getattr(part, "shape", ())[:1] != (len(features),):
        return False
    if not isinstance(part, Tensor) or not isinstance(features, Tensor):
        return True
    if part.is_floating_point() and part.dim() > 2:
        return False  # other features
    is_cut = modality_of(features, main) not in ("ids", "embeddings")
    return of_mapping or is_cut or not could_be_companion(part, features)


def _taken(model: nn.Module, main: str, features: Mapping[str, Any]) -> set[str]:
    """The names that go to the model: of its arguments; all of them, if it takes any and does not name the first."""
    named = parameter_names(model)
    takes_all = main not in named and takes_keyword(model, main)
    return {main, *(features if takes_all else named), *TOKEN_NOTES} - {*LABEL_NAMES}


def _can_be_attributed(features: Tensor, name: str | None) -> bool:
    """Whether a batch that starts with it holds inputs; a tensor alone is looked at when it is explained."""
    try:
        check_features(features, name)
    except (TypeError, ValueError):
        return False
    return True


def _not_understood(given: Any, batch_inputs: BatchInputs | None) -> TypeError:
    advice = (
        "Give batch_inputs=, a function that makes one of these of a batch"
        if batch_inputs is None
        else "Let it return one of these"
    )
    return TypeError(
        f"{_who(batch_inputs)} {described(given)}, expected the mapping that a tokenizer or an image processor "
        f"returns, a tensor, or (features, labels). {advice}"
    )


def _ambiguous(given: Sequence[Any], main: str, features: Any, batch_inputs: BatchInputs | None) -> TypeError:
    of_mapping, of_pixels = isinstance(given[0], Mapping), main == usual_name("pixels")
    known = (
        "beside a mapping without labels: labels"
        if of_mapping
        else "beside pixels: labels"
        if of_pixels
        else "beside text: a mask (B, N) of its padding and the like, of what the model takes; then labels"
    )
    example = _example(given, main, features, of_mapping, of_pixels)
    advice = (
        "Say what is what by batch_inputs=, a function that makes a mapping of a batch, such as lambda batch: "
        f"{example}, if that is what they are"
        if batch_inputs is None
        else f"Let it return a mapping, such as {example} of this one, if that is what they are"
    )
    return TypeError(
        f"{_who(batch_inputs)} {described(given)}, in which labels, indices, weights and masks cannot be told apart. "
        f"Expected {known}, one for each input. {advice}"
    )


def _example(given: Sequence[Any], main: str, features: Any, of_mapping: bool, of_pixels: bool) -> str:
    """What ``batch_inputs=`` may make of a batch, in Python."""
    inputs = ["**batch[0]" if of_mapping else f'"{main}": batch[0]']
    places = range(1, len(given))
    labels = next((place for place in places if _is_labels(given[place], main, features, of_mapping)), len(given) - 1)
    if not of_mapping and not of_pixels:
        masks = (place for place in places[: labels - 1] if could_be_companion(given[place], features))
        inputs += [f'"attention_mask": batch[{place}]' for place in islice(masks, 1)]
    return f'{{{", ".join(inputs)}, "labels": batch[{labels}]}}'


def _who(batch_inputs: BatchInputs | None) -> str:
    return "the batch is" if batch_inputs is None else "batch_inputs made of a batch"
