"""Attention replacement: run a model with other attention probabilities than its own.

An intervention on internal states: queries, keys and values are the model's, but what a query gathers is A' V with
probabilities A' of one's own. It is what tests of attention as explanation do to ask whether the output needs A.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.frozen import without_weights
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.intercept import AttentionIntercept, Kernel
from captum_attn.core.masks import causal_mask, closed_rows, open_keys
from captum_attn.core.models import check_differentiable, evaluation_mode, same_random_state, unwrapped
from captum_attn.core.run import ObservedForward
from captum_attn.core.scores import output_scores
from captum_attn.core.tiles import full_precision, widen

Replace = Callable[[int, Tensor, Tensor], Tensor]
"""A function of a layer, its probabilities A (B, H, Q, K), and the keys that each query may attend to, bool (B or 1,
H or 1, Q, K), that returns A' (B, H, Q, K)."""


def replaced_output(
    model: Callable[..., Any],
    inputs: ModelInputs,
    replace: Replace,
    calls: Mapping[int, int],
    gradients: bool = False,
) -> Tensor:
    """The model's output with other attention probabilities. The model is left as it was.

    Args:
        model: a module, or a function of the inputs that calls one (in eval mode).
        inputs: one batch.
        replace: gives the probabilities; see :class:`AttentionReplacement`.
        calls: which of the forward pass's attention calls are concerned: see :func:`replacement_calls`.
        gradients: whether the output carries a graph down to what ``replace`` computes from. Weights take no part in
            it.

    Returns:
        Scores (B, C) or (B, N, C).

    Raises:
        ValueError: ``replace`` returned a tensor of another shape.
        RuntimeError: gradients of weights that were made under ``torch.inference_mode()``.

    Example:
        >>> from captum_attn.core import mapping_inputs, observed_forward
        >>> inputs = mapping_inputs(model, batch)
        >>> with observed_forward(model, inputs, gradients=False) as run:
        ...     calls, output = replacement_calls(run), run.output
        >>> same = replaced_output(model, inputs, lambda layer, attention, allowed: attention, calls)
        >>> torch.allclose(same, output, atol=1e-5)
        True
        >>> def uniform(layer, attention, allowed):
        ...     return (allowed / allowed.sum(-1, keepdim=True)).expand_as(attention)
        >>> replaced_output(model, inputs, uniform, calls).shape
        torch.Size([2, 2])

    Source: Jain and Wallace 2019, *Attention is not Explanation*, section 4.2, for one layer of attention.
    """
    model = unwrapped(model)
    if gradients:
        check_differentiable(model)
    with (
        evaluation_mode(model),
        torch.inference_mode(False),
        torch.set_grad_enabled(gradients),
        same_random_state(inputs.features),
        AttentionReplacement(replace, calls, len(inputs)),
    ):
        return output_scores(inputs.call(model), len(inputs))


def replacement_calls(run: ObservedForward, layers: Sequence[int] | None = None) -> dict[int, int]:
    """The attention calls of some layers, by number, and these layers.

    Args:
        run: a forward pass on inputs of the same kind.
        layers: negative ones count from the end. None for all.

    Raises:
        IndexError: a layer that the model does not have.
        ValueError: a softmax that has a sink before the tokens.
    """
    chosen = [(run.calls[layer], layer) for layer in run.resolved_layers(layers)]
    if any(call.first_token for call, _ in chosen):
        raise ValueError("attention whose first column is a sink, not a token, cannot be replaced")
    return {number: layer for call, layer in chosen for number in call.numbers}


class AttentionReplacement(AttentionIntercept):
    """Replace attention probabilities in the forward pass that runs inside this context, in this thread.

    Weights take no part in the graph, so that gradients go to what the probabilities are made of, and nowhere else.

    Args:
        replace: gets (layer, A, allowed) and returns A', which is used as A' V: A float (B, H, Q, K), in at least
            float32, and ``allowed`` bool (B or 1, H or 1, Q, K), the keys that a query may attend to under the model's
            masks. Rows of queries that may attend to nothing are as the model has them: zero, or uniform where it masks
            by large numbers. Rows of A' need not sum to 1. Where only some heads are concerned, the others keep A.
        calls: the attention calls that are concerned, by number in the order in which they run, and the layer that
            ``replace`` knows each one by.
        examples: the batch size.
    """

    def __init__(self, replace: Replace, calls: Mapping[int, int], examples: int | None = None) -> None:
        super().__init__(examples)
        self._replace, self._calls = replace, calls

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return super().__torch_function__(func, types, *without_weights(func, args, kwargs))

    def fused(
        self, number: int, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        layer = self._calls.get(number)
        if layer is None:
            return kernel(query, key, value, mask)
        sharing = query.shape[1] // key.shape[1]  # grouped-query attention
        with full_precision(query.device.type):
            keys, values = (widen(shared).repeat_interleave(sharing, 1) for shared in (key, value))
            allowed = _allowed_keys(kernel, mask, (query.shape[2], key.shape[2]), query.device)
            scale = 1 / math.sqrt(query.shape[-1]) if kernel.scale is None else kernel.scale
            scores = widen(query) @ keys.mT * scale
            if mask is not None and mask.dtype != torch.bool:
                scores = scores + mask
            replaced = self._replaced(layer, _softmax_over(allowed, scores), allowed)
            return (replaced @ values).to(value.dtype)

    def eager(self, number: int, probabilities: Tensor, scores: Tensor) -> Tensor:
        layer = self._calls.get(number)
        if layer is None:
            return probabilities
        attention, allowed = widen(self.by_head(probabilities)), open_keys(self.by_head(scores))
        queries, keys = attention.shape[2:]
        tokens = queries if keys == queries + 1 else keys  # behind them may be a sink, which the model drops
        replaced = self._replaced(layer, attention[..., :tokens], allowed[..., :tokens])
        whole = torch.cat([replaced, attention[..., tokens:]], -1)
        return whole.to(probabilities.dtype).view_as(probabilities)

    def _replaced(self, layer: int, attention: Tensor, allowed: Tensor) -> Tensor:
        replaced = self._replace(layer, attention, allowed)
        if not isinstance(replaced, Tensor) or replaced.shape != attention.shape:
            given = tuple(replaced.shape) if isinstance(replaced, Tensor) else type(replaced).__name__
            raise ValueError(
                f"the probabilities that replace layer {layer}'s must be a tensor of the shape "
                f"{tuple(attention.shape)} (batch, heads, queries, keys), got {given}"
            )
        return replaced.to(attention.dtype)


def _allowed_keys(kernel: Kernel, mask: Tensor | None, shape: tuple[int, int], device: torch.device) -> Tensor:
    """bool (B or 1, H or 1, Q, K): what fused attention lets each query see."""
    if kernel.is_causal:
        allowed = causal_mask(*shape, device)
    elif mask is None:
        allowed = torch.ones(shape, dtype=torch.bool, device=device)
    else:
        allowed = open_keys(mask)
    wide = allowed[(None,) * (4 - allowed.dim())]
    return wide.expand(-1, -1, *shape)


def _softmax_over(allowed: Tensor, scores: Tensor) -> Tensor:
    """Probabilities of the allowed keys; zero in rows without any, as in PyTorch's kernels."""
    blind = closed_rows(allowed)
    masked = scores.masked_fill(~allowed & ~blind, -torch.inf)  # a row of -inf alone would have NaN for gradients
    return masked.softmax(-1).masked_fill(blind, 0.0)
