"""The nodes of autograd's graph: what a tensor was made by."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from torch import Tensor


def parents(node: Any) -> Iterator[Any]:
    """What a node took, as far as it has a graph."""
    return (parent for parent, _ in node.next_functions if parent is not None)


def nodes_between(
    result: Tensor, made_of: Sequence[Tensor] = (), within: Callable[[Any], bool] = lambda _: True
) -> list[Any]:
    """The nodes of the graph that made a result of its operands, down to theirs; without operands, all of them.

    Args:
        result: with a graph.
        made_of: the operands.
        within: whether a node, and what is below it, counts.
    """
    stop = {tensor.grad_fn for tensor in made_of} | {None}
    found: dict[Any, None] = {}
    waiting: list[Any] = [result.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found and within(node):
            found[node] = None
            waiting += [parent for parent in parents(node) if parent not in stop and node not in stop]
    return [*found]


@cache
def kind_of(name: str) -> str:
    """The kind of function that a node's name tells, without the number of its signature: Mul of MulBackward0."""
    return re.sub(r"Backward\d*$", "", name)
