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
        return (centred * inverse).to(input.dtype)

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
        return ((gradient if weight is None else gradient * weight) * inverse).to(input.dtype)

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

    def grouped(tensor: Tensor) -> Tensor:
        return _wide(tensor).reshape(len(tensor), num_groups, -1)

    def linearise(x: Tensor) -> Linearised:
        inverse = (grouped(x).var(-1, correction=0, keepdim=True) + eps).rsqrt_()
        return Linearised(applied.function(x, num_groups, weight, bias, eps), pull, (inverse,))

    def pull(gradient: Tensor, inverse: Tensor) -> Tensor:
        if weight is not None:
            gradient = gradient * weight.view(-1, *[1] * (gradient.dim() - 2))
        weighted = grouped(gradient)
        centred = weighted - weighted.mean(-1, keepdim=True)
        return (centred * inverse).view_as(input).to(input.dtype)

    return replaced(applied, input, linearise)


def normalize(applied: Applied, input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, **_: Any) -> Tensor:
    """The length is a constant (``torch.nn.functional.normalize``)."""

    def linearise(x: Tensor) -> Linearised:
        length = torch.linalg.vector_norm(x, p, dim, keepdim=True).clamp_min_(eps)
        return Linearised(applied.function(x, p, dim, eps), torch.div, (length,))

    return replaced(applied, input, linearise)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
