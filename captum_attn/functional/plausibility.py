"""Plausibility: does an explanation point to the tokens, or to the object, that people point to?

It says nothing about what the model does: a faithful explanation of a wrong model should not look plausible.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_auprc(scores: Tensor, rationales: Tensor, players: Tensor) -> Tensor:
    """Average precision of the scores as a ranking of the tokens, for each example.

    That is how scikit-learn (``average_precision_score``) and torchmetrics sum up the precision-recall curve: the mean
    precision over the tokens of the rationale, without lines between the points of the curve. Tokens of equal scores
    are one point of it, so that their order does not count: a constant score gets the rationale's share of the tokens.
    ERASER's code calls this ``average_precision``; its ``auprc`` is the area under straight lines between the points,
    and gives a constant score more than one half.

    Args:
        scores: float (B, N), attributions.
        rationales: bool (B, N), the tokens that people chose.
        players: bool (B, N), the tokens that count.

    Returns:
        float (B,), average precision; NaN for examples without a rationale.

    Raises:
        TypeError, ValueError: shapes or dtypes that do not fit; scores of players that are NaN.

    Example:
        >>> players = torch.ones(1, 4, dtype=torch.bool)
        >>> rationale = torch.tensor([[True, False, True, False]])
        >>> token_auprc(torch.tensor([[4.0, 3.0, 2.0, 1.0]]), rationale, players)
        tensor([0.8333])
        >>> token_auprc(torch.zeros(1, 4), rationale, players)
        tensor([0.5000])

    Source: DeYoung et al. 2020, ERASER, section 4.1.
    """
    check_rationales(scores, rationales, players)
    chosen, scored = rationales & players, players.unsqueeze(-2)
    at_least = scored & (scores.unsqueeze(-2) >= scores.unsqueeze(-1))
    precision = (at_least & chosen.unsqueeze(-2)).sum(-1) / at_least.sum(-1)
    return precision.where(chosen, 0.0).sum(-1) / chosen.sum(-1)


def token_f1(scores: Tensor, rationales: Tensor, players: Tensor) -> Tensor:
    """F1 of as many of the highest tokens as the rationale has; precision and recall are the same then.

    Tokens of equal scores share the places that are left for them, each a part of one, so that their order does not
    count: this is the mean over all orders.

    Args, Returns, Raises: as :func:`token_auprc`.

    Example:
        >>> players = torch.ones(1, 4, dtype=torch.bool)
        >>> rationale = torch.tensor([[True, False, True, False]])
        >>> token_f1(torch.tensor([[4.0, 3.0, 2.0, 1.0]]), rationale, players)
        tensor([0.5000])

    Source: DeYoung et al. 2020, ERASER, section 4.1.
    """
    common, size = _common(scores, rationales, players)
    return common / size


def token_iou(scores: Tensor, rationales: Tensor, players: Tensor) -> Tensor:
    """Intersection over union of the rationale and as many of the highest tokens.

    Tokens of equal scores share the places that are left for them, as in :func:`token_f1`; intersection and union are
    those of fuzzy sets then.

    Args, Returns, Raises: as :func:`token_auprc`.

    Example:
        >>> players = torch.ones(1, 4, dtype=torch.bool)
        >>> rationale = torch.tensor([[True, False, True, False]])
        >>> token_iou(torch.tensor([[4.0, 3.0, 2.0, 1.0]]), rationale, players)
        tensor([0.3333])

    Source: DeYoung et al. 2020, ERASER, section 4.1, of tokens instead of spans.
    """
    common, size = _common(scores, rationales, players)
    return common / (2 * size - common)


def energy_pointing_game(values: Tensor, covered: Tensor) -> Tensor:
    """The share of the positive values of a map that lies on an object.

    Args:
        values: float (..., rows, columns), of an image's patches or pixels.
        covered: float (..., rows, columns), which share of each belongs to the object, 0 to 1; both are broadcast.

    Returns:
        float (...); NaN where no value is positive.

    Raises:
        ValueError: other patches, or what is no share.

    Example:
        >>> covered = torch.tensor([[1.0, 0.5], [0.0, 0.0]])
        >>> energy_pointing_game(torch.tensor([[3.0, 2.0], [4.0, -9.0]]), covered)
        tensor(0.4444)

    Source: Wang et al. 2020 (Score-CAM), arXiv 1910.01279, section 4.3.
    """
    _check_covered(values, covered)
    positive = values.clamp(min=0)
    return (positive * covered).sum((-2, -1)) / positive.sum((-2, -1))


def pointing_game(values: Tensor, covered: Tensor) -> Tensor:
    """Whether the highest value of a map lies on an object, partly at least; if there are several, whether all do.

    Args: as :func:`energy_pointing_game`.

    Returns:
        bool (...).

    Example:
        >>> pointing_game(torch.tensor([[3.0, 2.0], [4.0, -9.0]]), torch.tensor([[1.0, 0.5], [0.0, 0.0]]))
        tensor(False)

    Source: Zhang et al. 2016 (excitation backprop), arXiv 1608.00507, section 4.2.
    """
    _check_covered(values, covered)
    highest = ~(values < values.amax((-2, -1), keepdim=True))
    return ((covered > 0) | ~highest).flatten(-2).all(-1)


def _check_covered(values: Tensor, covered: Tensor) -> None:
    if values.shape[-2:] != covered.shape[-2:] or ((covered < 0) | (covered > 1)).any():
        raise ValueError(
            f"covered must be shares between 0 and 1 of the {tuple(values.shape[-2:])} patches, got "
            f"{tuple(covered.shape[-2:])} of {float(covered.min()):g} to {float(covered.max()):g}"
        )


def _common(scores: Tensor, rationales: Tensor, players: Tensor) -> tuple[Tensor, Tensor]:
    """How many tokens (B,) the rationale has in common with as many of the highest, and its size (B,); NaN for none."""
    check_rationales(scores, rationales, players)
    rationales = rationales & players
    size = rationales.sum(-1, keepdim=True)
    highest = _highest(scores, players, size)
    size = size.squeeze(-1).float()
    return (highest * rationales).sum(-1).float(), size.masked_fill(size == 0, torch.nan)


def _highest(scores: Tensor, players: Tensor, size: Tensor) -> Tensor:
    """How far each token (B, N) is among the ``size`` (B, 1) highest players: 1 or 0; of equal ones, a share each."""
    counted = players.unsqueeze(-2)
    above = (counted & (scores.unsqueeze(-2) > scores.unsqueeze(-1))).sum(-1)
    level = (counted & (scores.unsqueeze(-2) == scores.unsqueeze(-1))).sum(-1)
    return players * ((size - above) / level.clamp(min=1)).clamp(0, 1)


def check_rationales(scores: Tensor, rationales: Tensor, players: Tensor) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless these are float, bool and bool (B, N), and players have scores."""
    if scores.dim() != 2 or not scores.shape == rationales.shape == players.shape:
        shapes = [tuple(tensor.shape) for tensor in (scores, rationales, players)]
        raise ValueError(f"expected scores, rationales and players of one shape (B, N), got {shapes}")
    if rationales.dtype != torch.bool or players.dtype != torch.bool:
        raise TypeError(f"rationales and players must be bool, got {rationales.dtype} and {players.dtype}")
    if scores[players].isnan().any():
        raise ValueError("scores of players are NaN, which cannot be ranked")
