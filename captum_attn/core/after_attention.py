"""What attention layers add to the states of tokens: values, output projection, residual connection, layer norm.

After its attention, a transformer projects what the heads mixed, adds the token's own state, and, in the original
("post-norm") design, normalizes the sum. These are functions of tensors, by which they are recognized: the projection
takes what the attention returned, the sum takes what the projection returned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_attn.core.capture import AttentionCapture
from captum_attn.core.tiles import widen

__all__ = ["AfterAttention", "AfterAttentionCapture", "LayerNorm"]


@dataclass(frozen=True)
class LayerNorm:
    """A layer norm at one place of the model: for given statistics, a linear function of what is normalized.

    Attributes:
        spread: (B, N, 1), 1 / standard deviation of each token's state.
        weight: (D,), or None.
    """

    spread: Tensor
    weight: Tensor | None

    def linear_part(self, vectors: Tensor) -> Tensor:
        """Vectors (..., D), centred and weighted, but not yet multiplied by the spread of the token they go to."""
        centred = vectors - vectors.mean(-1, keepdim=True)
        return centred if self.weight is None else centred * self.weight


@dataclass
class AfterAttention:
    """What followed one attention call, as far as it was seen.

    Attributes:
        value: (B, H or H_kv, K, d), what the heads mix.
        projection: (D, H d), the weight of the output projection, a layer scale included; None where there was none, or
            more than one, such as adapters.
        residual: (B, N, D), the state that the projected mixture is added to.
        norm: the layer norm right after the sum; None where the sum goes on without.
    """

    value: Tensor
    projection: Tensor | None = None
    residual: Tensor | None = None
    norm: LayerNorm | None = None


@dataclass(frozen=True)
class _Step:
    """A function of tensors that ran, and what it returned."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Tensor

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument, by its place or its name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def takes(self, tensor: Tensor) -> bool:
        """Whether the tensor is among the arguments, in whatever form."""
        return any(_is(part, tensor) for part in self.args)

    def others(self, tensor: Tensor) -> list[Any]:
        """The arguments but for the tensor."""
        return [part for part in self.args if not _is(part, tensor)]

    def weighted(self) -> tuple[Tensor, Tensor] | None:
        """What a linear layer takes, and its weight (out, in); None of other functions."""
        if self.func is F.linear:
            return self.argument(0, "input"), self.argument(1, "weight")
        if self.func is torch.addmm and len(self.args) == 3:  # GPT-2's Conv1D
            return self.args[1], self.args[2].mT
        return None


@dataclass
class _Trail:
    """Where the output of the last attention call is now."""

    after: AfterAttention
    mixed: Tensor
    projected: Tensor | None = None
    taken: Tensor | None = None
    total: Tensor | None = None
    normalized: Tensor | None = None
    norm: LayerNorm | None = None
    made_since: list[Tensor] = field(default_factory=list)


class AfterAttentionCapture(TorchFunctionMode):
    """Record what follows each attention call of the forward pass that runs inside this context, in this thread.

    Args:
        attention: counts the calls of the same forward pass; its context is to be entered inside this one.

    Attributes:
        found: by number of the attention call.
    """

    def __init__(self, attention: AttentionCapture) -> None:
        super().__init__()
        self._attention = attention
        self.found: dict[int, AfterAttention] = {}
        self._trail: _Trail | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        state = None if self._trail is None else _state_that_is_overwritten(self._trail, func, args)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.is_floating_point():
            self._follow(_Step(func, args, kwargs, result))
            if self._trail is not None and state is not None and self._trail.total is result:
                self._trail.after.residual = state
        return result

    def _follow(self, step: _Step) -> None:
        call = self._attention.latest
        if step.func is F.scaled_dot_product_attention:
            self._begin(step.argument(2, "value"), step.result)
        elif step.func in _PRODUCTS and call and call.layer not in self.found and _mixes(step.args, call.shape):
            batch, heads, queries, _ = call.shape
            value = step.args[1]
            self._begin(value.reshape(batch, heads, *value.shape[-2:]), step.result.view(batch, heads, queries, -1))
        elif self._trail is not None:
            self._go_on(self._trail, step)

    def _begin(self, value: Tensor, mixed: Tensor) -> None:
        """An attention call returned what its heads mixed, (B, H, Q, d)."""
        value, mixed = (part if part.dim() == 4 else part.unsqueeze(1) for part in (value, mixed))
        after = AfterAttention(value.detach())
        if self._attention.latest is not None:
            self.found[self._attention.latest.layer] = after
        self._trail = _Trail(after, mixed)

    def _go_on(self, trail: _Trail, step: _Step) -> None:
        weighted = step.weighted()
        if weighted is not None and trail.projected is None:
            if _rearranged(trail.mixed, weighted[0]):
                trail.taken, trail.projected, trail.after.projection = weighted[0], step.result, weighted[1].detach()
        elif weighted is not None and trail.taken is not None and _is(weighted[0], trail.taken):
            self._lose_projection(trail)  # a second one of the same states
        elif trail.total is not None:
            self._find_norm(trail, trail.total, step)
        elif trail.projected is not None and step.takes(trail.projected):
            self._find_residual(trail, trail.projected, step)
        trail.made_since.append(step.result)

    def _lose_projection(self, trail: _Trail) -> None:
        """What is added to the state is no known linear function of what the heads mixed."""
        trail.after.projection, self._trail = None, None

    def _find_residual(self, trail: _Trail, projected: Tensor, step: _Step) -> None:
        """Follow the projected mixture through changes of its form and a layer scale to the sum."""
        others = step.others(projected)
        if step.func in _PRODUCTS_OF_ENTRIES:
            self._scale(trail, others[0] if others else projected, step.result)
        elif step.func in _FUSED_SUMS or (step.func in _SUMS and step.kwargs):  # weighted ones
            self._lose_projection(trail)
        elif step.func in _SUMS:
            self._add(trail, others[0] if others else None, step.result)

    def _scale(self, trail: _Trail, factor: Any, result: Tensor) -> None:
        """A layer scale counts as part of the projection; after a norm or a gate, there is no sum to be found."""
        weight, scale = trail.after.projection, torch.as_tensor(factor, device=result.device)
        of_channels = scale.shape[-1:] == result.shape[-1:] and scale.numel() == result.shape[-1]
        if weight is None or not (of_channels or scale.numel() == 1):
            self._trail = None
        else:
            trail.after.projection, trail.projected = weight * scale.detach().to(weight).view(-1, 1), result

    def _add(self, trail: _Trail, state: Any, result: Tensor) -> None:
        """A state from before the projection is the residual; one made since is another branch of parallel blocks."""
        here = isinstance(state, Tensor) and state.shape == result.shape
        if here and not any(_is(state, made) for made in trail.made_since):
            trail.after.residual, trail.total = state.detach(), result
        else:
            self._trail = None

    def _find_norm(self, trail: _Trail, total: Tensor, step: _Step) -> None:
        """A layer norm of the sum belongs to this layer if the next sum takes what it returned, not the sum itself."""
        if step.func is F.layer_norm and trail.normalized is None and _is(step.argument(0, "input"), total):
            weight, eps = step.argument(2, "weight"), step.argument(4, "eps", 1e-5)
            spread = torch.rsqrt(widen(total.detach()).var(-1, correction=0, keepdim=True) + eps)
            trail.normalized = step.result
            trail.norm = LayerNorm(spread, None if weight is None else widen(weight.detach()))
        elif step.func in _SUMS and trail.normalized is not None:
            if step.takes(trail.normalized):
                trail.after.norm, self._trail = trail.norm, None
            elif step.takes(total):
                self._trail = None


def _state_that_is_overwritten(trail: _Trail, func: Any, args: tuple[Any, ...]) -> Tensor | None:
    """A copy of the state to which the projected mixture is about to be added in place."""
    if func not in _SUMS_IN_PLACE or trail.projected is None or trail.total is not None or len(args) < 2:
        return None
    state, added = args[:2]
    adds = isinstance(state, Tensor) and _is(added, trail.projected)
    return state.detach().clone() if adds else None


def _is(part: Any, tensor: Tensor) -> bool:
    """Whether an argument holds the same numbers as the tensor in the same memory, in whatever form."""
    return isinstance(part, Tensor) and part.data_ptr() == tensor.data_ptr() and part.numel() == tensor.numel()


def _mixes(args: tuple[Any, ...], shape: tuple[int, int, int, int]) -> bool:
    """Whether a product's factors have the form of probabilities (B, H, Q, K) and of values."""
    batch, heads, queries, keys = shape
    left, right = args[:2] if len(args) > 1 else (None, None)
    if not isinstance(left, Tensor) or not isinstance(right, Tensor) or right.shape[-2:-1] != (keys,):
        return False
    return tuple(left.shape) in ((batch, heads, queries, keys), (batch * heads, queries, keys))


def _rearranged(mixed: Tensor, states: Tensor) -> bool:
    """Whether states are the heads' mixture (B, H, N, d) with the heads side by side, batch or tokens first."""
    if states.numel() != mixed.numel() or states.shape[-1] != mixed.shape[1] * mixed.shape[3]:
        return False
    forms = (mixed.permute(0, 2, 1, 3), mixed.permute(2, 0, 1, 3))
    return any(torch.equal(states.reshape(form.shape), form) for form in forms)


_PRODUCTS = frozenset({torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__})
_PRODUCTS_OF_ENTRIES = frozenset(
    {
        torch.mul,
        torch.multiply,
        Tensor.mul,
        Tensor.multiply,
        Tensor.__mul__,
        Tensor.__rmul__,
        Tensor.mul_,
        Tensor.__imul__,
    }
)
_SUMS_IN_PLACE = frozenset({Tensor.add_, Tensor.__iadd__})
_SUMS = frozenset({torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__}) | _SUMS_IN_PLACE
_FUSED_SUMS = frozenset({torch.addcmul, Tensor.addcmul, torch.addcdiv, Tensor.addcdiv, torch.lerp, Tensor.lerp})
