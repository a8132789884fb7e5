"""Which tokens are taken to be read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES, eager_reference, text_batch
from models import left_untouched

from captum_attn.core import mapping_inputs, observed_forward
from captum_attn.core.patches import NoPatchGrid
from captum_attn.core.readout import KnownRows, ReachedRows, check_readout, rows_by_rule, warn_of_rule
from captum_attn.core.tokens import Tokens

REAL = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [False] * 2 + [True] * 3])
PLAYING = torch.tensor([[False, True, True, False, False]] * 3)
TOKENS = Tokens(REAL, PLAYING, None)


def rows(readout="auto", tokens=TOKENS, **options):
    usual = {"images": False, "positions": None, "config": None, "causal": False, "read_by_others": False}
    return rows_by_rule(readout, tokens=tokens, **{**usual, **options}).weights()


def one_hot(*places):
    return torch.eye(5, dtype=torch.double)[list(places)]


MEAN_OF_REAL = torch.tensor([[0.2] * 5, [1 / 3] * 3 + [0.0] * 2, [0.0] * 2 + [1 / 3] * 3], dtype=torch.double)
MEAN_OF_PLAYERS = torch.tensor([[0.0, 0.5, 0.5, 0.0, 0.0]] * 3, dtype=torch.double)
POSITIONS = torch.tensor([1, 0, 4])
BEIT, MODERNBERT = SimpleNamespace(use_mean_pooling=True), SimpleNamespace(classifier_pooling="mean")

CASES = {
    "the first of an encoder": ({}, one_hot(0, 0, 2)),
    "the last of a decoder": ({"causal": True}, one_hot(4, 2, 4)),
    "the target's": ({"positions": POSITIONS, "causal": True}, one_hot(1, 0, 4)),
    "an index": ({"readout": 2}, one_hot(2, 2, 2)),
    "an index from the end": ({"readout": -5, "causal": True}, one_hot(0, 0, 0)),
    "an index beats the target": ({"readout": 3, "positions": POSITIONS}, one_hot(3, 3, 3)),
    "an index beats the configuration": ({"readout": 0, "config": BEIT}, one_hot(0, 0, 0)),
    "the mean of a text": ({"readout": "mean"}, MEAN_OF_REAL),
    "the mean of an image": ({"readout": "mean", "images": True}, MEAN_OF_PLAYERS),
    "the configuration's mean of an image": ({"config": BEIT, "images": True}, MEAN_OF_PLAYERS),
    "the configuration's mean of a text": ({"config": MODERNBERT}, MEAN_OF_REAL),
    "the target's, whatever pools": ({"config": MODERNBERT, "positions": POSITIONS}, one_hot(1, 0, 4)),
    "no mean": ({"config": SimpleNamespace(classifier_pooling="cls", use_mean_pooling=False)}, one_hot(0, 0, 2)),
    "all that others read": ({"read_by_others": True, "positions": POSITIONS}, MEAN_OF_REAL),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rule_of_each_kind(case):
    options, expected = CASES[case]
    torch.testing.assert_close(rows(**options), expected)


@pytest.mark.parametrize("readout", [5, -6, 100])
def test_an_index_out_of_range_is_refused(readout):
    with pytest.raises(ValueError, match=rf"readout={readout} is out of range for 5 tokens: expected -5\.\.4"):
        rows(readout)


def test_a_mean_over_players_that_nothing_names_is_refused():
    unknown = Tokens(REAL, None, NoPatchGrid("no patches were seen"))
    with pytest.raises(ValueError, match=r"no patches were seen\. Say which tokens play"):
        rows("mean", unknown, images=True)
    torch.testing.assert_close(rows("mean", unknown), MEAN_OF_REAL)


@pytest.mark.parametrize("readout", ["auto", "mean", 0, -1])
def test_readouts(readout):
    check_readout(readout)


@pytest.mark.parametrize("readout", ["last", "", 1.5, None, [0]])
def test_other_words_are_no_readout(readout):
    with pytest.raises(ValueError, match="must be 'auto', 'mean' or the index of a token, got"):
        check_readout(readout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_are_reached_are_found_when_they_are_asked_for(dtype):
    asked = []

    def reached():
        asked.append(1)
        return torch.tensor([[True, False, True], [False, True, False], [False, False, False]])

    found = ReachedRows(reached, torch.empty(0, dtype=dtype))
    assert not asked
    expected = torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0, 0, 0]], dtype=dtype)
    torch.testing.assert_close(found.weights(), expected, rtol=0, atol=0)
    assert len(asked) == 1


def test_known_rows_are_as_given():
    values = torch.rand(2, 3)
    assert KnownRows(values).weights() is values


@pytest.mark.parametrize(("causal", "token"), [(True, "last"), (False, "first")])
def test_a_guess_is_said(causal, token):
    with pytest.warns(UserWarning, match=f"taken to be read from the {token} token"):
        warn_of_rule(causal)


@pytest.mark.parametrize("name", ["bert", "modernbert", "gpt2", "bart"])
def test_what_scores_depend_on_is_where_attention_has_a_gradient(name, monkeypatch):
    family = FAMILIES[name]
    model, inputs = family.build(), text_batch()
    _, _, gradient = eager_reference(family, model, inputs, 1, torch.float32)
    expected = gradient.abs().sum((2, -1)) > 0  # (B, L, N)
    passes, backward = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: passes.append(1) or backward(*args, **kwargs))
    with left_untouched(model), observed_forward(model, mapping_inputs(model, inputs)) as run:
        before, scores, others = len(passes), run.output[:, 1], run.output[:, 0]
        assert torch.equal(run.find_reached(scores), expected)
        assert torch.equal(run.find_reached(scores, [-1, 0]), expected[:, [0, -1]])
        assert torch.equal(run.find_readout(scores), expected[:, -1])
        assert len(passes) == before + 2  # the last one told the readout
        assert torch.equal(run.find_readout(others), expected[:, -1])
        assert len(passes) == before + 3
        run.influence(scores, variant="signed")
        assert torch.equal(run.find_readout(scores), expected[:, -1])
        assert len(passes) == before + 4


def test_scores_that_are_read_from_nowhere_are_refused():
    model = FAMILIES["bert"].build()
    with observed_forward(model, mapping_inputs(model, text_batch())) as run:
        with pytest.raises(RuntimeError, match="does not depend on any of the attention"):
            run.find_readout(torch.zeros(3))
        assert run.find_readout(run.output[:, 1]).any()
