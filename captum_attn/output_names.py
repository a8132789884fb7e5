"""What a model's configuration calls its outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from captum_attn.core.models import config_of


def configured_names(model: Callable[..., Any]) -> list[str] | None:
    """The names in the configuration, ``id2label``, of classes 0, 1, …; None without one.

    They may be of other outputs than the model's: see :func:`class_names`.
    """
    labels = getattr(config_of(model), "id2label", None) or {}
    counted = range(len(labels))
    return [str(labels[index]) for index in counted] if labels and labels.keys() == set(counted) else None


def class_names(model: Callable[..., Any], outputs: int) -> list[str] | None:
    """The configuration's names, if there is one for each of so many outputs; else None.

    The configuration of an encoder with a head of one's own has names, too, but of classes that are not the head's.

    Example:
        >>> class_names(model, 2), class_names(model, 5)
        (['negative', 'positive'], None)
    """
    names = configured_names(model)
    return names if names is not None and len(names) == outputs else None
