"""The hidden states of the tokens of examples, and what is drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from sklearn.covariance import ledoit_wolf
from torch import Tensor


@dataclass(frozen=True)
class TokenStates:
    """One layer's hidden states of the tokens of E examples, example by example.

    Attributes:
        hidden: (T, D), of any floating dtype.
        counts: int64 (E,), how many tokens each example has; they sum to T.
        concepts: int64 (E,), the concept that each example belongs to, 0 to K - 1.
    """

    hidden: Tensor
    counts: Tensor
    concepts: Tensor

    @cached_property
    def example_of(self) -> Tensor:
        """int64 (T,), the example of each token."""
        return torch.repeat_interleave(torch.arange(len(self.counts), device=self.counts.device), self.counts)

    @cached_property
    def centre(self) -> Tensor:
        """(D,), the mean of all tokens."""
        return self.hidden.mean(0, dtype=torch.float32)

    @cached_property
    def centred(self) -> Tensor:
        """The hidden states without their mean, float32 (T, D): large means would cost digits."""
        return self.hidden.float() - self.centre

    @cached_property
    def sums(self) -> Tensor:
        """float32 (E, D), the sum of each example's centred tokens."""
        zeros = self.centred.new_zeros(len(self.counts), self.centred.shape[1])
        return zeros.index_add_(0, self.example_of, self.centred)

    @cached_property
    def example_means(self) -> Tensor:
        """float32 (E, D), the mean of each example's centred tokens."""
        return self.sums / self.counts[:, None]

    @cached_property
    def example_covariance(self) -> Tensor:
        """float64 (D, D), of the examples' means within concepts; as few examples as there are, shrunk to full rank.

        Source: Ledoit and Wolf 2004, *A well-conditioned estimator for large-dimensional covariance matrices*.
        """
        own = F.one_hot(self.concepts).to(self.example_means)
        within = self.example_means - own @ ((own / own.sum(0)).mT @ self.example_means)
        if not within.any():
            return torch.eye(within.shape[1], dtype=torch.double, device=self.hidden.device)
        shrunk, _ = ledoit_wolf(within.double().cpu().numpy(), assume_centered=True)
        covariance = torch.from_numpy(shrunk).to(self.hidden.device)
        floor = torch.finfo(torch.float32).eps * covariance.diagonal().mean() + torch.finfo(torch.double).tiny
        return covariance + floor * torch.eye(len(covariance)).to(covariance)

    def means(self, weights: Tensor) -> Tensor:
        """The mean centred token (C, D) under C weightings (C, E) of the examples."""
        return (weights @ self.sums) / (weights @ self.counts.float())[:, None]

    def scatter_within(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Scatter (D, D) of the tokens of some examples, bool (E,), about their concept's mean; degrees of freedom."""
        own = F.one_hot(self.concepts).to(self.sums) * examples[:, None]  # (E, K)
        counts = self.counts.to(own) @ own
        means = (own.mT @ self.sums) / counts.clamp(min=1)[:, None]
        chosen = examples[self.example_of]
        deviations = self.centred[chosen] - means[self.concepts[self.example_of[chosen]]]
        return deviations.mT @ deviations, (counts.sum() - (counts > 0).sum()).clamp(min=1)


@dataclass(frozen=True)
class Draws:
    """Positive and negative examples of C concept activation vectors, by weights of the E examples.

    Attributes:
        positive: float32 (C, E), 1 for each of a concept's examples.
        negative: float32 (C, E), how often each other example was drawn.
    """

    positive: Tensor
    negative: Tensor

    def of_each(self, count: int, wanted: int) -> Draws:
        """The first ``wanted`` of the ``count`` draws of each concept."""
        first = torch.arange(len(self.positive), device=self.positive.device) % count < wanted
        return Draws(self.positive[first], self.negative[first])

    def without(self, held_out: Tensor) -> Draws:
        """The same draws without the examples held out, bool (E,); all other ones where none of the drawn is left."""
        left, others = self.negative * ~held_out, (self.positive == 0) * ~held_out
        return Draws(self.positive * ~held_out, torch.where(left.any(1, keepdim=True), left, others.float()))


def draw_negatives(concepts: Tensor, count: int, generator: torch.Generator) -> Draws:
    """For each concept in turn, ``count`` draws of as many examples of the other concepts as it has itself.

    They are drawn without replacement where the others have at least twice as many, so that draws differ, else with.

    Args:
        concepts: int64 (E,), 0 to K - 1.
        count: draws for each concept.
        generator: of the draws, on the CPU.

    Returns:
        Draws of C = K · count vectors.

    Source: arXiv 2508.08966, relative CAVs.
    """
    positive, negative = [], []
    for concept in range(int(concepts.max()) + 1):
        own = concepts == concept
        others = (~own).nonzero().flatten().cpu()
        needed = int(own.sum())
        for _ in range(count):
            if len(others) >= 2 * needed:
                drawn = torch.randperm(len(others), generator=generator)[:needed]
            else:
                drawn = torch.randint(len(others), (needed,), generator=generator)
            positive.append(own.float())
            negative.append(torch.bincount(others[drawn], minlength=len(concepts)).float().to(own.device))
    return Draws(torch.stack(positive), torch.stack(negative))


def held_out_examples(concepts: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """bool (E,): a random share of each concept's examples, at least two."""
    held_out = torch.zeros_like(concepts, dtype=torch.bool)
    for concept in range(int(concepts.max()) + 1):
        members = (concepts == concept).nonzero().flatten()
        chosen = torch.randperm(len(members), generator=generator)[: max(2, round(share * len(members)))]
        held_out[members[chosen.to(members.device)]] = True
    return held_out


def joined(of_each: Sequence[tuple[Tensor, Tensor]]) -> TokenStates:
    """The states (T, D) and counts (E,) of several concepts as one."""
    hidden, counts = zip(*of_each, strict=True)
    concepts = torch.repeat_interleave(
        torch.arange(len(counts), device=counts[0].device), torch.tensor([len(c) for c in counts]).to(counts[0].device)
    )
    return TokenStates(torch.cat(hidden), torch.cat(counts), concepts)
