"""Does the prediction need the attention that the model computes? Uniform attention in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_attn._moved import moved_names
from captum_attn.bench import Data
from captum_attn.controls.effects import AttentionEffects, attention_effects
from captum_attn.controls.observed_examples import ObservedExamples
from captum_attn.core.observers import Per
from captum_attn.functional import uniform_rows


def uniform_attention(
    model: Callable[..., Any],
    data: Data,
    *,
    tokenizer: Any | None = None,
    labels: Sequence[int] | Tensor | None = None,
    per: Per = "layer",
    batch_size: int = 32,
    max_length: int | None = None,
    show_progress: bool = True,
) -> AttentionEffects:
    """Let every query attend to all keys alike, in one layer or head at a time and in all layers, and ask again.

    A' is uniform over the keys that a query may attend to, without padding. The model is not trained again: Wiegreffe
    and Pinter train it with uniform attention, to ask whether the *task* needs attention; this asks whether the trained
    *model* does.

    Args:
        model: a classifier with logits (B, C): the Hugging Face model itself, any module, or a function.
        data: texts; pairs of texts; pixels (N, C, h, w) or token ids (N, T); or the mapping of tensors that a tokenizer
            or an image processor returns.
        tokenizer: the model's; needed for texts.
        labels: the gold classes, for the accuracy.
        per: ``"layer"``, or ``"head"`` to replace single heads, too (a forward pass for each).
        batch_size: how many inputs the model sees at a time.
        max_length: the most tokens of a text, special tokens included; default: as many as the model reads.
        show_progress: show a progress bar.

    Returns:
        The :class:`AttentionEffects`, with a frame, a table and plots.

    Raises:
        TypeError, ValueError: arguments that are none of the above or do not fit each other; a model without logits
            (B, C) or observable attention.

    Example:
        >>> result = uniform_attention(model, batch, labels=[1, 0], show_progress=False)
        >>> list(result.frame().columns)
        ['example', 'layer', 'head', 'tvd', 'divergence', 'changed', 'correct']
        >>> list(result.table().layer.unique())
        ['none', 0, 1, 2, 3, 'all']

    Source: Wiegreffe and Pinter 2019, *Attention is not not Explanation*, section 3.2.
    """
    with torch.inference_mode(False):
        examples = ObservedExamples(model, data, tokenizer, labels=labels, batch_size=batch_size, max_length=max_length)
        rows = attention_effects(
            examples, lambda _: uniform_rows, per=per, draws=1, title="Uniform attention", show_progress=show_progress
        )
    return AttentionEffects(rows, "made uniform")


__getattr__ = moved_names(__name__, "captum_attn.functional", {"uniform": "uniform_rows"})
