"""The scores of the concepts of one experimental set in one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from captum_attn.concepts.cavs import CAVEstimator, CAVs
from captum_attn.concepts.token_states import TokenStates, draw_negatives, held_out_examples
from captum_attn.core import seeded
from captum_attn.functional import (
    balanced_accuracy,
    cauchy_combination,
    direction_p_value,
    examples_p_values,
    mean_cosine,
    mean_shifts,
    t_test_p_values,
    tcav_scores,
)

HELD_OUT = 0.2
"""The share of a concept's examples on which the accuracy of its vectors is measured."""

ACCURACY_DRAWS = 10
"""The most draws for each concept whose vectors are fitted again without them."""


class LayerEffects(NamedTuple):
    """The mean-shift effects of K concepts in one layer; float32 unless stated.

    Attributes:
        effect: (K,), e = p̄ · (μ⁺ − μ⁻): by how much the explained output would change, to first order, if the tokens'
            states moved from the mean of the other concepts' examples to that of the concept's; where tokens are
            weighted by attention, each by its share of it.
        example_effects: (E,), p̄ · h̄_e of the concepts' E examples.
        p_direction: float64 (K,), of the effect: whether the direction of the gradient could be chance.
    """

    effect: Tensor
    example_effects: Tensor
    p_direction: Tensor


@dataclass(frozen=True)
class LayerScores:
    """T-TCAV of K concepts in one layer, by m concept activation vectors for each; float32 unless stated.

    Attributes:
        cavs: (K, m, D), unit vectors.
        sign_count: (K, m), the share of inputs whose sensitivity to the vector is positive, of those with a gradient;
            NaN where none has one.
        magnitude: (K, m), the mean sensitivity of the inputs to the vector.
        effects: mean-shift effects.
        effect_of_draws: (K, m), these against each draw of the others.
        t_test: (K,), the paper's p-values of the m sign counts against 0.5.
        accuracy: (K,), on tokens of held-out examples, the mean of both sides.
        accuracy_error: (K,), its standard error, by examples.
        cosine: (K,), the mean cosine among the m vectors; NaN for one.
    """

    cavs: Tensor
    sign_count: Tensor
    magnitude: Tensor
    effects: LayerEffects
    effect_of_draws: Tensor
    t_test: Tensor
    accuracy: Tensor
    accuracy_error: Tensor
    cosine: Tensor


def layer_effects(tokens: TokenStates, gradient: Tensor) -> LayerEffects:
    """The effects of concepts, by their tokens' states and the mean pooled gradient p̄ (D,) of inputs."""
    gradient = gradient.float()
    shifts, spread = mean_shifts(tokens.example_means, tokens.concepts), tokens.example_covariance
    p_direction = torch.tensor([direction_p_value(gradient, shift, spread) for shift in shifts], dtype=torch.double)
    return LayerEffects(shifts @ gradient, tokens.example_means @ gradient, p_direction)


class EffectPValues(NamedTuple):
    """How sure the effects of K concepts are in L layers; NaN where they are undefined.

    Attributes:
        examples: float64 (L, K), whether the examples could be chance.
        direction: float64 (L, K), whether the direction of the gradient could.
        effects: float32 (L, K), of which they are.
        permutations: random splits of examples, by which ``examples`` are at least :attr:`least`.
    """

    examples: Tensor
    direction: Tensor
    effects: Tensor
    permutations: int

    @property
    def least(self) -> float:
        """The smallest p-value that so many random splits can give."""
        return 2 / (self.permutations + 1)

    @property
    def larger(self) -> Tensor:
        """float64 (L, K): the less sure of both tests."""
        return torch.maximum(self.examples, self.direction)

    @property
    def of_concepts(self) -> Tensor:
        """float64 (K,), of each concept, all layers together: whether it has an effect in any."""
        return cauchy_combination(self.larger)

    @property
    def surest(self) -> Tensor:
        """int64 (K,), the layer where each concept's p-value is smallest; of several, that of the largest effect."""
        larger = self.larger.nan_to_num(torch.inf)
        strength = self.effects.abs().nan_to_num(0.0).to(larger)
        return strength.masked_fill(larger > larger.amin(0), -1.0).argmax(0)


def effect_p_values(effects: Sequence[LayerEffects], concepts: Tensor, permutations: int, seed: int) -> EffectPValues:
    """Test the effects of K concepts in some layers, by random splits of their examples, int64 (E,).

    Of two concepts, which are each other's opposites, both have the p-value of one.
    """
    each = torch.stack([of_layer.example_effects for of_layer in effects])
    count = int(concepts.max()) + 1
    tested = [examples_p_values(each, concepts == k, permutations, seed) for k in range(1 if count == 2 else count)]
    chance = torch.stack(tested, 1).expand(-1, count)
    direction = torch.stack([of_layer.p_direction for of_layer in effects])
    return EffectPValues(chance, direction, torch.stack([of_layer.effect for of_layer in effects]), permutations)


def score_layer(tokens: TokenStates, pooled: Tensor, estimator: CAVEstimator, n_cavs: int, seed: int) -> LayerScores:
    """Fit concept activation vectors to token states, and score pooled gradients by them.

    Args:
        tokens: the states of K concepts' tokens.
        pooled: (n, D), Σ_i a_i g_i of each input.
        estimator: of the vectors.
        n_cavs: m, vectors for each concept.
        seed: of the draws and of what is held out, which are the same in all layers.
    """
    generator = seeded(seed, 0)
    pooled, concepts = pooled.float(), int(tokens.concepts.max()) + 1
    draws = draw_negatives(tokens.concepts, n_cavs, generator)
    held_out = held_out_examples(tokens.concepts, HELD_OUT, generator)
    vectors = estimator(tokens, draws).vectors
    sign_count, magnitude = (scores.view(concepts, n_cavs) for scores in tcav_scores(pooled, vectors))
    effects = layer_effects(tokens, pooled.mean(0))
    positive, negative = (weights / weights.sum(1, keepdim=True) for weights in (draws.positive, draws.negative))
    of_draws = ((positive - negative) @ effects.example_effects).view(concepts, n_cavs)
    some = draws.of_each(n_cavs, ACCURACY_DRAWS).without(held_out)
    accuracy, accuracy_error = held_out_accuracy(tokens, estimator(tokens, some), held_out, concepts)
    each = vectors.view(concepts, n_cavs, -1)
    return LayerScores(
        cavs=each,
        sign_count=sign_count,
        magnitude=magnitude,
        effects=effects,
        effect_of_draws=of_draws,
        t_test=t_test_p_values(sign_count.mT.cpu()),
        accuracy=accuracy,
        accuracy_error=accuracy_error,
        cosine=mean_cosine(each),
    )


def held_out_accuracy(tokens: TokenStates, cavs: CAVs, held_out: Tensor, concepts: int) -> tuple[Tensor, Tensor]:
    """How well K concepts' vectors tell their tokens from the others', on examples that took no part, bool (E,).

    Returns:
        (K,), the mean accuracy of each concept's vectors, of its own examples and the others' in equal parts; and its
        standard error, for which the examples, not their tokens, are independent.
    """
    in_test = held_out[tokens.example_of]
    taken = (tokens.hidden[in_test].float() @ cavs.vectors.mT > cavs.thresholds).float()
    taken = taken.view(len(taken), concepts, -1).mean(-1)
    shares = taken.new_zeros(len(tokens.counts), taken.shape[1]).index_add_(0, tokens.example_of[in_test], taken)
    found = []
    for concept, share in enumerate((shares / tokens.counts[:, None]).unbind(1)):
        own = tokens.concepts == concept
        found.append(balanced_accuracy(share[held_out & own], share[held_out & ~own]))
    accuracy, error = zip(*found, strict=True)
    return torch.stack(accuracy), torch.stack(error)
