"""Attention that is multiplied through the layers, with and without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from captum_attn.core.observers import NormalizedRelevanceObserver, RelevanceObserver
from captum_attn.core.readout import RowWeights
from captum_attn.methods.attribution import CommonArguments, Explained
from captum_attn.methods.token_relevance import Rows, TokenRelevance, check_one_stack
from captum_attn.token_attributions import TokenAttributions


class AttentionRollout(TokenRelevance):
    """How much of a token's input arrives at the top, if every layer mixes tokens as its mean attention says.

    R = P_L ⋯ P_1 with P_l = residual · I + (1 − residual) · A_l, A_l the mean attention of layer l's heads. Rows of R
    sum to 1 and no entry is negative. One forward pass, no gradients: it says the same of every class. Only a row is
    followed down the layers, in O(N) memory. Where the readout token plays, as in decoders, what it keeps of itself
    counts.

    Args:
        residual: the share of the residual connection in each layer, in [0, 1).
        rows: ``"readout"`` or ``"incoming"``; see :class:`captum_attn.methods.token_relevance.TokenRelevance`.
        model, layers, heads, readout, tokenizer, additional_forward_arg_names: see
            :class:`captum_attn.AttentionAttribution`. Layers that do not count are passed over.

    Raises:
        ValueError: another share, other rows; encoder-decoder models, when called.

    Example:
        >>> from captum_attn import AttentionRollout
        >>> rollout = AttentionRollout(model, tokenizer=tokenizer)
        >>> rollout.attribute(batch).shape
        torch.Size([2, 6])
        >>> torch.allclose(rollout.matrix(batch)[0].sum(-1), torch.ones(6))
        True

    Source: Abnar and Zuidema 2020, *Quantifying Attention Flow in Transformers*, 2005.00928, equation 1.
    """

    what = "shares in the readout token, as attention mixes tokens layer by layer"

    needs_gradients = False

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        residual: float = 0.5,
        rows: Rows = "readout",
        **common: Unpack[CommonArguments],
    ) -> None:
        check_residual(residual)
        super().__init__(model, rows=rows, **common)
        self.residual = residual

    def matrix_observer(self, explained: Explained, row_weights: RowWeights | None) -> RelevanceObserver:
        run = explained.run
        check_one_stack(run, "attention rollout")
        watched, kept = run.watched(self.layers, self.heads), self.residual
        return RelevanceObserver(watched, "attention", row_weights, kept=kept, passed=1 - kept)


class GradientAttentionRollout(TokenRelevance):
    """Rollout of attention times its positive gradient: what flows along attention that raises the explained output.

    R = P_L ⋯ P_1 with P_l = I + Ā_l, each row divided by its sum; Ā_l is the mean over layer l's heads of ReLU(A ⊙ G),
    G the gradient of the explained output with respect to attention A. Without the division, R is that of
    :class:`captum_attn.GenericRelevance`; as there, what a token keeps by residual connections alone does not count.
    One forward and one backward pass; one layer's matrix (N, N) at a time.

    Args:
        rows: ``"readout"`` or ``"incoming"``; see :class:`captum_attn.methods.token_relevance.TokenRelevance`.
        model, layers, heads, readout, tokenizer, additional_forward_arg_names, propagation: see
            :class:`captum_attn.AttentionAttribution`. Layers that do not count are passed over.

    Raises:
        ValueError: other rows; encoder-decoder models, when called.

    Example:
        >>> from captum_attn import GradientAttentionRollout
        >>> GradientAttentionRollout(model, tokenizer=tokenizer).attribute(batch, target=1).shape
        torch.Size([2, 6])

    Source: the rollout of Chefer, Gur, Wolf 2021, *Transformer Interpretability Beyond Attention Visualization*,
    2012.09838, with attention A as in their *Generic Attention-model Explainability*, 2103.15679, in place of the
    relevance that the former propagates to it; rows are divided by their sums as in Abnar and Zuidema 2020.
    """

    what = "shares in the readout token, as attention that raises the output mixes tokens"

    needs_gradients = True

    def solve(self, explained: Explained, observer: NormalizedRelevanceObserver) -> TokenAttributions:
        return explained.attributions(observer.by_attention)

    def matrix_observer(self, explained: Explained, row_weights: RowWeights | None) -> NormalizedRelevanceObserver:
        run = explained.run
        check_one_stack(run, "gradient attention rollout")
        return NormalizedRelevanceObserver(run.watched(self.layers, self.heads), "rectified", row_weights)


def check_residual(residual: float) -> None:
    """Raise unless it is a share in [0, 1)."""
    if not isinstance(residual, int | float) or not 0 <= residual < 1:
        raise ValueError(f"residual must be a share, at least 0 and below 1, got {residual!r}")
