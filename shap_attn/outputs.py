"""Which of a model's outputs are explained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import shap
import torch
from shap.utils import OpChain
from torch import Tensor

Outputs: TypeAlias = int | str | Sequence[int | str] | Any | None
"""Which classes; Any is shap's OpChain."""
_MANY = 100


def output_chooser(outputs: Outputs, names: Sequence[str] | None) -> Callable[[Tensor], Tensor]:
    """A function of the model's output (B, C) that returns the classes to explain, int64 (B, K).

    Args:
        outputs: one class or several, by number or name; ``"predicted"``; an operation such as
            ``shap.Explanation.argsort.flip[:3]``, which chooses for each input; None for all.
        names: of the C classes, where they have any.

    Raises:
        ValueError: a name that no class has; from the function, an output that is not (B, C).
        TypeError: something else.
        IndexError: from the function, a class that the model does not have.

    Example:
        >>> output_chooser(["good", 0], ["bad", "good"])(torch.zeros(1, 2))
        tensor([[1, 0]])
    """
    if isinstance(outputs, OpChain):
        return lambda output: _chosen_by(outputs, _checked(output))
    if isinstance(outputs, str) and outputs == "predicted" and outputs not in (names or ()):
        return lambda output: _checked(output).argmax(-1, keepdim=True)
    if outputs is None:
        return lambda output: _all_of(_checked(output))
    listed = [outputs] if isinstance(outputs, int | str | np.integer) else list(outputs)
    classes = [_class_index(entry, names) for entry in listed]
    if not classes:
        raise ValueError("outputs is empty: expected classes, or None for all")
    return lambda output: _in_range(classes, _checked(output))


def is_single(outputs: Outputs) -> bool:
    """Whether one class was asked for, so that values have no axis of classes."""
    return isinstance(outputs, int | str | np.integer) and outputs != "predicted"


def _checked(output: Tensor) -> Tensor:
    if output.dim() != 2:
        raise ValueError(
            f"the model's output has shape {tuple(output.shape)}, expected scores of classes (inputs, classes). "
            "captum_attn.ShapleyGradAttention explains other outputs, with a target such as (token, class)"
        )
    return output


def _chosen_by(operation: OpChain, output: Tensor) -> Tensor:
    rows = output.float().cpu().numpy()
    return torch.tensor(np.stack([np.atleast_1d(operation.apply(shap.Explanation(row)).values) for row in rows]))


def _all_of(output: Tensor) -> Tensor:
    classes = output.shape[1]
    if classes > _MANY:
        warnings.warn(
            f"explaining all {classes} classes takes {classes} backward passes for each batch; choose with outputs=, "
            "e.g. outputs='predicted' or outputs=shap.Explanation.argsort.flip[:4]",
            stacklevel=2,
        )
    return torch.arange(classes).expand(len(output), -1)


def _in_range(classes: list[int], output: Tensor) -> Tensor:
    count = output.shape[1]
    outside = [index for index in classes if not -count <= index < count]
    if outside:
        raise IndexError(f"outputs {outside} out of range: the model has {count} classes, so expected 0..{count - 1}")
    return torch.tensor(classes).remainder(count).expand(len(output), -1)


def _class_index(entry: Any, names: Sequence[str] | None) -> int:
    if isinstance(entry, str):
        if names is None or entry not in names:
            raise ValueError(f"outputs: no class has the name {entry!r}, expected one of {list(names or ())}")
        return list(names).index(entry)
    if isinstance(entry, int | np.integer) and not isinstance(entry, bool):
        return int(entry)
    raise TypeError(f"outputs: {entry!r} is no class, expected a number or a name")
