"""Shapley values of groups of tokens against enumeration of all coalitions of groups."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_attn.functional import GAMES, coalition_values, group_shapley_values, shapley_values


def enumerated(influence, groups, game, **rows):
    """Shapley values (K,) of one input, by the worth of all coalitions of its groups."""
    names = sorted({int(group) for group in groups} - {-1})

    def worth(coalition):
        tokens = torch.isin(groups, torch.tensor(coalition, dtype=torch.long))
        return coalition_values(influence, tokens[None], game, **rows).item()

    values = torch.zeros(int(groups.max()) + 1, dtype=torch.float64)
    for name in names:
        rest = [other for other in names if other != name]
        for size in range(len(names)):
            share = math.factorial(size) * math.factorial(len(names) - size - 1) / math.factorial(len(names))
            for chosen in itertools.combinations(rest, size):
                values[name] += share * (worth([*chosen, name]) - worth(list(chosen)))
    return values


@pytest.mark.parametrize("game", GAMES)
@settings(max_examples=40)
@given(groups=st.lists(st.integers(-1, 4), min_size=5, max_size=9), seed=st.integers(0, 1000))
def test_values_are_those_of_all_coalitions_of_groups(game, groups, seed):
    groups = torch.tensor(groups)
    influence = torch.randn(len(groups), len(groups), generator=torch.Generator().manual_seed(seed)).double()
    rows = {"readout": len(groups) - 1, "queries": torch.rand(len(groups)) < 0.7}
    found = group_shapley_values(influence[None], groups[None], game, readout=-1, queries=rows["queries"][None])[0]
    assert found.shape == (max(0, int(groups.max()) + 1),)
    if len(found):
        torch.testing.assert_close(found, enumerated(influence, groups, game, **rows), rtol=0, atol=1e-10)


@pytest.mark.parametrize("game", GAMES)
def test_groups_of_one_token_are_tokens_and_batches_are_examples(game):
    influence = torch.randn(2, 6, 6).double()
    groups = torch.tensor([[-1, 0, 1, 2, 3, -1], [0, 0, 1, 1, 1, -1]])
    both = group_shapley_values(influence, groups, game)
    torch.testing.assert_close(both[0], shapley_values(influence[:1], groups[:1] >= 0, game)[0, 1:5])
    torch.testing.assert_close(both[1, :2], group_shapley_values(influence[1:], groups[1:], game)[0])
    assert both[1, 2:].eq(0).all()


@pytest.mark.parametrize("game", GAMES)
def test_what_does_not_play_does_not_count(game):
    influence = torch.randn(1, 4, 4)
    groups = torch.tensor([[0, 1, 1, -1]])
    before = group_shapley_values(influence, groups, game)
    influence[..., 3] = torch.nan
    torch.testing.assert_close(group_shapley_values(influence, groups, game), before)


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        (torch.zeros(1, 3), TypeError, "groups must be int64"),
        (torch.ones(1, 3, dtype=torch.bool), TypeError, "groups must be int64"),
        (torch.tensor([[0, -2, 1]]), ValueError, "or -1 for none, got -2 to 1"),
        (torch.tensor([[0, 1, 3]]), ValueError, "from 0 to 2, or -1 for none, got 0 to 3"),
        (torch.zeros(1, 4, dtype=torch.long), ValueError, "must have shape"),
    ],
)
def test_what_are_no_groups(groups, error, message):
    with pytest.raises(error, match=message):
        group_shapley_values(torch.ones(1, 3, 3), groups, "mutual")
