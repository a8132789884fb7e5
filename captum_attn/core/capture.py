"""See every attention probability and its gradient during one forward and one backward pass.

Fused attention (``scaled_dot_product_attention``) runs as ever, and its probabilities are computed again, tile by
tile, in the backward pass. Attention spelled out in eager code is seen where its probabilities are made, in
``softmax``. :mod:`captum_attn.core.intercept` says how.
"""

from __future__ import annotations

import math
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from captum_attn.core.frozen import without_weights
from captum_attn.core.intercept import AttentionIntercept, Kernel
from captum_attn.core.tiles import Attention, Block, Tile, widen

Observer = Callable[[Tile], None]
Stack = Literal["encoder", "decoder", "cross"]


class AttentionCapture(AttentionIntercept):
    """Record the attention of the forward pass that runs inside this context, in this thread.

    Weights take no part in the graph, so a model costs what a frozen one costs and no weight can get a gradient.

    Args:
        model: names the modules that own the calls. Of a function, the first module that it calls does.
        gradients: whether :meth:`backward` will be called. If not, the forward pass builds no graph.

    Attributes:
        calls: the attention calls, in the order in which they ran.
        root: the module that was called; None until then for a function.

    Example:
        >>> with AttentionCapture(model, gradients=True) as capture:
        ...     logits = model(input_ids).logits
        >>> [call.module for call in capture.calls][:2]
        ['bert.encoder.layer.0.attention.self', 'bert.encoder.layer.1.attention.self']
        >>> strongest = {}
        >>> def observer(tile):
        ...     strongest[tile.layer] = tile.relevance.max()
        >>> _ = capture.backward(logits[:, 1].sum(), observer, layers={0, 1})
        >>> sorted(strongest)
        [0, 1]
    """

    def __init__(self, model: Callable[..., Any], gradients: bool) -> None:
        super().__init__()
        self.root = model if isinstance(model, nn.Module) else None
        self.calls: list[AttentionCall] = []
        self._gradients = gradients

    def attention(self, observer: Observer, layers: Collection[int], whole_heads: bool = False) -> None:
        """Show the probabilities of ``layers`` to ``observer``, from the top down as in a backward pass.

        Args:
            observer: gets the tiles.
            layers: the attention calls that are shown.
            whole_heads: whether each tile must hold all heads.
        """
        for layer in sorted(layers, reverse=True):
            self.calls[layer].show(observer, whole_heads)

    def backward(
        self,
        scalar: Tensor,
        observer: Observer,
        layers: Collection[int],
        retain_graph: bool = False,
        states: Sequence[Tensor] = (),
    ) -> tuple[Tensor | None, ...]:
        """Backpropagate ``scalar`` down to the lowest of ``layers``, showing (A, G) of each to ``observer``.

        Args:
            scalar: a sum of what is explained.
            observer: gets the tiles.
            layers: the attention calls that are shown.
            retain_graph: whether another scalar will be backpropagated through the same graph.
            states: hidden states, none of them below the lowest layer.

        Returns:
            The gradients of the states; None for one that ``scalar`` does not depend on.

        Raises:
            RuntimeError: ``scalar`` does not depend on the recorded attention, or one of the layers ran without a
                graph.
        """
        if not scalar.requires_grad:
            raise RuntimeError(
                "the selected output does not depend on any observed attention: it was computed under "
                "torch.no_grad() or torch.inference_mode() inside the model, or from detached states"
            )
        without_graph = [self.calls[layer].module for layer in layers if not self.calls[layer].differentiable]
        if without_graph:
            raise RuntimeError(
                f"the attention {', '.join(map(repr, without_graph))} ran under torch.no_grad() inside the model, so "
                "it has no gradient; choose other layers, or let the model compute gradients there"
            )
        for call in self.calls:
            call.observer = observer if call.layer in layers else None
            call.lowest = call.layer == min(layers)
        probes = [self.calls[layer].probe for layer in layers]
        try:
            inputs = [*states, *probes]
            gradients = torch.autograd.grad(scalar, inputs, allow_unused=True, retain_graph=retain_graph)
        finally:
            for call in self.calls:  # an observer may know the run, and the run knows the calls
                call.observer = None
        return gradients[: len(states)]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return super().__torch_function__(func, types, *without_weights(func, args, kwargs))

    def fused(self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        attention = Attention(
            query.detach(),
            key.detach(),
            value.detach(),
            mask=None if mask is None else mask.detach(),
            causal=kernel.is_causal,
            scale=1 / math.sqrt(query.shape[-1]) if kernel.scale is None else kernel.scale,
        )
        call = FusedCall(len(self.calls), self._owner(), attention)
        self.calls.append(call)
        if not self._gradients:
            return kernel(query, key, value, mask)
        observed: Tensor = _ObservedAttention.apply(call, call.probe, kernel, query, key, value, mask)
        return observed

    def eager(self, probabilities: Tensor, scores: Tensor, shape: tuple[int, ...]) -> Tensor:
        if scores.dtype == torch.float64:  # float32 probabilities of a float64 model would round the gradient
            probabilities = probabilities.double()
        call = EagerCall(len(self.calls), self._owner(), probabilities.detach().view(shape))
        self.calls.append(call)
        if not self._gradients:
            return probabilities
        observed: Tensor = _ObservedSoftmax.apply(call, call.probe, probabilities)
        return observed

    def _owner(self) -> str:
        """Name of the innermost of the model's modules that is being called."""
        called = _modules_on_the_stack()
        if self.root is None and called:
            self.root = called[-1]
        return next((self._names[id(module)] for module in called if id(module) in self._names), "")

    @cached_property
    def _names(self) -> dict[int, str]:
        named = self.root.named_modules() if self.root is not None else ()
        return {id(module): name for name, module in named}


@dataclass
class AttentionCall(ABC):
    """One attention of a forward pass.

    Attributes:
        layer: index among the model's attention calls.
        module: name of the module that made the call.
        reached: bool (B, Q), set by a backward pass: the queries whose output a gradient reaches. In the last layer,
            these are the tokens that the explained output is read from.
        differentiable: whether the call ran with a graph.
    """

    layer: int
    module: str
    probe: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True), init=False, repr=False)
    observer: Observer | None = field(default=None, init=False, repr=False)
    lowest: bool = field(default=False, init=False, repr=False)
    reached: Tensor | None = field(default=None, init=False, repr=False)
    differentiable: bool = field(default_factory=torch.is_grad_enabled, init=False, repr=False)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int, int]:
        """(B, H, Q, K)"""

    @property
    @abstractmethod
    def causal(self) -> bool:
        """Whether no query can attend to a later key."""

    @property
    @abstractmethod
    def like(self) -> Tensor:
        """An empty tensor in the precision and on the device of the tiles."""

    @abstractmethod
    def show(self, observer: Observer, whole_heads: bool = False) -> None:
        """Show the probabilities, without gradients; in tiles of all heads, if wanted."""

    @property
    def stack(self) -> Stack:
        """Where the call belongs in an encoder-decoder model; ``encoder`` in a model of one stack."""
        if _CROSS_ATTENTION.search(self.module):
            return "cross"
        return "decoder" if _DECODER.search(self.module) else "encoder"


@dataclass
class FusedCall(AttentionCall):
    """A call of ``scaled_dot_product_attention``."""

    attention: Attention

    def __post_init__(self) -> None:
        self._versions = self._current_versions()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.attention.shape

    @property
    def causal(self) -> bool:
        mask = self.attention.mask
        if self.attention.causal or mask is None:
            return self.attention.causal
        allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        return _nothing_above_diagonal(allowed)

    @property
    def like(self) -> Tensor:
        return widen(self.attention.query.flatten()[:0])

    def show(self, observer: Observer, whole_heads: bool = False) -> None:
        self._check_unmodified()
        if whole_heads:
            self.attention.show_whole_heads(self.layer, observer)
        else:
            self.attention.show(self.layer, observer)

    def backward(self, grad_output: Tensor, mask_gradient: bool) -> tuple[Tensor | None, ...]:
        """Gradients of query, key, value and mask; none at the lowest layer, below which nothing is asked for."""
        self._check_unmodified()
        self.reached = grad_output.any(-1).any(1)
        if self.lowest and self.observer is not None:
            self.attention.show(self.layer, self.observer, grad_output)
            return None, None, None, None
        return self.attention.backward(self.layer, grad_output, self.observer, mask_gradient)

    def _current_versions(self) -> tuple[int, ...]:
        return tuple(t._version for t in (self.attention.query, self.attention.key, self.attention.value))

    def _check_unmodified(self) -> None:
        if self._current_versions() != self._versions:
            raise RuntimeError(
                f"the inputs of attention {self.module!r} were modified in place after it ran, "
                "so its probabilities cannot be computed again"
            )


@dataclass
class EagerCall(AttentionCall):
    """Attention in eager code, known by its probabilities (B, H, Q, K).

    Eager code gives queries that may attend to nothing (padding) the same probability for every key; such rows say
    nothing about causality.
    """

    probabilities: Tensor

    @property
    def shape(self) -> tuple[int, int, int, int]:
        batch, heads, queries, keys = self.probabilities.shape
        return batch, heads, queries, keys

    @property
    def causal(self) -> bool:
        uniform = self.probabilities.amax(-1, keepdim=True) == self.probabilities.amin(-1, keepdim=True)
        return not uniform.all() and _nothing_above_diagonal(self.probabilities.masked_fill(uniform, 0.0))

    @property
    def like(self) -> Tensor:
        return widen(self.probabilities.flatten()[:0])

    def show(self, observer: Observer, whole_heads: bool = False) -> None:
        observer(self._tile(None))

    def backward(self, gradient: Tensor) -> Tensor | None:
        """Show (A, G) and pass G on."""
        self.reached = gradient.view(self.shape).any(-1).any(1)
        if self.observer is not None:
            self.observer(self._tile(widen(gradient).view(self.shape)))
        return None if self.lowest else gradient

    def _tile(self, gradient: Tensor | None) -> Tile:
        batch, heads, queries, _ = self.shape
        block = Block(slice(0, batch), slice(0, heads), slice(0, queries))
        probabilities = widen(self.probabilities)
        relevance = None if gradient is None else probabilities * gradient
        return Tile(self.layer, block, probabilities, gradient, relevance)


class ScaledAttentionCapture(AttentionCapture):
    """Record a forward pass in which one attention call's probabilities are multiplied by factors, all heads alike.

    With Ā = factor · A in place of A, what the attention returns is multiplied likewise. Observers see A itself, and
    the gradient with respect to A through Ā: factor · ∂/∂Ā.

    Args:
        model: as of :class:`AttentionCapture`.
        scaled: the number of the call.
        factors: (B,), one for each example, above 0.
    """

    def __init__(self, model: Callable[..., Any], scaled: int, factors: Tensor) -> None:
        super().__init__(model, gradients=True)
        self._scaled, self._factors = scaled, factors

    def fused(self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        return self._multiplied(super().fused(kernel, query, key, value, mask))

    def eager(self, probabilities: Tensor, scores: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self._multiplied(super().eager(probabilities, scores, shape))

    def _multiplied(self, output: Tensor) -> Tensor:
        """What the last call returns, (B, ...) or (B · H, ...), under the factors if it is the one."""
        if len(self.calls) - 1 != self._scaled:
            return output
        factors = self._factors.to(output).repeat_interleave(len(output) // len(self._factors))
        return output * factors.view(-1, *[1] * (output.dim() - 1))


class _ObservedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        call: FusedCall,
        probe: Tensor,
        kernel: Kernel,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        ctx.call = call
        return kernel(query, key, value, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *ctx.call.backward(grad_output, mask_gradient=ctx.needs_input_grad[6])


class _ObservedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: EagerCall, probe: Tensor, probabilities: Tensor) -> Tensor:
        ctx.call = call
        return probabilities.view_as(probabilities)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, ctx.call.backward(gradient)


def _modules_on_the_stack() -> list[nn.Module]:
    """The modules that are being called in this thread, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    called = []
    while frame is not None:
        if frame.f_code is nn.Module._call_impl.__code__:
            called.append(frame.f_locals["self"])
        frame = frame.f_back
    return called


def _nothing_above_diagonal(allowed: Tensor) -> bool:
    """Whether (..., Q, K) is square, larger than one and zero above its diagonal."""
    queries, keys = allowed.shape[-2:]
    return queries == keys > 1 and not allowed.triu(1).any()


_CROSS_ATTENTION = re.compile(r"(?i)(^|[._])(cross_?att|enc_?dec_?att|encoder_att)|decoder\..*multihead_attn")
_DECODER = re.compile(r"(?i)(^|[._])decoder([._]|$)")
