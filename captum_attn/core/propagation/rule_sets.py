"""Named sets of rules: which function's gradient is replaced, and by what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import get_overridable_functions

from captum_attn.core.propagation.normalisation import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    normalize,
    rms_norm,
)
from captum_attn.core.propagation.products import (
    added_matrix_product,
    added_product,
    einsum,
    gated_linear_unit,
    linear,
    matrix_product,
    product,
    product_in_place,
    quotient,
)
from captum_attn.core.propagation.replacements import Proportional, Rule, power


@dataclass(frozen=True)
class Propagation:
    """How relevance goes down a model: by plain gradients, or by gradients under rules.

    Attributes:
        name: of the set.
        rules: for torch functions, what takes the place of their gradient; others keep it.
        constant_attention: whether attention probabilities are constants, so that values get everything.
    """

    name: str
    rules: Mapping[Callable[..., Any], Rule] = field(default_factory=dict, repr=False, hash=False)
    constant_attention: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether gradients go down as they are."""
        return not self.rules and not self.constant_attention

    def with_rules(self, name: str, rules: Mapping[Callable[..., Any], Rule]) -> Propagation:
        """The same with other rules for some functions, or rules for more of them. Such sets do not pickle.

        Args:
            name: of the set.
            rules: by function of torch, as the model or its modules call it. One for ``torch.sigmoid`` is for the
                tensor's method of that name, too, and so on.

        Raises:
            TypeError: keys that are no functions of torch, rules that are none.
            ValueError: a rule for attention, which is no single function; ``constant_attention`` is for it.

        Example:
            >>> from captum_attn.core.propagation import ATTNLRP, constant
            >>> mine = ATTNLRP.with_rules("mine", {torch.sigmoid: constant})
        """
        given: dict[Callable[..., Any], Rule] = {}
        for function, rule in rules.items():
            spelled = _spelled(function)
            if not spelled:
                raise TypeError(
                    f"{function!r} is no function of torch, as modules call it (torch.nn.functional.softplus, not "
                    "torch.nn.Softplus), so that it cannot get a rule"
                )
            if not callable(rule):
                raise TypeError(f"the rule for {function.__name__} is {rule!r}, expected a function of an Applied")
            if function in _OF_ATTENTION:
                raise ValueError(f"{function.__name__} gets no rule: replace(ATTNLRP, constant_attention=True) has one")
            given |= dict.fromkeys(spelled, rule)
        return replace(self, name=name, rules={**self.rules, **given, **rules})

    def __reduce__(self) -> Any:  # torch's functions do not pickle
        return (propagation_named, (self.name,)) if self is PROPAGATIONS.get(self.name) else super().__reduce__()


def _named(*names: str) -> list[Callable[..., Any]]:
    """Functions of ``torch``, of its tensors and of ``torch.nn.functional`` that have one of the names."""
    found = [getattr(home, name, None) for name in names for home in (torch, Tensor, F)]
    return [function for function in found if function is not None]


def _spelled(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """A function of torch and the method of tensors that is the same one; none if it is none of torch's."""
    name = getattr(function, "__name__", "")
    alike = [found for home in (torch, Tensor) if (found := getattr(home, name, None)) is not None]
    if function in alike:
        return alike
    known = function in _named(name) or any(function in members for members in get_overridable_functions().values())
    return [function] if known else []


_ACTIVATIONS = {
    0.5: _named("gelu", "silu", "hardswish"),
    0.6: _named("mish"),
    1.0: _named("tanh", "elu", "celu", "softsign", "hardtanh"),
    1.0507009873554805: _named("selu"),
    0.0: _named("relu6", "square"),
}
_RULES: dict[Callable[..., Any], Rule] = {
    **{function: Proportional(slope) for slope, functions in _ACTIVATIONS.items() for function in functions},
    **dict.fromkeys(_named("layer_norm"), layer_norm),
    **dict.fromkeys(_named("rms_norm"), rms_norm),
    **dict.fromkeys(_named("group_norm"), group_norm),
    **dict.fromkeys(_named("instance_norm"), instance_norm),
    **dict.fromkeys(_named("batch_norm"), batch_norm),
    F.normalize: normalize,
    F.glu: gated_linear_unit,
    **dict.fromkeys(_named("pow", "__pow__"), power),
    **dict.fromkeys(_named("mul", "multiply", "__mul__", "__rmul__"), product),
    **dict.fromkeys(_named("mul_", "multiply_", "__imul__"), product_in_place),
    **dict.fromkeys(_named("div", "divide", "true_divide", "__truediv__"), quotient),
    **dict.fromkeys(_named("div_", "divide_", "true_divide_", "__itruediv__"), quotient),
    **dict.fromkeys(_named("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "dot", "inner"), matrix_product),
    F.linear: linear,
    **dict.fromkeys(_named("addmm", "baddbmm", "addbmm", "addmv"), added_matrix_product),
    **dict.fromkeys(_named("addcmul"), added_product),
    torch.einsum: einsum,
}

_OF_ATTENTION = {F.scaled_dot_product_attention, F.multi_head_attention_forward, *_named("softmax")}

GRADIENT = Propagation("gradient")
"""Plain gradients: no rules."""

ATTNLRP = Propagation("attnlrp", _RULES)
"""Achtibat et al. 2024, 2402.05602: norms and activations as they scale this input, products in halves, softmax by its
first-order term."""

CP = Propagation("cp", _RULES, constant_attention=True)
"""Ali et al. 2022, *XAI for Transformers*, 2202.07304: the same with attention a constant, so that relevance passes
values alone."""

PROPAGATIONS = {propagation.name: propagation for propagation in (GRADIENT, ATTNLRP, CP)}
"""The sets of rules, by their names."""


def propagation_named(propagation: str | Propagation) -> Propagation:
    """A set of rules, or that of this name.

    Raises:
        ValueError: another name.
    """
    if isinstance(propagation, Propagation):
        return propagation
    if propagation not in PROPAGATIONS:
        raise ValueError(
            f"propagation must be {', '.join(map(repr, PROPAGATIONS))} or a Propagation, got {propagation!r}"
        )
    return PROPAGATIONS[propagation]
