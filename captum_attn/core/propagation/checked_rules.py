"""A user's rule, held to what a rule is: it changes the gradient alone, and makes finite gradients of finite ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.function_arguments import tensors_in
from captum_attn.core.models import same_random_state
from captum_attn.core.propagation.replacements import Applied, Rule


def checked(rule: Rule, applied: Applied) -> Any:
    """What the rule returns for a function that a model calls.

    Raises:
        ValueError: another output than the function's, bit by bit; when relevance goes down, numbers that are not
            finite.
    """
    name = applied.name
    with torch.no_grad(), same_random_state(applied.tensors[0]):  # on copies: functions may write to what they take
        plain = applied.function(*_copied(applied.args), **_copied(applied.kwargs))
    result = rule(applied, *applied.args, **applied.kwargs)
    if not _same(plain, result):
        raise ValueError(
            f"the rule for {name} returned {_described(result, plain)}, where {name} returns {_described(plain)}, so "
            "that another model would be explained: a rule changes the gradient alone, and no bit of the output "
            "(help(captum_attn.core.propagation.replaced) has an example)"
        )
    for output in tensors_in((result,)):
        if output.grad_fn is not None:
            output.grad_fn.register_hook(partial(_check_finite, name))
    return result


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return {key: _copied(one) for key, one in value.items()} if isinstance(value, Mapping) else value


def _same(one: Any, other: Any) -> bool:
    """Whether two outputs are the same, bit by bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        kind, of_other = ((each.shape, each.dtype, each.device) for each in (one, other))
        return kind == of_other and one.allclose(other, 0, 0, equal_nan=True)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)


def _described(output: Any, plain: Any = None) -> str:
    """An output in words; by how much it is off, if it is like another one."""
    if not isinstance(output, Tensor):
        return f"a {type(output).__name__}"
    if isinstance(plain, Tensor) and plain.shape == output.shape and plain.device == output.device:
        off = (plain.double() - output.detach().double()).abs().amax() if plain.numel() else 0.0
        return f"{output.dtype} {tuple(output.shape)} that are off by up to {float(off):.2g}"
    return f"{output.dtype} {tuple(output.shape)}"


def _check_finite(name: str, passed: Sequence[Tensor | None], taken: Sequence[Tensor | None]) -> None:
    """Raise ``ValueError`` where a rule makes gradients of finite ones that are not."""
    given, made = ([part for part in parts if part is not None] for parts in (taken, passed))
    if all(part.isfinite().all() for part in given) and not all(part.isfinite().all() for part in made):
        raise ValueError(
            f"relevance under the rule for {name} is not finite: does it divide by 0, as where the input is 0?"
        )
