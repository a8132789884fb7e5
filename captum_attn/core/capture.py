"""See every attention probability and its gradient during one forward and one backward pass.

Fused attention (``scaled_dot_product_attention``) runs as ever, and its probabilities are computed again, tile by
tile, in the backward pass. Attention spelled out in eager code is seen where its probabilities are made, in
``softmax``. :mod:`captum_attn.core.intercept` says how.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from captum_attn.core.calls import AttentionCall, EagerCall, FusedCall, Observer, OddSoftmax, Shares
from captum_attn.core.frozen import without_weights
from captum_attn.core.graph_nodes import nodes_between
from captum_attn.core.intercept import AttentionIntercept, Kernel
from captum_attn.core.origins import NOWHERE, Factors, Origin, Provenance
from captum_attn.core.outline import Outline
from captum_attn.core.owners import CallOwners
from captum_attn.core.propagation import PropagationMode, alias, with_gradient_times
from captum_attn.core.tiles import Attention


class AttentionCapture(AttentionIntercept):
    """Record the attention of the forward pass that runs inside this context, in this thread.

    Weights take no part in the graph, so a model costs what a frozen one costs and no weight can get a gradient.

    Args:
        model: names the modules that own the calls. Of a function, the first module that it calls does.
        gradients: whether :meth:`backward` will be called. If not, the graph of the forward pass keeps no tensors but
            those since the last attention, by which it is found what is read there.
        examples: the batch size; see ``captum_attn.core.intercept.AttentionIntercept``.
        graph: whether the pass may record a graph at all. Without one, nothing says which attention reads what.
        rules: under which the pass runs; None for plain gradients.
        tiles: whether a backward pass may be asked to show fused attention. If not, PyTorch's own is faster.

    Attributes:
        gradients: as given.
        calls: the attention calls, in the order in which they ran.
        latest: the last one that began, even if it is not clear yet whether it is attention.
        owners: names the modules, and knows the model's root.
        provenance: where tensors of the pass come from.

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

    def __init__(
        self,
        model: Callable[..., Any],
        gradients: bool,
        examples: int | None = None,
        graph: bool = True,
        rules: PropagationMode | None = None,
        tiles: bool = True,
    ) -> None:
        super().__init__(examples)
        self.rules, self.tiles = rules, tiles
        self.owners = CallOwners(model if isinstance(model, nn.Module) else None)
        self.calls: list[AttentionCall] = []
        self.latest: AttentionCall | None = None
        self._odd: list[OddSoftmax] = []
        self.provenance = Provenance(graph, examples)
        self.gradients = gradients
        self._outline = None if gradients or not graph else Outline()
        self._products: dict[int, tuple[str, tuple[int, ...], Origin]] = {}
        self._candidates: dict[int, tuple[EagerCall, OddSoftmax]] = {}
        self._sliced: tuple[EagerCall, Tensor] | None = None
        self._last: Tensor | None = None

    @property
    def root(self) -> nn.Module | None:
        """The module that was called; None until then for a function."""
        return next(iter(self.owners.roots), None)

    @property
    def odd(self) -> list[OddSoftmax]:
        """Softmaxes that look like attention and are none that can be explained."""
        unmixed = [odd for _, odd in self._candidates.values() if odd.shape[-1] == odd.shape[-2]]
        return [*self._odd, *(odd for odd in unmixed if len(odd.shape) > 3)]  # routers have three dimensions

    @property
    def bare_products(self) -> list[OddSoftmax]:
        """Products of states with each other, of the form of scores, that no softmax took."""
        reason = "which is a product of states that no softmax took"
        return [OddSoftmax(-1, module, shape, origin, reason) for module, shape, origin in self._products.values()]

    @property
    def follows(self) -> bool:
        """Whether the graph says which attention reads what; if gradients are needed, it must."""
        return self.provenance.known and (self.gradients or any(call.differentiable for call in self.calls))

    def recording(self) -> AbstractContextManager[Any]:
        """A context for the forward pass, to be entered around this one: what autograd saves in it.

        With gradients, gradient checkpointing is refused with the reason: it would run parts of the model again in the
        backward pass, where nothing observes them.
        """
        if self._outline is not None:
            return self._outline.recording()
        return _without_checkpoints() if self.gradients else nullcontext()

    def attention(self, observer: Observer, layers: Collection[int], whole_heads: bool = False) -> None:
        """Show the probabilities of ``layers`` to ``observer``, from the top down as in a backward pass.

        Args:
            observer: gets the tiles.
            layers: the attention calls that are shown.
            whole_heads: whether each tile must hold all heads.
        """
        for call in reversed(self.calls):
            if call.layer in layers:
                call.show(observer, whole_heads)

    def backward(
        self,
        scalar: Tensor,
        observer: Observer | None,
        layers: Collection[int],
        retain_graph: bool = False,
        states: Sequence[Tensor] = (),
        features: Sequence[Tensor] = (),
    ) -> tuple[Tensor | None, ...]:
        """Backpropagate ``scalar`` down to the lowest of ``layers``, showing (A, G) of each to ``observer``.

        Args:
            scalar: a sum of what is explained.
            observer: gets the tiles. None only finds out what the gradient reaches.
            layers: the attention calls that are shown.
            retain_graph: whether another scalar will be backpropagated through the same graph.
            states: hidden states, none of them below the lowest layer.
            features: of the input, below all layers.

        Returns:
            The gradients of states and features; None for one that ``scalar`` does not depend on.

        Raises:
            RuntimeError: ``scalar`` does not depend on the recorded attention, or one of the layers ran without a
                graph.
            ValueError: an observer, of a pass without tiles.
        """
        if observer is not None and not self.tiles:
            raise ValueError("this pass was recorded with tiles=False, so its attention cannot be shown with gradients")
        if not scalar.requires_grad:
            raise RuntimeError(INDEPENDENT)
        without_graph = [call.module for call in self.calls if call.layer in layers and not call.differentiable]
        if without_graph:
            raise RuntimeError(
                f"the attention {', '.join(map(repr, without_graph))} ran under torch.no_grad() inside the model, so "
                f"it has no gradient: let the model compute gradients there. {SWITCH_CHECKPOINTS}"
            )
        for call in self.calls:
            call.observer = observer if call.layer in layers else None
            call.lowest = not features and call.layer == min(layers)
            call.reached = None
        try:
            probes = [] if features else [call.probe for call in self.calls if call.layer in layers]
            inputs = [*states, *features, *probes]
            gradients = torch.autograd.grad(scalar, inputs, allow_unused=True, retain_graph=retain_graph)
        except RuntimeError as error:
            if "torch.utils.checkpoint is incompatible" in str(error):  # the reentrant kind
                raise RuntimeError(_CHECKPOINTED) from error
            raise
        finally:
            for call in self.calls:  # an observer may know the run, and the run knows the calls
                call.observer = None
        return gradients[: len(states) + len(features)]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = without_weights(func, args, kwargs)
        result = super().__torch_function__(func, types, args, kwargs)
        if func in _SLICES and self._sliced is not None and args and args[0] is self._sliced[1]:
            self._sliced[0].leave_out_sink(args[0], result)
        result = self.provenance.follow(func, args, kwargs, result)
        while self.provenance.mixtures:
            self._confirm(*self.provenance.mixtures.pop())
        while self.provenance.products:
            factors, shape = self.provenance.products.pop()
            self._products[factors.number] = self.owners.innermost(), shape, factors.queries
        return result

    def fused(
        self, number: int, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        attention = Attention(
            query.detach(),
            key.detach(),
            value.detach(),
            mask=None if mask is None else mask.detach(),
            causal=kernel.is_causal,
            scale=1 / math.sqrt(query.shape[-1]) if kernel.scale is None else kernel.scale,
        )
        queries, keys = self.provenance.of(query).settled, self.provenance.of(key).settled
        mixed = self._mixes_examples(query.shape, self.packed)
        call = FusedCall(number, self.owners.innermost(), queries, keys, mixed, attention)
        if self.provenance.gate is not None:
            call.state = query
        first, before = self._same_attention(call)
        if first is None:
            self._begin(call)
            self.calls.append(call)
        else:
            first.again(call)
        if not torch.is_grad_enabled():
            return kernel(query, key, value, mask)
        if self.rules is not None:
            call.shares = self.rules.attention_shares(query, key, value)
        if self.tiles:
            observed: Tensor = _ObservedAttention.apply(call, call.probe, before, kernel, query, key, value, mask)
        else:
            observed = self._unobserved(call, kernel, query, key, value, mask)
        self.provenance.declare(observed, Origin(0, 1 << (call if first is None else first).layer))
        self._last = observed
        return observed

    def _unobserved(
        self, call: FusedCall, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """What fused attention returns, by PyTorch's own backward pass, which is told what to pass on."""
        operands = [query, key, value] if mask is None else [query, key, value, mask]
        if not call.shares.scores:
            query, key, mask = query.detach(), key.detach(), None if mask is None else mask.detach()
        elif call.shares.scores != 1:
            query, key = (alias(part, call.shares.scores) for part in (query, key))
        observed = with_gradient_times(kernel(query, key, value, mask), call.shares.output)
        if observed.requires_grad:
            noted = WeakMethod(
                (call.first or call).note_reached
            )  # the call has the tensor, whose hook must not have it
            observed.register_hook(lambda gradient: (noted() or _nothing)(gradient))
            call.probe = observed
        if self.rules is not None:
            self.rules.ruled.update(nodes_between(observed, operands))
        return observed

    def eager(self, number: int, probabilities: Tensor, scores: Tensor) -> Tensor:
        origin = self.provenance.of(scores)
        if scores.dim() == 2:
            if origin.factors:
                self._odd.append(self._odd_softmax(number, scores, "of two dimensions"))
            return probabilities  # a router's or a classifier's
        followed = self.provenance.known and torch.is_grad_enabled()
        if not followed and scores.dim() != 4 and not self._packed_heads:
            return probabilities
        if scores.dtype == torch.float64:  # float32 probabilities of a float64 model would round the gradient
            probabilities = probabilities.double()
        self._taken(origin)
        queries, keys = (_joined(origin.factors, side) for side in ("queries", "keys"))
        seen = self.by_head(probabilities.detach())
        mixed = self._mixes_examples(seen.shape, probabilities.dim() == 3)
        call = EagerCall(number, self.owners.innermost(), queries, keys, mixed, seen)
        if self.provenance.gate is not None:
            call.state = self._own_scores(origin)
        if self.rules is not None and self.rules.propagation.constant_attention:
            call.shares = Shares(scores=0.0)
        self._begin(call)
        self._file(call, scores, origin, certain=bool(origin.factors) or not followed)
        if torch.is_grad_enabled():
            probabilities = _ObservedSoftmax.apply(call, call.probe, probabilities)
            kept = origin.settled if call.layer in self._candidates else NOWHERE
            self.provenance.declare(probabilities, kept | Origin(softmax=1 << number))
        self._sliced = call, probabilities
        return probabilities

    def _own_scores(self, scores: Origin) -> Tensor | None:
        """(B, H, N, 1), the product of each token's query with its own key."""
        products = (
            [self.provenance.gate.products[factors.number] for factors in scores.factors]
            if self.provenance.gate
            else []
        )
        square = [self.by_head(product) for product in products if product.shape[-1] == product.shape[-2]]
        return square[0].diagonal(dim1=-2, dim2=-1).unsqueeze(-1) if square else None

    def _taken(self, scores: Origin) -> None:
        """A softmax took these scores."""
        for factors in scores.factors:
            self._products.pop(factors.number, None)

    def _file(self, call: EagerCall, scores: Tensor, origin: Origin, certain: bool) -> None:
        """A softmax is attention if its scores are products of states, or else if it turns out to mix some."""
        by_einsum = any(factors.by_einsum for factors in origin.factors)
        if by_einsum and scores.dim() == 4 and scores.shape[1] == scores.shape[2]:
            self._odd.append(self._odd_softmax(call.layer, scores, "whose queries cannot be told from as many heads"))
        elif certain:
            self.calls.append(call)
        else:
            odd = self._odd_softmax(call.layer, scores, "whose scores are no products of states")
            self._candidates[call.layer] = call, odd
            if scores.shape[-1] == scores.shape[-2] and not self._of_positions(odd):
                self.provenance.passing |= 1 << call.layer

    def _of_positions(self, softmax: OddSoftmax) -> bool:
        """Whether it depends on no input, and is given for each example: attention by position alone."""
        shape = softmax.shape
        return softmax.origin == NOWHERE and len(shape) == 4 and shape[0] == (self._examples or shape[0])

    def _confirm(self, numbers: int, values: Origin) -> None:
        """Softmaxes of unknown scores mixed something: positions, or learned queries that read tokens, or odd ones."""
        for number in [number for number in self._candidates if numbers >> number & 1]:
            call, odd = self._candidates.pop(number)
            if self.provenance.passing >> number & 1:  # features, experts or streams, which may be as many as tokens
                self._odd.append(replace(odd, origin=odd.origin | values))
                continue
            call.of_products, call.keys = False, values
            if call.shape[2] == call.shape[3]:
                call.queries = values
            if self._outline is not None:
                self._outline.drop(values.calls)
            self.calls = sorted([*self.calls, call], key=lambda one: one.layer)

    def sideways(self, number: int, scores: Tensor) -> None:
        if scores.dim() > 2 and self.provenance.of(scores).factors:
            self._taken(self.provenance.of(scores))
            reason = "over another dimension than the last, or by its logarithm"
            self._odd.append(self._odd_softmax(number, scores, reason))

    def _begin(self, call: AttentionCall) -> None:
        if self._outline is not None:
            self._outline.begin(call.layer, call.queries.calls | call.keys.calls)
        self.latest = call
        self._sliced = self._last = None

    def _same_attention(self, call: FusedCall) -> tuple[FusedCall | None, Tensor | None]:
        """The last call and its output, if its module attends once more with the same probabilities, to other values.

        Its graph must be passed after the new one's, so that it has all gradients together.
        """
        last = self.latest
        if not isinstance(last, FusedCall) or (last.module, last.queries, last.keys) != (
            call.module,
            call.queries,
            call.keys,
        ):
            return None, None
        return (last, self._last) if last.attention.same_scores(call.attention) else (None, None)

    def _odd_softmax(self, number: int, scores: Tensor, reason: str) -> OddSoftmax:
        origin = self.provenance.of(scores).settled
        return OddSoftmax(number, self.owners.innermost(), tuple(scores.shape), origin, reason)

    def _mixes_examples(self, shape: Sequence[int], in_one_dimension: bool) -> bool:
        """Whether a shape (B, H, ...) leaves open what are examples and what heads, which share a dimension or not."""
        batch, heads = shape[:2]
        if 1 in (batch, self._examples) or self._packed_heads:
            return False
        return heads > 1 if in_one_dimension else batch == heads


class ScaledAttentionCapture(AttentionCapture):
    """Record a forward pass in which one attention call's probabilities are multiplied by factors, all heads alike.

    With Ā = factor · A in place of A, what the attention returns is multiplied likewise. Observers see A itself, and
    the gradient with respect to A through Ā: factor · ∂/∂Ā.

    Args:
        model: as of :class:`AttentionCapture`.
        scaled: the numbers of the call (:attr:`AttentionCall.numbers`).
        factors: (B,), one for each example, above 0.
        rules: as of :class:`AttentionCapture`.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        scaled: Collection[int],
        factors: Tensor,
        rules: PropagationMode | None = None,
    ) -> None:
        super().__init__(model, gradients=True, examples=len(factors), rules=rules)
        self._scaled, self._factors = scaled, factors

    def fused(
        self, number: int, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        return self._multiplied(number, super().fused(number, kernel, query, key, value, mask))

    def eager(self, number: int, probabilities: Tensor, scores: Tensor) -> Tensor:
        return self._multiplied(number, super().eager(number, probabilities, scores))

    def _multiplied(self, number: int, output: Tensor) -> Tensor:
        """What a call returns, (B, ...) or (B · H, ...), under the factors if it is the one."""
        if number not in self._scaled:
            return output
        factors = self._factors.to(output).repeat_interleave(len(output) // len(self._factors))
        return output * factors.view(-1, *[1] * (output.dim() - 1))


class _ObservedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        call: FusedCall,
        probe: Tensor,
        before: Tensor | None,
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
        return None, None, None, None, *ctx.call.backward(grad_output, mask_gradient=ctx.needs_input_grad[7])


class _ObservedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: EagerCall, probe: Tensor, probabilities: Tensor) -> Tensor:
        ctx.call = call
        return probabilities.view_as(probabilities)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, ctx.call.backward(gradient)


@contextmanager
def _without_checkpoints() -> Iterator[None]:
    """Refuse hooks on saved tensors that the model sets; those that the caller has set already do no harm."""
    with ExitStack() as stack:
        with suppress(RuntimeError):
            stack.enter_context(torch.autograd.graph.disable_saved_tensors_hooks(_CHECKPOINTED))
        yield


def _nothing(_: Tensor) -> None:
    """Take no note."""


def _joined(factors: Collection[Factors], side: str) -> Origin:
    joined = NOWHERE
    for one in factors:
        joined = joined | getattr(one, side)
    return joined


_SLICES = frozenset({Tensor.__getitem__, Tensor.narrow, torch.narrow, Tensor.index_select, torch.index_select})
LISTED = "captum_attn.inspect(model, batch) lists all attention that was seen"
"""Where to look closer, at the end of a refusal."""
INDEPENDENT = (
    "the selected output does not depend on any of the attention that is explained: it was computed under "
    "torch.no_grad() or torch.inference_mode() inside the model, or from detached states, or from other inputs. "
    f"{LISTED}"
)
SWITCH_CHECKPOINTS = (
    "If that is gradient checkpointing, switch it off while explaining: model.gradient_checkpointing_disable() (of "
    "Hugging Face), model.set_grad_checkpointing(False) (timm), or the module inside of checkpoint_wrapper (FSDP)"
)
_CHECKPOINTED = (
    "the model saves memory by gradient checkpointing (or another hook on saved tensors), which would run its layers "
    f"again in the backward pass, where their attention cannot be observed. {SWITCH_CHECKPOINTS}"
)
