"""Agreement of rankings against counting pairs of tokens, one by one."""

from __future__ import annotations

import math
from itertools import combinations, pairwise, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from captum_attn.functional import (
    RANKING_METRICS,
    agreement,
    check_top_k,
    kendall_tau,
    mean_over_inputs,
    rank_players,
    reversed_ranks,
    top_count,
    top_k_overlap,
    top_players,
)

TOKENS = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=12)


def ranked(tokens):
    return torch.tensor([[float(score) for score, _ in tokens]]), torch.tensor([[plays for _, plays in tokens]])


@given(TOKENS)
def test_ranks_are_the_places_in_a_stable_descending_order_of_the_players(tokens):
    scores, players = ranked(tokens)
    expected = sorted(
        (token for token in range(len(tokens)) if tokens[token][1]), key=lambda token: (-tokens[token][0], token)
    )
    ranks = rank_players(scores, players)[0].tolist()
    assert sorted(ranks) == list(range(len(tokens)))
    assert [ranks.index(place) for place in range(len(expected))] == expected


@given(TOKENS, st.sampled_from([0, 1, 5, 7, 10, 20, 33.3, 50, 99, 100]))
def test_the_top_are_as_many_as_a_ceiling_says_and_none_is_lower_than_the_rest(tokens, percent):
    scores, players = ranked(tokens)
    top = top_players(rank_players(scores, players), players, percent)
    count = int(players.sum())
    assert top.sum() == math.ceil(round(count * percent / 100, 6))
    assert not (top & ~players).any()
    rest = players & ~top
    if top.any() and rest.any():
        assert scores[top].min() >= scores[rest].max()


def test_seven_percent_of_a_hundred_are_seven():
    players = torch.ones(1, 100, dtype=torch.bool)  # 100 * 0.07 is 7.000000000000001
    assert top_players(torch.arange(100)[None], players, 7).sum() == 7


@given(TOKENS)
def test_reversing_twice_changes_nothing_and_once_puts_the_last_first(tokens):
    scores, players = ranked(tokens)
    ranks = rank_players(scores, players)
    backwards = reversed_ranks(ranks, players)
    assert torch.equal(reversed_ranks(backwards, players), ranks)
    if players.any():
        assert ranks[players][backwards[players].argmin()] == players.sum() - 1


def test_players_with_the_lowest_possible_score_come_before_those_that_do_not_play():
    scores, players = torch.tensor([[5.0, -math.inf, 1.0]]), torch.tensor([[False, True, True]])
    assert rank_players(scores, players).tolist() == [[2, 1, 0]]


@pytest.mark.parametrize("percent", [-1, 101])
def test_percentages_out_of_range_are_refused(percent):
    with pytest.raises(ValueError, match=f"between 0 and 100, got {percent}"):
        top_players(torch.zeros(1, 1).long(), torch.ones(1, 1).bool(), percent)


TIED = st.lists(st.integers(-3, 3), min_size=2, max_size=9)
DISTINCT = st.integers(2, 9).flatmap(lambda count: st.permutations(list(range(count))))


def tau_by_counting(first, second):
    """τ-b by its definition (Kendall 1945)."""
    concordant = discordant = untied_first = untied_second = 0
    for i, j in combinations(range(len(first)), 2):
        one, other = first[i] - first[j], second[i] - second[j]
        concordant += one * other > 0
        discordant += one * other < 0
        untied_first += one != 0
        untied_second += other != 0
    if not untied_first * untied_second:
        return math.nan
    return (concordant - discordant) / math.sqrt(untied_first * untied_second)


def overlap_by_enumeration(first, second, k):
    """The mean overlap over all ways to break ties in either ranking."""

    def tops(scores):
        orders = permutations(range(len(scores)))
        sorted_ones = [o for o in orders if all(scores[a] >= scores[b] for a, b in pairwise(o))]
        return [set(order[:k]) for order in sorted_ones]

    found = [len(one & other) / k for one in tops(first) for other in tops(second)]
    return sum(found) / len(found)


def both(first, second):
    return torch.tensor([first, second], dtype=torch.float32)


@settings(max_examples=60)
@given(st.data())
def test_tau_is_that_of_counting_pairs_and_of_scipy_with_any_ties(data):
    first = data.draw(TIED)
    second = data.draw(st.lists(st.integers(-3, 3), min_size=len(first), max_size=len(first)))
    found = kendall_tau(both(first, second))[0, 1].item()
    assert found == pytest.approx(tau_by_counting(first, second), abs=1e-12, nan_ok=True)
    if found == found:
        assert found == pytest.approx(kendalltau(first, second).statistic, abs=1e-12)


@settings(max_examples=40)
@given(DISTINCT)
def test_a_ranking_agrees_with_itself_and_is_opposed_to_its_reverse(ranks):
    tau = kendall_tau(both(ranks, [-rank for rank in ranks]))
    assert tau.tolist() == [[1, -1], [-1, 1]]


@settings(max_examples=40)
@given(st.data())
def test_agreement_does_not_depend_on_which_method_or_token_comes_first(data):
    scores = torch.tensor([data.draw(st.lists(st.integers(-4, 4), min_size=6, max_size=6)) for _ in range(3)]).double()
    methods, tokens = data.draw(st.permutations(range(3))), data.draw(st.permutations(range(6)))
    found = agreement(scores, 0.4).values
    relabelled = agreement(scores[methods][:, tokens], 0.4).values
    torch.testing.assert_close(relabelled, found[:, methods][:, :, methods], equal_nan=True)
    torch.testing.assert_close(found, found.mT, equal_nan=True)


@settings(max_examples=40)
@given(TIED, st.sampled_from([torch.exp, torch.arctan, lambda x: 3 * x + 5]))
def test_only_the_order_counts(scores, monotone):
    scores = torch.tensor([scores, sorted(scores)]).double()
    assert kendall_tau(monotone(scores)).allclose(kendall_tau(scores), equal_nan=True)
    assert top_k_overlap(monotone(scores), 1).allclose(top_k_overlap(scores, 1))


def test_infinite_scores_are_ranked():
    scores = torch.tensor([[torch.inf, 2.0, -torch.inf, torch.inf], [4.0, 3.0, 1.0, 4.0]])
    assert kendall_tau(scores)[0, 1] == 1
    assert top_k_overlap(scores, 2)[0, 1] == 1


def test_half_precision_scores_are_ranked():
    scores = torch.tensor([[0.1, 0.2, 0.3], [3.0, 2.0, 1.0]], dtype=torch.bfloat16)
    assert kendall_tau(scores)[0, 1] == -1


@settings(max_examples=40)
@given(st.data())
def test_overlap_is_the_mean_over_all_ways_to_break_ties(data):
    first = data.draw(st.lists(st.integers(0, 2), min_size=2, max_size=5))
    second = data.draw(st.lists(st.integers(0, 2), min_size=len(first), max_size=len(first)))
    k = data.draw(st.integers(1, len(first)))
    found = top_k_overlap(both(first, second), k)[0, 1].item()
    assert 0 <= found <= 1
    assert found == pytest.approx(overlap_by_enumeration(first, second, k), abs=1e-12)


def test_overlap_by_hand():
    scores = both([5, 4, 3, 2, 1, 0], [5, 0, 3, 9, 1, 2])  # the top three: {0, 1, 2} and {3, 0, 2}
    assert top_k_overlap(scores, 3)[0, 1].item() == pytest.approx(2 / 3)
    assert top_k_overlap(scores, 1)[0, 1].item() == 0


def test_equal_scores_overlap_by_chance_alone():
    assert top_k_overlap(both([0] * 10, [0] * 10), 2)[0, 1].item() == pytest.approx(2 / 10)


@pytest.mark.parametrize("k", [0, 4])
def test_more_top_tokens_than_tokens_are_an_error(k):
    with pytest.raises(ValueError, match=f"between 1 and the number of tokens, 3, got {k}"):
        top_k_overlap(torch.rand(2, 3), k)


@pytest.mark.parametrize(
    ("top_k", "players", "expected"),
    [(0.2, 10, 2), (0.2, 11, 3), (0.2, 2, 1), (0.07, 100, 7), (0.9, 3, 2), (5, 40, 5), (5, 3, 2), (1, 2, 1)],
)
def test_how_many_tokens_are_the_top(top_k, players, expected):
    assert top_count(top_k, players) == expected


@pytest.mark.parametrize(
    ("wrong", "error"), [(0, ValueError), (1.0, ValueError), (-0.2, ValueError), (0.0, ValueError)]
)
def test_a_top_out_of_range_is_refused(wrong, error):
    with pytest.raises(error, match="top_k must be a whole number from 1 up, or a share between 0 and 1"):
        check_top_k(wrong)


@pytest.mark.parametrize("wrong", [True, "3", None, [1]])
def test_a_top_of_another_kind_is_refused(wrong):
    with pytest.raises(TypeError, match="top_k must be a number of tokens or a share of them"):
        check_top_k(wrong)


def test_magnitudes_agree_where_only_signs_differ():
    found = dict(
        zip(RANKING_METRICS, agreement(both([3, -2, 1, -4], [3, 2, 1, 4]), 2).values[:, 0, 1].tolist(), strict=True)
    )
    assert found["kendall_tau_of_magnitudes"] == 1
    assert found["kendall_tau"] == tau_by_counting([3, -2, 1, -4], [3, 2, 1, 4])
    assert found["top_k_overlap"] == 0.5  # {0, 2} and {3, 0}
    assert found["same_top"] == 0


def test_what_has_no_order_agrees_with_nothing():
    one_token = agreement(torch.rand(3, 1), 0.2)
    assert one_token.values.isnan().all()
    assert math.isnan(one_token.expected_by_chance)
    equal = agreement(both([1, 1, 1], [1, 2, 3]), 1)
    assert equal.values[:, 0].isnan().all()
    assert equal.values[:, 1, 1].tolist() == [1, 1, 1, 1]
    assert equal.expected_by_chance == pytest.approx(1 / 3)


def test_random_scores_reach_the_overlap_of_chance():
    generator = torch.Generator().manual_seed(3)
    found = [agreement(torch.rand(2, 10, generator=generator), 0.3) for _ in range(2000)]
    mean = mean_over_inputs(torch.stack([one.values[:, 0, 1] for one in found]))
    expected = torch.tensor([0, 0, found[0].expected_by_chance, 1 / 10]).double()
    assert ((mean.mean - expected).abs() < 4 * mean.standard_error).all()
    assert found[0].expected_by_chance == 0.3


def test_means_leave_out_what_is_undefined():
    values = torch.tensor([[1.0, torch.nan, 2.0], [3.0, torch.nan, torch.nan], [8.0, torch.nan, torch.nan]]).double()
    found = mean_over_inputs(values)
    assert found.n.tolist() == [3, 0, 1]
    torch.testing.assert_close(found.mean, torch.tensor([4, torch.nan, 2]).double(), equal_nan=True)
    error = torch.tensor([1.0, 3.0, 8.0]).std().item() / 3**0.5
    assert found.standard_error.tolist() == pytest.approx([error, math.nan, math.nan], nan_ok=True)
