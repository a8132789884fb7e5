"""Shapley values of any characteristic function by sampling, each with its standard error.

For the built-in games nothing needs sampling (:mod:`captum_attn.functional.games`); these estimators are for
characteristic functions of your own and for comparison with the sampled variants of arXiv 2508.08966.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

CharacteristicFunction = Callable[[Tensor], Tensor]
"""Worth (K,) of K coalitions, bool (K, n)."""


class ShapleyEstimate(NamedTuple):
    """Estimated Shapley values (n,) and the standard error (n,) of each; both float64."""

    values: Tensor
    standard_error: Tensor


def permutation_shapley(
    worth: CharacteristicFunction,
    players: int,
    *,
    permutations: int = 128,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> ShapleyEstimate:
    """Unbiased estimate: mean marginal contributions along random orders, each walked forwards and backwards.

    Args:
        worth: vectorised v, bool (K, n) -> (K,).
        players: n.
        permutations: number of orders, at least 4; they are drawn in pairs of an order and its reverse, which
            cancels much of the noise, and every one costs n coalitions.
        seed: of the sampling; the global random state is not touched.
        device: of the coalitions.

    Returns:
        Values and standard errors (n,); the values sum to v(all) - v(∅).

    Raises:
        ValueError: too few permutations, or a worth of the wrong shape.

    Example:
        >>> weights = torch.tensor([1.0, 2.0, 3.0])
        >>> permutation_shapley(lambda coalitions: coalitions.float() @ weights, 3, permutations=8).values
        tensor([1., 2., 3.], dtype=torch.float64)

    Source: Castro, Gómez, Tejada 2009; antithetic pairs after Mitchell, Cooper, Frank, Holmes 2022.
    """
    if permutations < 4:
        raise ValueError(f"permutations must be at least 4 to have a standard error, got {permutations}")
    _check_players(players)
    generator = torch.Generator().manual_seed(seed)
    pairs = (permutations + 1) // 2
    orders = torch.rand(pairs, players, generator=generator).argsort(-1)
    orders = torch.stack((orders, orders.flip(-1)), 1).view(-1, players)
    place = orders.argsort(-1)
    prefixes = place.unsqueeze(1) < torch.arange(players + 1)[:, None]  # (2 pairs, n + 1, n)
    values = worths(worth, prefixes.view(-1, players).to(device)).view(-1, players + 1)
    marginals = values.diff(dim=-1).gather(1, place.to(values.device))
    paired = marginals.view(pairs, 2, players).mean(1)
    return ShapleyEstimate(paired.mean(0), paired.std(0) / pairs**0.5)


def kernel_shapley(
    worth: CharacteristicFunction,
    players: int,
    *,
    coalitions: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> ShapleyEstimate:
    """Kernel-weighted least squares under the constraint that the values sum to v(all) - v(∅).

    Coalitions are drawn from the Shapley kernel, so that all of them weigh the same, in pairs of a coalition and
    its complement. The standard error is the regression's heteroscedasticity-consistent one over these pairs (HC2);
    with fewer than about 4 n coalitions it is too small, by a factor of 1.2 to 1.4 at 2.5 n to 3 n.

    Args:
        worth: vectorised v, bool (K, n) -> (K,).
        players: n.
        coalitions: how many to draw, by default 1024 or 8 n, whichever is more. Fewer than 2 n never determine the
            values, and a little more may not.
        seed: of the sampling; the global random state is not touched.
        device: of the coalitions.

    Returns:
        Values and standard errors (n,).

    Raises:
        ValueError: too few coalitions, or a worth of the wrong shape.

    Example:
        >>> weights = torch.tensor([1.0, 2.0, 3.0])
        >>> kernel_shapley(lambda coalitions: coalitions.float() @ weights, 3).values.round(decimals=6)
        tensor([1., 2., 3.], dtype=torch.float64)

    Source: Lundberg and Lee 2017; paired sampling after Covert and Lee 2021.
    """
    _check_players(players)
    coalitions = max(1024, 8 * players) if coalitions is None else coalitions
    if coalitions < 2 * players:
        raise ValueError(f"coalitions must be at least 2 n = {2 * players} for n = {players} players, got {coalitions}")
    ends = torch.stack((torch.zeros(players), torch.ones(players))).bool().to(device)
    empty, total = worths(worth, ends)
    if players == 1:
        return ShapleyEstimate((total - empty).view(1), torch.zeros(1, dtype=torch.double, device=total.device))
    drawn = _kernel_coalitions(players, (coalitions + 1) // 2, seed).to(device)
    target = worths(worth, drawn)
    # The last player's value is what the others leave of the total: an unconstrained regression of n - 1.
    members = drawn.to(target)
    last = members[:, -1:]
    design, response = members[:, :-1] - last, target - empty - last.squeeze(1) * (total - empty)
    if torch.linalg.matrix_rank(design) < players - 1:
        raise ValueError(f"{coalitions} coalitions do not determine the values of {players} players: draw more of them")
    inverse = torch.linalg.inv(design.T @ design)
    coefficients = inverse @ (design.T @ response)
    leverage = ((design @ inverse) * design).sum(-1)
    # A coalition and its complement are one observation, with twice the leverage of each.
    residual = (response - design @ coefficients) / (1 - 2 * leverage).clamp(min=1e-6).sqrt()
    influence = ((design * residual[:, None]).view(2, -1, players - 1).sum(0)) @ inverse
    covariance = influence.T @ influence
    values = torch.cat((coefficients, (total - empty - coefficients.sum()).view(1)))
    errors = torch.cat((covariance.diagonal(), covariance.sum().view(1))).clamp(min=0).sqrt()
    return ShapleyEstimate(values, errors)


def worths(worth: CharacteristicFunction, coalitions: Tensor) -> Tensor:
    """v (K,) of coalitions (K, n) in float64; ``ValueError`` for a worth of the wrong shape."""
    if len(coalitions) > _AT_ONCE:
        return torch.cat([worths(worth, part) for part in coalitions.split(_AT_ONCE)])
    values = worth(coalitions)
    if not isinstance(values, Tensor) or values.shape != coalitions.shape[:1]:
        given = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"a characteristic function must map coalitions bool (K, n) to a tensor (K,), here "
            f"{tuple(coalitions.shape)} to {(coalitions.shape[0],)}; got {given}"
        )
    return values.detach().double()


_AT_ONCE = 1 << 14  # coalitions


def _check_players(players: int) -> None:
    if players < 1:
        raise ValueError(f"a game needs at least 1 player, got {players}")


def _kernel_coalitions(players: int, pairs: int, seed: int) -> Tensor:
    """bool (2 pairs, n): coalitions drawn from the Shapley kernel, then the complement of each."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.arange(1, players)
    chances = 1 / (sizes * (players - sizes)).double()
    drawn_sizes = sizes[torch.multinomial(chances, pairs, replacement=True, generator=generator)]
    ranks = torch.rand(pairs, players, generator=generator).argsort(-1).argsort(-1)
    coalitions = ranks < drawn_sizes[:, None]
    return torch.cat((coalitions, ~coalitions))
