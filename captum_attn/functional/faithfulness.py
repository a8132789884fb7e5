"""Faithfulness of one explanation to one prediction, from the probabilities of perturbed inputs.

p is the probability of the class that the model predicts on the whole input. Perturbed inputs either lose the k % of
tokens with the highest scores, or lose all others. All functions map probabilities (B,) of whole inputs and (B, K) of
inputs perturbed at K percentages to one number for each example, (B,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Scale = Literal["eraser", "paper"]
"""Whose percentages, and whose mean over them: ERASER's (DeYoung et al. 2020), or the paper's."""

SCALES: tuple[Scale, ...] = get_args(Scale)
"""Both of them."""

PERCENTAGES: dict[Scale, tuple[float, ...]] = {"eraser": (0, 1, 5, 10, 20, 50), "paper": (0, 10, 20, 50)}
"""The percentages over which comprehensiveness and sufficiency are averaged."""


def mean_drop(whole: Tensor, perturbed: Tensor, scale: Scale = "eraser") -> Tensor:
    """How far the probability of the predicted class falls, averaged over percentages.

    Comprehensiveness where the perturbed inputs lose the top k % (higher is better), sufficiency where they keep only
    the top k % (lower is better).

    Args:
        whole: float (B,), probabilities on the whole inputs.
        perturbed: float (B, K), on the inputs perturbed at each of K percentages, 0 % among them.
        scale: ``"eraser"`` is the mean of the K drops. ``"paper"`` divides their sum by K + 1, as arXiv 2508.08966 does
            with its four percentages: 0.8 of their mean.

    Returns:
        float (B,), between -1 and 1.

    Raises:
        ValueError: shapes that do not fit, numbers that are no probabilities, an unknown scale.

    Example:
        >>> mean_drop(torch.tensor([0.9]), torch.tensor([[0.9, 0.6, 0.3]]))
        tensor([0.3000])
        >>> mean_drop(torch.tensor([0.9]), torch.tensor([[0.9, 0.7, 0.5, 0.3]]), scale="paper")
        tensor([0.2400])

    Source: DeYoung et al. 2020, ERASER, section 4.2.
    """
    check_probabilities(whole, perturbed)
    check_scale(scale)
    drops = whole.unsqueeze(-1) - perturbed
    return drops.sum(-1) / (drops.shape[-1] + (scale == "paper"))


def log_odds(whole: Tensor, perturbed: Tensor) -> Tensor:
    """log p(perturbed) - log p(whole), averaged over percentages. For inputs that lose the top k %, lower is better.

    Args:
        whole, perturbed: as in :func:`mean_drop`.

    Returns:
        float (B,), finite: a probability of 0 counts as the smallest normal number of its dtype.

    Raises:
        ValueError: as :func:`mean_drop`.

    Example:
        >>> log_odds(torch.tensor([0.8]), torch.tensor([[0.8, 0.4, 0.2]]))
        tensor([-0.6931])

    Source: Shrikumar et al. 2017; Chen, Zheng, Ji 2020, section 4.1.
    """
    check_probabilities(whole, perturbed)
    tiny = torch.finfo(whole.dtype).tiny
    return (perturbed.clamp(min=tiny).log() - whole.unsqueeze(-1).clamp(min=tiny).log()).mean(-1)


def aopc(whole: Tensor, perturbed: Tensor) -> Tensor:
    """The area over the perturbation curve, step by step: the mean of the drops so far.

    Args:
        whole: float (B,).
        perturbed: float (B, K), in the order of perturbation, the whole input first.

    Returns:
        float (B, K).

    Raises:
        ValueError: as :func:`mean_drop`.

    Example:
        >>> aopc(torch.tensor([0.9]), torch.tensor([[0.9, 0.5, 0.3]]))
        tensor([[0.0000, 0.2000, 0.3333]])

    Source: Samek et al. 2017, equation 12.
    """
    check_probabilities(whole, perturbed)
    steps = torch.arange(1, perturbed.shape[-1] + 1, device=whole.device)
    return (whole.unsqueeze(-1) - perturbed).cumsum(-1) / steps


def area_under_curve(perturbed: Tensor, percentages: Sequence[float]) -> Tensor:
    """The area under the probability, as a function of the share of tokens, by the trapezoidal rule.

    Deletion where the top k % are lost (lower is better), insertion where only they are kept (higher is better).

    Args:
        perturbed: float (B, K).
        percentages: K of them, from 0 to 100, ascending.

    Returns:
        float (B,), between 0 and 1.

    Raises:
        ValueError: percentages that do not ascend from 0 to 100, or are not K.

    Example:
        >>> area_under_curve(torch.tensor([[0.9, 0.5, 0.1]]), [0, 50, 100])
        tensor([0.5000])

    Source: Petsiuk, Das, Saenko 2018, RISE, section 4.2.
    """
    steps = check_percentages(percentages)
    if len(steps) != perturbed.shape[-1]:
        raise ValueError(f"expected {perturbed.shape[-1]} percentages, one for each column, got {steps}")
    return torch.trapezoid(perturbed, torch.tensor(steps, device=perturbed.device).to(perturbed) / 100)


def check_scale(scale: str) -> None:
    """Raise ``ValueError`` for an unknown scale."""
    if scale not in SCALES:
        raise ValueError(f"unknown scale {scale!r}: expected {' or '.join(map(repr, SCALES))}")


def check_percentages(percentages: Sequence[float]) -> list[float]:
    """The percentages as a list; ``ValueError`` unless they ascend from 0 to 100."""
    steps = list(percentages)
    if not steps or steps[0] != 0 or steps[-1] != 100 or steps != sorted(set(steps)):
        raise ValueError(f"expected percentages that ascend from 0 to 100, got {steps}")
    return steps


def check_probabilities(whole: Tensor, perturbed: Tensor) -> None:
    """Raise ``ValueError`` unless these are probabilities (B,) and (B, K)."""
    if whole.dim() != 1 or perturbed.dim() != 2 or len(whole) != len(perturbed) or not perturbed.shape[1]:
        raise ValueError(
            f"expected probabilities of shapes (B,) and (B, K), got {tuple(whole.shape)} and {tuple(perturbed.shape)}"
        )
    for values in (whole, perturbed):
        if not values.is_floating_point() or not ((values >= 0) & (values <= 1 + 1e-4)).all():
            raise ValueError("expected probabilities between 0 and 1, such as logits.softmax(-1), got others or NaN")
