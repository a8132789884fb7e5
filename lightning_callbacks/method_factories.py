"""Attribution methods by name, for a model that is not known yet."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

MethodFactory = Callable[..., Any]
"""A class of attributions, or a function of a model (and ``tokenizer``, if it takes one) that returns one."""
Methods = MethodFactory | Sequence[MethodFactory] | Mapping[str, MethodFactory]


def named_methods(given: Methods) -> dict[str, MethodFactory]:
    """Factories by name: of a class, its own.

    Raises:
        MisconfigurationException: what is no class or function, or two of the same name.
    """
    if isinstance(given, Mapping):
        named = list(given.items())
    else:
        each = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        named = [(_name(factory), factory) for factory in each]
    for name, factory in named:
        if not callable(factory) or (hasattr(factory, "attribute") and not isinstance(factory, type)):
            raise MisconfigurationException(
                f"method {name!r} is {factory!r:.80}, expected a class such as ShapleyGradAttention, or a function of "
                "the model (and its tokenizer) that returns an attribution: the model is known only when training "
                "starts"
            )
    names = [name for name, _ in named]
    if len(set(names)) < len(names) or not names:
        raise MisconfigurationException(
            f"expected methods of different names, got {names}: give a mapping from names to methods"
        )
    return dict(named)


def built(factory: MethodFactory, model: nn.Module, processor: Any | None) -> Any:
    """The attribution of a model; with the tokenizer, where the factory takes one and has none bound to it."""
    parameters = inspect.signature(factory).parameters
    wanted = parameters.get("tokenizer")
    bound = wanted is not None and wanted.default not in (None, wanted.empty)
    bound |= isinstance(factory, partial) and "tokenizer" in factory.keywords  # which **arguments hide
    takes_any = any(part.kind is part.VAR_KEYWORD for part in parameters.values())
    tokenizer = tokenizer_of(processor)
    return factory(model, tokenizer=tokenizer) if not bound and (wanted is not None or takes_any) else factory(model)


def tokenizer_of(processor: Any | None) -> Any | None:
    """The processor, if it is one of texts; image processors name no tokens."""
    return processor if hasattr(processor, "all_special_ids") else None


def _name(factory: Any) -> str:
    return getattr(factory, "__name__", None) or _name(getattr(factory, "func", type(factory)))
