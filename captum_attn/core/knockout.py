"""Attention knockout: run a model in which no token may attend to chosen tokens.

An intervention on internal states, not on the input: the chosen tokens keep their own states, but their keys are
blocked for every query, themselves included. The other attention probabilities of a query grow in proportion, as its
softmax makes them; a query that is left with nothing to attend to gets zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.forward import plain_output
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.intercept import AttentionIntercept, Kernel
from captum_attn.core.masks import causal_mask, closed_rows, open_keys
from captum_attn.core.no_matrix import NoMatrixError
from captum_attn.core.run import ObservedForward

NO_KNOCKOUT = (
    "the model attends in windows or on coarser grids, where a key is no token that could be blocked by itself: take "
    "tokens away by replacing them in the input, interventions=('replacement',)"
)


def knocked_out_output(
    model: Callable[..., Any], inputs: ModelInputs, blocked: Tensor, calls: Mapping[int, int] | None
) -> Tensor:
    """The model's output while no query attends to the blocked tokens. The model is left as it was.

    Args:
        model: a module, or a function of the inputs that calls one (in eval mode).
        inputs: one batch.
        blocked: bool (B, N), the tokens whose keys are blocked.
        calls: which of the forward pass's attention calls are concerned: see :func:`knockout_calls`; None where it
            knows none.

    Returns:
        Scores (B, C) or (B, N, C), detached.

    Raises:
        ValueError: no calls; ``blocked`` does not fit the attention.

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
    if calls is None:
        raise NoMatrixError(NO_KNOCKOUT)
    with AttentionKnockout(blocked, calls):
        return plain_output(model, inputs)


def knockout_calls(run: ObservedForward, layers: Sequence[int] | None = None) -> dict[int, int]:
    """The attention calls, by number, whose keys are the input's tokens, and by how many places these are shifted.

    Args:
        run: a forward pass on inputs of the same kind.
        layers: some of its layers; negative ones count from the end. None for all, and then, in an encoder-decoder
            model, for the cross attention, and for a decoder that reads the input again, shifted by one token (T5's and
            BART's classifiers).

    Raises:
        IndexError: a layer that the model does not have.
        ValueError: keys that are no tokens, as in windows or on coarser grids.
    """
    if run.places:
        raise NoMatrixError(NO_KNOCKOUT)
    chosen = [run.calls[layer] for layer in run.resolved_layers(layers)]
    calls = {number: call.first_token for call in chosen for number in call.numbers}
    return calls if layers is not None else {**calls, **run.decoder_calls()}


class AttentionKnockout(AttentionIntercept):
    """Block keys in the forward pass that runs inside this context, in this thread.

    Args:
        blocked: bool (B, N), the tokens whose keys are blocked.
        calls: the attention calls that are concerned, by number in the order in which they run, and how many places
            the tokens are shifted in each.
    """

    def __init__(self, blocked: Tensor, calls: Mapping[int, int]) -> None:
        super().__init__(len(blocked))
        self._blocked, self._calls = blocked, calls

    def fused(
        self, number: int, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        blocked = self._blocked_keys(number, (len(query), 1, query.shape[2], key.shape[2]), query.device)
        if blocked is None:
            return kernel(query, key, value, mask)
        if kernel.is_causal:
            mask = causal_mask(query.shape[2], key.shape[2], query.device)
        if mask is None or mask.dtype == torch.bool:
            left = ~blocked if mask is None else mask & ~blocked
            blind = closed_rows(left)
        else:
            left = torch.where(blocked, -torch.inf, mask)
            blind = closed_rows(open_keys(mask) & ~blocked)  # low numbers alone are nothing to attend to
        output = Kernel(False, kernel.scale, kernel.enable_gqa)(query, key, value, left)
        return output.masked_fill(blind, 0.0)

    def eager(self, number: int, probabilities: Tensor, scores: Tensor) -> Tensor:
        by_head = self.by_head(probabilities)
        blocked = self._blocked_keys(number, by_head.shape, scores.device)
        if blocked is None:
            return probabilities
        left = self.by_head(scores).masked_fill(blocked, -torch.inf).softmax(-1, dtype=probabilities.dtype)
        return left.masked_fill(closed_rows((by_head > 0) & ~blocked), 0.0).view_as(probabilities)

    def _blocked_keys(self, number: int, shape: Sequence[int], device: torch.device) -> Tensor | None:
        """The blocked keys (B, 1, 1, K) of an attention of that shape; None where it is not concerned."""
        if number not in self._calls:
            return None
        batch, length = self._blocked.shape
        with_a_sink = shape[3] == shape[2] + 1 == length + 1
        if batch != shape[0] or not (shape[3] == length or with_a_sink):
            raise ValueError(
                f"attention has {shape[3]} keys in a batch of {shape[0]}, so blocked must have the shape "
                f"{(shape[0], shape[3])}, got {tuple(self._blocked.shape)}"
            )
        shift = self._calls[number]
        moved = torch.nn.functional.pad(self._blocked, (shift, shape[3] - length - shift))
        return moved[:, None, None].to(device)
