"""Rules of products of states: each of the factors gets its share, unless one only weighs the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.propagation.replacements import Applied, scaled


def matrix_product(applied: Applied, *_: Any, **__: Any) -> Any:
    """Of two factors that depend on the input, each gets half."""
    return scaled(applied, applied.run(), 0.5) if applied.depend(*applied.tensors[:2]) else applied.run()


def added_product(applied: Applied, *args: Any, **options: Any) -> Any:
    """The same, of a product that is added to something, which gets all of its own."""
    factors = applied.tensors[-2:]
    if not applied.depend(*factors):
        return applied.run()
    halves = {id(factor): scaled(applied, factor.view_as(factor), 0.5) for factor in factors}
    named = {name: halves.get(id(value), value) for name, value in options.items()}
    return applied.run_with(*(halves.get(id(value), value) for value in args), **named)


def einsum(applied: Applied, _: str, *operands: Any) -> Any:
    """Of n factors that depend on the input, each gets its n-th part."""
    given = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    count = sum(map(applied.depend, given))
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
