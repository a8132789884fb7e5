"""Rules of normalisations: what they divide by is a constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.propagation.replacements import Applied, Linearised, replaced


def layer_norm(
    applied: Applied,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    """The standard deviation is a constant; the mean is taken off."""
    dims = tuple(range(-len(normalized_shape), 0))

    def linearise(x: Tensor) -> Linearised:
        inverse = (torch.var(_wide(x), dims, correction=0, keepdim=True) + eps).rsqrt_()
        return Linearised(applied.function(x, normalized_shape, weight, bias, eps), pull, (inverse,))

    def pull(gradient: Tensor, inverse: Tensor) -> Tensor:
        weighted = gradient if weight is None else gradient * weight
        centred = weighted - weighted.mean(dims, keepdim=True)
        return centred * inverse

    return replaced(applied, input, linearise)


def rms_norm(
    applied: Applied,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """The root mean square is a constant."""
    dims = tuple(range(-len(normalized_shape), 0))

    def linearise(x: Tensor) -> Linearised:
        wide = _wide(x)
        tiny = torch.finfo(wide.dtype).eps if eps is None else eps
        inverse = (wide.square().mean(dims, keepdim=True) + tiny).rsqrt_()
        return Linearised(applied.function(x, normalized_shape, weight, eps), pull, (inverse,))

    def pull(gradient: Tensor, inverse: Tensor) -> Tensor:
        return (gradient if weight is None else gradient * weight) * inverse

    return replaced(applied, input, linearise)


def group_norm(
    applied: Applied,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    """The standard deviation of each group of channels is a constant; its mean is taken off."""
    return _by_groups(applied, input, num_groups, weight, eps)


def instance_norm(
    applied: Applied,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    """The same of each channel; by running statistics, it is linear."""
    if use_input_stats:
        return _by_groups(applied, input, input.shape[1], weight, eps)
    return applied.run_with(*applied.args, **applied.kwargs)


def _by_groups(applied: Applied, input: Tensor, groups: int, weight: Tensor | None, eps: float) -> Tensor:
    def grouped(tensor: Tensor) -> Tensor:
        return _wide(tensor).reshape(len(tensor), groups, -1)

    def linearise(x: Tensor) -> Linearised:
        inverse = (grouped(x).var(-1, correction=0, keepdim=True) + eps).rsqrt_()
        return Linearised(applied.run(), pull, (inverse,))

    def pull(gradient: Tensor, inverse: Tensor) -> Tensor:
        if weight is not None:
            gradient = gradient * weight.view(-1, *[1] * (gradient.dim() - 2))
        weighted = grouped(gradient)
        centred = weighted - weighted.mean(-1, keepdim=True)
        return (centred * inverse).view_as(gradient)

    return replaced(applied, input, linearise)


def batch_norm(
    applied: Applied,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    *_: Any,
    **__: Any,
) -> Any:
    """By running statistics, it is linear; by those of a batch, in which examples meet, there is no rule."""
    return applied.run() if training else applied.run_with(*applied.args, **applied.kwargs)


def normalize(applied: Applied, input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, **_: Any) -> Tensor:
    """The length is a constant (``torch.nn.functional.normalize``)."""

    def linearise(x: Tensor) -> Linearised:
        length = torch.linalg.vector_norm(x, p, dim, keepdim=True).clamp_min_(eps)
        return Linearised(applied.function(x, p, dim, eps), torch.div, (length,))

    return replaced(applied, input, linearise)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
