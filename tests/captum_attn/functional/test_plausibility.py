"""Plausibility, against scikit-learn and by hand."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, jaccard_score
from torchmetrics.functional.classification import binary_average_precision

from captum_attn.functional import energy_pointing_game, pointing_game, token_auprc, token_f1, token_iou

TOKENS = st.lists(st.tuples(st.integers(-50, 50), st.booleans(), st.booleans()), min_size=1, max_size=10)
FEW_SCORES = st.lists(st.tuples(st.integers(-1, 1), st.booleans(), st.booleans()), min_size=1, max_size=6)
METRICS = (token_auprc, token_f1, token_iou)


def tensors(tokens, apart=0.01):
    """Scores, distinct unless they are 0 ``apart``, rationale, players."""
    scores = torch.tensor([[score + place * apart for place, (score, _, _) in enumerate(tokens)]], dtype=torch.double)
    return (
        scores,
        torch.tensor([[chosen for _, chosen, _ in tokens]]),
        torch.tensor([[plays for _, _, plays in tokens]]),
    )


@given(TOKENS)
def test_they_are_scikit_learns_on_the_players(tokens):
    scores, rationale, players = tensors(tokens)
    found = [metric(scores, rationale, players).item() for metric in METRICS]
    own_scores, own = scores[players], rationale[players]
    if not own.any():
        assert all(value != value for value in found)
        return
    top = torch.zeros_like(own)
    top[own_scores.argsort(descending=True)[: own.sum()]] = True
    expected = [average_precision_score(own, own_scores), f1_score(own, top), jaccard_score(own, top)]
    assert found == pytest.approx(expected, abs=1e-6)


@given(FEW_SCORES)
def test_average_precision_of_ties_is_that_of_scikit_learn_and_torchmetrics(tokens):
    scores, rationale, players = tensors(tokens, apart=0.0)
    own_scores, own = scores[players], rationale[players]
    if own.any():
        found = token_auprc(scores, rationale, players).item()
        assert found == pytest.approx(average_precision_score(own, own_scores), abs=1e-6)
        within = (own_scores + 1) / 2  # torchmetrics takes other scores for logits
        assert found == pytest.approx(binary_average_precision(within, own.long()).item(), abs=1e-6)


@given(FEW_SCORES)
def test_f1_of_ties_is_the_mean_over_their_orders(tokens):
    scores, rationale, players = tensors(tokens, apart=0.0)
    own_scores, own = scores[players].tolist(), rationale[players].tolist()
    size = sum(own)
    if not size:
        return
    orders = [
        order
        for order in permutations(range(len(own)))
        if all(own_scores[first] >= own_scores[second] for first, second in pairwise(order))
    ]
    common = sum(own[place] for order in orders for place in order[:size]) / len(orders)
    assert token_f1(scores, rationale, players).item() == pytest.approx(common / size, abs=1e-6)
    iou = common / (2 * size - common)
    assert token_iou(scores, rationale, players).item() == pytest.approx(iou, abs=1e-6)


@given(FEW_SCORES, st.randoms())
def test_where_a_token_stands_makes_no_difference(tokens, random):
    moved = random.sample(tokens, len(tokens))
    for metric in METRICS:
        one, other = (metric(*tensors(order, apart=0.0)) for order in (tokens, moved))
        torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize("chosen", range(4))
def test_a_constant_score_gets_the_rationales_share(chosen):
    scores, players = torch.full((1, 4), -3.0), torch.ones(1, 4, dtype=torch.bool)
    rationale = torch.arange(4)[None] == chosen
    assert [metric(scores, rationale, players).item() for metric in METRICS] == pytest.approx([1 / 4, 1 / 4, 1 / 7])


def test_tiny_scores_are_told_apart():
    scores = torch.tensor([[1e-20, 3e-20, 2e-20]])
    rationale, players = torch.tensor([[False, True, False]]), torch.ones(1, 3, dtype=torch.bool)
    assert token_auprc(scores, rationale, players).item() == 1.0


def test_shapes_and_dtypes_are_checked():
    scores = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"one shape \(B, N\)"):
        token_f1(scores, torch.zeros(1, 3).bool(), torch.ones(1, 2).bool())
    with pytest.raises(TypeError, match=r"must be bool, got torch.int64"):
        token_f1(scores, torch.zeros(1, 2).long(), torch.ones(1, 2).bool())
    with pytest.raises(ValueError, match="NaN, which cannot be ranked"):
        token_auprc(torch.tensor([[0.0, torch.nan]]), torch.ones(1, 2).bool(), torch.ones(1, 2).bool())
    assert token_auprc(torch.tensor([[0.0, torch.nan]]), torch.ones(1, 2).bool(), torch.eye(2)[:1].bool()).item() == 1


@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0.0, 0.25, 1.0])), min_size=6, max_size=6))
def test_pointing_games_patch_by_patch(patches):
    values, covered = (torch.tensor(one, dtype=torch.double).view(2, 3) for one in zip(*patches, strict=True))
    energy = sum(value for value, _ in patches if value > 0)
    share = float(energy_pointing_game(values, covered))
    if energy:
        assert share == pytest.approx(sum(value * cover for value, cover in patches if value > 0) / energy)
    else:
        assert share != share
    best = max(value for value, _ in patches)
    assert bool(pointing_game(values, covered)) == all(cover > 0 for value, cover in patches if value == best)
    both = energy_pointing_game(torch.stack([values, values + 1]), covered), pointing_game(values[None], covered)
    assert [one.shape[0] for one in both] == [2, 1]


def test_what_is_no_share_of_a_patch_is_refused():
    values = torch.rand(2, 3)
    for covered in (torch.full((2, 3), 255.0), torch.full((2, 3), -0.1), torch.ones(3, 2)):
        for game in (energy_pointing_game, pointing_game):
            with pytest.raises(ValueError, match=r"covered must be shares between 0 and 1 of the \(2, 3\) patches"):
                game(values, covered)
