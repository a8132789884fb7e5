"""What a rule may put in place of a function's gradient. The function itself runs as ever."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from captum_attn.core.function_arguments import tensors_in
from captum_attn.core.graph_nodes import nodes_between, parents
from captum_attn.core.propagation.dependents import Dependents, is_view


@dataclass(frozen=True)
class Applied:
    """One torch function that a model calls, for a rule to run it.

    Attributes:
        function: the torch function.
        args, kwargs: what the model calls it with.
        dependents: says which tensors depend on the input.
        ruled: the autograd nodes under rules so far.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    dependents: Dependents
    ruled: set[Any]

    @property
    def name(self) -> str:
        """The function's."""
        return str(getattr(self.function, "__name__", self.function))

    @property
    def tensors(self) -> list[Tensor]:
        """Those among the arguments, in order."""
        return [*tensors_in((*self.args, *self.kwargs.values()))]

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

    Args:
        applied: the function that the model calls, as a rule gets it.
        input: the argument by which relevance goes on; others are constants.
        linearise: gives what the function returns for the input, ``applied.function(...)``, and what makes the gradient
            of the input of that of the output.

    Raises:
        TypeError: ``linearise`` returns something else than a :class:`Linearised` with a tuple of kept tensors.

    Example:
        >>> import math
        >>> from captum_attn.core.propagation import ATTNLRP, Linearised, replaced
        >>> def softplus(applied, input, *args, **kwargs):
        ...     def above_zero(x):  # what it gives without an input, log 2 by default, is absorbed
        ...         output = applied.function(x, *args, **kwargs)
        ...         rise = output - applied.function(torch.zeros_like(x), *args, **kwargs)
        ...         return Linearised(output, torch.mul, kept=((rise / x).masked_fill(x == 0, 0.5),))
        ...     return replaced(applied, input, above_zero)
        >>> mine = ATTNLRP.with_rules("mine", {torch.nn.functional.softplus: softplus})
    """
    return _under_rule(_Replaced, applied, input, linearise)


def scaled(applied: Applied, result: Tensor, factor: float) -> Tensor:
    """The same result, with its gradient multiplied by a factor: what each of several factors of a product gets."""
    applied.note(result)
    return with_gradient_times(result, factor)


def with_gradient_times(tensor: Tensor, factor: float) -> Tensor:
    """The same tensor, whose gradient is multiplied before it is handed on.

    Below views: of a view that is written to later, autograd makes another node.
    """
    node: Any = tensor.grad_fn
    while node is not None and is_view(node) and len([*parents(node)]) == 1:
        (node,) = parents(node)
    _multiply(node, factor)
    return tensor


def alias(tensor: Tensor, factor: float) -> Tensor:
    """The tensor in the place of one operand, with its gradient by that operand multiplied."""
    same = tensor.view_as(tensor)
    _multiply(same.grad_fn, factor)
    return same


def _multiply(node: Any, factor: float) -> None:
    """Let a node take its gradients times a factor."""
    if node is not None and factor != 1:
        node.register_prehook(lambda gradients: tuple(g if g is None else g * factor for g in gradients))


def constant(applied: Applied, *_: Any, **__: Any) -> Any:
    """A rule for functions that pass nothing: what they return is a constant."""
    return applied.run().detach()


@dataclass(frozen=True)
class Proportional:
    """The rule of an activation f with f(0) = 0, elementwise: f(x)/x is a constant.

    Attributes:
        slope_at_zero: f'(0).

    Raises:
        ValueError: when called for a function with another f(0).
    """

    slope_at_zero: float

    def __call__(self, applied: Applied, input: Tensor, *args: Any, inplace: bool = False, **kwargs: Any) -> Tensor:
        at_zero = applied.function(torch.zeros(1), *args, **kwargs)
        if at_zero.any():
            raise ValueError(
                f"Proportional takes f(x)/x for a constant, which is for f(0) = 0, but {applied.name}(0) is "
                f"{float(at_zero):.3g}: help(captum_attn.core.propagation.replaced) has a rule for such a function"
            )

        def linearise(x: Tensor) -> Linearised:
            output = applied.function(x, *args, **kwargs)
            return Linearised(output, torch.mul, ((output / x).masked_fill_(x == 0, self.slope_at_zero),))

        output = _under_rule(_Proportional, applied, input, linearise)
        return input.copy_(output) if inplace else output


def power(applied: Applied, input: Any, exponent: Any, *rest: Any, **options: Any) -> Any:
    """The rule of x ** p for a number p ≥ 1; other powers keep their gradient."""
    if not isinstance(exponent, int | float) or exponent < 1 or not applied.depend(input):
        return applied.run()
    return Proportional(float(exponent == 1))(applied, input, exponent, *rest, **options)


def _under_rule(
    kind: type[torch.autograd.Function], applied: Applied, input: Tensor, linearise: Callable[[Tensor], Linearised]
) -> Tensor:
    output: Tensor = kind.apply(linearise, input, applied.name)
    applied.note(output)
    return output


class _Replaced(torch.autograd.Function):
    """A function of one input under a rule."""

    @staticmethod
    def forward(ctx: Any, linearise: Callable[[Tensor], Linearised], input: Tensor, name: str) -> Tensor:
        found = linearise(input)
        if not isinstance(found, Linearised) or not isinstance(found.kept, tuple):
            raise TypeError(
                f"the rule for {name} makes {type(found).__name__} of its input, expected Linearised(output, pull, "
                "kept=(...)) with a tuple of tensors, which pull(gradient, *kept) gets"
            )
        ctx.pull = found.pull
        ctx.save_for_backward(*found.kept)
        return found.output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        return None, ctx.pull(gradient, *ctx.saved_tensors), None


class _Proportional(_Replaced):
    """An elementwise function, by whose name graphs show it."""
