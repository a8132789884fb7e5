"""What PyTorch and transformers have no public way to: each private name here alone, and loudly missed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

OPERATOR: Any = type(torch.ops.aten.relu.default)
"""Of operators in exported graphs."""


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to in place; 0 for an inference tensor, which does not say.

    Raises:
        RuntimeError: this PyTorch does not say.
    """
    return 0 if tensor.is_inference() else int(_required(tensor, "_version"))


def base_of(view: Tensor) -> Tensor | None:
    """The tensor that a view is of; ``RuntimeError`` as of :func:`version_of`."""
    base: Tensor | None = _required(view, "_base")
    return base


def compiled_from(model: Any) -> Any:
    """The module that ``torch.compile`` wraps; else the model itself; ``RuntimeError`` as of :func:`version_of`."""
    return _required(model, "_orig_mod") if type(model).__name__ == "OptimizedModule" else model


def is_compiled(module: nn.Module) -> bool:
    """Whether a part of a model is compiled, or was in place; ``RuntimeError`` as of :func:`version_of`."""
    return compiled_from(module) is not module or _required(module, "_compiled_call_impl") is not None


def attention_implementation(config: Any | None) -> str | None:
    """What a Hugging Face configuration is set to; None of other configurations, or where nothing is set.

    Raises:
        RuntimeError: this transformers does not say.
    """
    if not hasattr(config, "get_text_config"):
        return None
    found: str | None = _required(config, "_attn_implementation")
    return found


def _required(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError as error:
        raise RuntimeError(
            f"{type(owner).__name__}.{name} is gone in this version of its library (torch {torch.__version__}), and "
            "explanations might be wrong without it: please report it, with the versions of torch and transformers"
        ) from error
