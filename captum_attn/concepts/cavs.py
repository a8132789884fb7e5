"""Concept activation vectors: the direction, in a layer's hidden states, from other concepts to one.

All estimators fit any number of vectors at once on the tokens of one layer, and have one interface: see
:class:`CAVEstimator`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_attn.concepts.token_states import Draws, TokenStates

EstimatorName = Literal["discriminant", "logistic", "pattern"]
"""The names of :class:`DiscriminantCAVs`, :class:`LogisticCAVs` and :func:`pattern_cavs`."""


class CAVs(NamedTuple):
    """C concept activation vectors of one layer.

    Attributes:
        vectors: float32 (C, D), unit length, or zero where positives and negatives have the same mean.
        thresholds: float32 (C,): a hidden state h is taken for the concept's where h · vector is above.
    """

    vectors: Tensor
    thresholds: Tensor


class CAVEstimator(Protocol):
    """How concept activation vectors are found."""

    def __call__(self, states: TokenStates, draws: Draws) -> CAVs:
        """Fit one vector for each of the draws."""


def fitted(estimator: CAVEstimator, states: TokenStates, draws: Draws) -> CAVs:
    """What an estimator finds, in float32 on the states' device.

    Raises:
        TypeError, ValueError: it finds something else than a finite vector and threshold for each of the draws.
    """
    found = estimator(states, draws)
    count, width = len(draws.positive), states.hidden.shape[1]
    if not isinstance(found, CAVs) or not all(isinstance(part, Tensor) for part in found):
        raise TypeError(f"the estimator returned {type(found).__name__}, expected captum_attn.concepts.CAVs of tensors")
    if found.vectors.shape != (count, width) or found.thresholds.shape != (count,):
        given = f"{tuple(found.vectors.shape)} and {tuple(found.thresholds.shape)}"
        raise ValueError(
            f"the estimator returned vectors and thresholds of shapes {given}, expected {(count, width)} and "
            f"{(count,)}, one for each of the draws"
        )
    if not all(part.isfinite().all() for part in found):
        raise ValueError("the estimator returned vectors or thresholds that are not finite")
    return CAVs(*(part.detach().to(states.hidden.device, torch.float32) for part in found))


def pattern_cavs(states: TokenStates, draws: Draws) -> CAVs:
    """From the negatives' mean to the positives' mean: the *pattern*, or signal, that the concept leaves in states.

    Source: Haufe et al. 2014, *On the interpretation of weight vectors of linear models*; Pahde et al. 2025,
    *Navigating Neural Space: Revisiting Concept Activation Vectors to Overcome Directional Divergence*.
    """
    positive, negative = states.means(draws.positive), states.means(draws.negative)
    return _between(states, positive - negative, positive, negative)


@dataclass(frozen=True)
class DiscriminantCAVs:
    """Fisher's linear discriminant, in closed form.

    The covariance of tokens within concepts is estimated once for all vectors, over the examples that any of them
    uses, so that a further vector costs no more than two means and one solution of a triangular system.

    Args:
        shrinkage: the share of a multiple of the identity in the covariance, between 0 and 1.
    """

    shrinkage: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.shrinkage <= 1:
            raise ValueError(f"shrinkage must lie between 0 and 1, got {self.shrinkage}")

    def __call__(self, states: TokenStates, draws: Draws) -> CAVs:
        """Fit one vector for each of the draws."""
        positive, negative = states.means(draws.positive), states.means(draws.negative)
        scatter, freedom = states.scatter_within((draws.positive + draws.negative).any(0))
        covariance = (scatter / freedom).double()
        scale = covariance.diagonal().mean().clamp(min=torch.finfo(torch.double).tiny)
        covariance = (1 - self.shrinkage) * covariance / scale
        covariance.diagonal().add_(max(self.shrinkage, 1e-6))
        directions = torch.cholesky_solve((positive - negative).double().mT, torch.linalg.cholesky(covariance)).mT
        return _between(states, directions.float(), positive, negative)


@dataclass(frozen=True)
class LogisticCAVs:
    """Logistic regression with a ridge penalty, as scikit-learn's ``LogisticRegression`` poses it; the paper's.

    All vectors are fitted together by L-BFGS, in coordinates in which the tokens are white.

    Args:
        C: inverse strength of the penalty ½ ‖w‖² / C beside the sum of the tokens' losses.
        max_iterations: of L-BFGS.
        tolerance: largest entry of the gradient, for each token, at which the fit is done.
    """

    C: float = 1.0
    max_iterations: int = 100
    tolerance: float = 1e-6

    def __call__(self, states: TokenStates, draws: Draws) -> CAVs:
        """Fit one vector for each of the draws."""
        used = (draws.positive + draws.negative).any(0)[states.example_of]
        tokens, example_of = states.centred[used], states.example_of[used]
        counted = (draws.positive + draws.negative)[:, example_of].mT
        signs = (draws.positive > 0)[:, example_of].mT * 2.0 - 1.0
        size = float(counted.sum(0).mean())
        unwhiten = self._unwhitening(tokens, size)
        white = tokens @ unwhiten.mT
        found = white.new_zeros(white.shape[1] + 1, len(draws.positive), requires_grad=True)  # last: the intercepts

        def loss() -> Tensor:
            margins = signs * torch.addmm(found[-1], white, found[:-1])
            penalty = (unwhiten.mT @ found[:-1]).square().sum() / (2 * self.C)
            value: Tensor = (torch.sum(counted * F.softplus(-margins)) + penalty) / size
            (found.grad,) = torch.autograd.grad(value, found)
            return value

        optimizer = torch.optim.LBFGS(
            [found],
            max_iter=self.max_iterations,
            tolerance_grad=self.tolerance,
            tolerance_change=0.0,
            history_size=20,
            line_search_fn="strong_wolfe",
        )
        with torch.enable_grad():
            optimizer.step(loss)  # type: ignore[arg-type]
        weights, intercepts = (unwhiten.mT @ found.detach()[:-1]).mT, found.detach()[-1]
        norms = weights.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        vectors = weights / norms[:, None]
        return CAVs(vectors, vectors @ states.centre - intercepts / norms)

    def _unwhitening(self, tokens: Tensor, size: float) -> Tensor:
        """W (D, D) with which Wᵀ u are weights and the loss has curvature of about one in every direction of u."""
        hessian = (tokens.mT @ tokens).double() / (4 * len(tokens))
        hessian.diagonal().add_(1 / (self.C * size))
        inverse: Tensor = torch.linalg.inv(torch.linalg.cholesky(hessian))
        return inverse.float()


def _between(states: TokenStates, directions: Tensor, positive: Tensor, negative: Tensor) -> CAVs:
    """Unit vectors along (C, D), with the threshold in the middle between two centred means."""
    vectors = F.normalize(directions, dim=1)
    middle = (positive + negative) / 2 + states.centre
    return CAVs(vectors, (vectors * middle).sum(1))


ESTIMATORS: dict[EstimatorName, CAVEstimator] = {
    "discriminant": DiscriminantCAVs(),
    "logistic": LogisticCAVs(),
    "pattern": pattern_cavs,
}
