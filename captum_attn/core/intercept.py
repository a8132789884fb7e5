"""Meet each attention that a model computes: to observe it (:mod:`capture`) or to change it (:mod:`knockout`).

:class:`AttentionIntercept` is a :class:`~torch.overrides.TorchFunctionMode`: it sees the torch functions that a model
calls in this thread and needs no hook, no configuration change and no ``output_attentions``. Attention is either fused
(``scaled_dot_product_attention``) or spelled out in eager code, where it is known by its softmax. Which softmaxes are
attention is for the subclass to say; all of them are counted, so that every pass gives a call the same number.
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
    """Hand every attention of the forward pass that runs inside this context, in this thread, to a subclass.

    Args:
        examples: the batch size B, by which heads are told from examples where both share a dimension. None: such
            attention counts as of one head.

    Attributes:
        seen: how many calls there were so far, fused ones and softmaxes of two dimensions or more.
        packed: whether the fused attention at hand was given with examples and heads in one dimension.
    """

    def __init__(self, examples: int | None = None) -> None:
        super().__init__()
        self.seen = 0
        self.packed = False
        self._examples = examples
        self._packed_heads: int | None = None

    @abstractmethod
    def fused(
        self, number: int, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """What the fused attention with this number returns, of (B, H, N, d) tensors."""

    @abstractmethod
    def eager(self, number: int, probabilities: Tensor, scores: Tensor) -> Tensor:
        """What the softmax with this number returns: over the last dimension of ``scores``, (..., Q, K)."""

    def sideways(self, number: int, scores: Tensor) -> None:
        """Take note of a softmax over another dimension, or of its logarithm, whose result nothing changes."""

    def by_head(self, scores: Tensor) -> Tensor:
        """Scores or probabilities as (B, H, Q, K): given so, as (B · H, Q, K), or with heads in groups."""
        if scores.dim() == 4:
            return scores
        batch = len(scores) // self._packed_heads if self._packed_heads else self._examples or len(scores)
        batch = len(scores) if len(scores) % batch else batch
        return scores.reshape(batch, -1, *scores.shape[-2:])

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if func in _SOFTMAX:
            return self._softmax(func(*args, **kwargs), *args, **kwargs)
        if func in _LOG_SOFTMAX:
            self.sideways(self.seen, args[0])
        if func is F.softmin:
            return self._softmax(func(*args, **kwargs), -args[0], *args[1:], **kwargs)
        if func is F.multi_head_attention_forward:
            return self._packed(*args, **kwargs)
        return func(*args, **kwargs)

    def _number(self) -> int:
        self.seen += 1
        return self.seen - 1

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
        kernel = Kernel(is_causal, scale, enable_gqa)
        if query.dim() == 4:
            return self.fused(self._number(), kernel, query, key, value, attn_mask)
        if query.dim() != 3:
            raise ValueError(
                f"scaled_dot_product_attention on a query of shape {tuple(query.shape)} cannot be explained: expected "
                "(batch, heads, tokens, width)"
            )
        mask = attn_mask if attn_mask is None or attn_mask.dim() < 3 else self.by_head(attn_mask)
        query, key, value = map(self.by_head, (query, key, value))
        self.packed = True
        try:
            return self.fused(self._number(), kernel, query, key, value, mask).flatten(0, 1)
        finally:
            self.packed = False

    def _softmax(self, probabilities: Tensor, input: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Tensor:
        if probabilities.dim() < 2:
            return probabilities
        number = self._number()
        if dim in (-1, probabilities.dim() - 1):
            return self.eager(number, probabilities, input)
        self.sideways(number, input)
        return probabilities

    def _packed(self, *args: Any, **kwargs: Any) -> Any:
        """``F.multi_head_attention_forward`` with this mode on inside, where its attention is computed."""
        self._packed_heads = args[4] if len(args) > 4 else kwargs["num_heads"]
        try:
            with self:
                return _multi_head_attention_inside(*args, **kwargs)
        finally:
            self._packed_heads = None


_LOG_SOFTMAX = frozenset({F.log_softmax, torch.log_softmax, Tensor.log_softmax})
_SOFTMAX = frozenset({F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax})

# F.multi_head_attention_forward hands itself to an active mode, so that a mode sees it and not the attention inside.
# This is the same function without that first step.
_multi_head_attention_inside = FunctionType(
    F.multi_head_attention_forward.__code__,
    {**F.multi_head_attention_forward.__globals__, "has_torch_function": lambda tensors: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)
