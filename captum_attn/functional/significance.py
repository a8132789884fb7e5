"""How sure a concept's effect is: two tests of the mean-shift effect, and the paper's t-test beside them.

The mean-shift effect of a concept is e = p̄ · Δ, where p̄ is the mean pooled gradient of the inputs, and Δ leads from the
other concepts' mean state to the concept's. It is nothing to speak of if Δ is chance, or if p̄ is: one test asks about
the examples, the other about the direction of the gradient. An effect is as sure as the less sure of them
(an intersection-union test; Berger 1982).

The first test alone is not enough: without any training, two textures differ in most directions of a network's states,
p̄ among them, and with enough examples every such difference is significant.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

SIGNIFICANT = 0.05
"""The level of all tests."""

_LARGEST = 0.999
"""What larger p-values count as, where they are combined."""


def examples_p_values(example_effects: Tensor, own: Tensor, permutations: int, seed: int) -> Tensor:
    """Two-sided p-values of Welch's t, the difference of means between a concept's examples and all others.

    The null hypothesis: examples could swap concepts. Then random splits of all examples have as large a t as often as
    the p-value says. Divided by its standard error, the difference is tested where the spreads differ, too, nearly so.

    Args:
        example_effects: (L, E), p̄ · h̄_e, the mean pooled gradient of the inputs times the mean state of example e, in L
            layers.
        own: bool (E,), the concept's examples.
        permutations: random splits; all of them where there are no more.
        seed: of the splits, which all layers share.

    Returns:
        float64 (L,), at least 2 / (1 + permutations) where splits are random; NaN where all effects are zero.

    Example:
        >>> effects = torch.tensor([[5.0, 4.0, 6.0, 0.0, 1.0, -1.0]])
        >>> examples_p_values(effects, torch.arange(6) < 3, permutations=99, seed=0)  # 2 of all 20 splits
        tensor([0.1000], dtype=torch.float64)

    Source: Chung and Romano 2013, *Exact and asymptotically robust permutation tests*, for the studentized difference;
    Phipson and Smyth 2010, *Permutation P-values should never be zero*, for the smallest one.
    """
    groups = [example_effects[:, members].double().cpu().numpy() for members in (own, ~own)]
    test = stats.permutation_test(
        groups,
        _welch_t,
        vectorized=True,
        n_resamples=permutations,
        batch=1000,
        axis=-1,
        rng=np.random.default_rng(seed),
    )
    p_values = torch.tensor(np.atleast_1d(test.pvalue), dtype=torch.double)
    return p_values.where(example_effects.any(-1).cpu(), torch.nan)


def _welch_t(own: npt.NDArray[np.double], others: npt.NDArray[np.double], axis: int) -> npt.NDArray[np.double]:
    error = own.var(axis, ddof=1) / own.shape[axis] + others.var(axis, ddof=1) / others.shape[axis]
    t: npt.NDArray[np.double] = (own.mean(axis) - others.mean(axis)) / np.sqrt(error + np.finfo(np.double).tiny)
    return t


def direction_p_value(gradient: Tensor, shift: Tensor, covariance: Tensor) -> float:
    """Two-sided p-value of the cosine between a gradient and a shift; NaN where one of them is zero.

    The null hypothesis: the gradient has nothing to do with the shift, and points anywhere, in coordinates in which the
    examples of a concept spread alike in all directions: Σ = L Lᵀ there makes Lᵀ p̄ of the gradient and L⁻¹ Δ of the
    shift, and leaves their product as it is. The cosine says how well the gradient separates the concept's examples,
    compared with the direction that separates them best. Of random directions in D dimensions, cosines c make
    c √((D − 1) / (1 − c²)) Student's t with D − 1 degrees of freedom.

    It does not ask whether the output was trained to depend on the concept: a random head on a trained body reads
    concepts, too, and is often significant.

    Args:
        gradient: p̄ (D,).
        shift: Δ (D,).
        covariance: Σ (D, D), of the examples' means within concepts; positive definite.

    Example:
        >>> direction_p_value(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]), torch.eye(3))
        1.0

    Source: Fisher 1915, *Frequency distribution of the values of the correlation coefficient in samples from an
    indefinitely large population*, whose null distribution, in D + 1 observations, is that of these cosines.
    """
    factor = torch.linalg.cholesky(covariance.double())
    gradient, shift = (
        factor.mT @ gradient.double(),
        torch.linalg.solve_triangular(factor, shift.double()[:, None], upper=False),
    )
    if len(gradient) == 1 and gradient.any() and shift.any():
        return 1.0  # there is one direction only
    width, cosine = len(gradient), float(F.cosine_similarity(gradient, shift.squeeze(1), dim=0, eps=0.0))
    if math.isnan(cosine) or abs(cosine) >= 1:
        return math.nan if math.isnan(cosine) else 0.0
    return float(2 * stats.t.sf(abs(cosine) * math.sqrt((width - 1) / (1 - cosine**2)), width - 1))


def cauchy_combination(p_values: Tensor) -> Tensor:
    """One p-value for several tests of one hypothesis, nearly so however they depend on each other.

    The mean of the tests' Cauchy quantiles is Cauchy under the null hypothesis, nearly so in the tail under any
    dependence. It is about the harmonic mean of the p-values: as small as these are where all are small, and as
    Bonferroni's where one is.

    At a level of 5 %, 12 tests of normal variables of one correlation, the least favourable, reject in 6.0 %, 24 in
    6.4 %, and 48 in 6.6 %; at 1 %, 12 and 24 in 1.2 % and 1.3 %.

    Args:
        p_values: (m, ...), m tests; NaN for one that is undefined, which does not count.

    Returns:
        float64 (...); NaN where all tests are undefined.

    Raises:
        ValueError: p-values beyond 0 and 1.

    Example:
        >>> cauchy_combination(torch.tensor([[0.01, 0.01], [0.01, 0.5], [0.01, float("nan")]]))
        tensor([0.0100, 0.0200], dtype=torch.float64)

    Source: Liu and Xie 2020, *Cauchy combination test*, JASA 115; Fang, Chang, Park and Tseng 2023, *Heavy-tailed
    distribution for combining dependent p-values*, for p-values near 1, which count as .999, lest one hide the others.
    """
    if ((p_values < 0) | (p_values > 1)).any():
        raise ValueError("p-values must be between 0 and 1")
    quantiles = stats.cauchy.isf(p_values.double().clamp(max=_LARGEST).cpu().numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of tests that are all undefined
        return torch.from_numpy(np.asarray(stats.cauchy.sf(np.nanmean(quantiles, axis=0))))


def holm(p_values: Tensor) -> Tensor:
    """Holm's step-down correction of (m,) p-values, for all m tests together; NaN stays NaN and does not count.

    Example:
        >>> holm(torch.tensor([0.01, 0.04, float("nan"), 0.03]))
        tensor([0.0300, 0.0600,    nan, 0.0600])

    Source: Holm 1979, *A simple sequentially rejective multiple test procedure*.
    """
    corrected = p_values.clone()
    tested = (~p_values.isnan()).nonzero().flatten()
    order = tested[p_values[tested].argsort()]
    factors = p_values.new_tensor(range(len(order), 0, -1))
    if len(order):
        corrected[order] = (p_values[order] * factors).cummax(0).values.clamp(max=1)
    return corrected


def holm_levels(p_values: Tensor) -> Tensor:
    """Below which p-value each of m tests is significant at the 5 % level, by Holm's correction, given the others.

    Args:
        p_values: (m,); NaN for a test that is undefined, which does not count.

    Returns:
        float64 (m,): .05 / (m - r), if r tests with smaller p-values are significant; NaN stays NaN.

    Example:
        >>> holm_levels(torch.tensor([0.01, 0.04, float("nan"), 0.03]))
        tensor([0.0167, 0.0250,    nan, 0.0250], dtype=torch.float64)

    Source: Holm 1979, *A simple sequentially rejective multiple test procedure*.
    """
    before = (p_values < p_values[:, None]) & (holm(p_values) < SIGNIFICANT)
    tested = ~p_values.isnan()
    return (SIGNIFICANT / (tested.sum() - before.sum(1)).clamp(min=1).double()).where(tested, torch.nan)


def t_test_p_values(scores: Tensor) -> Tensor:
    """The paper's test: one-sample t-tests of scores (n, C) against 0.5, (C,); NaN for a score that is constant.

    It takes the scores of n concept activation vectors for n observations, which share their positives and their
    inputs: its p-values are far too small, on untrained models, too.

    Args:
        scores: (n, C), floating, on the CPU.

    Returns:
        (C,), of the same dtype.

    Example:
        >>> t_test_p_values(torch.tensor([[0.4, 0.9, 1.0], [0.6, 0.8, 1.0], [0.5, 1.0, 1.0]]))
        tensor([1.0000, 0.0202,    nan])

    Source: Student 1908, *The probable error of a mean*; Kim et al. 2018, arXiv 1711.11279, for its use on such scores.
    """
    varies = (scores != scores[0]).any(0) & ~scores.isnan().any(0)
    p_values = scores.new_full((scores.shape[1],), float("nan"))
    if varies.any():
        test = stats.ttest_1samp(scores[:, varies].double().numpy(), 0.5, axis=0)
        p_values[varies] = p_values.new_tensor(test.pvalue)
    return p_values
