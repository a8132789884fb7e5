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

from captum_attn.core.inputs import ModelInputs
from captum_attn.core.intercept import AttentionIntercept, Kernel
from captum_attn.core.run import ObservedForward, plain_output


def knocked_out_output(
    model: Callable[..., Any], inputs: ModelInputs, blocked: Tensor, calls: Mapping[int, int]
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
    """
    calls = {run.calls[layer].layer: 0 for layer in run.resolved_layers(layers)}
    return calls if layers is not None else {**calls, **run.decoder_calls()}


class AttentionKnockout(AttentionIntercept):
    """Block keys in the forward pass that runs inside this context, in this thread.

    Args:
        blocked: bool (B, N), the tokens whose keys are blocked.
        calls: the attention calls that are concerned, by number in the order in which they run, and how many places
            the tokens are shifted in each.
    """

    def __init__(self, blocked: Tensor, calls: Mapping[int, int]) -> None:
        super().__init__()
        self._blocked, self._calls, self._seen = blocked, calls, -1

    def fused(self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        blocked = self._blocked_keys((len(query), 1, query.shape[2], key.shape[2]), query.device)
        if blocked is None:
            return kernel(query, key, value, mask)
        if kernel.is_causal:
            mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
        if mask is None or mask.dtype == torch.bool:
            left = ~blocked if mask is None else mask & ~blocked
            blind = ~left.any(-1, keepdim=True)
        else:
            left = torch.where(blocked, -torch.inf, mask)
            blind = left.amax(-1, keepdim=True) <= mask.amax(-1, keepdim=True) - _MASKED
        output = Kernel(False, kernel.scale, kernel.enable_gqa)(query, key, value, left)
        return output.masked_fill(blind, 0.0)

    def eager(self, probabilities: Tensor, scores: Tensor, shape: tuple[int, ...]) -> Tensor:
        blocked = self._blocked_keys(shape, scores.device)
        if blocked is None:
            return probabilities
        left = scores.view(shape).masked_fill(blocked, -torch.inf).softmax(-1, dtype=probabilities.dtype)
        open_keys = (probabilities.view(shape) > 0) & ~blocked
        return left.masked_fill(~open_keys.any(-1, keepdim=True), 0.0).view_as(probabilities)

    def _blocked_keys(self, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
        """The blocked keys (B, 1, 1, K) of the next attention, of that shape; None where it is not concerned."""
        self._seen += 1
        if self._seen not in self._calls:
            return None
        if self._blocked.shape != (shape[0], shape[3]):
            raise ValueError(
                f"attention has {shape[3]} keys in a batch of {shape[0]}, so blocked must have the shape "
                f"{(shape[0], shape[3])}, got {tuple(self._blocked.shape)}"
            )
        shift = self._calls[self._seen]
        moved = torch.nn.functional.pad(self._blocked, (shift, 0))[:, : shape[3]]
        return moved[:, None, None].to(device)


_MASKED = 1e3  # models mask by adding -inf, the lowest number, -1e9 or -1e4; biases of positions are far smaller
