r"""Attention games whose players are groups of tokens, such as the sentences of a prompt: exact, in closed form.

A coalition of groups is worth what their tokens together are worth in the game of tokens
(:mod:`captum_attn.functional.games`). So additive games give a group the sum over its tokens. In a mutual game, with
w_ij the weight of two tokens, W_g = Σ w_ij over the pairs in a group, C_gh that over the pairs between two, and K
groups, φ_g = W_g + ½ Σ_h C_gh; and the worth M_ii of a token alone, which larger coalitions do not have, is paid by the
others: a group of one token gets M_ii / K, and takes M_ii / (K (K − 1)) from each other group.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_attn.functional.games import (
    ADDITIVE_GAMES,
    Game,
    check_game_inputs,
    pair_weights,
    shapley_values,
    singleton_worth,
    solved_by_pairs,
)


def group_shapley_values(
    influence: Tensor,
    groups: Tensor,
    game: Game,
    *,
    readout: int | Tensor = 0,
    queries: Tensor | None = None,
) -> Tensor:
    """Exact Shapley values of groups of tokens, at any length, without sampling.

    Args:
        influence: M (B, N, N), rows are queries and columns are keys; any floating dtype.
        groups: int64 (B, N), the number of each token's group, from 0, at most N − 1; −1 for tokens that do not play.
        game, readout, queries: as of :func:`captum_attn.functional.shapley_values`.

    Returns:
        Shapley values (B, K), K one more than the largest number of a group, in the dtype and on the device of
        ``influence``; 0 for a group without tokens. Each row sums to v(all players).

    Raises:
        TypeError, ValueError: groups that are no such numbers; else as :func:`captum_attn.functional.shapley_values`.

    Example:
        >>> influence = torch.tensor([[[1.0, 2.0, 1.0], [0.0, 1.0, 3.0], [0.0, 1.0, 6.0]]])
        >>> group_shapley_values(influence, torch.tensor([[0, 0, 1]]), "mutual")
        tensor([[1.5000, 5.5000]])

    Source: this library's; arXiv 2508.08966, section 3, for the games.
    """
    if groups.dtype != torch.int64:
        raise TypeError(f"groups must be int64, the number of each token's group or -1, got {groups.dtype}")
    if groups.shape != influence.shape[:2] or not groups.numel():
        raise ValueError(
            f"groups must have shape (B, N) to fit influence {tuple(influence.shape)}, got {tuple(groups.shape)}"
        )
    if groups.min() < -1 or groups.max() >= groups.shape[1]:
        raise ValueError(
            f"groups of {groups.shape[1]} tokens must be numbers from 0 to {groups.shape[1] - 1}, or -1 for none, got "
            f"{int(groups.min())} to {int(groups.max())}"
        )
    players = groups >= 0
    members = F.one_hot(groups + 1)[..., 1:].to(influence)  # (B, N, K)
    if game in ADDITIVE_GAMES:
        values = shapley_values(influence, players, game, readout=readout, queries=queries)
        return (values.unsqueeze(1) @ members).squeeze(1)
    check_game_inputs(influence, players, game)
    edges = members.mT @ pair_weights(influence, players, game) @ members
    sizes = members.sum(1)
    alone = (singleton_worth(influence, players).unsqueeze(1) @ members).squeeze(1) * (sizes == 1)
    return solved_by_pairs(edges, alone, sizes > 0)
