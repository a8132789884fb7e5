"""Keep a model's weights out of the graph without touching the model."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def without_weights(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a torch function with weights detached: for modes that see every function.

    So a model costs what a frozen one costs, and no weight can get a gradient. Any tensor counts as a weight for which
    autograd would keep one: leaves that require a gradient. Access to attributes (``weight.shape``) is left alone.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> args, _ = without_weights(torch.mul, (torch.ones(2), weight), None)
        >>> (args[0] * args[1]).requires_grad
        False
    """
    kwargs = kwargs or {}
    if getattr(func, "__name__", None) in _ACCESSORS:
        return args, kwargs
    if any(map(_is_weight, args)):
        args = tuple(argument.detach() if _is_weight(argument) else argument for argument in args)
    if any(map(_is_weight, kwargs.values())):
        kwargs = {name: value.detach() if _is_weight(value) else value for name, value in kwargs.items()}
    return args, kwargs


def _is_weight(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.requires_grad and argument.is_leaf


_ACCESSORS = frozenset({"__get__", "__set__", "__delete__"})
