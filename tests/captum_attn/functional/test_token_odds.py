"""Scores of a response's tokens against probabilities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_attn.functional import response_scores


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 5.0))
def test_scores_are_functions_of_the_probability(seed, scale):
    logits = scale * torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(seed)).double()
    tokens = logits.flip(-1).argmax(-1)
    probability = logits.softmax(-1).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(response_scores(logits, tokens), torch.logit(probability))
    torch.testing.assert_close(response_scores(logits, tokens, "log_prob"), probability.log())
    torch.testing.assert_close(response_scores(logits, tokens, "logit"), logits.gather(-1, tokens[..., None])[..., 0])


def test_log_odds_do_not_vanish_where_the_model_is_sure():
    logits = torch.tensor([60.0, 0.0, 1.0], dtype=torch.bfloat16, requires_grad=True)
    score = response_scores(logits, torch.tensor(0))
    (gradient,) = torch.autograd.grad(score, logits)
    assert score.dtype == torch.float32
    torch.testing.assert_close(gradient.float(), torch.tensor([1.0, -0.2689, -0.7311]), rtol=1e-2, atol=0)


def test_what_are_no_scores():
    with pytest.raises(ValueError, match="score must be 'log_odds', 'log_prob', 'logit'"):
        response_scores(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), "odds")
    with pytest.raises(ValueError, match=r"tokens must have shape \(2,\)"):
        response_scores(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))
