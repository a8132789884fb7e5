"""How many examples would show a concept's effect, if it is what it looks like?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from captum_attn.concepts.experimental_sets import FEWEST_EXAMPLES
from captum_attn.functional import cauchy_combination

Floats = NDArray[np.float64]

MULTIPLES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Of the examples at hand, in :func:`power_curve`."""

WANTED = 0.8
"""The power that is asked for, by custom (Cohen 1988)."""

DRAWS = 200
"""Of examples, for each number of them."""


class PowerCurve(NamedTuple):
    """How often an effect would be significant.

    Attributes:
        examples: of the concept; of the others, in the same proportion as they are.
        power: the share of draws. Both are empty where no layer has a gradient.
    """

    examples: list[int]
    power: list[float]

    def needed(self, at_hand: int = 0) -> int | None:
        """The fewest of these examples, more than those at hand, that would do; None if none would."""
        each = zip(self.examples, self.power, strict=True)
        return next((count for count, power in each if power >= WANTED and count > at_hand), None)


def power_curve(
    example_effects: Tensor,
    own: Tensor,
    level: float,
    seed: int,
    least: float = 0.0,
    multiples: Sequence[float] = MULTIPLES,
) -> PowerCurve:
    """Draw more or fewer examples from those at hand, with replacement, and test whether they could be chance.

    What is at hand stands for what there is: effects that look larger than they are need more. Of the two tests of a
    concept, this is of its examples; how sure the gradient's direction would be with others is not known.

    Args:
        example_effects: (L, E), of E examples in L layers.
        own: bool (E,), those of the concept.
        level: below which one p-value for all layers is significant; after Holm's correction for K concepts, 0.05 / K
            for the surest of them.
        seed: of the draws.
        least: below which no p-value of examples can be, for want of random splits.
        multiples: of the numbers of examples.

    Example:
        >>> effects = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)).double()
        >>> effects[:, :10] += 1
        >>> power_curve(effects, torch.arange(40) < 10, 0.05, 0, multiples=(0.5, 1, 4)).examples
        [5, 10, 40]

    Source: Efron and Tibshirani 1993, *An Introduction to the Bootstrap*, section 25.
    """
    defined = example_effects.any(1)
    random, effects = np.random.default_rng(seed), example_effects[defined].double().cpu().numpy()
    if not defined.any():
        return PowerCurve([], [])
    sides = (effects[:, own.cpu()], effects[:, ~own.cpu()])
    examples, power = [], []
    for multiple in multiples:
        counts = [round(multiple * side.shape[1]) for side in sides]
        if min(counts) < FEWEST_EXAMPLES:
            continue
        drawn = [figure for side, count in zip(sides, counts, strict=True) for figure in _redrawn(side, count, random)]
        with np.errstate(divide="ignore", invalid="ignore"):  # one example, again and again, has no variance
            chance = torch.from_numpy(stats.ttest_ind_from_stats(*drawn, equal_var=False).pvalue).nan_to_num(1.0)
        examples.append(counts[0])
        power.append(float((cauchy_combination(chance.clamp(min=least)) < level).double().mean()))
    return PowerCurve(examples, power)


def _redrawn(values: Floats, count: int, random: np.random.Generator) -> tuple[Floats, Floats, int]:
    """Means and standard deviations (L, draws) of so many of the values (L, n), drawn with replacement."""
    times = random.multinomial(count, np.full(values.shape[1], 1 / values.shape[1]), DRAWS).T
    means = values @ times / count
    centred = values - values.mean(1, keepdims=True)
    squares = centred**2 @ times / count - (centred @ times / count) ** 2
    return means, np.sqrt(squares.clip(min=0) * count / (count - 1)), count
