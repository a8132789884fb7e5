"""Two layers, one head, three tokens: every explanation worked out by hand.

Token j's state is a number x_j, attention is what it is told to be, and the output is the state of token 0 at the top,
F = (A2 A1 x)_0. So the gradients are G2[0, j] = (A1 x)_j and G1[i, j] = A2[0, i] x_j, and 0 in other rows of G2. With
the numbers below, A1 x = (.5, 3, 1.5), F = 2, and

    A2 ⊙ G2 = (.125, 1.5, .375)        A1 ⊙ G1 = (.25, -.125, 0)
              (0, 0, 0)                          (.5, 0, 1)
              (0, 0, 0)                          (0, -.125, .5)
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from captum_attn import (
    AttentionFlow,
    AttentionRollout,
    GeneralizedAttentionFlow,
    GenericRelevance,
    GradientAttentionRollout,
    GradSAM,
    IntegratedAttention,
    NormAttention,
    RawAttention,
)

A1 = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
A2 = torch.tensor([[0.25, 0.5, 0.25], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
STATES = torch.tensor([[[2.0], [-1.0], [4.0]]])


class TwoLayers(nn.Module):
    """Attention that is told, on states (B, 3, 1), with an output projection by 2 and by ½, which is undone."""

    def forward(self, states):
        for attention, factor in ((A1, 2.0), (A2, 0.5)):
            probabilities = attention.log().expand(len(states), 1, 3, 3).softmax(-1)
            mixed = (probabilities @ states.unsqueeze(1)).squeeze(1)
            states = F.linear(mixed, torch.tensor([[factor]])) / factor
        return states[:, 0]


def values(method, **arguments):
    """Of the three tokens, all of which play."""
    found = method(TwoLayers(), readout=0, **arguments).attribute_tokens(STATES)
    assert found.scores.tolist() == [2.0]
    assert found.players.all()
    return found.values[0]


def expect(actual, *expected):
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_raw_attention_is_the_mean_of_the_layers():
    expect(values(RawAttention), (0.5 + 0.25) / 2, (0.5 + 0.5) / 2, (0.0 + 0.25) / 2)
    expect(values(RawAttention, rows="incoming"), (1.0 + 0.75) / 2, (1.0 + 1.5) / 2, (1.0 + 0.75) / 2)
    expect(values(RawAttention, layers=0), 0.5, 0.5, 0.0)


def test_rollout_without_residual_is_the_product():
    expect(values(AttentionRollout, residual=0.0), 0.375, 0.25, 0.375)
    expect(values(AttentionRollout, residual=0.0, rows="incoming"), 1.125, 0.75, 1.125)


def test_rollout_keeps_half_of_each_state():
    # above layer 1: (.625, .25, .125); half of it stays, half goes through A1 to (.4375, .375, .1875)
    expect(values(AttentionRollout), 0.3125 + 0.21875, 0.125 + 0.1875, 0.0625 + 0.09375)


def test_generic_relevance_adds_what_attention_passes_on():
    # above layer 1: (1.125, 1.5, .375); through ReLU(A1 ⊙ G1): (1.03125, 0, 1.6875); token 0 started with 1
    expect(values(GenericRelevance), 1.125 + 1.03125 - 1, 1.5, 0.375 + 1.6875)


def test_gradient_rollout_divides_each_row_by_its_sum():
    # above layer 1: (1.125, 1.5, .375) / 3; rows of layer 1: (1.25, 0, 0) / 1.25, (.5, 1, 1) / 2.5, (0, 0, 1)
    own = 1 / 3 / 1.25  # what token 0 keeps of itself
    expect(values(GradientAttentionRollout), 0.375 + 0.5 * 0.2 - own, 0.5 * 0.4, 0.5 * 0.4 + 0.125)


def test_grad_sam_is_what_rows_gather():
    expect(values(GradSAM), (2.0 + 0.25) / 6, 1.5 / 6, 0.5 / 6)


def test_flow_to_each_token_alone():
    # to token 0 by the tokens between: min(.25, .5) + min(.5, .5) + min(.25, 0), and so on
    expect(values(AttentionFlow, residual=0.0), 0.75, 0.5, 0.75)
    # with residual: .625 + .25 + 0, .25 + .25 + .125, 0 + .25 + .125
    expect(values(AttentionFlow), 0.875, 0.625, 0.375)


def test_generalized_flow_to_all_tokens_at_once():
    # each token between splits what it gets, (.25, .5, .25), evenly, for its two edges have the same capacity
    expect(values(GeneralizedAttentionFlow, information="attention"), 0.375, 0.25, 0.375)
    # (.125, 1.5, .375) arrive between; on go .125, .5 + 1 (both full), .375
    expect(values(GeneralizedAttentionFlow), 0.125 + 0.5, 0.0, 1.0 + 0.375)
    # ReLU(G2) = (.5, 3, 1.5); of ReLU(G1), .5, 1 + 2, and 1 carry on
    expect(values(GeneralizedAttentionFlow, information="gradient"), 0.5 + 1.0, 0.0, 2.0 + 1.0)


def test_norms_are_attention_times_lengths():
    # vectors of layer 1: 2 · (2, -1, 4), of layer 2: ½ · (.5, 3, 1.5)
    expect(values(NormAttention), (2.0 + 0.0625) / 2, (1.0 + 0.75) / 2, (0.0 + 0.1875) / 2)


def test_norms_with_residual_need_one():
    with pytest.raises(ValueError, match="residual=True is undefined"):
        values(NormAttention, residual=True)


def test_integrated_attention_of_a_linear_output_is_attention_times_gradient():
    found = values(IntegratedAttention, n_steps=3)
    expect(found, (0.125 + 0.75) / 2, (1.5 - 0.25) / 2, (0.375 + 1.5) / 2)
    assert float(found.sum()) == pytest.approx(2.0)
