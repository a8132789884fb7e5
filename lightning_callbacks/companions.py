"""What an unnamed tensor (B, N) beside text is, by what it says of the tokens: a shape alone does not tell."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from captum_attn.core import config_of, padding_masks
from captum_attn.core.inputs import COMPANION_NAMES


def could_be_companion(part: Any, features: Tensor) -> bool:
    """Whether it has one number for each token of ids (B, N) or embeddings (B, N, D), as no label should.

    Of floating numbers, which labels of as many classes as tokens may be, only what looks like a mask.
    """
    if not _fits(part, features):
        return False
    return not part.is_floating_point() or is_padding_mask(part, features)


def companion_names(
    features: Tensor, others: Sequence[Any], taken: Collection[str], classes: Collection[int] | None
) -> list[str]:
    """Names for what comes first beside text, as far as it is certain what it is.

    Args:
        features: ids (B, N) or embeddings (B, N, D).
        others: what goes along with them.
        taken: the names that the model takes.
        classes: how many it may have; None if nothing says. What comes last and is one number throughout, such as the
            mask of texts without padding, may be labels of as many classes as there are tokens, too.

    Returns:
        Some of ``attention_mask``, ``token_type_ids`` and ``position_ids``.
    """
    free = [name for name in COMPANION_NAMES if name in taken]
    parts = list(takewhile(lambda part: _fits(part, features) and not part.is_floating_point(), others))
    every = _every_token(features)
    real = next((part.bool() for part in parts if is_padding_mask(part, features)), every)
    names: list[str] = []
    for part in parts:
        name = next((name for name in free if _CERTAIN[name](part, features, real)), None)
        if name is None:
            break
        free.remove(name)
        names.append(name)
    may_be_labels = classes is None or features.shape[1] in classes
    if names and len(names) == len(others) and may_be_labels and bool((others[-1] == others[-1][0, 0]).all()):
        names.pop()
    return names


def class_counts(model: nn.Module) -> set[int] | None:
    """How many classes the model may have; None if nothing says.

    As many as its configuration says, or as a layer puts out that no other layer reads: the last one of a head, among
    few others.
    """
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "out_features")]
    read = {getattr(layer, "in_features", None) for layer in layers}
    configured = getattr(config_of(model), "num_labels", None)
    heads = {int(layer.out_features) for layer in layers} - read
    return heads | ({configured} if isinstance(configured, int) else set()) or None


def is_padding_mask(part: Any, features: Tensor, real: Tensor | None = None) -> bool:
    """Whether it is 0 on one side of each text, where the same padding stands everywhere, and 1 elsewhere."""
    return _fits(part, features) and padding_masks.is_padding_mask(part, features)


def _is_segments(part: Tensor, features: Tensor, real: Tensor) -> bool:
    """Whether it is 0; or numbers the segments of each text from 0, each of which ends with the same separator."""
    if not part.any():
        return True
    numbers = part.long().masked_fill(~real, -1)
    first = real & (real.cumsum(1) == 1)
    ends = real & (pad(numbers, (0, 1), value=-1)[:, 1:] != numbers)
    in_turn = torch.isin(_steps(numbers, real), torch.tensor([0, 1], device=part.device)).all()
    return bool((numbers[first] == 0).all() and in_turn) and padding_masks.alike(features[ends])


def _is_positions(part: Tensor, features: Tensor, real: Tensor) -> bool:
    """Whether it counts the tokens of each text."""
    steps = _steps(part.long(), real)
    return len(steps) > 0 and bool((steps == 1).all())


_CERTAIN: dict[str, Callable[[Tensor, Tensor, Tensor], bool]] = {
    "attention_mask": is_padding_mask,
    "token_type_ids": _is_segments,
    "position_ids": _is_positions,
}


def _fits(part: Any, features: Tensor) -> TypeGuard[Tensor]:
    return isinstance(part, Tensor) and part.shape == features.shape[:2]


def _steps(numbers: Tensor, real: Tensor) -> Tensor:
    """What numbers (B, N) change by from one real token to the next, (M,)."""
    return numbers.diff(dim=1)[real[:, 1:] & real[:, :-1]]


def _every_token(features: Tensor) -> Tensor:
    return torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
