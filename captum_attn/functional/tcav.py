"""Testing with concept activation vectors (TCAV), for transformers: sensitivities, scores and effects of concepts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TCAVScores(NamedTuple):
    """Scores (C,) of C concept activation vectors.

    Attributes:
        sign_count: the share of inputs whose sensitivity to the vector is positive.
        magnitude: the mean sensitivity of the inputs.
    """

    sign_count: Tensor
    magnitude: Tensor


def token_sensitivity(gradient: Tensor, attention: Tensor, vectors: Tensor, rescaled: bool) -> Tensor:
    """s_i = a_i ⟨g_i, v⟩ of each token for K vectors.

    Args:
        gradient: g (B, N, D).
        attention: a (B, N), weights of the tokens; 0 for those out of scope.
        vectors: v (K, D).
        rescaled: scale the derivatives ⟨g_i, v⟩ of each input's tokens to the norm of their attention, as the paper
            does: then all maps have values of one size.

    Returns:
        (B, K, N), of the dtype of ``attention``.

    Example:
        >>> gradient, attention = torch.tensor([[[1.0, 0.0], [2.0, 4.0]]]), torch.tensor([[0.5, 0.25]])
        >>> token_sensitivity(gradient, attention, torch.tensor([[0.0, 1.0]]), rescaled=False)
        tensor([[[0., 1.]]])

    Source: arXiv 2508.08966, T-TCAV.
    """
    derivative = (gradient.to(attention) @ vectors.to(attention).mT).mT * (attention != 0)[:, None]
    if rescaled:
        norm = derivative.norm(dim=-1, keepdim=True)
        scale = attention.norm(dim=-1)[:, None, None] / norm.clamp(min=torch.finfo(norm.dtype).tiny)
        derivative = derivative * scale
    return derivative * attention[:, None]


def pooled_gradient(gradient: Tensor, attention: Tensor) -> Tensor:
    """p = Σ_i a_i g_i, by which the sensitivity of an input to a vector is Σ_i s_i = ⟨p, v⟩.

    Args:
        gradient: g (B, N, D).
        attention: a (B, N), weights of the tokens; 0 for those out of scope.

    Returns:
        (B, D), of the dtype of ``attention``.

    Example:
        >>> pooled_gradient(torch.tensor([[[1.0, 0.0], [2.0, 4.0]]]), torch.tensor([[0.5, 0.25]]))
        tensor([[1., 1.]])

    Source: arXiv 2508.08966, T-TCAV.
    """
    return (attention[:, None] @ gradient.to(attention)).squeeze(1)


def tcav_scores(pooled: Tensor, vectors: Tensor) -> TCAVScores:
    """The TCAV scores of concept activation vectors, by the sensitivities ⟨p, v⟩ of n inputs.

    Args:
        pooled: p (n, D), floating.
        vectors: v (C, D), of the same dtype.

    Returns:
        Of that dtype. Inputs whose pooled gradient is zero, such as those of a saturated output, have no sign and are
        not counted; NaN where none is left.

    Example:
        >>> tcav_scores(torch.tensor([[1.0, 0.0], [3.0, -1.0]]), torch.eye(2))
        TCAVScores(sign_count=tensor([1., 0.]), magnitude=tensor([ 2.0000, -0.5000]))

    Source: Kim et al. 2018, *Interpretability Beyond Feature Attribution: Quantitative Testing with Concept Activation
    Vectors (TCAV)*, arXiv 1711.11279, section 3.3; the magnitude as captum has it.
    """
    sensitivity = pooled @ vectors.mT
    sign_count = (sensitivity[pooled.any(-1)] > 0).to(pooled).mean(0)
    return TCAVScores(sign_count, sensitivity.mean(0))


def mean_shifts(means: Tensor, concepts: Tensor) -> Tensor:
    """Δ_k, from the mean of all other concepts' examples to the mean of concept k's.

    With p̄, the mean pooled gradient of the inputs, the *mean-shift effect* is e_k = Δ_k · p̄: by how much the explained
    output would change, to first order, if the tokens' states moved along Δ_k.

    Args:
        means: (E, D), the mean state of each example's tokens; floating.
        concepts: int64 (E,), the concept that each example belongs to, 0 to K - 1; at least two.

    Returns:
        (K, D), of the same dtype.

    Example:
        >>> mean_shifts(torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([0, 0, 1]))
        tensor([[-6.],
                [ 6.]])

    Source: this library's; the shift is the pattern of Haufe et al. 2014 for two groups of one spread.
    """
    owns = [concepts == concept for concept in range(int(concepts.max()) + 1)]
    return torch.stack([means[own].mean(0) - means[~own].mean(0) for own in owns])


def mean_cosine(vectors: Tensor) -> Tensor:
    """The mean cosine among m unit vectors: (‖Σ_j v_j‖² - m) / (m (m - 1)).

    Args:
        vectors: (..., m, D), each of length 1.

    Returns:
        (...), of the same dtype; NaN for one vector.

    Example:
        >>> mean_cosine(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
        tensor(0.3333)

    Source: Σ_ij ⟨v_i, v_j⟩ = ‖Σ_j v_j‖², of which m terms are 1.
    """
    count = vectors.shape[-2]
    return (vectors.sum(-2).square().sum(-1) - count) / (count * (count - 1) or torch.nan)


def balanced_accuracy(positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the accuracies on positive and on negative examples, and its standard error.

    Args:
        positives: (P,), which share of each positive example is taken for positive; 0 or 1 where examples are whole.
        negatives: (Q,), the same of each negative example, for which it is wrong.

    Returns:
        Two scalars, of the same dtype. The examples are independent; with fewer than two on a side, the error is NaN.

    Example:
        >>> balanced_accuracy(torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5, 0.0, 0.5]))
        (tensor(0.7500), tensor(0.1443))

    Source: Brodersen et al. 2010, *The balanced accuracy and its posterior distribution*; the error is that of half the
    sum of two independent means.
    """
    rejected = 1 - negatives
    variance = positives.var() / len(positives) + rejected.var() / len(rejected)
    return (positives.mean() + rejected.mean()) / 2, variance.sqrt() / 2
