"""Which tokens the states of tokens depend on by other ways than the explained attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from captum_attn.core.calls import AttentionCall, FusedCall
from captum_attn.core.origins import Entrance, Gate

Dependence = Literal["own", "others", "moved"]


def dependence_of(
    calls: Sequence[AttentionCall], gate: Gate, entrances: Sequence[Entrance], real: Tensor
) -> Dependence | None:
    """What states depend on while no gradient passes the attention that is explained.

    A backward pass from a random half of the states must reach these tokens (``own``) and no others (``others``, if it
    does; ``moved``, if the last layer's states do not reach their own).

    Args:
        calls: the explained attention, one call for each layer.
        gate, entrances: of the same forward pass.
        real: bool (B, N), the tokens that are no padding.

    Returns:
        None if the input does not come in as one vector for each token.
    """
    drawn = torch.rand(real.shape, generator=torch.Generator().manual_seed(0)).to(calls[0].like) < 0.5
    half = drawn & real
    of_last, of_all = (_reached(calls, some, gate, entrances, half.to(calls[0].like)) for some in (calls[-1:], calls))
    if of_last is None or of_all is None:
        return None
    if (of_last & ~half).any() and (half & ~of_last).any():
        return "moved"
    return "others" if (of_all & ~half).any() else "own"


def _reached(
    closed: Sequence[AttentionCall],
    calls: Sequence[AttentionCall],
    gate: Gate,
    entrances: Sequence[Entrance],
    weights: Tensor,
) -> Tensor | None:
    """bool (B, N): the tokens that the states of some calls' queries, under weights (B, N), reach past closed calls."""
    states = [call.state for call in calls if call.state is not None and call.state.shape[2] == weights.shape[1]]
    given = [entrance.state for entrance in entrances]
    entered = [state for state in given if state.dim() == 3 and state.shape[:2] == weights.shape]
    of_image = not entered
    if of_image:  # its patches and other tokens as they first are together
        entered = gate.first.get(weights.shape[1], [])
    if not entered or len(states) < len(calls):
        return None
    generator = torch.Generator().manual_seed(0)
    signs = [torch.randn(state.shape, generator=generator).to(state) * weights[:, None, :, None] for state in states]
    whole = torch.stack([(state * sign).sum() for state, sign in zip(states, signs, strict=True)]).sum()
    nothing = torch.zeros_like(weights, dtype=torch.bool)
    if not whole.requires_grad:
        return nothing
    gate.closed = sum(1 << call.layer for call in closed)
    every = [part for call in closed for part in (call, *(call.parts if isinstance(call, FusedCall) else ()))]
    for call in every:
        call.observer, call.lowest = None, True
    try:
        gradients = torch.autograd.grad(whole, entered, allow_unused=True, retain_graph=True)
    finally:
        gate.closed = 0
        for call in every:
            call.lowest = False
    reached = [part.any(-1) for part in gradients if part is not None]
    if of_image and reached:  # of two, one may be a map of as many channels as there are tokens
        return torch.stack(reached).all(0)
    return torch.stack([nothing, *reached]).any(0)
