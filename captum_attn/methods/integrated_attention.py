"""Attention times its gradient, integrated while a layer's attention is turned on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor

from captum_attn.core import observed_forward
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.readout import KnownRows
from captum_attn.core.targets import as_tuples
from captum_attn.functional import gauss_legendre
from captum_attn.methods.attribution import (
    AttentionAttribution,
    CommonArguments,
    Explained,
    TargetsOfEach,
    copies_at_once,
)
from captum_attn.methods.token_relevance import Rows, check_rows
from captum_attn.token_attributions import TokenAttributions


class IntegratedAttention(AttentionAttribution):
    """Integrated gradients of attention: A ⊙ ∫₀¹ ∂F(α A) / ∂A dα in each layer, from no attention to the model's own.

    F is the explained output as a function of one layer's attention A, all of whose heads are multiplied by α; the
    other layers attend as they do. What A_h[i, j] gets is the influence of token j on token i; the mean over layers and
    heads of its columns, or of the readout token's row, are the tokens' values. Signed. Completeness: all that the
    heads, queries and keys of a layer get sums to F(A) − F(0), so that with ``"incoming"`` rows the values of all N
    tokens, if all play, sum to the mean of that over the layers, divided by the number of heads.

    ``n_steps`` forward and backward passes for each layer that counts: on six layers, 120 by default, several at a time
    while these have no more than 2,048 tokens together.

    Args:
        rows: ``"incoming"``, the influence of a token on all tokens that are no padding, or ``"readout"``.
        n_steps: points of the Gauss-Legendre quadrature (the paper takes a sum at 20 equally spaced points).
        model, layers, heads, readout, tokenizer, additional_forward_arg_names, propagation: see
            :class:`captum_attn.AttentionAttribution`.

    Raises:
        ValueError: other rows, or fewer than one step.

    Example:
        >>> from captum_attn import IntegratedAttention
        >>> IntegratedAttention(model, n_steps=4, tokenizer=tokenizer).attribute(batch, target=1).shape
        torch.Size([2, 6])

    Source: Hao, Dong, Wei, Xu 2021, *Self-Attention Attribution*, 2004.11207, equations 3 and 4. They integrate the
    probability of a class; here it is the explained output itself, a logit, as in the package's other methods.
    """

    what = "attention times its gradient, integrated from no attention on"

    needs_gradients = True

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        rows: Rows = "incoming",
        n_steps: int = 20,
        **common: Unpack[CommonArguments],
    ) -> None:
        check_rows(rows)
        if not isinstance(n_steps, int) or n_steps < 1:
            raise ValueError(f"n_steps must be a number of at least 1, got {n_steps!r}")
        super().__init__(model, **common)
        self.rows, self.n_steps = rows, n_steps

    def explain(self, batch: ModelInputs, targets: TargetsOfEach) -> list[TokenAttributions]:
        with observed_forward(self.forward_func, batch, gradients=False) as run:
            layers = run.resolved_layers(self.layers)
            whole = list(self.explained(run, targets))
        return [explained.attributions(self._integral(batch, explained, layers)) for explained in whole]

    def _integral(self, batch: ModelInputs, explained: Explained, layers: list[int]) -> Tensor:
        """(B, N): the mean over layers of what tokens get while each layer's attention grows."""
        factors, weights = gauss_legendre(self.n_steps)
        at_once = copies_at_once(explained.real)
        parts = [
            torch.einsum("s,sbn->bn", weight.to(influence), influence)
            for layer in layers
            for weight, factor in zip(weights.split(at_once), factors.split(at_once), strict=True)
            for influence in [self._influence(batch, explained, layer, factor)]
        ]
        return torch.stack(parts).sum(0) / len(layers)

    def _influence(self, batch: ModelInputs, explained: Explained, layer: int, factors: Tensor) -> Tensor:
        """A ⊙ ∂F(α A) / ∂(α A) of one layer at S factors α, its rows under their weights: (S, B, N)."""
        copies = torch.arange(len(batch), device=batch.features.device).repeat(len(factors))
        each = factors.repeat_interleave(len(batch))
        targets = as_tuples(explained.selection.targets.repeat(len(factors), 1))
        numbers = explained.run.calls[layer].numbers
        with observed_forward(
            self.forward_func, batch[copies], scaled=(numbers, each), propagation=self.propagation
        ) as run:
            (copy,) = self.explained(run, [targets])
            influence = run.influence(
                copy.selection.scores,
                variant="signed",
                layers=[layer],
                heads=self.heads,
                row_weights=KnownRows(copy.real) if self.rows == "incoming" else copy.readout,
            )
        integrand = influence / each.to(influence).unsqueeze(-1)
        return integrand.view(len(factors), len(batch), -1)
