"""Attention itself as an explanation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from captum_attn.methods.attribution import CommonArguments
from captum_attn.methods.shapley import ShapleyAttention
from captum_attn.methods.token_relevance import Rows, check_rows


class RawAttention(ShapleyAttention):
    """How much attention a token gets: from the readout token, or from all tokens; the mean over layers and heads.

    A token i gets A_ri from the readout token r, or Σ_q A_qi from all tokens q that are no padding. One forward pass,
    no gradients. ``layers=-1, heads=3`` takes one head of the last layer; ``attribute_tokens(inputs, per="head")`` has
    the values of all of them, (B, L, H, N); ``influence(inputs)`` is the mean attention matrix (B, N, N). Both choices
    are games whose Shapley values are attention itself: ``cls`` and ``incoming`` of
    :class:`captum_attn.ShapleyAttention`.

    Args:
        rows: ``"readout"`` or ``"incoming"``.
        model, layers, heads, readout, tokenizer, additional_forward_arg_names: see
            :class:`captum_attn.AttentionAttribution`.

    Raises:
        TypeError, ValueError: an argument that is none of these.

    Example:
        >>> from captum_attn import RawAttention
        >>> last_layer = RawAttention(model, layers=-1, tokenizer=tokenizer)
        >>> last_layer.attribute(batch).shape
        torch.Size([2, 6])

    Source: Bahdanau et al. 2015 read it as alignment; Jain and Wallace 2019 (1902.10186) and Wiegreffe and Pinter 2019
    (1908.04626) argue whether it explains.
    """

    what = "attention to each token"

    def __init__(self, model: Callable[..., Any], *, rows: Rows = "readout", **common: Unpack[CommonArguments]) -> None:
        check_rows(rows)
        super().__init__(model, game="cls" if rows == "readout" else "incoming", **common)
        self.rows = rows
