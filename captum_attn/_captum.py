"""What this package uses of captum that is private there and has no public way: named here, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from captum._utils.common import _format_additional_forward_args, _select_targets
from captum._utils.progress import progress
from torch import Tensor

__all__ = ["forward_args", "progress", "select_targets"]


def forward_args(given: Any) -> tuple[Any, ...]:
    """``additional_forward_args`` as a tuple: of several, of one, of none."""
    return _format_additional_forward_args(given) or ()


def select_targets(output: Tensor, targets: Sequence[tuple[Any, ...]]) -> Tensor:
    """The score (B,) of each example that its target, a tuple of indices, selects from the output (B, ...)."""
    scores: Tensor = _select_targets(output, targets)
    return scores
