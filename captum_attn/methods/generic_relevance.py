"""Relevance by attention and its gradients, carried through all layers."""

from __future__ import annotations

from captum_attn.core.observers import RelevanceObserver
from captum_attn.core.readout import RowWeights
from captum_attn.methods.attribution import Explained
from captum_attn.methods.token_relevance import TokenRelevance, check_one_stack
from captum_attn.token_attributions import TokenAttributions


class GenericRelevance(TokenRelevance):
    """Relevance that starts as each token's own, and that every layer's attention adds to: R ← R + Ā R.

    R = (I + Ā_L) ⋯ (I + Ā_1), with Ā_l the mean over layer l's heads of ReLU(A ⊙ G), G the gradient of the explained
    output with respect to attention A. A token's value is its entry in R − I: what it was given by attention, without
    the relevance that each token starts with, which would put a decoder's last token above all others. One forward and
    one backward pass. Only a row is followed down the layers, in O(N) memory.

    Args:
        rows: ``"readout"`` or ``"incoming"``; see :class:`captum_attn.methods.token_relevance.TokenRelevance`.
        model, layers, heads, readout, tokenizer, additional_forward_arg_names, propagation: see
            :class:`captum_attn.AttentionAttribution`. Layers that do not count are passed over.

    Raises:
        ValueError: other rows; encoder-decoder models, when called: of the paper's rules, this is the one for
            self-attention.

    Example:
        >>> from captum_attn import GenericRelevance
        >>> GenericRelevance(model, tokenizer=tokenizer).attribute(batch, target=1).shape
        torch.Size([2, 6])

    Source: Chefer, Gur, Wolf 2021, *Generic Attention-model Explainability*, 2103.15679, section 3, for self-attention.
    """

    what = "relevance to the readout token by attention that raises the output"

    needs_gradients = True

    def solve(self, explained: Explained, observer: RelevanceObserver) -> TokenAttributions:
        return explained.attributions(observer.by_attention)

    def matrix_observer(self, explained: Explained, row_weights: RowWeights | None) -> RelevanceObserver:
        run = explained.run
        check_one_stack(run, "generic relevance")
        return RelevanceObserver(run.watched(self.layers, self.heads), "rectified", row_weights, kept=1, passed=1)
