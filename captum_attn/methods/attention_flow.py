"""Attention as the capacity of a flow from the readout token down to each token of the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import torch

from captum_attn.core.observers import InfluenceObserver
from captum_attn.functional import maximum_flows
from captum_attn.methods.attribution import CommonArguments, Explained, OnePassAttribution
from captum_attn.methods.rollout import check_residual
from captum_attn.methods.token_relevance import check_one_stack
from captum_attn.token_attributions import TokenAttributions


class AttentionFlow(OnePassAttribution):
    """The largest flow that the attention graph can carry from the readout token to a token of the input.

    Each layer's tokens are nodes. An edge from token i above layer l to token j below it has the capacity
    residual · [i = j] + (1 − residual) · A_l[i, j], A_l the mean attention of the layer's heads. A token's value is the
    maximum flow from the readout token at the top to it alone; from the mean of several, each has its weight as
    capacity. Values lie in [0, 1], and do not sum to what flows to all tokens at once.

    Attention flows are Shapley values, layer by layer, where attention weights are none (Ethayarajh and Jurafsky 2021,
    2105.14652): of the game in which a set of tokens is worth what it carries in one flow to all of them. That flow is
    not unique; :class:`captum_attn.GeneralizedAttentionFlow` takes the central one.

    In deep models, what is narrow near the readout token bounds the flow to every token alike: in a BERT of six layers
    values are nearly equal, and their ranking was no more faithful than random scores (``examples/benchmarks`` has
    figures).

    One forward pass, no gradients; then one maximum flow for each player, by SciPy's Dinic on integers, 2⁻³⁰ apart.
    The time of one grows with its L N² edges, so that a text takes L N³ or somewhat more: on six layers .06 s for 64
    tokens, .3 s for 128; ``examples/benchmarks`` has figures. ``internal_batch_size=1, show_progress=True`` shows how
    far it is.

    Args:
        residual: the share of the residual connection in each layer, in [0, 1).
        model, layers, heads, readout, tokenizer, additional_forward_arg_names: see
            :class:`captum_attn.AttentionAttribution`. Layers that do not count are left out.

    Raises:
        ValueError: another share; encoder-decoder models, when called.

    Example:
        >>> from captum_attn import AttentionFlow
        >>> AttentionFlow(model, tokenizer=tokenizer).attribute(batch).shape
        torch.Size([2, 6])

    Source: Abnar and Zuidema 2020, *Quantifying Attention Flow in Transformers*, 2005.00928, section 3.
    """

    what = "flow from the readout token through attention"

    needs_gradients = False

    def __init__(self, model: Callable[..., Any], *, residual: float = 0.5, **common: Unpack[CommonArguments]) -> None:
        check_residual(residual)
        super().__init__(model, **common)
        self.residual = residual

    def observer(self, explained: Explained) -> InfluenceObserver:
        check_one_stack(explained.run, "attention flow")
        return InfluenceObserver(explained.run.watched(self.layers, self.heads), "attention", per="layer")

    def solve(self, explained: Explained, observer: InfluenceObserver) -> TokenAttributions:
        identity = torch.eye(explained.run.length, dtype=torch.double, device=observer.influence.device)
        capacities = self.residual * identity + (1 - self.residual) * observer.influence.double()
        readout = explained.readout.weights()
        values = torch.zeros_like(explained.players, dtype=observer.influence.dtype)
        for example, members in enumerate(explained.players):
            flows = maximum_flows(capacities[example], readout[example], members.nonzero().flatten().tolist())
            values[example, members] = flows.to(values)
        return explained.attributions(values)
