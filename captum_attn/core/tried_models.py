"""Models that were tried and found to do what they must, for as long as they are what they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from captum_attn.core.models import config_of


class TriedModels:
    """Remembers models, and forgets them when their weights, their configuration or their hooks change.

    Example:
        >>> tried = TriedModels()
        >>> tried.add(model, "with padding", length=12)
        >>> tried.knows(model, "with padding", length=8), tried.knows(model, "with padding", length=20)
        (True, False)
    """

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Callable[..., Any], dict[str, tuple[int, int]]] = WeakKeyDictionary()

    def knows(self, model: Callable[..., Any], what: str, length: int = 0) -> bool:
        """Whether a model was found to do it, with texts of this length or longer ones."""
        state, longest = self._known.get(model, {}).get(what, (None, 0))
        return state == _state(model) and length <= longest

    def add(self, model: Callable[..., Any], what: str, length: int = 0) -> None:
        """Remember that a model does it, with texts up to a length: beyond it, it may attend otherwise."""
        self._known.setdefault(model, {})[what] = (_state(model), length)


def _state(model: Callable[..., Any]) -> int:
    if not isinstance(model, nn.Module):
        return hash(str(config_of(model)))
    weights = ((one.data_ptr(), None if one.is_inference() else one._version) for one in model.parameters())
    hooks = ((*module._forward_hooks, *module._forward_pre_hooks) for module in model.modules())
    return hash((str(config_of(model)), *weights, *hooks))


def predicts_alike(output: Tensor, expected: Tensor) -> bool:
    """Whether two passes predicted the same, as far as their numbers go.

    Example:
        >>> predicts_alike(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0001]))
        True
    """
    finite = expected.isfinite()  # some models rule tokens out
    output, expected = output[finite], expected[finite]
    tolerance = 1e-3 if expected.dtype in (torch.float32, torch.float64) else 0.05
    return bool((output - expected).abs().amax() <= tolerance * expected.abs().amax())
