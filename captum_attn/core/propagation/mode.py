"""Apply a set of rules to the forward pass that runs inside a context."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_attn.core.calls import Shares
from captum_attn.core.function_arguments import tensors_in
from captum_attn.core.propagation.checked_rules import checked
from captum_attn.core.propagation.dependents import Dependents
from captum_attn.core.propagation.replacements import Applied
from captum_attn.core.propagation.rule_sets import ATTNLRP, Propagation


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
        in_place: functions without a rule that wrote to tensors in place, by name, of which the graph may not tell.
    """

    def __init__(self, propagation: Propagation) -> None:
        super().__init__()
        self.propagation = propagation
        self.dependents = Dependents({"_ObservedSoftmaxBackward"} if propagation.constant_attention else ())
        self.ruled: set[Any] = set()
        self.in_place: Counter[str] = Counter()

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
        self.in_place.clear()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rule = self.propagation.rules.get(func)
        if not torch.is_grad_enabled() or not any(part.requires_grad for part in tensors_in((*args, *kwargs.values()))):
            return func(*args, **kwargs)
        if rule is None:
            name = getattr(func, "__name__", "")
            if name.endswith("_") and not name.endswith("__") and name not in _LINEAR_IN_PLACE:
                self.in_place[name[:-1]] += 1
            return func(*args, **kwargs)
        applied = Applied(func, args, kwargs, self.dependents, self.ruled)
        ours = rule is ATTNLRP.rules.get(func)
        return rule(applied, *args, **kwargs) if ours else checked(rule, applied)


_LINEAR_IN_PLACE = frozenset(
    f"{name}_"
    for names in (
        "add sub subtract neg negative copy zero fill masked_fill masked_scatter index_add index_copy index_fill",
        "index_put scatter scatter_add fill_diagonal clamp clamp_min clamp_max clip relu leaky_relu threshold abs",
        "dropout tril triu squeeze unsqueeze transpose t swapaxes swapdims resize requires_grad detach nan_to_num",
        "cumsum lerp set rename as_strided",
    )
    for name in names.split()
)
"""Linear functions, or piecewise so, that write to their input."""
