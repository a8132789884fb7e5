"""Models that were tried and found to do what they must, for as long as they are what they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from captum_attn.core.models import config_of


class TriedModels:
    """Remembers models, and forgets them when their weights or their configuration change.

    Example:
        >>> tried = TriedModels()
        >>> tried.add(model, "with padding")
        >>> (model, "with padding") in tried, (model, "alone") in tried
        (True, False)
    """

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Callable[..., Any], dict[str, int]] = WeakKeyDictionary()

    def __contains__(self, pair: tuple[Callable[..., Any], str]) -> bool:
        model, what = pair
        return self._known.get(model, {}).get(what) == _state(model)

    def add(self, model: Callable[..., Any], what: str) -> None:
        """Remember that a model does it."""
        self._known.setdefault(model, {})[what] = _state(model)


def _state(model: Callable[..., Any]) -> int:
    weights = model.parameters() if isinstance(model, nn.Module) else ()
    return hash((str(config_of(model)), *((weight.data_ptr(), weight._version) for weight in weights)))
