"""The search for attention that is as far as possible from the model's own, and leaves the prediction as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from captum_attn._moved import moved_names
from captum_attn.controls.observed_examples import LayerAttention, ObservedBatch, chosen_heads, random_entries
from captum_attn.core import seeded
from captum_attn.functional import total_variation

_NOISE = 2.0  # the scores start within ± this of the model's: at 0, the divergence has no gradient
_FLOOR = 1e-2  # of the probabilities at the start: a sharper softmax has no gradient either
_PENALTY = 1.0  # at the start
_MARGIN = 0.8  # of epsilon, beyond which the penalty grows
_GROWTH, _DECAY = 1.3, 1.1  # factors of the penalty from one step to the next


class SearchSettings(NamedTuple):
    """How to search.

    Attributes:
        layers: the layers whose attention is replaced.
        heads: the heads, in each of them; None for all.
        epsilon: the largest total variation distance between the probabilities of the classes, before and after.
        steps: of Adam.
        learning_rate: of Adam, on the logits of the attention.
        seed: of the start.
    """

    layers: Sequence[int]
    heads: Sequence[int] | None
    epsilon: float
    steps: int
    learning_rate: float
    seed: int


class Found(NamedTuple):
    """The farthest attention of a batch.

    Attributes:
        attention: A' (B, H, N, N) of each layer that was searched.
        probabilities: (B, C), what the model says with it.
    """

    attention: Mapping[int, Tensor]
    probabilities: Tensor


def farthest_attention(
    observed: ObservedBatch, own: Sequence[LayerAttention], settings: SearchSettings, tick: Callable[[], object]
) -> Found:
    """Maximise the mean Jensen-Shannon divergence of A' from A, while the probabilities stay within ``epsilon``.

    A' is a softmax over the keys that a query may attend to, which starts near A. Adam raises, for each example by
    itself, JS(A', A) - λ KL(p ‖ p'), where λ grows while the probabilities p' are too far from p, and shrinks else. Of
    all steps, the farthest A' counts that keeps the predicted class, and p within ``epsilon``; the model's own
    attention, at divergence 0, where there is none.

    Args:
        observed: a batch.
        own: its attention.
        settings: how to search.
        tick: called after each step.

    Source: Jain and Wallace 2019, *Attention is not Explanation*, section 4.2.2, who do the same for one layer.
    """
    before = observed.whole.probabilities
    log_before = before.clamp(min=torch.finfo(before.dtype).tiny).log()
    heads = chosen_heads(settings.heads, observed)
    scores = _start(observed, own, settings)
    best = {layer: own[layer].probabilities for layer in scores}
    farthest = torch.zeros(len(before), device=before.device, dtype=own[0].probabilities.dtype)
    penalty = torch.full_like(farthest, _PENALTY)
    optimizer = torch.optim.Adam(list(scores.values()), lr=settings.learning_rate)
    for _ in range(settings.steps):
        with torch.enable_grad():
            attention = {layer: _softmax(own[layer], score) for layer, score in scores.items()}
            log_after = _logits_with(observed, own, attention, heads, gradients=True)[0].log_softmax(-1)
            divergence = mean_divergence(own, attention, heads)
            cost = penalty * (before * (log_before - log_after)).sum(-1) - divergence
            gradients = torch.autograd.grad(cost.sum(), list(scores.values()))
        after = log_after.detach().exp()
        distance = total_variation(before, after)
        valid = (distance <= settings.epsilon) & (after.argmax(-1) == before.argmax(-1))
        better = valid & (divergence.detach() > farthest)
        farthest = torch.where(better, divergence.detach(), farthest)
        for layer, other in attention.items():
            best[layer] = torch.where(better[:, None, None, None], other.detach(), best[layer])
        penalty = torch.where(distance > _MARGIN * settings.epsilon, penalty * _GROWTH, penalty / _DECAY)
        for score, gradient in zip(scores.values(), gradients, strict=True):
            score.grad = gradient
        optimizer.step()
        tick()
    logits, attention = _logits_with(observed, own, best, heads, gradients=False)
    return Found(attention, logits.softmax(-1))


def mean_divergence(own: Sequence[LayerAttention], attention: Mapping[int, Tensor], heads: Tensor) -> Tensor:
    """The divergence (B,) from the model's attention, of the rows that count; a mean over layers and chosen heads.

    Args:
        own: the model's attention, of each layer.
        attention: (B, H, N, N), of some layers.
        heads: bool (H, 1, 1).
    """
    kept = heads.flatten()
    return torch.stack([own[layer].divergence(other)[:, kept].mean(1) for layer, other in attention.items()]).mean(0)


def _start(observed: ObservedBatch, own: Sequence[LayerAttention], settings: SearchSettings) -> dict[int, Tensor]:
    """Scores (B, H, N, N) for each layer, whose softmax is near the model's attention."""
    generators = [seeded(settings.seed, example) for example in observed.examples]
    scores = {}
    for layer in settings.layers:
        probabilities = own[layer].probabilities
        noise = _NOISE * (2 * random_entries(generators, observed.real, observed.heads).to(probabilities) - 1)
        scores[layer] = (probabilities.clamp(min=_FLOOR).log() + noise).requires_grad_()
    return scores


def _softmax(own: LayerAttention, scores: Tensor) -> Tensor:
    """Probabilities (B, H, N, N) of the keys that each query that counts may attend to; other rows are of no use."""
    return scores.masked_fill(~own.keys & own.rows[..., None], -torch.inf).softmax(-1)


def _logits_with(
    observed: ObservedBatch, own: Sequence[LayerAttention], other: Mapping[int, Tensor], heads: Tensor, gradients: bool
) -> tuple[Tensor, dict[int, Tensor]]:
    """The model's logits (B, C) with other attention in the rows that count, and all attention (B, H, N, N) then."""
    used = {}

    def replace(layer: int, computed: Tensor, allowed: Tensor) -> Tensor:
        used[layer] = torch.where(own[layer].rows[..., None] & heads, other[layer], computed)
        return used[layer]

    return observed.logits(replace, other, gradients).to(observed.whole.probabilities.dtype), used


__getattr__ = moved_names(__name__, __name__, {"Settings": "SearchSettings"})
