"""Attention weighted by how long the vectors are that it weighs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from captum_attn.core import ObservedForward
from captum_attn.core.after_attention import AfterAttention
from captum_attn.core.observers import NormObserver
from captum_attn.core.readout import RowWeights
from captum_attn.methods.attribution import CommonArguments, Explained
from captum_attn.methods.token_relevance import Rows, TokenRelevance


class NormAttention(TokenRelevance):
    """How long the vector is that a token contributes to another's state, ‖Σ_h A_h[i, j] f_h(j)‖: the mean over layers.

    f_h(j) is token j's value vector in head h (with its bias) under the head's part of the output projection (without
    the bias, which is nobody's). A token that is attended to but contributes a short vector, as ``[SEP]`` often does,
    has little weight here. Values, projection, residual connection and layer norm are seen as the model computes them.
    One forward pass, no gradients.

    Args:
        residual: whether token i's own state is part of what it contributes to itself, and the layer norm that follows
            the sum directly, as in BERT, is applied to the contributions (Kobayashi et al. 2021). In models that
            normalize before attention (ViT, GPT-2, Llama) there is none to apply.
        rows: ``"readout"`` or ``"incoming"``; see :class:`captum_attn.methods.token_relevance.TokenRelevance`.
        model, layers, heads, readout, tokenizer, additional_forward_arg_names: see
            :class:`captum_attn.AttentionAttribution`.

    Raises:
        ValueError: other rows; when called, a model in which no output projection (adapters count as a second one), or
            no residual connection, is seen to follow attention.

    Example:
        >>> from captum_attn import NormAttention
        >>> NormAttention(model, tokenizer=tokenizer).attribute(batch).shape
        torch.Size([2, 6])

    Source: Kobayashi, Kuribayashi, Yokoi, Inui 2020, *Attention is Not Only a Weight*, 2004.10102; with ``residual``,
    the same authors 2021, *Incorporating Residual and Normalization Layers into Analysis of Masked Language Models*,
    2109.07152.
    """

    what = "lengths of what attention takes from each token"

    needs_gradients = False
    after_attention = True

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        residual: bool = False,
        rows: Rows = "readout",
        **common: Unpack[CommonArguments],
    ) -> None:
        if not isinstance(residual, bool):
            raise TypeError(f"residual must be True or False, got {residual!r}")
        super().__init__(model, rows=rows, **common)
        self.residual = residual

    def matrix_observer(self, explained: Explained, row_weights: RowWeights | None) -> NormObserver:
        watched = explained.run.watched(self.layers, self.heads)
        after = {call: self._after(explained.run, call) for call in watched.layers}
        return NormObserver(watched, after, self.residual, row_weights)

    def _after(self, run: ObservedForward, call: int) -> AfterAttention:
        """What followed an attention call, with all that is needed of it."""
        if run.after_attention is None:
            raise ValueError("the norms of contributions need a pass that was observed with after_attention=True")
        module = next(observed.module for observed in run.calls if observed.layer == call)
        after = run.after_attention.get(call)
        if after is None or after.projection is None:
            raise ValueError(
                f"attention {module!r} is not followed by one linear output projection of what its heads mix, so the "
                "norms of its contributions are unknown. Merge adapters into the weights first (PEFT's "
                "merge_and_unload); expected a linear layer, or GPT-2's Conv1D"
            )
        if self.residual and after.residual is None:
            raise ValueError(
                f"what attention {module!r} puts out is not added to the tokens' states as it is (a norm stands in "
                "between, or blocks are parallel), so residual=True is undefined: use residual=False"
            )
        return after
