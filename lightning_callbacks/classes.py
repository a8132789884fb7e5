"""Classes of a model by number or name."""

from __future__ import annotations

import operator
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from captum_attn.core.models import config_of


def class_number(model: nn.Module, target: Any) -> int:
    """The number of a class, which may be given by its name in the model's configuration.

    Raises:
        MisconfigurationException: there is no such class.
    """
    config = config_of(model)
    numbers = dict(getattr(config, "label2id", None) or {})
    if isinstance(target, str) and target in numbers:
        return int(numbers[target])
    count = getattr(config, "num_labels", None)
    number = operator.index(target) if hasattr(target, "__index__") and not isinstance(target, bool) else -1
    if 0 <= number < (count or number + 1):
        return number
    known = f"; the names are {list(numbers)}" if numbers else ""
    raise MisconfigurationException(f"unknown target {target!r}: expected the number or the name of a class{known}")
