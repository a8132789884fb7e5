"""Attention knockout: run a model in which no token may attend to chosen tokens.

An intervention on internal states, not on the input: the chosen tokens keep their own states, but their keys are
blocked for every query, themselves included. The other attention probabilities of a query grow in proportion, as its
softmax makes them; a query that is left with nothing to attend to gets zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.inputs import ModelInputs
from captum_attn.core.intercept import AttentionIntercept, Kernel
from captum_attn.core.models import unwrapped
from captum_attn.core.run import ObservedForward, plain_output


def knocked_out_output(
    model: Callable[..., Any], inputs: ModelInputs, blocked: Tensor, calls: Collection[int]
) -> Tensor:
    """The model's output while no query attends to the blocked tokens. The model is left as it was.

    Args:
        model: a module, or a function of the inputs that calls one (in eval mode).
        inputs: one batch.
        blocked: bool (B, N), the tokens whose keys are blocked.
        calls: which of the forward pass's attention calls are concerned: see :func:`knockout_calls`.

    Returns:
        Scores (B, C) or (B, N, C), detached.

    Raises:
        ValueError: ``blocked`` does not fit the attention.

    Example:
        >>> from captum_attn.core import mapping_inputs, observed_forward
        >>> inputs = mapping_inputs(model, batch)
        >>> with observed_forward(model, inputs, gradients=False) as run:
        ...     calls = knockout_calls(run)
        >>> second = torch.zeros(2, 6, dtype=torch.bool)
        >>> second[:, 1] = True
        >>> knocked_out_output(model, inputs, second, calls).shape
        torch.Size([2, 2])

    Source: Geva, Bastings, Filippova, Globerson 2023, *Dissecting Recall of Factual Associations*, for the name; here
    every query is concerned.
    """
    with AttentionKnockout(unwrapped(model), blocked, calls):
        return plain_output(model, inputs)


def knockout_calls(run: ObservedForward, layers: Sequence[int] | None = None) -> frozenset[int]:
    """The attention calls, by number, whose keys are the input's tokens.

    Args:
        run: a forward pass on inputs of the same kind.
        layers: some of its layers; negative ones count from the end. None for all, and then for the cross attention of
            an encoder-decoder model, too.

    Raises:
        IndexError: a layer that the model does not have.
    """
    numbers = {run.calls[layer].layer for layer in run.resolved_layers(layers)}
    return frozenset(numbers if layers is not None else numbers | run.cross_attention)


class AttentionKnockout(AttentionIntercept):
    """Block keys in the forward pass that runs inside this context, in this thread.

    Args:
        model: as in :class:`~captum_attn.core.intercept.AttentionIntercept`.
        blocked: bool (B, N), the tokens whose keys are blocked.
        calls: the numbers of the attention calls that are concerned, in the order in which they run.
    """

    def __init__(self, model: Callable[..., Any], blocked: Tensor, calls: Collection[int]) -> None:
        super().__init__(model)
        self._blocked, self._calls, self._seen = blocked, frozenset(calls), 0

    def fused(self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        if not self._concerned():
            return kernel(query, key, value, mask)
        blocked = self._keys((len(query), 1, query.shape[2], key.shape[2]))
        if kernel.is_causal:
            mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
        if mask is None or mask.dtype == torch.bool:
            left = ~blocked if mask is None else mask & ~blocked
            blind = ~left.any(-1, keepdim=True)
        else:
            left = torch.where(blocked, -torch.inf, mask)
            blind = _blinded(mask, left)
        output = Kernel(False, kernel.scale, kernel.enable_gqa)(query, key, value, left)
        return output.masked_fill(blind, 0.0)

    def eager(self, probabilities: Tensor, scores: Tensor, shape: tuple[int, ...]) -> Tensor:
        if not self._concerned():
            return probabilities
        scores = scores.view(shape)
        left = scores.masked_fill(self._keys(shape), -torch.inf)
        blind = _blinded(scores, left)
        return left.softmax(-1, dtype=probabilities.dtype).masked_fill(blind, 0.0).view_as(probabilities)

    def _concerned(self) -> bool:
        self._seen += 1
        return self._seen - 1 in self._calls

    def _keys(self, shape: tuple[int, ...]) -> Tensor:
        """The blocked keys (B, 1, 1, K) of an attention of that shape."""
        if self._blocked.shape != (shape[0], shape[3]):
            raise ValueError(
                f"attention has {shape[3]} keys in a batch of {shape[0]}, so blocked must have the shape "
                f"{(shape[0], shape[3])}, got {tuple(self._blocked.shape)}"
            )
        return self._blocked[:, None, None]


def _blinded(before: Tensor, left: Tensor) -> Tensor:
    """bool (..., 1): the queries that have no key left; those that never had one but by convention keep to it.

    Models mask keys by the lowest finite number, so that eager code gives a query without keys the same probability for
    all.
    """
    lowest = torch.finfo(left.dtype).min / 2
    most, had = left.amax(-1, keepdim=True), before.amax(-1, keepdim=True) > lowest
    return ((most <= lowest) & had) | most.isneginf()
