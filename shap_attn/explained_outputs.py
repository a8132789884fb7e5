"""Which of a model's outputs are explained, and what they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import shap
import torch
from shap.utils import OpChain
from torch import Tensor, nn

from captum_attn.core import as_index, class_names, configured_names, is_index, warn_user

Outputs: TypeAlias = int | str | Sequence[int | str] | Any | None
"""Which classes; Any is shap's OpChain."""
PREDICTED = "predicted"
_MANY = 100


@dataclass(frozen=True)
class OutputNames:
    """The names of a model's outputs, of which only a forward pass tells how many there are.

    Attributes:
        model: whose configuration has names, ``id2label``, which count if there is one for each output: those of an
            encoder say nothing of a head of one's own.
        given: names that are used instead.

    Example:
        >>> OutputNames(model).of(2), OutputNames(model).of(3), OutputNames(model, "abc".split()).of(1)
        (['negative', 'positive'], None, ['abc'])
    """

    model: nn.Module
    given: Sequence[str] | None = None

    @property
    def expected(self) -> list[str] | None:
        """The names as far as they are known before the model has run."""
        return configured_names(self.model) if self.given is None else list(map(str, self.given))

    def of(self, outputs: int) -> list[str] | None:
        """The names of so many outputs; None if they have none.

        Raises:
            ValueError: another number of names was given.
        """
        if self.given is None:
            return class_names(self.model, outputs)
        if len(self.given) != outputs:
            raise ValueError(
                f"{len(self.given)} output_names, but the model has {outputs} classes: expected one for each"
            )
        return self.expected


def names_in_order(given: Any) -> list[str] | None:
    """The names of outputs 0, 1, … from a list of them, or from a mapping from numbers to names, or back.

    Raises:
        ValueError: names of which the order is not known, or that are not of outputs 0, 1, …

    Example:
        >>> names_in_order({1: "good", 0: "bad"}), names_in_order({"good": 1, "bad": 0})
        (['bad', 'good'], ['bad', 'good'])
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        back = bool(given) and all(isinstance(name, str) for name in given) and all(map(_is_number, given.values()))
        pairs = [(value, key) if back else (key, value) for key, value in given.items()]
        named = {int(number): str(name) for number, name in pairs if _is_number(number) or str(number).isdecimal()}
        if named.keys() == set(range(len(given))) and not any(_is_number(name) for _, name in pairs):
            return [named[number] for number in range(len(given))]
    elif not isinstance(given, str | set | frozenset):
        return list(map(str, given))
    raise ValueError(
        f"output_names is {given!r}, expected a list of names, one for each output, or a mapping from the numbers 0, "
        "1, ... to names"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def output_chooser(outputs: Outputs, names: OutputNames) -> Callable[[Tensor], Tensor]:
    """A function of the model's output (B, C) that returns the classes to explain, int64 (B, K).

    Args:
        outputs: one class or several, by number or name; ``"predicted"``; an operation such as
            ``shap.Explanation.argsort.flip[:3]``, which chooses for each input; None for all.
        names: of the C classes.

    Raises:
        ValueError: a name that no class has; from the function, an output that is not (B, C), or has not as many
            classes as names were given.
        TypeError: something else.
        IndexError: a number beyond the given names, or, from the function, beyond the classes.

    Example:
        >>> output_chooser(["good", 0], OutputNames(model, ["bad", "good"]))(torch.zeros(1, 2))
        tensor([[1, 0]])
    """
    if isinstance(outputs, OpChain):
        return lambda output: _chosen_by(outputs, _checked(output, names))
    if isinstance(outputs, str) and not _is_named(outputs, names):
        return lambda output: _checked(output, names).argmax(-1, keepdim=True)
    if outputs is None:
        return lambda output: _all_of(_checked(output, names))
    entries = _listed(outputs)
    for entry in entries:
        _check_entry(entry, names)
    return lambda output: _places(entries, _checked(output, names), names)


def is_single(outputs: Outputs, names: OutputNames) -> bool:
    """Whether one class was asked for, so that values have no axis of classes."""
    return is_index(outputs) or _is_named(outputs, names)


def _is_named(outputs: Outputs, names: OutputNames) -> bool:
    return isinstance(outputs, str) and (outputs != PREDICTED or outputs in (names.expected or ()))


def _listed(outputs: Any) -> list[Any]:
    if isinstance(outputs, str) or is_index(outputs):
        return [outputs if isinstance(outputs, str) else as_index(outputs)]
    listed = outputs.tolist() if hasattr(outputs, "tolist") else outputs
    if isinstance(listed, list | tuple) and listed:
        return [as_index(entry) if is_index(entry) else entry for entry in listed]
    raise TypeError(
        f"outputs is {outputs!r}, expected a class by number or name, a list of them, 'predicted', an operation "
        "such as shap.Explanation.argsort.flip[:3], or None for all"
    )


def _checked(output: Tensor, names: OutputNames) -> Tensor:
    if output.dim() != 2:
        raise ValueError(
            f"the model's output has shape {tuple(output.shape)}, expected scores of classes (inputs, classes). "
            "captum_attn.ShapleyGradAttention explains other outputs, with a target such as (token, class)"
        )
    names.of(output.shape[1])
    return output


def _chosen_by(operation: OpChain, output: Tensor) -> Tensor:
    rows = [operation.apply(shap.Explanation(row)).values for row in output.float().cpu().numpy()]
    chosen = np.stack([np.atleast_1d(row) for row in rows])
    if chosen.dtype.kind not in "iu":
        raise ValueError(
            f"outputs={operation!r} gives {chosen[0]}, expected numbers of classes, as .argsort gives them"
        )
    return torch.from_numpy(np.ascontiguousarray(chosen))


def _all_of(output: Tensor) -> Tensor:
    classes = output.shape[1]
    if classes > _MANY:
        warn_user(
            f"explaining all {classes} classes takes {classes} backward passes for each batch; choose with outputs=, "
            "e.g. outputs='predicted' or outputs=shap.Explanation.argsort.flip[:4]"
        )
    return torch.arange(classes).expand(len(output), -1)


def _check_entry(entry: Any, names: OutputNames) -> None:
    """What can be said of a class before the model has run."""
    known = names.expected
    if isinstance(entry, str):
        if known is None or entry not in known:
            raise ValueError(f"outputs: no class has the name {entry!r}, expected one of {known or []}")
        if known.count(entry) > 1:
            places = [place for place, name in enumerate(known) if name == entry]
            raise ValueError(f"outputs: {entry!r} is the name of the classes {places}: give the number")
    elif not is_index(entry):
        raise TypeError(f"outputs: {entry!r} is no class, expected a number or a name")
    elif names.given is not None:
        _check_range(entry, len(names.given), known)


def _check_range(entry: int, classes: int, known: list[str] | None) -> None:
    if not -classes <= entry < classes:
        raise IndexError(f"outputs: {entry} is out of range for {classes} classes" + f", {known}" * (known is not None))


def _places(entries: Sequence[int | str], output: Tensor, names: OutputNames) -> Tensor:
    """The numbers of the entries, (B, K), which for names and negative numbers depend on how many classes there are."""
    classes = output.shape[1]
    known = names.of(classes)
    places = []
    for entry in entries:
        if isinstance(entry, int):
            _check_range(entry, classes, known)
            places.append(entry % classes)
        elif known is None:
            raise ValueError(
                f"outputs: {entry!r} is one of the configuration's {len(names.expected or [])} names, but the model "
                f"has {classes} outputs: give output_names=, one for each, or the number of the output"
            )
        else:
            places.append(known.index(entry))
    return torch.tensor(places).expand(len(output), -1)
