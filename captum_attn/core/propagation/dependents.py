"""Which tensors of a forward pass depend on its input, and through which functions, as autograd's graph says."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor

from captum_attn.core.graph_nodes import kind_of, parents

Place = tuple[Any, int]
"""A node of the graph, and which of its outputs."""


class Dependents:
    """What depends on an input that carries tokens or pixels, in the graph of one forward pass, without its weights.

    Args:
        closed: names of nodes that pass nothing on.
    """

    def __init__(self, closed: Collection[str] = ()) -> None:
        self._closed = closed
        self._known: dict[Any, bool] = {}

    def depends(self, tensor: Any) -> bool:
        """Whether a tensor, or what else it may be, depends on the input."""
        return isinstance(tensor, Tensor) and tensor.grad_fn is not None and self.node_depends(tensor.grad_fn)

    def node_depends(self, node: Any) -> bool:
        """The same of what a node of the graph computed."""
        pending = [node]
        while pending:
            current = pending[-1]
            if current in self._known:
                pending.pop()
                continue
            name = current.name()
            if name == "_EntranceBackward" or name in self._closed:
                self._known[current] = name == "_EntranceBackward"
                continue
            below = list(parents(current))
            unknown = [parent for parent in below if parent not in self._known]
            if unknown:
                pending += unknown
            else:
                self._known[current] = any(self._known[parent] for parent in below)
        return self._known[node]

    def gates(self, gate: Tensor, state: Tensor) -> bool:
        """Whether ``gate · state`` is an activation of the state: x · Φ(x), spelled out, or a state under a sigmoid.

        The gate is then an elementwise function of the state, or of what the state is a multiple of, and of nothing
        else; or it is a sigmoid of something, or the inverse of a root, as of a variance.
        """
        return self._is_gate(gate) or self._is_function_of(gate, state)

    def _is_function_of(self, gate: Tensor, state: Tensor) -> bool:
        multiples = set(self._multiples(state))
        pending, seen = [_place(gate)], set(multiples)
        while pending:
            place = pending.pop()
            if place in seen:
                continue
            seen.add(place)
            if kind_of(place[0].name()) not in _ELEMENTWISE:
                return False
            pending += [one for one in _places(place[0]) if self.node_depends(one[0])]
        return True

    def _multiples(self, state: Tensor) -> Iterator[Place]:
        """The state, and what it is a multiple of."""
        place = _place(state)
        while True:
            yield place
            below = [one for one in _places(place[0]) if self.node_depends(one[0])]
            if kind_of(place[0].name()) not in _MULTIPLES or len(below) != 1:
                return
            place = below[0]

    def _is_gate(self, gate: Tensor) -> bool:
        node, _ = _place(gate)
        while True:
            if kind_of(node.name()) in _GATES:
                return True
            below = [parent for parent in parents(node) if self.node_depends(parent)]
            if kind_of(node.name()) not in _AFFINE or len(below) != 1:
                return False
            node = below[0]

    def forget(self) -> None:
        """Let go of the graph."""
        self._known.clear()


def is_view(node: Any) -> bool:
    """Whether a node's result is its input in another shape."""
    return kind_of(node.name()) in _SHAPES


def _place(tensor: Tensor) -> Place:
    return tensor.grad_fn, tensor.output_nr


def _places(node: Any) -> list[Place]:
    return [(parent, number) for parent, number in node.next_functions if parent is not None]


_GATES = frozenset({"Sigmoid", "Hardsigmoid", "Rsqrt"})
_MULTIPLES = frozenset({"Mul", "Div", "Neg", "ToCopy", "Clone"})
_SHAPES = frozenset(
    {"View", "Unsqueeze", "Expand", "Transpose", "ReshapeAlias", "UnsafeView", "Permute", "Alias"} | {"Squeeze", "T"}
)
_AFFINE = _MULTIPLES | _SHAPES | {"Add", "Sub", "Rsub", "Slice"}
_ELEMENTWISE = frozenset(
    {"Add", "Sub", "Rsub", "Pow", "Erf", "Erfc", "Exp", "Tanh", "Softplus", "Reciprocal", "Sqrt", "Log1P", "Abs", "Sin"}
    | {"Relu", "Clamp", "ClampMin", "ClampMax", "Hardtanh", "_Proportional"}
    | _GATES
    | _MULTIPLES
)
