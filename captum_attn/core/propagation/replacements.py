"""What a rule may put in place of a function's gradient. The function itself runs as ever."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from captum_attn.core.propagation.dependents import Dependents, parents


@dataclass(frozen=True)
class Applied:
    """One torch function that a model calls, for a rule to run it.

    Attributes:
        function: the torch function.
        args, kwargs: what the model calls it with.
        dependents: says which tensors depend on the input.
        ruled: the autograd nodes that got a rule; :func:`scaled` and :func:`replaced` note theirs.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    dependents: Dependents
    ruled: set[Any] = field(default_factory=set)

    @property
    def tensors(self) -> list[Tensor]:
        """Those among the arguments, in order."""
        return [value for value in (*self.args, *self.kwargs.values()) if isinstance(value, Tensor)]

    def run(self) -> Any:
        """What the function returns, with its own gradient."""
        return self.function(*self.args, **self.kwargs)

    def run_with(self, *args: Any, **kwargs: Any) -> Any:
        """The same of other arguments, such as a factor that is made a constant, as what this rule makes of it."""
        result = self.function(*args, **kwargs)
        self.note(result)
        return result

    def note(self, result: Tensor) -> None:
        """Take note that the rule was applied: to all nodes between the result and what it was made of."""
        self.ruled.update(nodes_between(result, self.tensors))

    def depend(self, *operands: Any) -> bool:
        """Whether all of these are tensors that depend on the input."""
        return all(map(self.dependents.depends, operands))


Rule = Callable[..., Any]
"""``rule(applied, *args, **kwargs)`` returns what ``applied.run()`` does, bit by bit, with another gradient."""


class Linearised(NamedTuple):
    """A function's output, and what makes the gradient of its input of that of its output.

    Attributes:
        output: the function's own.
        pull: maps the output's gradient and the kept tensors to the input's gradient.
        kept: tensors that ``pull`` needs.
    """

    output: Tensor
    pull: Callable[..., Tensor]
    kept: tuple[Tensor, ...]


def replaced(applied: Applied, input: Tensor, linearise: Callable[[Tensor], Linearised]) -> Tensor:
    """The function's output as a linear function of ``input``, whatever it was.

    Example:
        >>> from captum_attn.core.propagation import ATTNLRP, Linearised, replaced
        >>> def softplus(applied, input, beta=1.0, threshold=20.0):
        ...     def linearise(x):  # the chord from 0
        ...         output = applied.function(x, beta, threshold)
        ...         return Linearised(output, torch.mul, ((output / x),))
        ...     return replaced(applied, input, linearise)
        >>> mine = ATTNLRP.with_rules("mine", {torch.nn.functional.softplus: softplus})
    """
    return _under_rule(_Replaced, applied, input, linearise)


def scaled(applied: Applied, result: Tensor, factor: float) -> Tensor:
    """The same result, with its gradient multiplied by a factor: what each of several factors of a product gets."""
    applied.note(result)
    return with_gradient_times(result, factor)


def with_gradient_times(tensor: Tensor, factor: float) -> Tensor:
    """The same tensor, whose gradient is multiplied before it is handed on."""
    if tensor.grad_fn is not None and factor != 1:
        tensor.grad_fn.register_prehook(lambda gradients: tuple(g if g is None else g * factor for g in gradients))
    return tensor


def nodes_between(result: Tensor, made_of: Sequence[Tensor]) -> set[Any]:
    """The nodes of autograd's graph that a function made of its operands, down to theirs."""
    stop = {tensor.grad_fn for tensor in made_of} | {None}
    found: set[Any] = set()
    waiting: list[Any] = [result.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [parent for parent in parents(node) if parent not in stop and node not in stop]
    return found


def constant(applied: Applied, *_: Any, **__: Any) -> Any:
    """A rule for functions that pass nothing: what they return is a constant."""
    return applied.run().detach()


def proportional(slope_at_zero: float) -> Rule:
    """The rule of an activation f with f(0) = 0, elementwise: f(x)/x is a constant.

    Args:
        slope_at_zero: f'(0).
    """

    def rule(applied: Applied, input: Tensor, *args: Any, inplace: bool = False, **kwargs: Any) -> Tensor:
        def linearise(x: Tensor) -> Linearised:
            output = applied.function(x, *args, **kwargs)
            return Linearised(output, torch.mul, ((output / x).masked_fill_(x == 0, slope_at_zero),))

        output = _under_rule(_Proportional, applied, input, linearise)
        return input.copy_(output) if inplace else output

    return rule


def _under_rule(
    kind: type[torch.autograd.Function], applied: Applied, input: Tensor, linearise: Callable[[Tensor], Linearised]
) -> Tensor:
    output: Tensor = kind.apply(linearise, input)
    applied.note(output)
    return output


class _Replaced(torch.autograd.Function):
    """A function of one input under a rule."""

    @staticmethod
    def forward(ctx: Any, linearise: Callable[[Tensor], Linearised], input: Tensor) -> Tensor:
        output, ctx.pull, kept = linearise(input)
        ctx.save_for_backward(*kept)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, ctx.pull(gradient, *ctx.saved_tensors)


class _Proportional(_Replaced):
    """An elementwise function, by whose name graphs show it."""
