"""Where a tensor of a forward pass comes from: the explained features, other inputs, earlier attention calls.

The graph that autograd records says who feeds whom, whatever the modules are called. It is read while the pass runs,
each node once, and forgotten afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

FEATURES, OTHER = 1, 2


class Factors(NamedTuple):
    """What was multiplied to make scores: the origins of queries and of keys."""

    queries: Origin
    keys: Origin


@dataclass(frozen=True)
class Origin:
    """What a tensor was computed from.

    Attributes:
        inputs: bits: the explained ``FEATURES``, and ``OTHER`` inputs that carry tokens or pixels, as far as they come
            by a way around all attention, such as a residual stream.
        calls: bits, one for each attention call whose output goes in, by a way around all later ones.
        softmax: bits, the calls whose probabilities it still is; nothing was mixed with them yet.
        factors: the products of two states that it is made of, without a linear layer since.
    """

    inputs: int = 0
    calls: int = 0
    softmax: int = 0
    factors: frozenset[Factors] = frozenset()

    def __or__(self, other: Origin) -> Origin:
        if other is NOWHERE or self is other:
            return self
        if self is NOWHERE:
            return other
        return Origin(
            self.inputs | other.inputs,
            self.calls | other.calls,
            self.softmax | other.softmax,
            self.factors | other.factors,
        )

    @property
    def settled(self) -> Origin:
        """The same as a state of tokens: neither scores nor probabilities."""
        return Origin(self.inputs, self.calls | self.softmax)


NOWHERE = Origin()


@dataclass
class Provenance:
    """The origins of what one forward pass computes.

    The explained features must be in the graph: :meth:`enter` puts them there, and what integers select, such as
    embeddings of token ids.

    Attributes:
        known: whether the pass has a graph at all.
        mixtures: the products of probabilities since the last look: of which calls (bits), and what they mixed.
    """

    known: bool
    mixtures: list[tuple[int, Origin]] = field(default_factory=list, repr=False)
    _nodes: dict[Any, Origin] = field(default_factory=dict, repr=False)
    _integers: dict[int, tuple[Tensor, int]] = field(default_factory=dict, repr=False)
    _anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True), repr=False)

    def enter(self, value: Any, inputs: int) -> Any:
        """An input of the model, known from here on; a floating-point one is put into the graph."""
        if not self.known or not isinstance(value, Tensor) or value.dtype == torch.bool:
            return value
        if not value.is_floating_point():
            self._integers[id(value)] = (value, inputs)
            return value
        return self._in_graph(value, Origin(inputs))

    def of(self, tensor: Tensor) -> Origin:
        """Where a tensor comes from; ``NOWHERE`` for weights, constants, and what autograd does not follow."""
        return self._of_node(tensor.grad_fn)

    def declare(self, tensor: Tensor, origin: Origin) -> None:
        """Say where a tensor comes from, once and for all."""
        if tensor.grad_fn is not None:
            self._nodes[tensor.grad_fn] = origin

    def follow(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        """Learn from a torch function that just ran; returns its result, in the graph if tokens' ids selected it."""
        if not self.known:
            return result
        if func is Tensor.__setitem__:
            self._follow_integers(args, args[0])
        if not isinstance(result, Tensor):
            return result
        if not result.is_floating_point():
            if self._integers and result.dtype != torch.bool:
                self._follow_integers((*args, *kwargs.values()), result)
        elif result.grad_fn is None and self._integers and (func in _SELECTIONS or result.dim() == 3):
            inputs = self._selected_by((*args, *kwargs.values()))
            return self._in_graph(result, Origin(inputs)) if inputs else result
        elif func in _PRODUCTS and result.grad_fn is not None:
            self._follow_product([*_tensors(args), *_tensors(kwargs.values())], result)
        elif func in _LINEAR and result.grad_fn is not None:
            self.declare(result, self.of(result).settled)
        return result

    def forget(self) -> None:
        """Let go of the graph and of the inputs."""
        self._nodes.clear()
        self._integers.clear()

    def _in_graph(self, tensor: Tensor, origin: Origin) -> Tensor:
        entered: Tensor = _Entrance.apply(self._anchor, tensor)
        self.declare(entered, origin)
        return entered

    def _follow_integers(self, args: tuple[Any, ...], result: Tensor) -> None:
        inputs = self._selected_by(args)
        if inputs:
            self._integers[id(result)] = (result, inputs)

    def _selected_by(self, args: Any) -> int:
        """The inputs that integers among the arguments come from."""
        inputs = 0
        for argument in args:
            if isinstance(argument, Tensor):
                inputs |= self._integers.get(id(argument), (None, 0))[1]
            elif isinstance(argument, list | tuple):
                inputs |= self._selected_by(argument)
        return inputs

    def _follow_product(self, operands: Sequence[Tensor], result: Tensor) -> None:
        """A product mixes values by probabilities, or makes scores of queries and keys; the last two are multiplied."""
        added, factors = operands[:-2], [self.of(operand) for operand in operands[-2:]]
        mixing = reduce(int.__or__, (factor.softmax for factor in factors), 0)
        if mixing:
            values = reduce(Origin.__or__, (factor.settled for factor in factors if not factor.softmax), NOWHERE)
            self.mixtures.append((mixing, values))
            self._declare_product(result, Origin(0, mixing))
        elif len(factors) == 2 and all(factor.inputs or factor.calls for factor in factors):
            queries, keys = (factor.settled for factor in factors)
            made = queries | keys
            product = Origin(made.inputs, made.calls, 0, frozenset({Factors(queries, keys)}))
            self._declare_product(result, reduce(Origin.__or__, map(self.of, added), product))

    def _declare_product(self, result: Tensor, origin: Origin) -> None:
        """Say where a product comes from, and what it is a view of, which remains if the view is changed in place."""
        node: Any = result.grad_fn
        while node is not None:
            self._nodes[node] = origin
            below = [parent for parent, _ in node.next_functions if parent is not None]
            node = below[0] if len(below) == 1 and below[0] not in self._nodes else None

    def _of_node(self, node: Any) -> Origin:
        if node is None:
            return NOWHERE
        if node in self._nodes:
            return self._nodes[node]
        pending = [node]
        while pending:
            current = pending[-1]
            below = [parent for parent, _ in current.next_functions if parent is not None]
            unknown = [parent for parent in below if parent not in self._nodes]
            if unknown:
                pending += unknown
            else:
                pending.pop()
                self._nodes[current] = reduce(Origin.__or__, (self._nodes[parent] for parent in below), NOWHERE)
        return self._nodes[node]


def bits(number: int) -> Iterator[int]:
    """The places of the bits that are set, ascending."""
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


def _tensors(args: Any) -> Iterator[Tensor]:
    for argument in args:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _tensors(argument)


class _Entrance(torch.autograd.Function):
    """The place in the graph where an input comes in: a copy, which the model may change. Nothing asks below it."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        return None, None


_PRODUCTS = frozenset(
    {torch.matmul, torch.bmm, torch.baddbmm, torch.einsum, Tensor.matmul, Tensor.bmm, Tensor.baddbmm}
    | {Tensor.__matmul__, Tensor.__rmatmul__}
)
_LINEAR = frozenset(
    {F.linear, F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d, torch.addmm, Tensor.addmm}
    | {F.layer_norm, F.rms_norm}
)
_SELECTIONS = frozenset(
    {F.embedding, torch.embedding, F.embedding_bag, Tensor.__getitem__, torch.index_select, Tensor.index_select}
    | {Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16, Tensor.to, Tensor.type, Tensor.type_as}
)
"""By these, integers become states of tokens: look-ups, and one-hot codes as numbers. (B, N, D) of others are, too."""
