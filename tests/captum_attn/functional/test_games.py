"""Closed-form Shapley values and interactions against their definitions, laws and cases worked by hand."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_attn.functional import GAMES, coalition_values, shapley_interactions, shapley_values

ADDITIVE = ("cls", "incoming")
MUTUAL = ("mutual", "max_mutual")
EXACT = 1e-10

deterministic = settings(derandomize=True, deadline=None, max_examples=50, database=None)


# The definitions, in plain Python.


def worth(game, matrix, rows, members):
    """v(S) after the definition table, ``rows`` the weight of each query in an additive game."""
    if game in ADDITIVE:
        return sum(weight * row[i] for weight, row in zip(rows, matrix, strict=True) for i in members)
    if len(members) == 1:
        return matrix[members[0]][members[0]]
    join = max if game == "max_mutual" else lambda a, b: a + b
    return sum(join(matrix[i][j], matrix[j][i]) for i, j in itertools.combinations(members, 2))


def enumerated(game, influence, players, rows):
    """Shapley values (N,) and interaction indices (N, N) of one input by enumeration of all coalitions."""
    matrix, length = influence.tolist(), len(players)
    seats = [i for i in range(length) if players[i]]
    n = len(seats)
    v = cache(lambda members: worth(game, matrix, rows.tolist(), members))
    values, interactions = [0.0] * length, [[0.0] * length for _ in range(length)]

    def joined(members, *more):
        return v(tuple(sorted((*members, *more))))

    for size in range(n):
        for s in itertools.combinations(seats, size):
            rest = [i for i in seats if i not in s]
            share = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            for i in rest:
                values[i] += share * (joined(s, i) - v(s))
            for i, j in itertools.permutations(rest, 2):
                share = math.factorial(size) * math.factorial(n - size - 2) / math.factorial(n - 1)
                interactions[i][j] += share * (joined(s, i, j) - joined(s, i) - joined(s, j) + v(s))
    return torch.tensor(values, dtype=torch.float64), torch.tensor(interactions, dtype=torch.float64)


def random_input(players, others):
    """Normal M (2, N, N) and the masks of ``players`` tokens among ``others``, at random places."""
    influence = torch.randn(2, players + others, players + others, dtype=torch.float64)
    mask = torch.arange(players + others) < players
    return influence, torch.stack([mask[torch.randperm(len(mask))] for _ in influence])


def first_row(influence):
    rows = torch.zeros(influence.shape[:2], dtype=torch.float64)
    rows[:, 0] = 1
    return rows


def default_rows(game, influence):
    return torch.ones(influence.shape[:2], dtype=torch.float64) if game == "incoming" else first_row(influence)


READOUTS = {
    "default": lambda length: ({}, [0, 0]),
    "index": lambda length: ({"readout": length - 2}, [length - 2] * 2),
    "negative index": lambda length: ({"readout": -1}, [length - 1] * 2),
    "scalar tensor": lambda length: ({"readout": torch.tensor(1)}, [1, 1]),
    "index of each": lambda length: ({"readout": torch.tensor([2, -1])}, [2, length - 1]),
}


# Definitions.


@pytest.mark.parametrize("others", [0, 3])
@pytest.mark.parametrize("n", range(1, 10))
@pytest.mark.parametrize("game", GAMES)
def test_values_and_interactions_equal_enumeration_of_all_coalitions(game, n, others):
    influence, players = random_input(n, others)
    values, interactions = shapley_values(influence, players, game), shapley_interactions(influence, players, game)
    for b, rows in enumerate(default_rows(game, influence)):
        expected_values, expected_interactions = enumerated(game, influence[b], players[b], rows)
        torch.testing.assert_close(values[b], expected_values, rtol=0, atol=EXACT)
        torch.testing.assert_close(interactions[b], expected_interactions, rtol=0, atol=EXACT)


@pytest.mark.parametrize("kind", READOUTS)
def test_cls_values_equal_enumeration_for_every_kind_of_readout(kind):
    influence, players = random_input(4, 2)
    arguments, tokens = READOUTS[kind](players.shape[1])
    values = shapley_values(influence, players, "cls", **arguments)
    for b, token in enumerate(tokens):
        rows = torch.eye(players.shape[1], dtype=torch.float64)[token]
        expected, _ = enumerated("cls", influence[b], players[b], rows)
        torch.testing.assert_close(values[b], expected, rtol=0, atol=EXACT)


def test_cls_values_equal_enumeration_for_weighted_rows():
    influence, players = random_input(4, 2)
    weights = torch.randn(2, 6, dtype=torch.float64)
    values = shapley_values(influence, players, "cls", readout=weights)
    for b in range(2):
        expected, _ = enumerated("cls", influence[b], players[b], weights[b])
        torch.testing.assert_close(values[b], expected, rtol=0, atol=EXACT)


def test_incoming_values_count_only_the_given_queries():
    influence, players = random_input(4, 2)
    queries = torch.tensor([[True, True, False, True, False, True], [False, False, True, False, True, True]])
    values = shapley_values(influence, players, "incoming", queries=queries)
    for b in range(2):
        expected, _ = enumerated("incoming", influence[b], players[b], queries[b].double())
        torch.testing.assert_close(values[b], expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    ("game", "arguments", "rows"),
    [
        ("cls", {}, [1, 0, 0, 0]),
        ("cls", {"readout": -2}, [0, 0, 1, 0]),
        ("cls", {"readout": torch.tensor(3)}, [0, 0, 0, 1]),
        ("cls", {"readout": torch.tensor([0.5, 0.0, 0.25, 0.25])}, [0.5, 0, 0.25, 0.25]),
        ("incoming", {}, [1, 1, 1, 1]),
        ("incoming", {"queries": torch.tensor([True, False, True, False])}, [1, 0, 1, 0]),
        ("mutual", {}, [0, 0, 0, 0]),
        ("max_mutual", {}, [0, 0, 0, 0]),
    ],
)
def test_coalition_values_equal_the_definition_of_every_coalition(game, arguments, rows):
    influence = torch.randn(4, 4, dtype=torch.float64)
    coalitions = torch.cartesian_prod(*[torch.tensor([False, True])] * 4)
    expected = [worth(game, influence.tolist(), rows, row.nonzero().flatten().tolist()) for row in coalitions]
    actual = coalition_values(influence, coalitions, game, **arguments)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=EXACT)


# Cases worked by hand. M is the influence of keys (columns) on queries (rows).

TWO = [[1.0, 2.0], [4.0, 3.0]]
THREE = [[1.0, 2.0, 8.0], [4.0, 3.0, 0.0], [6.0, -2.0, 5.0]]


@pytest.mark.parametrize(
    ("game", "matrix", "values"),
    [
        ("cls", TWO, [1, 2]),
        ("incoming", TWO, [5, 5]),
        ("mutual", TWO, [2, 4]),  # v(1) = 1, v(2) = 3, v(12) = 6
        ("max_mutual", TWO, [1, 3]),  # the same with v(12) = 4
        ("cls", THREE, [1, 2, 8]),
        ("incoming", THREE, [11, 3, 13]),
        ("mutual", THREE, [9, 2, 7]),  # w_12 = 6, w_13 = 14, w_23 = -2
        ("max_mutual", THREE, [5, 2, 5]),  # w_12 = 4, w_13 = 8, w_23 = 0
        ("mutual", [[7.0]], [7]),
        ("max_mutual", [[7.0]], [7]),
    ],
)
def test_values_of_small_games_worked_by_hand(game, matrix, values):
    influence = torch.tensor([matrix])
    actual = shapley_values(influence, torch.ones(1, len(matrix), dtype=torch.bool), game)
    torch.testing.assert_close(actual, torch.tensor([values], dtype=torch.float32))


@pytest.mark.parametrize(
    ("game", "matrix", "upper"),
    [
        ("cls", THREE, [0, 0, 0]),
        ("incoming", THREE, [0, 0, 0]),
        ("mutual", TWO, [2]),
        ("max_mutual", TWO, [0]),
        ("mutual", THREE, [6.5, 12.5, -5.5]),  # w_ij - (M_ii + M_jj) / 2 + M_kk / 2
        ("max_mutual", THREE, [4.5, 6.5, -3.5]),
    ],
)
def test_interactions_of_small_games_worked_by_hand(game, matrix, upper):
    size = len(matrix)
    actual = shapley_interactions(torch.tensor([matrix]), torch.ones(1, size, dtype=torch.bool), game)[0]
    assert actual[*torch.triu_indices(size, size, 1)].tolist() == pytest.approx(upper)


@pytest.mark.parametrize(
    ("game", "worths"),
    [
        ("cls", [0, 1, 2, 8, 3, 9, 10, 11]),
        ("incoming", [0, 11, 3, 13, 14, 24, 16, 27]),
        ("mutual", [0, 1, 3, 5, 6, 14, -2, 18]),
        ("max_mutual", [0, 1, 3, 5, 4, 8, 0, 12]),
    ],
)
def test_worth_of_coalitions_worked_by_hand(game, worths):
    members = [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    coalitions = torch.tensor([[i in s for i in range(3)] for s in members])
    assert coalition_values(torch.tensor(THREE), coalitions, game).tolist() == pytest.approx(worths)


# Laws.


TOKENS, BATCH = st.integers(1, 6), st.integers(1, 3)


@st.composite
def inputs(draw, tokens=TOKENS, batch=BATCH, least=0):
    """M (B, N, N) of multiples of 1/4 with ties and negative entries, and players (B, N), ``least`` in each row."""
    length, size = draw(tokens), draw(batch)
    entries = st.integers(-12, 12).map(lambda quarter: quarter / 4)
    flat = draw(st.lists(entries, min_size=size * length**2, max_size=size * length**2))
    mask = st.lists(st.booleans(), min_size=length, max_size=length).filter(lambda row: sum(row) >= least)
    players = draw(st.lists(mask, min_size=size, max_size=size))
    return torch.tensor(flat, dtype=torch.float64).view(size, length, length), torch.tensor(players)


games = st.sampled_from(GAMES)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=EXACT)


@deterministic
@given(inputs(), games)
def test_values_sum_to_the_worth_of_all_players(given_inputs, game):
    influence, players = given_inputs
    total = shapley_values(influence, players, game).sum(-1).tolist()
    for b, rows in enumerate(default_rows(game, influence)):
        everyone = players[b].nonzero().flatten().tolist()
        expected = worth(game, influence[b].tolist(), rows.tolist(), everyone) if everyone else 0
        assert total[b] == pytest.approx(expected, abs=EXACT)


@deterministic
@given(inputs(tokens=st.integers(3, 6)), games)
def test_interchangeable_players_get_the_same(given_inputs, game):
    influence, players = given_inputs
    swapped = torch.arange(players.shape[1])
    swapped[:2] = torch.tensor([1, 0])
    influence = influence + influence[:, swapped][:, :, swapped]
    players[:, :2] = True
    values = shapley_values(influence, players, game, readout=-1)
    close(values[:, 0], values[:, 1])


@deterministic
@given(inputs(tokens=st.integers(2, 6)), games)
def test_a_player_who_adds_nothing_to_any_coalition_gets_nothing_and_changes_nothing(given_inputs, game):
    influence, players = given_inputs
    influence[:, -1] = influence[:, :, -1] = 0
    if game in MUTUAL:  # a pair forfeits what its members are worth alone, so nobody may be worth anything alone
        influence.diagonal(dim1=1, dim2=2).zero_()
    players[:, -1] = True
    values = shapley_values(influence, players, game)
    close(values[:, -1], torch.zeros(len(values), dtype=torch.float64))
    close(values[:, :-1], shapley_values(influence[:, :-1, :-1], players[:, :-1], game))


@deterministic
@given(inputs(batch=st.just(2)), st.sampled_from([game for game in GAMES if game != "max_mutual"]))
def test_values_are_linear_in_the_influence(given_inputs, game):
    (one, other), players = given_inputs
    both = shapley_values((2 * one - 3 * other)[None], players[:1], game)
    one, other = (shapley_values(influence[None], players[:1], game) for influence in (one, other))
    close(both, 2 * one - 3 * other)


@deterministic
@given(inputs(), games, st.integers(0, 8))
def test_values_and_interactions_scale_with_the_influence(given_inputs, game, factor):
    influence, players = given_inputs
    close(shapley_values(factor * influence, players, game), factor * shapley_values(influence, players, game))
    scaled = shapley_interactions(factor * influence, players, game)
    close(scaled, factor * shapley_interactions(influence, players, game))


@deterministic
@given(inputs(), games, st.randoms(use_true_random=False))
def test_reordered_tokens_get_reordered_values_and_interactions(given_inputs, game, random):
    influence, players = given_inputs
    order = list(range(players.shape[1]))
    random.shuffle(order)
    moved, moved_players, readout = influence[:, order][:, :, order], players[:, order], order.index(0)
    values, interactions = shapley_values(influence, players, game), shapley_interactions(influence, players, game)
    close(shapley_values(moved, moved_players, game, readout=readout), values[:, order])
    close(shapley_interactions(moved, moved_players, game), interactions[:, order][:, :, order])


@deterministic
@given(inputs(), games, st.sampled_from([1, 3]))
def test_padding_changes_no_player(given_inputs, game, padding):
    influence, players = given_inputs
    length = players.shape[1]
    padded = torch.full((len(influence), length + padding, length + padding), 9.0, dtype=torch.float64)
    padded[:, :length, :length] = influence
    mask = torch.zeros(padded.shape[:2], dtype=torch.bool)
    mask[:, :length] = players
    queries = torch.arange(length + padding).expand_as(mask) < length
    values = shapley_values(padded, mask, game, queries=queries)
    interactions = shapley_interactions(padded, mask, game)
    close(values[:, :length], shapley_values(influence, players, game))
    close(interactions[:, :length, :length], shapley_interactions(influence, players, game))


@deterministic
@given(inputs(batch=st.just(3)), games, st.lists(st.integers(0, 5), min_size=3, max_size=3))
def test_a_batch_gets_what_its_examples_get_alone(given_inputs, game, readouts):
    influence, players = given_inputs
    readout = torch.tensor(readouts) % players.shape[1]
    values = shapley_values(influence, players, game, readout=readout)
    interactions = shapley_interactions(influence, players, game)
    for b in range(3):
        alone = influence[b : b + 1], players[b : b + 1], game
        close(values[b : b + 1], shapley_values(*alone, readout=int(readout[b])))
        close(interactions[b : b + 1], shapley_interactions(*alone))


@deterministic
@given(inputs(), games)
def test_interactions_are_symmetric_with_a_zero_diagonal(given_inputs, game):
    interactions = shapley_interactions(*given_inputs, game)
    assert torch.equal(interactions, interactions.mT)
    assert not interactions.diagonal(dim1=1, dim2=2).any()


@deterministic
@given(inputs(batch=st.just(1), tokens=st.integers(2, 6), least=2), games)
def test_interactions_of_a_player_sum_to_what_it_adds_last_beyond_what_it_is_worth_alone(given_inputs, game):
    influence, players = given_inputs
    totals = shapley_interactions(influence, players, game)[0].sum(-1)
    rows, matrix = default_rows(game, influence)[0].tolist(), influence[0].tolist()
    everyone = players[0].nonzero().flatten().tolist()
    for i in everyone:
        others = [j for j in everyone if j != i]
        last = worth(game, matrix, rows, everyone) - worth(game, matrix, rows, others)
        assert float(totals[i]) == pytest.approx(last - worth(game, matrix, rows, [i]), abs=EXACT)


@deterministic
@given(inputs(), games)
def test_non_players_get_positive_zero(given_inputs, game):
    influence, players = given_inputs
    influence = -influence.abs() - 1  # its products with 0 are -0.0
    values, interactions = shapley_values(influence, players, game), shapley_interactions(influence, players, game)
    pairs = players[:, :, None] & players[:, None, :]
    for outside in (values[~players], interactions[~pairs], interactions.diagonal(dim1=1, dim2=2)):
        assert not outside.any()
        assert not outside.signbit().any()


# Precision and size.


@pytest.mark.parametrize("game", GAMES)
def test_float32_is_as_accurate_as_float32_can_be(game):
    influence, players = torch.randn(2, 100, 100), torch.rand(2, 100) < 0.8
    for function in (shapley_values, shapley_interactions):
        exact = function(influence.double(), players, game)
        error = (function(influence, players, game) - exact).abs().max()
        assert error <= 2e-6 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("game", GAMES)
def test_results_have_the_dtype_of_the_influence(game, dtype):
    influence, players = torch.tensor([THREE], dtype=dtype), torch.tensor([[True, True, False]])
    assert shapley_values(influence, players, game).dtype == dtype
    assert shapley_interactions(influence, players, game).dtype == dtype
    assert coalition_values(influence[0], players, game).dtype == dtype


@pytest.mark.parametrize("game", GAMES)
def test_inputs_are_not_modified(game):
    influence, players = torch.randn(2, 4, 4), torch.tensor([[True, False, True, True], [False, True, True, False]])
    given_influence, given_players = influence.clone(), players.clone()
    shapley_values(influence, players, game, readout=torch.tensor([0, -1]), queries=players)
    shapley_interactions(influence, players, game)
    coalition_values(influence[0], players, game)
    assert torch.equal(influence, given_influence)
    assert torch.equal(players, given_players)


@pytest.mark.parametrize("game", GAMES)
def test_an_input_without_players_gets_zeros(game):
    influence = torch.randn(2, 3, 3)
    players = torch.tensor([[False] * 3, [True] * 3])
    values, interactions = shapley_values(influence, players, game), shapley_interactions(influence, players, game)
    assert not values[0].any()
    assert not interactions[0].any()
    torch.testing.assert_close(values[1:], shapley_values(influence[1:], players[1:], game))


@pytest.mark.parametrize(
    ("game", "value", "interaction"),
    [("cls", 1, 0), ("incoming", 512, 0), ("mutual", 511, 2 - 1 / 511), ("max_mutual", 255.5, 1 - 1 / 511)],
)
def test_five_hundred_and_twelve_equal_players_share_equally(game, value, interaction):
    influence, players = torch.ones(1, 512, 512, dtype=torch.float64), torch.ones(1, 512, dtype=torch.bool)
    close(shapley_values(influence, players, game), torch.full((1, 512), value, dtype=torch.float64))
    interactions = shapley_interactions(influence, players, game)
    close(interactions, interaction * (1 - torch.eye(512, dtype=torch.float64))[None])


# Errors.

M = torch.zeros(2, 3, 3)
ALL = torch.ones(2, 3, dtype=torch.bool)
ERRORS = {
    "unknown game": ((M, ALL, "max"), ValueError, r"unknown game 'max'.*'cls', 'incoming', 'mutual', 'max_mutual'"),
    "integer influence": ((M.long(), ALL, "cls"), TypeError, r"influence.*floating point.*torch\.int64"),
    "float players": ((M, ALL.float(), "cls"), TypeError, r"players must be bool.*torch\.float32"),
    "influence without batch": ((M[0], ALL[:1], "cls"), ValueError, r"influence.*\(B, N, N\).*\(3, 3\)"),
    "rectangular influence": ((M[:, :2], ALL[:, :2], "cls"), ValueError, r"influence.*\(B, N, N\).*\(2, 2, 3\)"),
    "too few players": ((M, ALL[:, :2], "mutual"), ValueError, r"players.*\(2, 3\).*got \(2, 2\)"),
    "players without batch": ((M, ALL[0], "mutual"), ValueError, r"players.*\(2, 3\).*got \(3,\)"),
}


@pytest.mark.parametrize("function", [shapley_values, shapley_interactions])
@pytest.mark.parametrize("case", ERRORS)
def test_wrong_inputs_are_named_with_what_was_expected(function, case):
    arguments, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        function(*arguments)


@pytest.mark.parametrize("readout", [3, -4, torch.tensor(3), torch.tensor([0, 3])], ids=str)
def test_a_readout_out_of_range_is_named_with_its_range(readout):
    with pytest.raises(ValueError, match=r"readout must lie in \[-3, 3\) for 3 tokens, got .*[34]"):
        shapley_values(M, ALL, "cls", readout=readout)


@pytest.mark.parametrize(
    ("game", "arguments"),
    [("cls", {"readout": torch.ones(2, 2)}), ("incoming", {"queries": torch.ones(2, 2, dtype=torch.bool)})],
)
def test_row_weights_of_the_wrong_shape_are_named_with_the_right_one(game, arguments):
    with pytest.raises(ValueError, match=r"row weights.*\(2, 3\).*got \(2, 2\)"):
        shapley_values(M, ALL, game, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((M[0], ALL, "min"), ValueError, "unknown game 'min'"),
        ((M[0], ALL.long(), "cls"), TypeError, r"bool.*torch\.int64"),
        ((M[0], ALL[:, :2], "cls"), ValueError, r"\(K, N\).*\(3, 3\), got \(2, 2\)"),
    ],
)
def test_coalition_values_name_wrong_inputs(arguments, error, message):
    with pytest.raises(error, match=message):
        coalition_values(*arguments)


@pytest.mark.parametrize("game", ["mutual", "max_mutual"])
def test_what_does_not_play_may_be_anything(game):
    influence, players = M.clone(), ALL.clone()
    players[:, 1] = False
    expected = shapley_values(influence, players, game), shapley_interactions(influence, players, game)
    influence[:, 1] = influence[:, :, 1] = float("nan")
    assert torch.equal(shapley_values(influence, players, game), expected[0])
    assert torch.equal(shapley_interactions(influence, players, game), expected[1])
