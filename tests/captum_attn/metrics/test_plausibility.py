"""Plausibility, against scikit-learn and by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, jaccard_score

from captum_attn.metrics import TokenAUPRC, TokenF1, TokenIOU
from captum_attn.metrics.plausibility import token_auprc, token_f1, token_iou

TOKENS = st.lists(st.tuples(st.integers(-50, 50), st.booleans(), st.booleans()), min_size=1, max_size=10)


def tensors(tokens):
    """Distinct scores, rationale, players."""
    scores = torch.tensor([[score + place / 100 for place, (score, _, _) in enumerate(tokens)]], dtype=torch.double)
    return (
        scores,
        torch.tensor([[chosen for _, chosen, _ in tokens]]),
        torch.tensor([[plays for _, _, plays in tokens]]),
    )


@given(TOKENS)
def test_they_are_scikit_learns_on_the_players(tokens):
    scores, rationale, players = tensors(tokens)
    found = [metric(scores, rationale, players).item() for metric in (token_auprc, token_f1, token_iou)]
    own_scores, own = scores[players], rationale[players]
    if not own.any():
        assert all(value != value for value in found)
        return
    top = torch.zeros_like(own)
    top[own_scores.argsort(descending=True)[: own.sum()]] = True
    expected = [average_precision_score(own, own_scores), f1_score(own, top), jaccard_score(own, top)]
    assert found == pytest.approx(expected, abs=1e-6)


def test_tiny_scores_are_told_apart():
    scores = torch.tensor([[1e-20, 3e-20, 2e-20]])
    rationale, players = torch.tensor([[False, True, False]]), torch.ones(1, 3, dtype=torch.bool)
    assert token_auprc(scores, rationale, players).item() == 1.0


def test_of_equal_scores_the_earlier_token_comes_first():
    scores, players = torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool)
    assert token_f1(scores, torch.tensor([[True, False, False, False]]), players).item() == 1.0
    assert token_f1(scores, torch.tensor([[False, False, False, True]]), players).item() == 0.0


@pytest.mark.parametrize("metric", [TokenAUPRC, TokenF1, TokenIOU])
def test_examples_without_a_rationale_do_not_count(metric):
    scores, players = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.ones(2, 2, dtype=torch.bool)
    meter = metric()
    meter.update(scores, torch.tensor([[True, False], [False, False]]), players)
    assert meter.compute().item() == 1.0


def test_shapes_and_dtypes_are_checked():
    scores = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"one shape \(B, N\)"):
        token_f1(scores, torch.zeros(1, 3).bool(), torch.ones(1, 2).bool())
    with pytest.raises(TypeError, match=r"must be bool, got torch.int64"):
        token_f1(scores, torch.zeros(1, 2).long(), torch.ones(1, 2).bool())
