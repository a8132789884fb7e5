"""Models of one's own whose attention is stacked in ways that names and sizes do not tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS = 16, 2


class Attend(nn.Module):
    """Attention and a residual connection, written in one of several ways; queries may come from elsewhere."""

    def __init__(self, way: str = "fused", heads: int = HEADS) -> None:
        super().__init__()
        self.way, self.heads = way, heads
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, states: Tensor, memory: Tensor | None = None) -> Tensor:
        memory = states if memory is None else memory
        split = [
            project(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, source in ((self.query, states), (self.key, memory), (self.value, memory))
        ]
        mixed = WAYS[self.way](*split)
        return states + self.out(mixed.transpose(1, 2).flatten(2))


def scaled(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.mT / query.shape[-1] ** 0.5


def rows(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax over (B · H, N, N)."""
    flat = [part.flatten(0, 1) for part in (query, key, value)]
    return (scaled(*flat[:2]).softmax(-1) @ flat[2]).unflatten(0, query.shape[:2])


def heads_first(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax over (H · B, N, N), as in code that splits heads and joins them in the batch."""
    flat = [part.transpose(0, 1).flatten(0, 1) for part in (query, key, value)]
    mixed = scaled(*flat[:2]).softmax(-1) @ flat[2]
    return mixed.unflatten(0, (query.shape[1], query.shape[0])).transpose(0, 1)


def five_dimensions(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Heads in groups, (B, G, H / G, N, N), by einsum, with a bias added in place."""
    split = [part.unflatten(1, (-1, 1)) for part in (query, key, value)]
    scores = torch.einsum("bghqd,bghkd->bghqk", *split[:2]) / query.shape[-1] ** 0.5
    scores += torch.linspace(0, 1, scores.shape[-1], device=scores.device)
    return torch.einsum("bghqk,bghkd->bghqd", scores.softmax(-1), split[2]).flatten(1, 2)


def with_sink(query: Tensor, key: Tensor, value: Tensor, first: bool = False) -> Tensor:
    """A column more in the softmax, dropped afterwards, behind the tokens or before them."""
    scores = scaled(query, key)
    sink = torch.full_like(scores[..., :1], 0.5)
    if first:
        return torch.cat([sink, scores], -1).softmax(-1)[..., 1:] @ value
    return torch.cat([scores, sink], -1).softmax(-1)[..., :-1] @ value


def halves(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Two fused calls with the same probabilities, on halves of the values."""
    parts = [F.scaled_dot_product_attention(query, key, half) for half in value.chunk(2, -1)]
    return torch.cat(parts, -1)


def sideways(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax over the queries."""
    return scaled(query, key).softmax(-2) @ value


def talking_heads(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scores and probabilities are mixed over heads."""
    mix = torch.tensor([[1.0, 0.5], [-0.5, 1.0]], device=query.device)
    scores = F.linear(scaled(query, key).movedim(1, -1), mix).movedim(-1, 1)
    return F.linear(scores.softmax(-1).movedim(1, -1), mix).movedim(-1, 1) @ value


def synthesized(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Probabilities of positions alone."""
    length = key.shape[2]
    scores = torch.sin(torch.arange(length * length, dtype=key.dtype, device=key.device)).view(1, 1, length, length)
    return scores.expand(*query.shape[:2], -1, -1).softmax(-1) @ value


def of_states(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Linear attention, whose softmax is over the features of a query, of which there are as many as tokens."""
    return query[..., :5].softmax(-1) @ value


def eager(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return scaled(query, key).softmax(-1) @ value


WAYS = {
    "fused": F.scaled_dot_product_attention,
    "eager": eager,
    "rows": rows,
    "heads first": heads_first,
    "five dimensions": five_dimensions,
    "sink": with_sink,
    "sink first": lambda *split: with_sink(*split, first=True),
    "halves": halves,
    "sideways": sideways,
    "talking heads": talking_heads,
    "synthesized": synthesized,
    "of states": of_states,
}


class Own(nn.Module):
    """A classifier of embeddings (B, N, 16) whose forward pass is given as a function of the module and its input."""

    def __init__(self, forward: Any, *ways: str, heads: int = HEADS, **parts: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Attend(way, heads) for way in ways)
        self.head, self.compute = nn.Linear(WIDTH, 3), forward
        for name, part in parts.items():
            self.add_module(name, part)
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.25 if weight.dim() > 1 else 0.1)
        self.eval()

    def forward(self, inputs_embeds: Tensor, **others: Tensor) -> Tensor:
        return self.compute(self, inputs_embeds, **others)


def straight(model: Own, states: Tensor) -> Tensor:
    """All layers, and the first token is read."""
    for layer in model.layers:
        states = layer(states)
    return model.head(states[:, 0])


def embeddings(batch: int = 3, length: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(seed))


@contextmanager
def attention_recorded() -> Iterator[list[Tensor]]:
    """What softmax returns in eager code, and fused attention as eager code, in order; with the graph."""
    seen: list[Tensor] = []
    softmax = Tensor.softmax

    def recorded(scores: Tensor, *args: Any, **options: Any) -> Tensor:
        seen.append(softmax(scores, *args, **options).requires_grad_())
        return seen[-1]

    def spelled_out(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        return recorded(scaled(query, key), -1) @ value

    with (
        mock.patch.object(Tensor, "softmax", recorded),
        mock.patch.object(F, "scaled_dot_product_attention", spelled_out),
        mock.patch.dict(WAYS, {"fused": spelled_out}),
    ):
        yield seen


def signed_influence(model: nn.Module, inputs: Tensor, target: int = 1, **others: Tensor) -> list[Tensor]:
    """A ⊙ G of each attention in order, of the shape that its softmax has, by plain autograd."""
    with attention_recorded() as seen:
        scores = model(inputs, **others)[:, target].sum()
    gradients = torch.autograd.grad(scores, seen, allow_unused=True)
    zeros = (torch.zeros_like(a) if g is None else g for a, g in zip(seen, gradients, strict=True))
    return [(a * g).detach() for a, g in zip(seen, zeros, strict=True)]
