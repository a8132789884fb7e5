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
PREDICTED = "predicted"
_MANY = 100


def output_chooser(outputs: Outputs, names: Sequence[str] | None) -> Callable[[Tensor], Tensor]:
    """A function of the model's output (B, C) that returns the classes to explain, int64 (B, K).

    Args:
        outputs: one class or several, by number or name; ``"predicted"``; an operation such as
            ``shap.Explanation.argsort.flip[:3]``, which chooses for each input; None for all.
        names: of the C classes, where they have any.

    Raises:
        ValueError: a name that no class has; from the function, an output that is not (B, C), or has not as many
            classes as there are names.
        TypeError: something else.
        IndexError: a number beyond the names.

    Example:
        >>> output_chooser(["good", 0], ["bad", "good"])(torch.zeros(1, 2))
        tensor([[1, 0]])
    """
    if isinstance(outputs, OpChain):
        return lambda output: _chosen_by(outputs, _checked(output, names))
    if not _is_named(outputs, names) and outputs == PREDICTED:
        return lambda output: _checked(output, names).argmax(-1, keepdim=True)
    if outputs is None:
        return lambda output: _all_of(_checked(output, names))
    classes = [_class_index(entry, names) for entry in _listed(outputs)]
    return lambda output: torch.tensor(classes).expand(len(_checked(output, names)), -1)


def is_single(outputs: Outputs, names: Sequence[str] | None) -> bool:
    """Whether one class was asked for, so that values have no axis of classes."""
    return isinstance(outputs, int | np.integer) or _is_named(outputs, names)


def _is_named(outputs: Outputs, names: Sequence[str] | None) -> bool:
    return isinstance(outputs, str) and (outputs != PREDICTED or outputs in (names or ()))


def _listed(outputs: Any) -> list[Any]:
    listed = outputs.tolist() if hasattr(outputs, "tolist") else outputs
    if isinstance(listed, int | str):
        return [listed]
    if not isinstance(listed, list | tuple) or not listed:
        raise TypeError(
            f"outputs is {outputs!r}, expected a class by number or name, a list of them, 'predicted', an operation "
            "such as shap.Explanation.argsort.flip[:3], or None for all"
        )
    return list(listed)


def _checked(output: Tensor, names: Sequence[str] | None) -> Tensor:
    if output.dim() != 2:
        raise ValueError(
            f"the model's output has shape {tuple(output.shape)}, expected scores of classes (inputs, classes). "
            "captum_attn.ShapleyGradAttention explains other outputs, with a target such as (token, class)"
        )
    if names is not None and len(names) != output.shape[1]:
        raise ValueError(
            f"{len(names)} output_names, but the model has {output.shape[1]} classes: expected one for each"
        )
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
        warnings.warn(
            f"explaining all {classes} classes takes {classes} backward passes for each batch; choose with outputs=, "
            "e.g. outputs='predicted' or outputs=shap.Explanation.argsort.flip[:4]",
            stacklevel=2,
        )
    return torch.arange(classes).expand(len(output), -1)


def _class_index(entry: Any, names: Sequence[str] | None) -> int:
    if isinstance(entry, str):
        if names is None or entry not in names:
            raise ValueError(f"outputs: no class has the name {entry!r}, expected one of {list(names or ())}")
        return list(names).index(entry)
    if isinstance(entry, int) and not isinstance(entry, bool):
        if names is not None and not -len(names) <= entry < len(names):
            raise IndexError(f"outputs: {entry} is out of range for {len(names)} classes, {list(names)}")
        return entry
    raise TypeError(f"outputs: {entry!r} is no class, expected a number or a name")
