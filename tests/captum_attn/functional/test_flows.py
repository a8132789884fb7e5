"""Maximum flows against linear programming, a general solver of the barrier problem, and networkx."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_methods import flow_graph
from scipy.optimize import linprog, minimize

from captum_attn.functional import barrier_flow, maximum_flows


def first_token(examples, length):
    return torch.arange(length).expand(examples, -1) == 0


def random_capacities(seed, layers, length, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    scores = spread * torch.randn(1, layers, length, length, generator=generator, dtype=torch.double)
    kept = torch.rand(scores.shape, generator=generator) < 0.8
    return scores.softmax(-1) * kept


def largest_flow(capacities):
    graph = flow_graph(capacities)
    top, length = (len(capacities), 0), capacities.shape[-1]
    graph.add_edges_from([((0, token), "sink") for token in range(length)])
    return nx.maximum_flow_value(graph, top, "sink") if top in graph else 0.0


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), layers=st.integers(1, 4), length=st.integers(1, 6), spread=st.floats(0.1, 6))
def test_the_flow_is_a_largest_one(seed, layers, length, spread):
    capacities = random_capacities(seed, layers, length, spread)
    received = barrier_flow(capacities, first_token(1, length), tolerance=1e-7)
    assert (received >= 0).all()
    assert float(received.sum()) == pytest.approx(largest_flow(capacities[0]), rel=1e-5, abs=1e-12)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), factor=st.floats(1e-6, 1e6), order=st.permutations([1, 2, 3]))
def test_units_and_names_of_tokens_make_no_difference(seed, factor, order):
    capacities = random_capacities(seed, 3, 4)
    expected = barrier_flow(capacities, first_token(1, 4))
    scale = expected.max().clamp(min=1e-12)
    scaled = barrier_flow(factor * capacities, first_token(1, 4)) / factor
    torch.testing.assert_close(scaled / scale, expected / scale, rtol=0, atol=1e-4)
    order = [0, *order]
    permuted = barrier_flow(capacities[..., order, :][..., order], first_token(1, 4))
    torch.testing.assert_close(permuted / scale, expected[:, order] / scale, rtol=0, atol=1e-4)


class Problem:
    """The flows through layers (L, N, N) as vectors, one entry for each edge that can carry any."""

    def __init__(self, capacities):
        layers, length, _ = capacities.shape
        graph = flow_graph(capacities)
        reachable = nx.descendants(graph, (layers, 0)) | {(layers, 0)}
        useful = [node for node in reachable if node[0] == 0 or any(end[0] == 0 for end in nx.descendants(graph, node))]
        self.edges = [(start, end) for start, end in graph.edges if start in useful and end in useful]
        self.bounds = np.array([graph.edges[edge]["capacity"] for edge in self.edges])
        between = [node for node in useful if 0 < node[0] < layers]
        self.balance = np.array([[(end == node) - (start == node) for start, end in self.edges] for node in between])
        self.value = np.array([float(start == (layers, 0)) for start, _ in self.edges])
        self.received = np.array([[float(end == (0, token)) for _, end in self.edges] for token in range(length)])

    def extreme(self, cost, equations, sides):
        found = linprog(cost, A_eq=equations, b_eq=sides, bounds=[(0, bound) for bound in self.bounds])
        return found.x

    def centre(self):
        """The maximum flow at which Σ log f + log(u − f) is largest, over the edges that maximum flows leave free."""
        value = self.value @ self.extreme(-self.value, self.balance, np.zeros(len(self.balance)))
        equations = np.vstack([self.balance, self.value])
        sides = np.append(np.zeros(len(self.balance)), value)
        ends = [
            [self.extreme(sign * direction, equations, sides) for sign in (1, -1)]
            for direction in np.eye(len(self.edges))
        ]
        inside = np.mean([flow for pair in ends for flow in pair], axis=0)
        free = (inside > 1e-7) & (inside < self.bounds - 1e-7)
        if not free.any():
            return self.received @ inside
        left, right = equations[:, free], sides - equations[:, ~free] @ inside[~free]
        _, singular, directions = np.linalg.svd(left)
        basis = directions[(singular > 1e-9).sum() :].T
        if not basis.size:
            return self.received @ inside

        def barrier(steps):
            flow = inside[free] + basis @ steps
            room = self.bounds[free] - flow
            if min(flow.min(), room.min()) <= 0:
                return np.inf
            return -np.log(flow).sum() - np.log(room).sum()

        found = minimize(
            barrier,
            np.zeros(basis.shape[1]),
            method="Nelder-Mead",
            options={"maxiter": 20_000, "xatol": 1e-9, "fatol": 1e-12, "adaptive": True},
        )
        assert np.allclose(left @ (inside[free] + basis @ found.x), right)
        flow = inside.copy()
        flow[free] += basis @ found.x
        return self.received @ flow


@pytest.mark.parametrize("seed", range(4))
def test_among_the_largest_it_is_the_analytic_centre(seed):
    capacities = random_capacities(seed, 2, 3)
    expected = Problem(capacities[0]).centre()
    received = barrier_flow(capacities, first_token(1, 3), tolerance=1e-9)[0]
    torch.testing.assert_close(received, torch.from_numpy(expected), rtol=0, atol=1e-4)


def test_each_example_of_a_batch_is_on_its_own():
    examples = [random_capacities(seed, 3, 5, spread) for seed, spread in ((0, 0.3), (1, 6.0), (2, 1.0), (3, 12.0))]
    batch = torch.cat(examples)
    batch[2, 1] = 0.0  # nothing gets through
    together = barrier_flow(batch, first_token(4, 5))
    alone = torch.cat([barrier_flow(one[None], first_token(1, 5)) for one in batch])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)
    assert not together[2].any()


@settings(max_examples=10)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=4), seed=st.integers(0, 10_000), spread=st.floats(0.01, 9)
)
def test_padding_makes_no_difference(sizes, seed, spread):
    examples = [random_capacities(seed + row, 3, length, spread) for row, length in enumerate(sizes)]
    batch = torch.zeros(len(sizes), 3, 10, 10, dtype=torch.double)
    for row, capacities in enumerate(examples):
        length = capacities.shape[-1]
        batch[row, :, length:, : 1 + row] = 7.0  # queries that are padding attend to tokens, and nobody to them
        batch[row, :, :length, :length] = capacities
    together = barrier_flow(batch, first_token(len(sizes), 10))
    for row, capacities in enumerate(examples):
        length = capacities.shape[-1]
        alone = barrier_flow(capacities, first_token(1, length))[0]
        torch.testing.assert_close(together[row, :length], alone, rtol=1e-10, atol=1e-12)
        assert not together[row, length:].any()


def test_several_sources_and_like_tokens():
    two_sources = torch.full((1, 2, 3, 3), 1 / 3)
    received = barrier_flow(two_sources, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(received, torch.full((1, 3), 2 / 3, dtype=torch.double), rtol=1e-4, atol=0)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_capacities_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="finite and at least 0"):
        barrier_flow(torch.full((1, 2, 2, 2), bad), first_token(1, 2))


def test_flow_from_several_tokens_has_their_weights_as_capacities():
    capacities = 0.2 * torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    weights = torch.tensor([0.05, 0.2, 0.1, 0.0]).double()
    graph = flow_graph(capacities)
    for token, weight in enumerate(weights.tolist()):
        graph.add_edge("source", (3, token), capacity=weight)
    expected = [nx.maximum_flow_value(graph, "source", (0, token)) for token in range(4)]
    assert maximum_flows(capacities, weights, [0, 1, 2, 3]).tolist() == pytest.approx(expected, abs=1e-7)
    assert maximum_flows(capacities, (weights > 0).double(), [0, 1, 2, 3]).tolist() != pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("capacity", "source"), [(3.0, 1.0), (-0.1, 1.0), (0.5, 2.0), (torch.nan, 1.0)])
def test_what_solvers_of_integers_cannot_hold_is_refused(capacity, source):
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        maximum_flows(torch.full((1, 2, 2), capacity), torch.tensor([source, 0.0]), [0])
