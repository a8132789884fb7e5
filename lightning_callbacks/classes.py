"""Classes of a model by number or name."""

from __future__ import annotations

from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from captum_attn.core import as_index, config_of, is_index
from captum_attn.core import class_number as number_of_class


def class_number(model: nn.Module, target: Any, classes: int | None = None) -> int:
    """The number of a class, which may be given by its name in the model's configuration.

    Args:
        model: whose configuration names classes.
        target: the number or the name.
        classes: how many the output has; None if that is not known yet.

    Raises:
        MisconfigurationException: there is no such class.
    """
    config = config_of(model)
    if isinstance(target, str):
        try:
            return number_of_class(target, config, classes)
        except ValueError as error:
            raise MisconfigurationException(f"unknown target {target!r}: {error}") from None
    number = as_index(target) if is_index(target) else -1
    if 0 <= number < (classes or number + 1):
        return number
    expected = f"a number below {classes}" if classes else "the number"
    raise MisconfigurationException(f"unknown target {target!r}: expected {expected} or the name of a class")
