"""Sampled Shapley values against exact ones, and their standard errors against their actual errors."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch

from captum_attn.functional import GAMES, coalition_values, kernel_shapley, permutation_shapley, shapley_values

SAMPLES = {permutation_shapley: "permutations", kernel_shapley: "coalitions"}
each_estimator = pytest.mark.parametrize("estimator", SAMPLES, ids=lambda estimator: estimator.__name__)


def sampled(estimator, samples):
    return partial(estimator, **{SAMPLES[estimator]: samples})


def attention_game(game, players):
    """v and its exact Shapley values for a random influence matrix."""
    influence = torch.rand(players, players, dtype=torch.float64, generator=torch.Generator().manual_seed(players))
    exact = shapley_values(influence[None], torch.ones(1, players, dtype=torch.bool), game)[0]
    return lambda coalitions: coalition_values(influence, coalitions, game), exact


def random_game(players):
    """v with random worth for each coalition, v(∅) ≠ 0, and its Shapley values by the weighted sum over all."""
    table = torch.randn(2**players, dtype=torch.float64, generator=torch.Generator().manual_seed(players))
    bits = 2 ** torch.arange(players)
    every = torch.arange(2**players)
    sizes = (every[:, None] & bits != 0).sum(-1)
    factorial = torch.arange(players + 1).double().add(1).lgamma().exp()
    exact = []
    for bit in bits:
        without = every[every & bit == 0]
        shares = factorial[sizes[without]] * factorial[players - 1 - sizes[without]] / factorial[players]
        exact.append(shares @ (table[without | bit] - table[without]))
    return lambda coalitions: table[coalitions.long() @ bits], torch.stack(exact)


def additive_game(players):
    weights = torch.arange(players, dtype=torch.float64) - 1.5
    return lambda coalitions: coalitions.double() @ weights + 5, weights


@cache
def errors_and_standard_errors(estimator, samples, players, seeds):
    """(seeds, n) each, of a game without structure."""
    worth, exact = random_game(players)
    estimates = [sampled(estimator, samples)(worth, players, seed=seed) for seed in range(seeds)]
    return torch.stack([e.values for e in estimates]) - exact, torch.stack([e.standard_error for e in estimates])


@each_estimator
@pytest.mark.parametrize("game", GAMES)
def test_estimates_of_attention_games_lie_within_four_standard_errors(estimator, game):
    worth, exact = attention_game(game, 7)
    for seed in range(20):
        values, errors = estimator(worth, 7, seed=seed)
        assert ((values - exact).abs() <= 4 * errors + 1e-9).all()


@each_estimator
def test_estimates_of_a_game_without_structure_lie_within_four_standard_errors(estimator):
    errors, standard = errors_and_standard_errors(estimator, 640, 5, 60)
    assert (errors.abs() <= 4 * standard).all()
    assert (errors.abs() > standard).any()


@pytest.mark.parametrize(
    ("estimator", "samples", "players"),
    [
        (permutation_shapley, 16, 5),
        (permutation_shapley, 128, 5),
        (permutation_shapley, 64, 9),
        (kernel_shapley, 60, 5),
        (kernel_shapley, 640, 5),
        (kernel_shapley, 100, 9),
        (kernel_shapley, 1024, 9),
    ],
)
def test_standard_errors_are_as_large_as_the_errors(estimator, samples, players):
    errors, standard = errors_and_standard_errors(estimator, samples, players, 100)
    assert 0.8 <= errors.square().mean().sqrt() / standard.mean() <= 1.25


@each_estimator
def test_the_standard_error_is_honest_for_every_player(estimator):
    errors, standard = errors_and_standard_errors(estimator, 128, 5, 200)
    ratio = errors.square().mean(0).sqrt() / standard.mean(0)
    assert ((ratio >= 0.75) & (ratio <= 1.35)).all()


@each_estimator
def test_estimates_are_right_on_average(estimator):
    errors, _ = errors_and_standard_errors(estimator, 128, 5, 200)
    assert (errors.mean(0).abs() <= 3.5 * errors.std(0) / 200**0.5).all()


@each_estimator
def test_sixteen_times_the_samples_leave_a_quarter_of_the_error(estimator):
    few, many = (errors_and_standard_errors(estimator, samples, 5, 60) for samples in (200, 3200))
    for coarse, fine in zip(few, many, strict=True):
        assert 3.2 <= coarse.square().mean().sqrt() / fine.square().mean().sqrt() <= 5


@each_estimator
@pytest.mark.parametrize("players", [1, 2, 3, 12])
def test_additive_games_are_estimated_exactly(estimator, players):
    worth, exact = additive_game(players)
    values, errors = estimator(worth, players)
    torch.testing.assert_close(values, exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(errors, torch.zeros(players, dtype=torch.float64), rtol=0, atol=1e-9)


@each_estimator
def test_games_of_pairs_are_estimated_exactly_because_samples_come_in_opposite_pairs(estimator):
    edges = torch.randn(8, 8, dtype=torch.float64).triu(1)
    values, errors = sampled(estimator, 64)(lambda s: ((s.double() @ edges) * s).sum(-1), 8)
    torch.testing.assert_close(values, (edges + edges.mT).sum(-1) / 2, rtol=0, atol=1e-9)
    torch.testing.assert_close(errors, torch.zeros(8, dtype=torch.float64), rtol=0, atol=1e-9)


@each_estimator
@pytest.mark.parametrize("players", [1, 2, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_values_sum_to_the_worth_of_all_beyond_that_of_none(estimator, players, seed):
    worth, exact = random_game(players)
    values, _ = estimator(worth, players, seed=seed)
    assert float(values.sum()) == pytest.approx(float(exact.sum()), abs=1e-9)


@each_estimator
@pytest.mark.parametrize("players", [1, 2])
def test_one_and_two_players_are_estimated_exactly(estimator, players):
    worth, exact = random_game(players)
    values, errors = estimator(worth, players)
    torch.testing.assert_close(values, exact, rtol=0, atol=1e-9)
    assert errors.shape == (players,)
    assert (errors <= 1e-9).all()


@each_estimator
def test_three_players_are_estimated_within_their_standard_error(estimator):
    worth, exact = random_game(3)
    values, errors = estimator(worth, 3)
    assert ((values - exact).abs() <= 4 * errors).all()
    assert (errors > 0).all()


@each_estimator
def test_a_seed_reproduces_its_estimate_and_another_gives_another(estimator):
    worth, _ = random_game(5)
    first, again, other = (estimator(worth, 5, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.standard_error, again.standard_error)
    assert not torch.allclose(first.values, other.values)


@each_estimator
def test_the_global_random_state_is_neither_read_nor_changed(estimator):
    worth, _ = random_game(5)
    state = torch.get_rng_state()
    first = estimator(worth, 5).values
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(estimator(worth, 5).values, first)


@each_estimator
def test_a_float32_worth_gives_float64_estimates(estimator):
    weights = torch.tensor([1.0, 2.0, 4.0])
    values, errors = estimator(lambda coalitions: coalitions.float() @ weights, 3)
    assert values.dtype == errors.dtype == torch.float64
    torch.testing.assert_close(values, weights.double(), rtol=0, atol=1e-6)


@each_estimator
def test_the_worth_is_asked_about_boolean_coalitions(estimator):
    asked = []

    def worth(coalitions):
        asked.append((coalitions.dtype, coalitions.shape[1]))
        return coalitions.double().sum(-1)

    estimator(worth, 4)
    assert set(asked) == {(torch.bool, 4)}


@pytest.mark.parametrize("samples", [-1, 0, 3])
def test_too_few_permutations_are_named_with_the_least_number(samples):
    with pytest.raises(ValueError, match=rf"permutations must be at least 4.*got {samples}"):
        permutation_shapley(lambda coalitions: coalitions.sum(-1), 5, permutations=samples)


@pytest.mark.parametrize("samples", [0, 9])
def test_too_few_coalitions_are_named_with_the_least_number(samples):
    with pytest.raises(ValueError, match=rf"coalitions must be at least 2 n = 10 for n = 5 players, got {samples}"):
        kernel_shapley(lambda coalitions: coalitions.sum(-1), 5, coalitions=samples)


def test_coalitions_that_do_not_determine_the_values_are_an_error():
    def estimate_with_many_seeds():
        for seed in range(50):  # six pairs, often two of them the same
            kernel_shapley(lambda coalitions: coalitions.sum(-1), 6, coalitions=12, seed=seed)

    with pytest.raises(ValueError, match="12 coalitions do not determine the values of 6 players: draw more"):
        estimate_with_many_seeds()


@each_estimator
@pytest.mark.parametrize(
    ("worth", "got"),
    [
        (lambda coalitions: coalitions.double(), r"got \(\d+, 4\)"),
        (lambda coalitions: coalitions.double().sum(), r"got \(\)"),
        (lambda coalitions: coalitions.double().sum(-1).tolist(), "got list"),
    ],
    ids=["a worth of each player", "one worth", "a list"],
)
def test_a_worth_of_the_wrong_shape_is_named_with_the_right_one(estimator, worth, got):
    with pytest.raises(ValueError, match=rf"coalitions bool \(K, n\) to a tensor \(K,\).* to \(\d+,\); {got}"):
        estimator(worth, 4)


@each_estimator
@pytest.mark.parametrize("game", GAMES)
def test_an_attention_game_is_no_control_variate(estimator, game):
    """Reversed orders and complements integrate additive and pairwise games exactly, and the built-in games are such
    but for coalitions of one: to sample only the difference from one changes no draw, and saves nothing."""
    worth, _ = random_game(6)
    influence = torch.rand(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).fill_diagonal_(0)
    exact = shapley_values(influence[None], torch.ones(1, 6, dtype=torch.bool), game)[0]
    difference = estimator(lambda coalitions: worth(coalitions) - 3 * coalition_values(influence, coalitions, game), 6)
    torch.testing.assert_close(difference.values + 3 * exact, estimator(worth, 6).values)
