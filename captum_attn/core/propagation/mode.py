"""Apply a set of rules to the forward pass that runs inside a context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_attn.core.calls import Shares
from captum_attn.core.propagation.dependents import Dependents
from captum_attn.core.propagation.replacements import Applied
from captum_attn.core.propagation.rule_sets import Propagation


class PropagationMode(TorchFunctionMode):
    """Give the functions of the forward pass that runs inside this context, in this thread, their rules.

    Outputs are bit-identical; only what the backward pass does changes. To be entered around an
    :class:`~captum_attn.core.AttentionCapture`, which keeps weights out of the graph.

    Args:
        propagation: the rules.

    Attributes:
        propagation: as given.
        dependents: what depends on the input.
        ruled: the autograd nodes under rules.
    """

    def __init__(self, propagation: Propagation) -> None:
        super().__init__()
        self.propagation = propagation
        self.dependents = Dependents({"_ObservedSoftmaxBackward"} if propagation.constant_attention else ())
        self.ruled: set[Any] = set()

    def attention_shares(self, query: Tensor, key: Tensor, value: Tensor) -> Shares:
        """What fused attention of these passes on."""
        if self.propagation.constant_attention:
            return Shares(scores=0.0)
        if torch.matmul not in self.propagation.rules:  # nor is it halved in eager code
            return Shares()
        by_query, by_key, by_value = map(self.dependents.depends, (query, key, value))
        return Shares(
            output=0.5 if by_value and (by_query or by_key) else 1.0, scores=0.5 if by_query and by_key else 1.0
        )

    def forget(self) -> None:
        """Let go of the graph, when the forward pass is over."""
        self.dependents.forget()
        self.ruled.clear()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rule = self.propagation.rules.get(func)
        if rule is None or not torch.is_grad_enabled() or not _follows_some([*args, *kwargs.values()]):
            return func(*args, **kwargs)
        return rule(Applied(func, args, kwargs, self.dependents, self.ruled), *args, **kwargs)


def _follows_some(values: Sequence[Any]) -> bool:
    """Whether autograd follows one of these, or a part of it."""
    return any(
        value.requires_grad if isinstance(value, Tensor) else isinstance(value, list | tuple) and _follows_some(value)
        for value in values
    )
