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

from captum_attn.core.function_arguments import tensors_in

FEATURES, OTHER, MOVED = 1, 2, 4
CONTENT = FEATURES | OTHER


class Factors(NamedTuple):
    """A product of states that may make scores: the origins of queries and of keys, its number, how it was taken."""

    queries: Origin
    keys: Origin
    number: int = 0
    by_einsum: bool = False


@dataclass(frozen=True)
class Origin:
    """What a tensor was computed from.

    Attributes:
        inputs: bits: the explained ``FEATURES``, and ``OTHER`` inputs that carry tokens or pixels, as far as they come
            by a way around all attention, such as a residual stream; ``MOVED`` where tokens were put in another order.
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


class Entrance(NamedTuple):
    """Where explained features come into the graph.

    Attributes:
        state: the features as they came in: embeddings (B, T, D), pixels, or what token ids selected.
        ids: the integers that selected it; None of features that came in as they are.
        table: the vectors (V, D) that these select from, if it is a table of embeddings.
        again: whether it was computed, without a graph, from features that had come in before.
        picture: whether it is an image beside the explained text, of which some of its tokens may be patches.
    """

    state: Tensor
    ids: Tensor | None = None
    table: Tensor | None = None
    again: bool = False
    picture: bool = False


@dataclass
class Provenance:
    """The origins of what one forward pass computes.

    The explained features must be in the graph: :meth:`enter` puts them there, and what integers select, such as
    embeddings of token ids.

    Attributes:
        known: whether the pass has a graph at all.
        examples: the batch size, if it is known.
        mixtures: the products of probabilities since the last look: of which calls (bits), and what they mixed.
        examples_moved: whether the examples were put in another order.
        passing: the softmaxes (bits) that are not known to relate tokens, so that what they mix comes through.
        products: the square products of states since the last look: their factors, and the shape.
        gate: where dependences are looked at.
        entrances: where the explained features come in.
        cut: whether features joined the graph by a way without one.
        shift: what is put in place of the features there; None for the features themselves.
    """

    known: bool
    examples: int | None = None
    examples_moved: bool = field(default=False, init=False)
    passing: int = field(default=0, init=False)
    mixtures: list[tuple[int, Origin]] = field(default_factory=list, repr=False)
    products: list[tuple[Factors, tuple[int, ...]]] = field(default_factory=list, init=False, repr=False)
    gate: Gate | None = field(default=None, init=False)
    cut: bool = field(default=False, init=False)
    shift: Callable[[Entrance], Tensor] | None = field(default=None, init=False, repr=False)
    entrances: list[Entrance] = field(default_factory=list, init=False, repr=False)
    _counted: int = field(default=0, init=False)
    _loose: dict[int, tuple[Tensor, int]] = field(default_factory=dict, init=False, repr=False)
    _nodes: dict[Any, Origin] = field(default_factory=dict, repr=False)
    _integers: dict[int, tuple[Tensor, int]] = field(default_factory=dict, repr=False)
    _ids: Tensor | None = field(default=None, init=False, repr=False)
    _anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True), repr=False)

    def enter(self, value: Any, inputs: int, picture: bool = False) -> Any:
        """An input of the model, known from here on; a floating-point one is put into the graph.

        Args:
            value: what is given to the model.
            inputs: which input it is, bits.
            picture: whether it is an image beside the explained text.
        """
        if not self.known or not isinstance(value, Tensor) or value.dtype == torch.bool:
            return value
        if not value.is_floating_point():
            self._integers[id(value)] = (value, inputs)
            self._ids = value if inputs == FEATURES else self._ids
            return value
        return self._in_graph(value, Origin(inputs), Entrance(value, picture=picture))

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
        given = (*args, *kwargs.values())
        if func is Tensor.__setitem__:
            self._follow_integers(func, args, args[0])
        if not isinstance(result, Tensor):
            for part in result if isinstance(result, list | tuple) else ():
                if isinstance(part, Tensor) and not part.is_floating_point():
                    self._follow_integers(func, given, part)
            return result
        if self.gate is not None and result.dim() == 3 and result.grad_fn is not None:
            self.gate.note_first(result)
        if func in _REORDERING:
            self._follow_order(func, args, kwargs, result)
        if not result.is_floating_point():
            if self._integers and result.dtype != torch.bool:
                self._follow_integers(func, given, result)
            return result
        if result.grad_fn is None:
            return self._followed_without_graph(func, given, result)
        if self._loose:
            self.cut |= any(self._loose.get(id(part), (None, 0))[1] & FEATURES for part in tensors_in(given))
        if func in _PRODUCTS or (func in _TIMES and _outer(args)):
            return self._followed_product([*tensors_in(given)], result, func is torch.einsum)
        if func in _LINEAR and result.dim() < 4:  # over four dimensions it may mix the heads of scores
            self.declare(result, self.of(result).settled)
        return result

    def _followed_without_graph(self, func: Callable[..., Any], given: tuple[Any, ...], result: Tensor) -> Tensor:
        """States that are looked up, and those that are computed without a graph below all attention."""
        if getattr(func, "__name__", "").endswith("_like"):  # zeros and the like
            return result
        selected = self._selected_by(given) if self._integers and (func in _SELECTIONS or result.dim() == 3) else 0
        inputs = 0
        for part in tensors_in(given):
            origin = self.of(part)
            cut = not origin.calls and (not torch.is_grad_enabled() or func in _DETACHING)
            inputs |= self._loose.get(id(part), (None, 0))[1] | (origin.inputs if cut else 0)
        again, inputs = bool(inputs & FEATURES), inputs | selected
        if inputs and torch.is_grad_enabled() and func not in _DETACHING:
            table = given[1] if func in _LOOK_UPS and isinstance(given[1], Tensor) else None
            return self._in_graph(result, Origin(inputs), Entrance(result, self._selecting(given), table, again))
        if inputs:
            self._loose[id(result)] = result, inputs
        return result

    def forget(self) -> None:
        """Let go of the graph and of the inputs, but for where these came in."""
        self._nodes.clear()
        self._integers.clear()
        self._loose.clear()
        self._ids = None

    def _follow_order(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
    ) -> None:
        """Take note of examples, or states (B, N, D) or (B, H, N, d) of tokens, that are put in another order."""
        given = args[0]
        if not isinstance(given, Tensor) or given.shape != result.shape:
            return
        moved = {dim % given.dim() for dim in _reordered_dims(func, args, kwargs)}
        tokens = 1 if given.dim() < 4 else 2
        self.examples_moved |= 0 in moved and len(given) == self.examples
        if tokens in moved and id(given) in self._integers:
            self._integers[id(result)] = (result, self._integers[id(given)][1] | MOVED)
        elif tokens in moved and result.grad_fn is not None:
            self.declare(result, self.of(given) | Origin(MOVED))

    def _selecting(self, given: Sequence[Any]) -> Tensor | None:
        """The integers among some arguments that come from the features."""
        found = (part for part in tensors_in(given) if self._integers.get(id(part), (None, 0))[1] & FEATURES)
        return next(found, None)

    def _in_graph(self, tensor: Tensor, origin: Origin, entrance: Entrance) -> Tensor:
        explained = origin.inputs & FEATURES or entrance.picture
        if self.shift is not None and explained:
            tensor = self.shift(entrance)
        entered: Tensor = _Entrance.apply(self._anchor, tensor)
        self.declare(entered, origin)
        if explained:
            self.entrances.append(entrance._replace(state=entered))
            entered = entered.clone()  # which the model may change in place
            self.declare(entered, origin)
        return entered

    def _follow_integers(self, func: Callable[..., Any], args: tuple[Any, ...], result: Tensor) -> None:
        name = getattr(func, "__name__", "")
        if name.endswith("_like") or name.startswith("new_"):
            return  # of the same shape, and nothing else
        inputs = self._selected_by(args[:1] if name.endswith("_as") else args)
        if inputs and id(result) not in self._integers:
            self._integers[id(result)] = (result, inputs)

    def _selected_by(self, args: Any) -> int:
        """The inputs that integers among the arguments come from."""
        inputs = 0
        for argument in args:
            if isinstance(argument, Tensor):
                inputs |= self._integers.get(id(argument), (None, 0))[1]
                if inputs & FEATURES and self._ids is not None and _in_another_order(argument, self._ids):
                    inputs |= MOVED
            elif isinstance(argument, list | tuple):
                inputs |= self._selected_by(argument)
        return inputs

    def _followed_product(self, operands: Sequence[Tensor], result: Tensor, by_einsum: bool) -> Tensor:
        """A product mixes values by probabilities, or makes scores of queries and keys; sums are added to some."""
        factors = [self.of(operand) for operand in operands]
        mixing = reduce(int.__or__, (factor.softmax for factor in factors), 0)
        if mixing:
            values = reduce(Origin.__or__, (factor.settled for factor in factors if not factor.softmax), NOWHERE)
            self.mixtures.append((mixing, values))
            through = reduce(Origin.__or__, (f.settled for f in factors)) if mixing & self.passing else NOWHERE
            result = result if self.gate is None or mixing & self.passing else _Gated.apply(self.gate, mixing, result)
            self._declare_product(result, Origin(0, mixing & ~self.passing) | through)
            return result
        added, factors = ([], factors) if by_einsum else (factors[:-2], factors[-2:])
        states = [factor.settled for factor in factors if factor.inputs or factor.calls]
        if len(states) > 1:
            self._counted += 1
            pair = Factors(states[0], states[1], self._counted, by_einsum)
            if result.dim() > 2 and result.shape[-1] == result.shape[-2]:
                self.products.append((pair, tuple(result.shape)))
            if self.gate is not None:
                self.gate.products[pair.number] = result
            made = reduce(Origin.__or__, states)
            product = Origin(made.inputs, made.calls, 0, frozenset({pair}))
            self._declare_product(result, reduce(Origin.__or__, added, product))
        return result

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


def _outer(args: Sequence[Any]) -> bool:
    """Whether entries of each factor meet several of the other one: (..., N, 1, d) times (..., 1, N, d)."""
    if len(args) != 2 or not all(isinstance(factor, Tensor) for factor in args) or args[0].dim() != args[1].dim():
        return False
    sizes = list(zip(args[0].shape, args[1].shape, strict=True))
    return any(one == 1 < other for one, other in sizes) and any(other == 1 < one for one, other in sizes)


def _reordered_dims(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[int]:
    """The dimensions along which a function puts what it is given in another order."""
    values = [*args[1:], *kwargs.values()]
    if func in _FLIPS:
        yield from _flat(values)
    elif func in _ROLLS:
        yield from _flat([kwargs["dims"] if "dims" in kwargs else args[2:]])
    elif func is Tensor.__getitem__:
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        for dim, part in enumerate(index):
            part = torch.tensor(part) if isinstance(part, list) else part
            if part is Ellipsis or part is None:
                return
            if isinstance(part, Tensor) and part.dtype != torch.bool:
                if not _ascends(part):
                    yield dim
                return
    else:
        dims = [value for value in values if isinstance(value, int)]
        indices = [value for value in values if isinstance(value, Tensor)]
        if dims and indices and not _ascends(indices[0], dims[0]):
            yield dims[0]


def _flat(values: Any) -> Iterator[int]:
    for value in values:
        if isinstance(value, int):
            yield value
        elif isinstance(value, list | tuple):
            yield from _flat(value)


def _ascends(index: Tensor, dim: int = -1) -> bool:
    """Whether an index takes everything in its order."""
    return bool((index.diff(dim=dim if index.dim() > 1 else 0) > 0).all())


def _in_another_order(looked_up: Tensor, ids: Tensor) -> bool:
    """Whether ids that are looked up are the given ones, flipped, sorted or shifted by a place or two."""
    if (looked_up.dtype, looked_up.shape) != (ids.dtype, ids.shape) or ids.dim() != 2 or torch.equal(looked_up, ids):
        return False
    apart = looked_up - ids
    if (apart == apart[:1, :1]).all():  # another numbering
        return False
    if torch.equal(looked_up.sort(-1).values, ids.sort(-1).values):
        return True
    length, in_place = ids.shape[1], (apart == 0).double().mean()
    shifts = [shift for shift in (1, 2, -1, -2) if abs(shift) < length - 1]
    same = [(looked_up.roll(-s, -1) == ids)[:, max(0, -s) : length - max(0, s)].double().mean() for s in shifts]
    return any(share > max(in_place, torch.tensor(0.8)) for share in same)


@dataclass
class Gate:
    """What lets one see how states depend on the input when nothing passes attention.

    Attributes:
        closed: the calls (bits) whose mixtures no gradient passes.
        products: of states, by number.
        first: the first states (B, N, D) that the input led to, by N; where N is D, the first two, of which one may be
            a map of as many channels.
    """

    closed: int = 0
    first: dict[int, list[Tensor]] = field(default_factory=dict)
    products: dict[int, Tensor] = field(default_factory=dict)

    def note_first(self, states: Tensor) -> None:
        """Take note of states (B, N, D) as they are computed."""
        known, (count, width) = self.first.setdefault(states.shape[1], []), states.shape[1:]
        if not known or (len(known) == 1 and count == width == known[0].shape[2]):
            known.append(states)


class _Gated(torch.autograd.Function):
    """What attention mixed, in eager code."""

    @staticmethod
    def forward(ctx: Any, gate: Gate, mixing: int, value: Tensor) -> Tensor:
        ctx.gate, ctx.mixing = gate, mixing
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor | None]:
        return None, None, None if ctx.gate.closed & ctx.mixing else gradient


class _Entrance(torch.autograd.Function):
    """The place in the graph where an input comes in: a copy, which the model may change. Nothing asks below it."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        return None, None


_PRODUCTS = frozenset(
    {torch.matmul, torch.mm, torch.bmm, torch.baddbmm, torch.einsum, torch.tensordot, torch.inner, torch.cdist}
    | {Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.baddbmm, Tensor.__matmul__, Tensor.__rmatmul__}
)
_TIMES = frozenset({torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__})
_LINEAR = frozenset(
    {F.linear, F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d, torch.addmm, Tensor.addmm}
    | {F.layer_norm, F.rms_norm}
)
_LOOK_UPS = frozenset({F.embedding, torch.embedding})
_FLIPS = frozenset({torch.flip, Tensor.flip})
_ROLLS = frozenset({torch.roll, Tensor.roll})
_REORDERING = frozenset(
    {Tensor.__getitem__, torch.index_select, Tensor.index_select, torch.gather, Tensor.gather}
    | {torch.take_along_dim, Tensor.take_along_dim}
    | _FLIPS
    | _ROLLS
)
_DETACHING = frozenset({torch.detach, Tensor.detach, Tensor.data.__get__})  # type: ignore[attr-defined]
_SELECTIONS = frozenset(
    {F.embedding, torch.embedding, F.embedding_bag, Tensor.__getitem__, torch.index_select, Tensor.index_select}
    | {Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16, Tensor.to, Tensor.type, Tensor.type_as}
)
"""By these, integers become states of tokens: look-ups, and one-hot codes as numbers. (B, N, D) of others are, too."""
