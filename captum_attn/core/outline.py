"""A graph that says who feeds whom, and keeps no more tensors than it takes to find what the output is read from."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


class Outline:
    """Saved tensors of a forward pass, dropped as soon as a later attention call has read what they led to.

    What is left at the end are those between the last attention of each stack and the output: enough to backpropagate
    down to there, in the memory of one layer.
    """

    def __init__(self) -> None:
        self._saved: dict[int, list[_Saved]] = {}
        self._current: list[_Saved] = []

    def recording(self) -> AbstractContextManager[Any]:
        """A context in which what autograd saves is kept here."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)

    def begin(self, number: int, read: int) -> None:
        """An attention call starts, which reads what earlier ones (bits) gave."""
        if not self._saved:  # what went before the first attention
            _drop(self._current)
        self.drop(read)
        self._current = self._saved[number] = []

    def drop(self, read: int) -> None:
        """What these calls (bits) gave was read by a later one."""
        for earlier in [earlier for earlier in self._saved if read >> earlier & 1]:
            _drop(self._saved.pop(earlier))

    def _pack(self, tensor: Tensor) -> _Saved:
        saved = _Saved(tensor.detach())
        self._current.append(saved)
        return saved


class UnkeptError(RuntimeError):
    """A gradient was asked for below the last attention."""


class _Saved:
    """A tensor, until it is dropped."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor


def _drop(saved: list[_Saved]) -> None:
    for one in saved:
        one.tensor = None
    saved.clear()


def _unpack(saved: _Saved) -> Tensor:
    if saved.tensor is None:
        raise UnkeptError("a forward-only pass has no gradients below the last attention")
    return saved.tensor
