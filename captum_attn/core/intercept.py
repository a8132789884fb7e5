"""Meet each attention that a model computes: to observe it (:mod:`capture`) or to change it (:mod:`knockout`).

:class:`AttentionIntercept` is a :class:`~torch.overrides.TorchFunctionMode`: it sees the torch functions that a model
calls in this thread and needs no hook, no configuration change and no ``output_attentions``. Attention is either fused
(``scaled_dot_product_attention``) or spelled out in eager code, where it is known by its softmax.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Kernel:
    """PyTorch's fused attention with the options of one call, without dropout."""

    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=self.is_causal, scale=self.scale, enable_gqa=self.enable_gqa
        )


class AttentionIntercept(TorchFunctionMode, ABC):
    """Hand every attention of the forward pass that runs inside this context, in this thread, to a subclass."""

    def __init__(self) -> None:
        super().__init__()
        self._packed_heads: int | None = None

    @abstractmethod
    def fused(self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """What a fused attention of (B, H, N, d) tensors returns."""

    @abstractmethod
    def eager(self, probabilities: Tensor, scores: Tensor, shape: tuple[int, ...]) -> Tensor:
        """What an eager attention's softmax of ``scores`` returns, (B, H, Q, K) = ``shape`` or (B · H, Q, K)."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if func in _SOFTMAX:
            return self._softmax(func(*args, **kwargs), *args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._packed(*args, **kwargs)
        return func(*args, **kwargs)

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if query.dim() == 3:  # one head
            mask = attn_mask if attn_mask is None or attn_mask.dim() < 3 else attn_mask.unsqueeze(1)
            query, key, value = (tensor.unsqueeze(1) for tensor in (query, key, value))
            return self.fused(Kernel(is_causal, scale), query, key, value, mask).squeeze(1)
        if query.dim() != 4:
            raise ValueError(
                f"scaled_dot_product_attention on a query of shape {tuple(query.shape)} cannot be explained: expected "
                "(batch, heads, tokens, width)"
            )
        return self.fused(Kernel(is_causal, scale, enable_gqa), query, key, value, attn_mask)

    def _softmax(self, probabilities: Tensor, input: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Tensor:
        """A softmax over the keys of (B, H, Q, K) scores is attention; any other is none of ours."""
        if dim not in (-1, probabilities.dim() - 1):
            return probabilities
        if probabilities.dim() == 3 and self._packed_heads is not None:
            batch = len(probabilities) // self._packed_heads
            return self.eager(probabilities, input, (batch, self._packed_heads, *probabilities.shape[1:]))
        return self.eager(probabilities, input, tuple(probabilities.shape)) if input.dim() == 4 else probabilities

    def _packed(self, *args: Any, **kwargs: Any) -> Any:
        """``F.multi_head_attention_forward`` with this mode on inside, where its attention is computed."""
        self._packed_heads = args[4] if len(args) > 4 else kwargs["num_heads"]
        try:
            with self:
                return _multi_head_attention_inside(*args, **kwargs)
        finally:
            self._packed_heads = None


_SOFTMAX = frozenset({F.softmax, torch.softmax, Tensor.softmax})

# F.multi_head_attention_forward hands itself to an active mode, so that a mode sees it and not the attention inside.
# This is the same function without that first step.
_multi_head_attention_inside = FunctionType(
    F.multi_head_attention_forward.__code__,
    {**F.multi_head_attention_forward.__globals__, "has_torch_function": lambda tensors: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)
