"""One attention of a forward pass: fused, known by its inputs, or in eager code, known by its probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from captum_attn.core.masks import blind_rows, is_causal, open_keys
from captum_attn.core.origins import Origin
from captum_attn.core.private_names import version_of
from captum_attn.core.tiles import Attention, Block, Tile, widen

Observer = Callable[[Tile], None]


@dataclass(frozen=True)
class OddSoftmax:
    """A softmax that looks like attention, but is none that can be explained.

    Attributes:
        number: among the pass's calls.
        module: name of the module that made it.
        shape: of the scores.
        origin: of the scores.
        reason: what is odd about it.
    """

    number: int
    module: str
    shape: tuple[int, ...]
    origin: Origin
    reason: str


class Shares(NamedTuple):
    """What an attention passes on of the gradient that it gets; by plain gradients, all of it.

    Attributes:
        output: the part that probabilities, and values, get of the gradient of their product.
        scores: the part that queries, and keys, get of the gradient of theirs; 0 where probabilities are constants.
    """

    output: float = 1.0
    scores: float = 1.0


@dataclass
class AttentionCall(ABC):
    """One attention of a forward pass.

    Attributes:
        layer: its number among the pass's calls, by which layers are known.
        module: name of the module that made the call.
        queries, keys: where these come from.
        reached: bool (B, Q), set by a backward pass: the queries whose output a gradient reaches. In the last layer,
            these are the tokens that the explained output is read from.
        mixed: whether the shape leaves open what are examples and what heads.
        state: (B, H, N, ...), of each query's own, with a graph; kept where dependences are looked at.
        differentiable: whether the call ran with a graph.
        of_products: whether the scores are products of queries and keys.
        shares: what it passes on, under rules.
    """

    layer: int
    module: str
    queries: Origin
    keys: Origin
    mixed: bool
    probe: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True), init=False, repr=False)
    observer: Observer | None = field(default=None, init=False, repr=False)
    lowest: bool = field(default=False, init=False, repr=False)
    reached: Tensor | None = field(default=None, init=False, repr=False)
    state: Tensor | None = field(default=None, init=False, repr=False)
    differentiable: bool = field(default_factory=torch.is_grad_enabled, init=False, repr=False)
    of_products: bool = field(default=True, init=False, repr=False)
    shares: Shares = field(default=Shares(), init=False, repr=False)

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

    @property
    @abstractmethod
    def evidence(self) -> tuple[Tensor, ...]:
        """What differs from example to example and from head to head, (B, H, ...) each."""

    @property
    @abstractmethod
    def attended(self) -> Tensor:
        """bool (B, K), the keys that some query may attend to: those of padding no query may."""

    @property
    def numbers(self) -> list[int]:
        """The numbers of all calls that are this one."""
        return [self.layer]

    @property
    def first_token(self) -> int:
        """The column of the first token: behind a sink, 1."""
        return 0

    def note_reached(self, gradient: Tensor) -> None:
        """Take note of the queries that a gradient (B, H, Q, d) of the output, or of a part of it, reaches."""
        reached = gradient.any(-1).any(1)
        self.reached = reached if self.reached is None else self.reached | reached

    @abstractmethod
    def show(self, observer: Observer, whole_heads: bool = False) -> None:
        """Show the probabilities, without gradients; in tiles of all heads, if wanted."""


@dataclass
class FusedCall(AttentionCall):
    """A call of ``scaled_dot_product_attention``, or several with the same probabilities on parts of the values."""

    attention: Attention
    parts: list[FusedCall] = field(default_factory=list, init=False, repr=False)
    first: FusedCall | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._versions = self._current_versions()
        self._gradient: Tensor | None = None

    def again(self, part: FusedCall) -> None:
        """The same attention, on other values."""
        part.first = self
        self.parts.append(part)

    @property
    def numbers(self) -> list[int]:
        return [self.layer, *(part.layer for part in self.parts)]

    @property
    def evidence(self) -> tuple[Tensor, ...]:
        return self.attention.query, self.attention.key, self.attention.value

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.attention.shape

    @property
    def causal(self) -> bool:
        mask = self.attention.mask
        return self.attention.causal or (mask is not None and is_causal(mask))

    @property
    def attended(self) -> Tensor:
        mask, (batch, _, _, keys) = self.attention.mask, self.shape
        if mask is None:
            return torch.ones(batch, keys, dtype=torch.bool, device=self.attention.query.device)
        mask = mask[(None,) * (4 - mask.dim())]
        return (open_keys(mask) & ~blind_rows(mask)).any(1).any(1).expand(batch, keys)

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
        if self.shares.output != 1:
            grad_output = grad_output * self.shares.output
        if self.first is not None:
            self._gradient = grad_output
        elif self.parts:
            self._show_together(grad_output)
        else:
            self.note_reached(grad_output)
        if self.lowest:
            if self.observer is not None and not self.parts:
                self.attention.show(self.layer, self.observer, grad_output)
            return None, None, None, None
        observer = None if self.parts else self.observer
        found = self.attention.backward(self.layer, grad_output, observer, mask_gradient, self.shares.scores)
        return found if self.shares.scores else (None, None, found.value, None)

    def _show_together(self, grad_output: Tensor) -> None:
        """Show A with the sum of the gradients that it has by each part of the values."""
        others = [part for part in self.parts if part._gradient is not None]
        gradients = [part._gradient for part in others if part._gradient is not None]
        together = torch.cat([grad_output, *gradients], -1)
        self.note_reached(together)
        if self.observer is not None:
            values = torch.cat([self.attention.value, *(part.attention.value for part in others)], -1)
            replace(self.attention, value=values).show(self.layer, self.observer, together)
        for part in self.parts:
            part._gradient = None

    def _current_versions(self) -> tuple[int, ...]:
        return tuple(version_of(t) for t in (self.attention.query, self.attention.key, self.attention.value))

    def _check_unmodified(self) -> None:
        if self._current_versions() != self._versions:
            raise RuntimeError(
                f"the inputs of attention {self.module!r} were modified in place after it ran, "
                "so its probabilities cannot be computed again"
            )


@dataclass
class EagerCall(AttentionCall):
    """Attention in eager code, known by its probabilities (B, H, Q, K), sinks included.

    Attributes:
        probabilities: the result of softmax.
        tokens: the columns that are tokens. A softmax may have one more, a sink, whose share of attention is dropped.
    """

    probabilities: Tensor
    tokens: slice = field(default_factory=lambda: slice(None), init=False)

    def leave_out_sink(self, probabilities: Tensor, kept: Tensor) -> None:
        """The model dropped a column: where there are more than queries, it was a sink, before the tokens or behind."""
        queries, keys = probabilities.shape[-2:]
        if keys <= queries or kept.shape != (*probabilities.shape[:-1], keys - 1):
            return
        for start in (0, 1):
            if torch.equal(kept, probabilities[..., start : start + keys - 1]):
                self.tokens = slice(start, start + keys - 1)
                return

    @property
    def evidence(self) -> tuple[Tensor, ...]:
        return (self.probabilities,)

    @property
    def first_token(self) -> int:
        return self.tokens.start or 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        batch, heads, queries, keys = self.probabilities[..., self.tokens].shape
        return batch, heads, queries, keys

    @property
    def causal(self) -> bool:
        """Eager code gives queries that may attend to nothing (padding) one probability for all keys: no evidence."""
        return is_causal(self._open)

    @property
    def attended(self) -> Tensor:
        found = self._open.any(1).any(1)
        return torch.where(found.any(-1, keepdim=True), found, True)

    @property
    def _open(self) -> Tensor:
        """bool (B, H, Q, K), the keys of each query that attends to some more than to others."""
        attention = self.probabilities[..., self.tokens]
        uniform = attention.amax(-1, keepdim=True) == attention.amin(-1, keepdim=True)
        return (attention > 0) & ~uniform

    @property
    def like(self) -> Tensor:
        return widen(self.probabilities.flatten()[:0])

    def show(self, observer: Observer, whole_heads: bool = False) -> None:
        observer(self._tile(None))

    def backward(self, gradient: Tensor) -> Tensor | None:
        """Show (A, G) and pass G on."""
        by_head = gradient.reshape(self.probabilities.shape)
        self.note_reached(by_head)
        if self.observer is not None:
            self.observer(self._tile(widen(by_head[..., self.tokens])))
        return None if self.lowest or not self.shares.scores else gradient

    def _tile(self, gradient: Tensor | None) -> Tile:
        batch, heads, queries, _ = self.shape
        block = Block(slice(0, batch), slice(0, heads), slice(0, queries))
        probabilities = widen(self.probabilities[..., self.tokens])
        relevance = None if gradient is None else probabilities * gradient
        return Tile(self.layer, block, probabilities, gradient, relevance)
