"""The unique central flow through attention, its gradient, or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Unpack

import torch

from captum_attn.core.observers import InfluenceObserver, Variant
from captum_attn.functional import barrier_flow
from captum_attn.methods.attribution import CommonArguments, Explained, OnePassAttribution
from captum_attn.methods.token_relevance import check_one_stack
from captum_attn.token_attributions import TokenAttributions

Information = Literal["attention", "gradient", "attention_gradient"]

_VARIANTS: dict[Information, Variant] = {
    "attention": "attention",
    "gradient": "gradient",
    "attention_gradient": "rectified",
}


class GeneralizedAttentionFlow(OnePassAttribution):
    """What each token receives in the maximum flow from the readout token to all tokens at once.

    Each layer's tokens are nodes, and an edge from token i above layer l to token j below it has as its capacity an
    entry of the *information tensor*, the mean over the layer's heads of A (``"attention"``, the paper's AF), of
    ReLU(G) where a query may attend (``"gradient"``, GF), or of ReLU(A ⊙ G) (``"attention_gradient"``, AGF), with A the
    attention and G the gradient of the explained output with respect to it. The flow starts, without a bound, from the
    readout token, or from all that the output is read from, and leaves, without a bound, from every token of the input:
    special tokens carry flow, but get 0 as values. There is no residual connection. Maximum flows are not unique; this
    is the one on the barrier's central path (:func:`captum_attn.functional.barrier_flow`), so that tokens with
    like edges get like values. In the game in which a set of tokens is worth what it receives in this flow, values are
    Shapley values, and over all tokens they sum to the maximum flow.

    One forward pass, and one backward pass but for ``"attention"``; then about 20 to 70 Newton steps of O(L N³) for a
    text, float64, in batches; ``examples/benchmarks`` has figures.

    Args:
        information: ``"attention"``, ``"gradient"`` or ``"attention_gradient"``.
        tolerance: how near to the maximum the central path is left, relative to it.
        model, layers, heads, readout, tokenizer, additional_forward_arg_names, propagation: see
            :class:`captum_attn.AttentionAttribution`. Layers that do not count are left out.

    Raises:
        ValueError: another information or tolerance; encoder-decoder models, when called.

    Example:
        >>> from captum_attn import GeneralizedAttentionFlow
        >>> GeneralizedAttentionFlow(model, tokenizer=tokenizer).attribute(batch, target=1).shape
        torch.Size([2, 6])

    Source: Azarkhalili and Libbrecht 2025, *Generalized Attention Flow*, 2502.15765.
    """

    what = "part of the flow through attention that raises the output"

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        information: Information = "attention_gradient",
        tolerance: float = 1e-6,
        **common: Unpack[CommonArguments],
    ) -> None:
        if information not in _VARIANTS:
            raise ValueError(f"information must be one of {', '.join(map(repr, _VARIANTS))}, got {information!r}")
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance}")
        super().__init__(model, **common)
        self.information, self.tolerance = information, tolerance

    @property
    def needs_gradients(self) -> bool:
        return self.information != "attention"

    def observer(self, explained: Explained) -> InfluenceObserver:
        check_one_stack(explained.run, "generalized attention flow")
        watched = explained.run.watched(self.layers, self.heads)
        return InfluenceObserver(watched, _VARIANTS[self.information], per="layer")

    def solve(self, explained: Explained, observer: InfluenceObserver) -> TokenAttributions:
        readout = explained.readout.weights()
        received = barrier_flow(observer.influence, readout.to(observer.influence.device) > 0, self.tolerance)
        return explained.attributions(received.to(torch.promote_types(torch.float32, observer.influence.dtype)))
