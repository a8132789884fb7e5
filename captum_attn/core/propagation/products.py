"""Rules of products of states: each of the factors gets its share, unless one only weighs the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.function_arguments import tensors_in
from captum_attn.core.propagation.replacements import Applied, alias, scaled


def matrix_product(applied: Applied, *_: Any, **__: Any) -> Any:
    """Of two factors that depend on the input, each gets half."""
    return scaled(applied, applied.run(), 0.5) if applied.depend(*applied.tensors[:2]) else applied.run()


def linear(applied: Applied, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """The same; a bias gets all of its own."""
    if not applied.depend(input, weight):
        return applied.run()
    return applied.run_with(alias(input, 0.5), alias(weight, 0.5), bias)


def added_matrix_product(applied: Applied, input: Any, *factors: Tensor, **options: Any) -> Any:
    """The same, of a product that is added to something."""
    left, right = _taken(factors, options)
    if not applied.depend(left, right):
        return applied.run()
    return applied.run_with(input, alias(left, 0.5), alias(right, 0.5), **options)


def added_product(applied: Applied, input: Any, *factors: Tensor, **options: Any) -> Any:
    """An elementwise product that is added to something; see :func:`product`."""
    left, right = _taken(factors, options)
    if not applied.depend(left, right):
        return applied.run()
    if _weighs(applied, right, left):
        return applied.run_with(input, left, right.detach(), **options)
    if _weighs(applied, left, right):
        return applied.run_with(input, left.detach(), right, **options)
    return applied.run_with(input, alias(left, 0.5), alias(right, 0.5), **options)


def _taken(factors: tuple[Tensor, ...], options: dict[str, Any]) -> list[Tensor]:
    """The factors, given by place or, among other options, by name."""
    return [*factors, *(options.pop(name) for name in _FACTORS if name in options)]


_FACTORS = ("mat1", "mat2", "batch1", "batch2", "mat", "vec", "tensor1", "tensor2")


def einsum(applied: Applied, _: str, *operands: Any) -> Any:
    """Of n factors that depend on the input, each gets its n-th part."""
    count = sum(map(applied.depend, tensors_in(operands)))
    return scaled(applied, applied.run(), 1 / count) if count > 1 else applied.run()


def product(applied: Applied, input: Any, other: Any, **options: Any) -> Any:
    """Of two factors that depend on the input, each gets half; one that weighs the other is a constant.

    Such are gates that are functions of what they gate, as in x · Φ(x) spelled out; sigmoids; and factors with one
    number for several features, as a router's weights, or what a norm divides by.
    """
    if not applied.depend(input, other):
        return applied.run()
    if _weighs(applied, other, input):
        return applied.run_with(input, other.detach(), **options)
    if _weighs(applied, input, other):
        return applied.run_with(input.detach(), other, **options)
    return scaled(applied, applied.run(), 0.5)


def product_in_place(applied: Applied, input: Tensor, other: Any) -> Any:
    """The same, where the product takes the place of its first factor."""
    if not applied.depend(input, other):
        return applied.run()
    factors = (input.clone(), other)
    return input.copy_(product(replace(applied, function=torch.mul, args=factors, kwargs={}), *factors))


def quotient(applied: Applied, input: Any, other: Any, **options: Any) -> Any:
    """What is divided by is a constant."""
    if not applied.depend(input, other):
        return applied.run()
    return applied.run_with(input, other.detach(), **options)


def gated_linear_unit(applied: Applied, input: Tensor, dim: int = -1) -> Any:
    """Half of the features under a sigmoid of the others, which is a constant (``torch.nn.functional.glu``)."""
    value, gate = input.chunk(2, dim)
    return applied.run_with(torch.cat([value, gate.detach()], dim), dim)


def _weighs(applied: Applied, weight: Tensor, state: Tensor) -> bool:
    """Whether a factor is a weight of the other one."""
    whole = torch.broadcast_shapes(weight.shape, state.shape)
    of_several = state.shape == whole and (weight.dim() == 0 or weight.shape[-1] < whole[-1])
    return of_several or applied.dependents.gates(weight, state)
