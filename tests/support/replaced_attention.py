"""Models whose attention is replaced by plain means: a textbook attention that multiplies what it is told to."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import transformers as hf
from families import plain_attention
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS


def logits_with(
    model: nn.Module, inputs: dict[str, Tensor], change: Callable[[int, Tensor], Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Logits (B, C) of a copy whose attention probabilities are what ``change(call, A)`` returns, and all A."""
    seen: list[Tensor] = []

    def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
        _, probabilities = plain_attention(module, query, key, value, mask, **options)
        seen.append(probabilities)
        changed = change(len(seen) - 1, probabilities)
        return (changed @ value.repeat_interleave(query.shape[1] // value.shape[1], 1)).transpose(1, 2), changed

    hf.AttentionInterface.register("plain changed", attention)
    hf.AttentionMaskInterface.register("plain changed", ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    copy = type(model)._from_config(deepcopy(model.config), attn_implementation="plain changed").eval()
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        return copy(**inputs).logits, seen
