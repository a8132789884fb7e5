"""Gradient self-attention maps."""

from __future__ import annotations

from captum_attn.core.observers import GatheringObserver
from captum_attn.methods.attribution import Explained, OnePassAttribution
from captum_attn.token_attributions import TokenAttributions


class GradSAM(OnePassAttribution):
    """What each token gathers: the mean over layers, heads and keys j of A_ij ReLU(G_ij), its rows of the influence.

    A is a head's attention, G the gradient of the explained output with respect to it. Mind the direction: a row of A
    says where token i looks, so that this ranks tokens by what they take, where all other methods here rank them by
    what they give. In the last layer of a model that reads one token, the other rows are zero. One forward and one
    backward pass, O(N) memory.

    Args:
        model, layers, heads, tokenizer, additional_forward_arg_names, propagation: see
            :class:`captum_attn.AttentionAttribution`. ``readout`` makes no difference.

    Example:
        >>> from captum_attn import GradSAM
        >>> GradSAM(model, tokenizer=tokenizer).attribute(batch, target=1).shape
        torch.Size([2, 6])

    Source: Barkan et al. 2021, *Grad-SAM: Explaining Transformers via Gradient Self-Attention Maps*, 2204.11073,
    equations 2 and 3; the keys are the N tokens that are no padding.
    """

    what = "attention that raises the output, gathered by each token"

    needs_gradients = True

    def observer(self, explained: Explained) -> GatheringObserver:
        return GatheringObserver(explained.run.watched(self.layers, self.heads))

    def solve(self, explained: Explained, observer: GatheringObserver) -> TokenAttributions:
        keys = explained.real.sum(-1, keepdim=True)
        return explained.attributions(observer.gathered / keys)
