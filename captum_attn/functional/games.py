r"""Attention games: exact Shapley values and interactions of an influence matrix, in closed form.

The players of a game are the tokens that carry input. With M_ij the influence of key j on query i, a coalition S
is worth

======================  ========  ===================================================
game                    v({i})    v(S) for \|S\| >= 2
======================  ========  ===================================================
``cls``                 M_ri      Σ_{i∈S} M_ri, r the readout token
``incoming``            Σ_q M_qi  Σ_{i∈S} Σ_q M_qi, q over all queries that are no padding
``mutual``              M_ii      Σ_{i<j∈S} w_ij, w_ij = M_ij + M_ji
``max_mutual``          M_ii      Σ_{i<j∈S} w_ij, w_ij = max(M_ij, M_ji)
======================  ========  ===================================================

and v(∅) = 0. ``cls`` and ``incoming`` are additive: a player's share is its own column of M under fixed weights
of the rows. ``mutual`` and ``max_mutual`` are a graph game, which gives half of each edge to each of its ends,
plus a game that pays M_ii to the coalition {i} and takes it back from every larger one. Games after
arXiv 2508.08966, section 3; ``incoming`` and the closed forms are this library's.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Game = Literal["cls", "incoming", "mutual", "max_mutual"]
"""The attention games; :func:`shapley_values` defines them."""

GAMES: tuple[Game, ...] = get_args(Game)
"""All of them."""

ADDITIVE_GAMES = ("cls", "incoming")
"""Those in which a coalition is worth the sum of its members, so that rows of the influence are enough."""


def shapley_values(
    influence: Tensor,
    players: Tensor,
    game: Game,
    *,
    readout: int | Tensor = 0,
    queries: Tensor | None = None,
) -> Tensor:
    """Exact Shapley values of every player, at any length, without sampling.

    Args:
        influence: M (B, N, N), rows are queries and columns are keys; any floating dtype.
        players: bool (B, N), True for tokens that play. The others get exactly 0.
        game: one of ``cls``, ``incoming``, ``mutual``, ``max_mutual``.
        readout: for ``cls``, the readout token: one index for all, int64 indices (B,), or float weights of the
            rows (B, N), e.g. 1/n on each of n mean-pooled tokens. Negative indices count from the end.
        queries: for ``incoming``, bool (B, N), the queries that count: all but padding. Default: all.

    Returns:
        Shapley values (B, N), in the dtype and on the device of ``influence``. Each row sums to v(all players).

    Raises:
        TypeError, ValueError: wrong dtypes, shapes that do not fit, an unknown game, a readout out of range.

    Example:
        >>> influence = torch.tensor([[[0.0, 2.0, 1.0], [0.0, 0.0, 3.0], [0.0, 1.0, 0.0]]])
        >>> players = torch.tensor([[False, True, True]])
        >>> shapley_values(influence, players, "cls")
        tensor([[0., 2., 1.]])
        >>> shapley_values(influence, players, "mutual")
        tensor([[0., 2., 2.]])

    Source: arXiv 2508.08966, section 3, for the games.
    """
    check_game_inputs(influence, players, game)
    if game in ADDITIVE_GAMES:
        weights = row_weights(players, game, readout, queries).to(influence)
        return (weights.unsqueeze(1) @ influence).squeeze(1).masked_fill(~players, 0.0)
    return solved_by_pairs(pair_weights(influence, players, game), singleton_worth(influence, players), players)


def solved_by_pairs(edges: Tensor, alone: Tensor, players: Tensor) -> Tensor:
    """Shapley values (B, N) of the game that pays each pair its edge, and a player without others its own worth.

    Args:
        edges: (B, N, N), symmetric, with twice what each player is worth to every coalition on the diagonal.
        alone: (B, N), what else the coalition of one player is worth.
        players: bool (B, N); where False, edges and worth are 0.
    """
    count = players.sum(-1, keepdim=True)
    others = alone.sum(-1, keepdim=True) - alone
    values = edges.sum(-1) / 2 + alone / count.clamp(min=1) - others / (count * (count - 1)).clamp(min=1)
    return values.masked_fill(~players, 0.0)


def shapley_interactions(influence: Tensor, players: Tensor, game: Game) -> Tensor:
    """Exact pairwise Shapley interaction indices: what two players are worth together beyond apart.

    The additive games ``cls`` and ``incoming`` have none: all zero.

    Args:
        influence: M (B, N, N), rows are queries and columns are keys; any floating dtype.
        players: bool (B, N), True for tokens that play.
        game: one of ``cls``, ``incoming``, ``mutual``, ``max_mutual``.

    Returns:
        Symmetric interactions (B, N, N) in the dtype of ``influence``; 0 on the diagonal and for non-players.

    Raises:
        TypeError, ValueError: as :func:`shapley_values`.

    Example:
        >>> influence = torch.tensor([[[1.0, 2.0], [4.0, 1.0]]])
        >>> shapley_interactions(influence, torch.tensor([[True, True]]), "mutual")
        tensor([[[0., 4.],
                 [4., 0.]]])

    Source: Grabisch and Roubens 1999, for the interaction index.
    """
    check_game_inputs(influence, players, game)
    if game in ADDITIVE_GAMES:
        return torch.zeros_like(influence)
    edges, alone = pair_weights(influence, players, game), singleton_worth(influence, players)
    count = players.sum(-1)[:, None, None]
    pair = alone.unsqueeze(-1) + alone.unsqueeze(-2)
    others = alone.sum(-1)[:, None, None] - pair
    values = edges - pair / (count - 1).clamp(min=1) + others / ((count - 1) * (count - 2)).clamp(min=1)
    return values.masked_fill(~_pairs(players), 0.0)


def coalition_values(
    influence: Tensor,
    coalitions: Tensor,
    game: Game,
    *,
    readout: int | Tensor = 0,
    queries: Tensor | None = None,
) -> Tensor:
    """The characteristic function v(S) of a game, evaluated on many coalitions of one input.

    Args:
        influence: M (N, N) of one input.
        coalitions: bool (K, N), each row one coalition of players.
        game, readout, queries: as in :func:`shapley_values`, with tensors of shape (), (N,) and (N,).

    Returns:
        v (K,) in the dtype of ``influence``.

    Raises:
        TypeError, ValueError: as :func:`shapley_values`.

    Example:
        >>> influence = torch.tensor([[1.0, 2.0], [4.0, 1.0]])
        >>> coalitions = torch.tensor([[False, False], [True, False], [True, True]])
        >>> coalition_values(influence, coalitions, "mutual")
        tensor([0., 1., 6.])

    Source: arXiv 2508.08966, section 3.
    """
    if coalitions.shape[1:] != influence.shape[:1]:
        raise ValueError(
            f"coalitions must have shape (K, N) to fit an influence of shape {tuple(influence.shape)}, got "
            f"{tuple(coalitions.shape)}"
        )
    everyone = coalitions.new_ones(1, len(influence))
    check_game_inputs(influence[None], everyone, game)
    members = coalitions.to(influence)
    if game in ADDITIVE_GAMES:
        if isinstance(readout, Tensor):
            readout = readout[None]
        weights = row_weights(everyone, game, readout, None if queries is None else queries[None])
        return members @ (weights.to(influence) @ influence).squeeze(0)
    edges = pair_weights(influence[None], everyone, game)[0]
    joint = ((members @ edges) * members).sum(-1) / 2
    return torch.where(coalitions.sum(-1) == 1, members @ influence.diagonal(), joint)


def row_weights(players: Tensor, game: Game, readout: int | Tensor, queries: Tensor | None) -> Tensor:
    """The weights (B, N) of M's rows in an additive game; float, or bool where they are 0 and 1."""
    batch, length = players.shape
    if game == "incoming":
        weights = torch.ones_like(players) if queries is None else queries
        if weights.dtype != torch.bool:
            raise TypeError(f"queries must be bool (True = counts), got {weights.dtype}; use queries.bool()")
    elif isinstance(readout, Tensor) and readout.is_floating_point():
        weights = readout
    else:
        index = torch.as_tensor(readout, device=players.device)
        if index.is_floating_point() or index.dim() > 1 or (index.dim() == 1 and len(index) != batch):
            raise ValueError(
                f"readout must be an index, int64 indices of shape ({batch},) or float weights of shape "
                f"({batch}, {length}), got {readout}"
            )
        if ((index < -length) | (index >= length)).any():
            raise ValueError(f"readout must lie in [-{length}, {length}) for {length} tokens, got {readout}")
        weights = torch.zeros_like(players).scatter(1, (index % length).expand(batch).unsqueeze(1), True)
    if weights.shape != players.shape:
        raise ValueError(
            f"row weights must have the shape {tuple(players.shape)} of players, got {tuple(weights.shape)}"
        )
    return weights


def pair_weights(influence: Tensor, players: Tensor, game: Game) -> Tensor:
    """The edge weights w (B, N, N) of a mutual game, 0 on the diagonal and for non-players."""
    transposed = influence.transpose(-1, -2)
    weights = influence + transposed if game == "mutual" else torch.maximum(influence, transposed)
    return weights.masked_fill(~_pairs(players), 0.0)


def singleton_worth(influence: Tensor, players: Tensor) -> Tensor:
    """v({i}) = M_ii (B, N) of a mutual game, 0 for non-players."""
    return influence.diagonal(dim1=-2, dim2=-1).masked_fill(~players, 0.0)


def check_game_inputs(influence: Tensor, players: Tensor, game: str) -> None:
    """Raise what :func:`shapley_values` documents."""
    if game not in GAMES:
        raise ValueError(f"unknown game {game!r}: expected one of {', '.join(map(repr, GAMES))}")
    if not influence.is_floating_point():
        raise TypeError(f"influence must be floating point, got {influence.dtype}")
    if players.dtype != torch.bool:
        raise TypeError(f"players must be bool (True = plays), got {players.dtype}; use players.bool()")
    if influence.dim() != 3 or influence.shape[1] != influence.shape[2]:
        raise ValueError(f"influence must have shape (B, N, N), got {tuple(influence.shape)}")
    if players.shape != influence.shape[:2]:
        raise ValueError(
            f"players must have shape {tuple(influence.shape[:2])} to fit influence, got {tuple(players.shape)}"
        )


def _pairs(players: Tensor) -> Tensor:
    """bool (B, N, N): both are players, and not the same one."""
    both = players.unsqueeze(-1) & players.unsqueeze(-2)
    return both & ~torch.eye(players.shape[-1], dtype=torch.bool, device=players.device)
