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
            self._follow(func, args, kwargs, result)
            if self._trail is not None and state is not None and self._trail.total is result:
                self._trail.after.residual = state
        return result

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
        call = self._attention.latest
        if func is F.scaled_dot_product_attention:
            self._begin(args[2] if len(args) > 2 else kwargs["value"], result)
        elif func in _PRODUCTS and call and call.layer not in self.found and _mixes(args, call.shape):
            batch, heads, queries, _ = call.shape
            self._begin(args[1].reshape(batch, heads, *args[1].shape[-2:]), result.view(batch, heads, queries, -1))
        elif self._trail is not None:
            self._step(self._trail, func, args, kwargs, result)

    def _begin(self, value: Tensor, mixed: Tensor) -> None:
        """An attention call returned what its heads mixed, (B, H, Q, d)."""
        value, mixed = (part if part.dim() == 4 else part.unsqueeze(1) for part in (value, mixed))
        after = AfterAttention(value.detach())
        if self._attention.latest is not None:
            self.found[self._attention.latest.layer] = after
        self._trail = _Trail(after, mixed)

    def _step(self, trail: _Trail, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
        after = trail.after
        weighted = _weighted(func, args, kwargs)
        if weighted is not None and trail.projected is None:
            if _rearranged(trail.mixed, weighted[0]):
                trail.taken, trail.projected, after.projection = weighted[0], result, weighted[1].detach()
        elif weighted is not None and trail.taken is not None and same_place(weighted[0], trail.taken):
            after.projection, self._trail = None, None  # a second projection of the same states
        elif trail.projected is not None and trail.total is None:
            self._find_residual(trail, func, args, kwargs, result)
        elif trail.total is not None:
            self._find_norm(trail, func, args, kwargs, result)
        trail.made_since.append(result)

    def _find_residual(
        self, trail: _Trail, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
    ) -> None:
        """Follow the projected mixture through changes of its form and a layer scale to the sum."""
        projected: Any = trail.projected
        if not any(isinstance(part, Tensor) and same_place(part, projected) for part in args):
            return
        others = [part for part in args if not (isinstance(part, Tensor) and same_place(part, projected))]
        if func in _PRODUCTS_OF_ENTRIES and trail.after.projection is not None:
            scale = torch.as_tensor(others[0] if others else projected, device=projected.device)
            if scale.numel() != 1 and (scale.shape[-1], scale.numel()) != (projected.shape[-1],) * 2:
                self._trail = None  # a norm or a gate stands between the projection and the sum
                return
            weight = trail.after.projection
            trail.after.projection, trail.projected = weight * scale.detach().to(weight).view(-1, 1), result
        elif func in _SUMS:
            state = others[0] if others and not kwargs else None
            made = isinstance(state, Tensor) and any(same_place(state, part) for part in trail.made_since)
            if not isinstance(state, Tensor) or made or state.shape != result.shape:
                self._trail = None  # the sum of other things, as in parallel blocks
                if kwargs:
                    trail.after.projection = None  # a weighted sum
                return
            trail.after.residual, trail.total = state.detach(), result
        elif func in _FUSED_SUMS:
            trail.after.projection, self._trail = None, None

    def _find_norm(
        self, trail: _Trail, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
    ) -> None:
        """A layer norm of the sum belongs to this layer if the next sum takes what it returned, not the sum itself."""
        total: Any = trail.total
        if func is F.layer_norm and trail.normalized is None and same_place(args[0], total):
            weight = args[2] if len(args) > 2 else kwargs.get("weight")
            eps = args[4] if len(args) > 4 else kwargs.get("eps", 1e-5)
            state = widen(total.detach())
            spread = torch.rsqrt(state.var(-1, correction=0, keepdim=True) + eps)
            trail.normalized = result
            trail.norm = LayerNorm(spread, None if weight is None else widen(weight.detach()))
        elif func in _SUMS and trail.normalized is not None:
            operands = [part for part in args[:2] if isinstance(part, Tensor)]
            if any(same_place(part, trail.normalized) for part in operands):
                trail.after.norm, self._trail = trail.norm, None
            elif any(same_place(part, total) for part in operands):
                self._trail = None


def _state_that_is_overwritten(trail: _Trail, func: Any, args: tuple[Any, ...]) -> Tensor | None:
    """A copy of the state to which the projected mixture is about to be added in place."""
    if func not in _SUMS_IN_PLACE or trail.projected is None or trail.total is not None or len(args) < 2:
        return None
    state, added = args[:2]
    adds = isinstance(added, Tensor) and same_place(added, trail.projected)
    return state.detach().clone() if adds and isinstance(state, Tensor) else None


def same_place(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors hold the same numbers in the same memory, in whatever form."""
    return left.data_ptr() == right.data_ptr() and left.numel() == right.numel()


def _mixes(args: tuple[Any, ...], shape: tuple[int, int, int, int]) -> bool:
    """Whether a product's factors have the form of probabilities (B, H, Q, K) and of values."""
    batch, heads, queries, keys = shape
    left, right = args[:2] if len(args) > 1 else (None, None)
    if not isinstance(left, Tensor) or not isinstance(right, Tensor) or right.shape[-2:-1] != (keys,):
        return False
    return tuple(left.shape) in ((batch, heads, queries, keys), (batch * heads, queries, keys))


def _weighted(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """What a linear layer takes, and its weight (out, in)."""
    if func is F.linear:
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        return (args[0] if args else kwargs["input"]), weight
    if func is torch.addmm and len(args) == 3:  # GPT-2's Conv1D
        return args[1], args[2].mT
    return None


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
