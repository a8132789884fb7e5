"""Rankings of tokens by their scores: who comes first, and how far several rankings agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from scipy.stats import rankdata
from torch import Tensor


def rank_players(scores: Tensor, players: Tensor) -> Tensor:
    """Each player's place by descending score; of equal scores, the earlier token comes first.

    Args:
        scores: (B, N), any floating dtype, without NaN.
        players: bool (B, N).

    Returns:
        Ranks int64 (B, N): 0 for the highest score, n - 1 for the lowest of n players; non-players come behind.

    Example:
        >>> rank_players(torch.tensor([[9.0, 1.0, 3.0, 1.0]]), torch.tensor([[False, True, True, True]]))
        tensor([[3, 1, 0, 2]])
    """
    order: Tensor = scores.argsort(dim=-1, descending=True, stable=True)
    players_first = (~players).gather(-1, order).int().argsort(dim=-1, stable=True)
    return order.gather(-1, players_first).argsort(dim=-1)


def reversed_ranks(ranks: Tensor, players: Tensor) -> Tensor:
    """The ranks (B, N) of the players in reverse; those of non-players stay.

    Example:
        >>> reversed_ranks(torch.tensor([[3, 1, 0, 2]]), torch.tensor([[False, True, True, True]]))
        tensor([[3, 1, 2, 0]])
    """
    return torch.where(players, players.sum(-1, keepdim=True) - 1 - ranks, ranks)


def top_players(ranks: Tensor, players: Tensor, percent: float) -> Tensor:
    """bool (B, N): the ⌈n · percent / 100⌉ players that come first.

    Args:
        ranks: int64 (B, N), of :func:`rank_players`.
        players: bool (B, N), n of them in an input.
        percent: 0 for none to 100 for all.

    Raises:
        ValueError: a percentage out of range.

    Example:
        >>> players = torch.tensor([[False, True, True, True]])
        >>> top_players(torch.tensor([[3, 1, 0, 2]]), players, 50)
        tensor([[False,  True,  True, False]])
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"percent must lie between 0 and 100, got {percent}")
    share = players.sum(-1, keepdim=True).double() * percent / 100
    return players & (ranks < (share - 1e-9).ceil())  # 7 % of 100 are 7, not 8


def top_and_rest(
    scores: Tensor, players: Tensor, percentages: Sequence[float], reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """The players with the top k % of scores, and all others: bool (K, B, N) each, at K percentages.

    Args:
        scores: (B, N).
        players: bool (B, N).
        percentages: of the players, each between 0 and 100.
        reverse: whether the lowest scores count as the top.

    Example:
        >>> players = torch.tensor([[False, True, True, True]])
        >>> top_and_rest(torch.tensor([[9.0, 1.0, 3.0, 2.0]]), players, [50])
        (tensor([[[False, False,  True,  True]]]), tensor([[[False,  True, False, False]]]))

    Source: DeYoung et al. 2020, ERASER, section 4.2, for the bins.
    """
    ranks = rank_players(scores, players)
    ranks = reversed_ranks(ranks, players) if reverse else ranks
    top = torch.stack([top_players(ranks, players, share) for share in percentages])
    return top, players & ~top


def kendall_tau(scores: Tensor) -> Tensor:
    """Kendall's τ-b of each two of M rankings of n tokens.

    Of two tokens, a ranking says which one comes first, or that they tie: a sign. τ-b is the cosine between the signs
    of two rankings. Without ties, they order (1 + τ) / 2 of the pairs of tokens alike.

    Args:
        scores: (M, n), any floating dtype, without NaN.

    Returns:
        float64 (M, M), between -1 and 1; NaN where a ranking says nothing, as all its scores are equal.

    Example:
        >>> kendall_tau(torch.tensor([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [0.0, 0.0, 0.0]]))
        tensor([[1.0000, 0.3333,    nan],
                [0.3333, 1.0000,    nan],
                [   nan,    nan,    nan]], dtype=torch.float64)

    Source: Kendall 1945, The treatment of ties in ranking problems.
    """
    ranks = torch.from_numpy(
        rankdata(scores.cpu().double().numpy(), axis=-1)
    )  # infinite scores, too, have finite differences
    concordance = ranks.new_zeros(len(ranks), len(ranks))
    for token in range(ranks.shape[1] - 1):
        signs = (ranks[:, token : token + 1] - ranks[:, token + 1 :]).sign()
        concordance += signs @ signs.mT
    untied = concordance.diagonal()
    return concordance / (untied[:, None] * untied).sqrt()


def top_k_overlap(scores: Tensor, k: int) -> Tensor:
    """The share of the k highest tokens that each two of M rankings of n tokens have in common.

    Where scores tie at the border, each of the tied tokens is among the k highest with the same probability, and the
    overlap is what is expected of independent draws: equal scores for all tokens agree with nothing more than chance.

    Args:
        scores: (M, n), any floating dtype, without NaN.
        k: from 1 to n.

    Returns:
        float64 (M, M), between 0 and 1.

    Raises:
        ValueError: k out of range.

    Example:
        >>> top_k_overlap(torch.tensor([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [0.0, 0.0, 0.0]]), 2)[0]
        tensor([1.0000, 0.5000, 0.6667], dtype=torch.float64)

    Source: Krishna et al. 2022, *The Disagreement Problem*, section 3, for the overlap; that of ties is this library's.
    """
    if not 1 <= k <= scores.shape[-1]:
        raise ValueError(f"k must lie between 1 and the number of tokens, {scores.shape[-1]}, got {k}")
    border = scores.topk(k).values[:, -1:]
    above, tied = (scores > border).double(), (scores == border).double()
    left = k - above.sum(-1, keepdim=True)
    chosen = above + tied * left / tied.sum(-1, keepdim=True)
    return chosen @ chosen.mT / k


def top_count(top_k: int | float, players: int) -> int:
    """How many of n ≥ 2 players are the top: a number, or a share of them, rounded up; at least 1, at most n - 1.

    Example:
        >>> top_count(0.2, 11), top_count(5, 3)
        (3, 2)
    """
    count = top_k if isinstance(top_k, int) else math.ceil(players * top_k - 1e-9)  # .07 of 100 are 7, not 8
    return min(max(count, 1), players - 1)


def check_top_k(top_k: Any) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless it is a number of tokens, or a share of them."""
    if isinstance(top_k, bool) or not isinstance(top_k, int | float):
        raise TypeError(f"top_k must be a number of tokens or a share of them, got {top_k!r}")
    if not (top_k >= 1 if isinstance(top_k, int) else 0 < top_k < 1):
        raise ValueError(f"top_k must be a whole number from 1 up, or a share between 0 and 1, got {top_k!r}")


RANKING_METRICS = ("kendall_tau", "kendall_tau_of_magnitudes", "top_k_overlap", "same_top")
"""Of two rankings: τ-b; τ-b of absolute scores; overlap of the k highest tokens; of the highest one."""


class Agreement(NamedTuple):
    """Of M rankings of n tokens: each of the RANKING_METRICS, float64 (4, M, M), and what k / n chance expects."""

    values: Tensor
    expected_by_chance: float


def agreement(scores: Tensor, top_k: int | float) -> Agreement:
    """How far M rankings of an input's n tokens agree.

    Args:
        scores: (M, n), without NaN.
        top_k: as in :func:`top_count`.

    Returns:
        The RANKING_METRICS of each two rankings, NaN where one of them has no order: fewer than two tokens, or equal
        scores for all.

    Example:
        >>> agreement(torch.tensor([[3.0, 2.0, -4.0], [3.0, 1.0, 2.0]]), top_k=1).values[:, 0, 1]
        tensor([0.3333, 0.3333, 1.0000, 1.0000], dtype=torch.float64)

    Source: Neely et al. 2021, *Order in the Court*, for τ; Krishna et al. 2022 for the overlap.
    """
    rankings, players = scores.shape
    if players < 2:
        return Agreement(torch.full((len(RANKING_METRICS), rankings, rankings), torch.nan).double(), math.nan)
    tau, k = kendall_tau(scores), top_count(top_k, players)
    overlaps = torch.stack((top_k_overlap(scores, k), top_k_overlap(scores, 1)))
    values = torch.cat((torch.stack((tau, kendall_tau(scores.abs()))), overlaps.masked_fill(tau.isnan(), torch.nan)))
    return Agreement(values, k / players)
