"""Does it matter which token gets which attention? Attention weights in random order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_attn._moved import moved_names
from captum_attn.bench import Data
from captum_attn.controls.effects import AttentionEffects, Rule, attention_effects
from captum_attn.controls.observed_examples import ObservedBatch, ObservedExamples, random_entries
from captum_attn.core import seeded
from captum_attn.core.observers import Per
from captum_attn.functional import permuted_rows


def permuted_attention(
    model: Callable[..., Any],
    data: Data,
    *,
    tokenizer: Any | None = None,
    permutations: int = 10,
    per: Per = "layer",
    seed: int = 0,
    batch_size: int = 32,
    max_length: int | None = None,
    show_progress: bool = True,
) -> AttentionEffects:
    """Shuffle each query's attention weights among its keys, in one layer or head at a time and in all, and ask again.

    The weights of every query that is no padding are permuted at random over the keys that it may attend to, without
    padding; each query, head and layer in its own order.

    Args:
        model, data, tokenizer, per, batch_size, max_length, show_progress: as in :func:`uniform_attention`.
        permutations: how many; effects are medians over them. A forward pass for each, at each place; the source takes
            100.
        seed: of the permutations, which do not depend on the batches.

    Returns:
        The :class:`AttentionEffects`, with a frame, a table and plots.

    Raises:
        TypeError, ValueError: as :func:`uniform_attention`; fewer than one permutation.

    Example:
        >>> result = permuted_attention(model, batch, permutations=3, show_progress=False)
        >>> bool(result.frame().tvd.between(0, 1).all())
        True

    Source: Jain and Wallace 2019, *Attention is not Explanation*, section 4.2.1 (algorithm 2).
    """
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    with torch.inference_mode(False):
        examples = ObservedExamples(model, data, tokenizer, batch_size=batch_size, max_length=max_length)
        rows = attention_effects(
            examples,
            lambda observed: _permuting(observed, seed),
            per=per,
            draws=permutations,
            title="Permuted attention",
            show_progress=show_progress,
        )
    return AttentionEffects(rows, "permuted" + (f", medians of {permutations}" if permutations > 1 else ""))


def _permuting(observed: ObservedBatch, seed: int) -> Rule:
    """A rule that permutes the attention of a batch in another way whenever it is asked."""
    generators = [seeded(seed, example) for example in observed.examples]

    def rule(attention: Tensor, keys: Tensor) -> Tensor:
        return permuted_rows(attention, keys, random_entries(generators, observed.real, observed.heads))

    return rule


__getattr__ = moved_names(__name__, "captum_attn.functional", {"permuted": "permuted_rows"})
