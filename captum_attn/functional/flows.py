"""Maximum flows through layers of tokens: to one token at a time, and the central one to all of them at once.

A maximum flow is rarely unique, and which one an algorithm finds is an accident. Among all maximum flows, the interior
point method approaches the analytic centre, which treats like tokens alike. The conservation of flow at the tokens
between the layers couples neighbouring layers only, so that each Newton step costs O(L N³).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow
from torch import Tensor

_UNITS = 1 << 30
"""Integers that stand for a capacity of 1: SciPy's solver counts in int32."""

NEGLIGIBLE = 1e-10
"""Capacities below this share of the largest one that can be used carry nothing."""

_STEPS = 200
_FIRST_BARRIER = 0.1
_FEASIBLE = 1e-9
_CENTRAL = 1e-3
_JITTER = 1e-13
_CENTRING = 0.2
_TO_THE_BOUNDARY = 0.95


class _Iterate(NamedTuple):
    """Flow f, what is left of capacity s, and their multipliers z and w, (B, L, N, N) each; potentials y (B, L - 1, N).

    On the central path z f = w s = μ.
    """

    flow: Tensor
    slack: Tensor
    lower: Tensor
    upper: Tensor
    potential: Tensor


def barrier_flow(capacities: Tensor, sources: Tensor, tolerance: float = 1e-6) -> Tensor:
    """How much each token of the input receives in the maximum flow from the sources at the top.

    Args:
        capacities: (B, L, N, N), at least 0, the lowest layer first; entry (i, j) of layer l bounds the flow from token
            i above the layer to token j below it. Those below 1e-10 of the largest one on a way from a source of the
            example to the bottom count as 0.
        sources: bool (B, N), the tokens at the top from which flow starts, without a bound.
        tolerance: the barrier's parameter μ, as the gap that it leaves to the maximum flow, relative to it.

    Returns:
        (B, N), float64. Its rows sum to the maximum flow, but for the gap. Each depends on its own example alone.

    Raises:
        ValueError: capacities that are negative or not finite.
        RuntimeError: no convergence.

    Example:
        >>> two_ways = torch.tensor([[[[0.5, 0.5], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]]])
        >>> barrier_flow(two_ways, torch.tensor([[True, False]])).round(decimals=3)
        tensor([[0.5000, 0.5000]], dtype=torch.float64)

    Source: the log-barrier regularized flow of Azarkhalili and Libbrecht 2025, 2502.15765; the primal-dual
    path-following method of Nocedal and Wright 2006, chapter 14, with bounds.
    """
    if not (capacities.isfinite() & (capacities >= 0)).all():
        raise ValueError("capacities must be finite and at least 0")
    bounds = capacities.double()
    usable = bounds * _open_edges(bounds > 0, sources)  # what padding attends to is none of this
    scale = usable.amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(torch.double).tiny)
    bounds = bounds / scale
    open_edges = _open_edges(bounds > NEGLIGIBLE, sources)
    solvable = open_edges.flatten(1).any(1)
    flow = torch.zeros_like(bounds)
    if solvable.any():
        flow[solvable] = _central_flow(bounds[solvable], open_edges[solvable], tolerance)
    return flow[:, 0].sum(1) * scale.view(-1, 1)


def _open_edges(positive: Tensor, sources: Tensor) -> Tensor:
    """bool (B, L, N, N): the edges on a way from a source to the bottom."""
    layers = positive.shape[1]
    reached, edges = sources.clone(), positive.clone()
    for layer in reversed(range(layers)):
        edges[:, layer] &= reached.unsqueeze(-1)
        reached = edges[:, layer].any(1)
    for layer in range(1, layers):
        edges[:, layer] &= edges[:, layer - 1].any(-1).unsqueeze(1)
    return edges


def _central_flow(bounds: Tensor, edges: Tensor, tolerance: float) -> Tensor:
    """Flow (B, L, N, N) on the central path, where the gap is the given share of it.

    Each example stops at its own last step, so that its flow does not depend on the others.
    """
    if bounds.shape[1] == 1:
        return bounds * edges  # no token in between: every edge is full
    found, going = torch.zeros_like(bounds), torch.arange(len(bounds), device=bounds.device)
    at, count = _start(bounds, edges), 2 * edges.sum((1, 2, 3)).double()
    for _ in range(_STEPS):
        wanted = tolerance * _value(at.flow, edges)
        done = _is_central(at, edges, wanted / count)
        if done.any():
            found[going[done]] = (at.flow * edges)[done]
            going, edges, count, wanted = (tensor[~done] for tensor in (going, edges, count, wanted))
            at = _Iterate(*(tensor[~done] for tensor in at))
        if not len(going):
            return found
        at = _newton_step(at, edges, torch.maximum(_CENTRING * _gap(at, edges), wanted) / count)
    raise RuntimeError(f"the flow did not converge in {_STEPS} steps: expected capacities of like magnitude")


def _is_central(at: _Iterate, edges: Tensor, centre: Tensor) -> Tensor:
    """bool (B,): the examples that are feasible, and on the central path at μ = ``centre`` (B,)."""
    violation = torch.maximum(
        _dual_residual(at, edges).abs().amax((1, 2, 3)), _excess(at.flow * edges).abs().amax((1, 2))
    )
    return (violation < _FEASIBLE) & (_off_centre(at, edges, centre) < _CENTRAL)


def _start(bounds: Tensor, edges: Tensor) -> _Iterate:
    """Every edge half full, which balances its multipliers; the steps see to the conservation of flow."""
    half = torch.where(edges, bounds / 2, 1.0)
    multipliers = torch.where(edges, _FIRST_BARRIER / half, 1.0)
    potential = torch.zeros_like(bounds[:, 1:].sum(-1))
    return _Iterate(half, half.clone(), multipliers, multipliers.clone(), potential)


def _newton_step(at: _Iterate, edges: Tensor, centre: Tensor) -> _Iterate:
    """One step towards the point of the central path with μ = ``centre`` (B,)."""
    mu = centre.view(-1, 1, 1, 1)
    towards = _dual_residual(at, edges) - (mu / at.flow - at.lower) + (mu / at.slack - at.upper)
    weights = edges / (at.lower / at.flow + at.upper / at.slack)
    excess = _excess(weights * towards - at.flow * edges)
    potential = _solve_laplacian(weights, excess)
    flow = weights * (_differences(potential) - towards)
    lower = (mu - at.lower * flow) / at.flow - at.lower
    upper = (mu + at.upper * flow) / at.slack - at.upper
    primal = _step_length(edges, (at.flow, flow), (at.slack, -flow))
    dual = _step_length(edges, (at.lower, lower), (at.upper, upper))
    moved = torch.where(edges, flow, 0.0) * primal
    return _Iterate(
        at.flow + moved,
        at.slack - moved,
        at.lower + torch.where(edges, lower, 0.0) * dual,
        at.upper + torch.where(edges, upper, 0.0) * dual,
        at.potential + potential * dual.view(-1, 1, 1),
    )


def _step_length(edges: Tensor, *pairs: tuple[Tensor, Tensor]) -> Tensor:
    """The largest step (B, 1, 1, 1), at most 1, that keeps (value, direction) pairs positive."""
    lengths = [
        torch.where(edges & (direction < 0), -value / direction, torch.inf).amin((1, 2, 3), keepdim=True)
        for value, direction in pairs
    ]
    return (_TO_THE_BOUNDARY * torch.stack(lengths).amin(0)).clamp(max=1.0)


def _solve_laplacian(weights: Tensor, excess: Tensor) -> Tensor:
    """Potentials (B, L - 1, N) whose weighted differences have the given excess at the tokens between the layers.

    Block elimination from the lowest layer up; tokens without open edges keep the potential 0.
    """
    diagonal = weights[:, 1:].sum(-2) + weights[:, :-1].sum(-1)
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    identity = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    right, between = excess * scale, weights[:, 1:-1] * scale[:, 1:].unsqueeze(-1) * scale[:, :-1].unsqueeze(-2)
    factors, eliminated = [torch.linalg.cholesky(identity.expand(len(weights), -1, -1))], [right[:, 0]]
    for layer in range(between.shape[1]):
        solved = torch.cholesky_solve(between[:, layer].mT, factors[-1])
        block = identity * (1 + _JITTER) - between[:, layer] @ solved
        factors.append(torch.linalg.cholesky(block))
        eliminated.append(right[:, layer + 1] + (solved.mT @ eliminated[-1].unsqueeze(-1)).squeeze(-1))
    potentials = [torch.cholesky_solve(eliminated[-1].unsqueeze(-1), factors[-1])]
    for layer in reversed(range(between.shape[1])):
        known = eliminated[layer].unsqueeze(-1) + between[:, layer].mT @ potentials[0]
        potentials.insert(0, torch.cholesky_solve(known, factors[layer]))
    return torch.cat(potentials, -1).mT * scale


def _excess(flow: Tensor) -> Tensor:
    """What comes into the tokens between the layers minus what goes out, (B, L - 1, N)."""
    return flow[:, 1:].sum(-2) - flow[:, :-1].sum(-1)


def _differences(potential: Tensor) -> Tensor:
    """For each edge, the potential at its end minus that at its start; 0 at the top and the bottom."""
    outside = torch.zeros_like(potential[:, :1])
    ends, starts = torch.cat((outside, potential), 1), torch.cat((potential, outside), 1)
    return ends.unsqueeze(-2) - starts.unsqueeze(-1)


def _dual_residual(at: _Iterate, edges: Tensor) -> Tensor:
    """How far the multipliers are from being feasible: the cost is -1 on each edge of the top layer."""
    cost = torch.zeros_like(at.flow)
    cost[:, -1] = -1.0
    return (cost - _differences(at.potential) - at.lower + at.upper) * edges


def _gap(at: _Iterate, edges: Tensor) -> Tensor:
    """Complementarity (B,): what is missing to the maximum, once both sides are feasible."""
    return ((at.flow * at.lower + at.slack * at.upper) * edges).sum((1, 2, 3))


def _off_centre(at: _Iterate, edges: Tensor, centre: Tensor) -> Tensor:
    """How far the products of values and multipliers are from μ = ``centre`` (B,) at most, relative to it, (B,)."""
    mu = centre.view(-1, 1, 1, 1)
    products = torch.stack((at.flow * at.lower, at.slack * at.upper))
    return torch.where(edges, products / mu - 1, 0.0).abs().amax((0, 2, 3, 4))


def _value(flow: Tensor, edges: Tensor) -> Tensor:
    """What leaves the top (B,)."""
    return (flow[:, -1] * edges[:, -1]).sum((1, 2))


def maximum_flows(capacities: Tensor, sources: Tensor, sinks: Sequence[int]) -> Tensor:
    """The maximum flow from the sources at the top to each sink at the bottom alone.

    Args:
        capacities: (L, N, N) in [0, 1], the lowest layer first; entry (i, j) of layer l bounds the flow from token i
            above the layer to token j below it.
        sources: (N,) in [0, 1], what the tokens at the top can send.
        sinks: n tokens at the bottom.

    Returns:
        (n,), float64, correct to about 1e-9 for each edge of a minimum cut.

    Raises:
        ValueError: capacities out of range, or sources that are negative or above 1.

    Example:
        >>> two_layers = torch.tensor([[[0.9, 0.1], [0.4, 0.6]], [[0.5, 0.5], [0.0, 1.0]]])
        >>> maximum_flows(two_layers, torch.tensor([1.0, 0.0]), [0, 1]).round(decimals=6)
        tensor([0.9000, 0.6000], dtype=torch.float64)

    Source: Abnar and Zuidema 2020, *Quantifying Attention Flow in Transformers*, section 3; Dinic's algorithm, SciPy's.
    """
    if not all(bool(((part >= 0) & (part <= 1)).all()) for part in (capacities, sources)):
        raise ValueError("capacities and sources must lie between 0 and 1")
    layers, length, _ = capacities.shape
    units = (capacities.cpu().double() * _UNITS).round().to(torch.int32).numpy()
    supply = (sources.cpu().double() * _UNITS).round().to(torch.int32).numpy()
    source = (layers + 1) * length  # tokens below layer 0 come first
    starts, ends, bounds = _edges(units, supply, source)
    found = []
    for sink in sinks:
        kept = (starts >= 2 * length) | (ends == sink)  # of the lowest layer, what ends there
        graph = csr_array((bounds[kept], (starts[kept], ends[kept])), shape=(source + 1, source + 1), dtype=np.int32)
        found.append(maximum_flow(graph, source, sink).flow_value / _UNITS)
    return torch.tensor(found, dtype=torch.double)


def _edges(
    units: np.ndarray[Any, Any], supply: np.ndarray[Any, Any], source: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Where the edges of the graph start and end, and what they carry; those that carry nothing left out."""
    length = len(supply)
    layer, start, end = units.nonzero()
    (first,) = supply.nonzero()
    return (
        np.concatenate([(layer + 1) * length + start, np.full_like(first, source)]).astype(np.int32),
        np.concatenate([layer * length + end, source - length + first]).astype(np.int32),
        np.concatenate([units[layer, start, end], supply[first]]),
    )
