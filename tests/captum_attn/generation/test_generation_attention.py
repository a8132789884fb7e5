"""Explanations of responses, against eager attention and autograd over the whole sequence."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from chat_models import chat_model
from models import left_untouched
from torch import Tensor

from captum_attn import AttnLRP
from captum_attn.functional import group_shapley_values, response_scores
from captum_attn.generation import GenerationAttention

MESSAGES = [
    {"role": "system", "content": "a film is a film ."},
    {"role": "user", "content": "the cat is old . the dog is young .\n\nhow old is the dog ?"},
]


@pytest.fixture(scope="module")
def chat() -> tuple[Any, Any]:
    return chat_model()


def rows_of(model: Any, ids: Tensor, count: int, weights: Tensor, score: Any = "log_odds") -> Tensor:
    """A ⊙ G (T, N) of the tokens that predict the response, by eager attention and autograd."""
    model.config._attn_implementation = "eager"
    output = model(input_ids=ids[None], output_attentions=True)
    model.config._attn_implementation = "sdpa"
    scores = response_scores(output.logits[0, -count - 1 : -1], ids[-count:], score)
    gradients = torch.autograd.grad(scores @ weights, output.attentions)
    products = [(one * other)[0].mean(0) for one, other in zip(output.attentions, gradients, strict=True)]
    return torch.stack(products).mean(0)[-count - 1 : -1].detach()


@pytest.mark.parametrize("score", ["log_odds", "log_prob", "logit"])
@pytest.mark.parametrize("prompt", [MESSAGES, "the cat is old . the dog is young ."])
def test_values_are_those_of_the_whole_sequence(chat: Any, prompt: Any, score: Any) -> None:
    model, tokenizer = chat
    with left_untouched(model):
        found = GenerationAttention(model, tokenizer, score=score, propagation="gradient").explain(
            prompt, "it is young"
        )
    ids = torch.tensor([*found.prompt.ids, *found.response_ids])
    rows = rows_of(model, ids, 3, torch.ones(3), score)
    torch.testing.assert_close(found.values, rows.sum(0), rtol=0, atol=1e-5 * float(rows.abs().max()))
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0, -4:-1]
    torch.testing.assert_close(found.scores, response_scores(logits, ids[-3:], score))
    torch.testing.assert_close(found.probabilities, logits.softmax(-1).gather(-1, ids[-3:, None])[:, 0])
    assert len(found.tokens) == len(found.values) == len(found.frame())


def test_each_token_of_the_response_has_a_row_of_its_own(chat: Any) -> None:
    model, tokenizer = chat
    found = GenerationAttention(model, tokenizer, propagation="gradient").explain(MESSAGES, "it is young")
    ids = torch.tensor([*found.prompt.ids, *found.response_ids])
    expected = torch.stack([rows_of(model, ids, 3, one).sum(0) for one in torch.eye(3)])
    before = found.of("young"), found.of((0, 2))  # by passes of their own
    torch.testing.assert_close(found.map, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(found.map.sum(0), found.values, rtol=0, atol=1e-6)
    for values in (before, (found.of("young"), found.of((0, 2)))):
        torch.testing.assert_close(values[0], found.map[2], rtol=0, atol=1e-6)
        torch.testing.assert_close(values[1], found.map[:2].sum(0), rtol=0, atol=1e-6)
    for wrong in ("old", "", (1, 1), (0, 4)):
        with pytest.raises(ValueError, match=r"exactly once|are not among the response's 3"):
            found.of(wrong)


def test_captum_plots_it(chat: Any) -> None:
    found = GenerationAttention(*chat).explain(MESSAGES, "it is young")
    result = found.to_captum()
    assert result.input_tokens == found.tokens[: len(found.prompt.ids)]
    torch.testing.assert_close(result.token_attr.sum(0), result.seq_attr, rtol=0, atol=1e-6)
    figure, _ = result.plot_token_attr(show=False)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["it", " is", " young"]
    plt.close(figure)


def test_a_contrast_is_a_difference_of_two_logits(chat: Any) -> None:
    model, tokenizer = chat
    found = GenerationAttention(model, tokenizer, propagation="gradient").explain(MESSAGES, "it is young")
    ids = torch.tensor([*found.prompt.ids, *found.response_ids])
    (old,) = tokenizer("old", add_special_tokens=False)["input_ids"]
    model.config._attn_implementation = "eager"
    output = model(input_ids=ids[None], output_attentions=True)
    model.config._attn_implementation = "sdpa"
    score = output.logits[0, -2, ids[-1]] - output.logits[0, -2, old]
    gradients = torch.autograd.grad(score, output.attentions)
    products = [(one * other)[0].mean(0)[-4:-1] for one, other in zip(output.attentions, gradients, strict=True)]
    expected = torch.stack(products).mean(0).sum(0)
    values = found.against("old", at="young")
    torch.testing.assert_close(values, expected.detach(), rtol=0, atol=1e-5 * float(expected.abs().max()))
    for other, at in (("young", "young"), ("old", "nowhere")):
        with pytest.raises(ValueError, match=r"changes no token|exactly once"):
            found.against(other, at)


def test_sources_get_the_shapley_values_of_groups(chat: Any) -> None:
    model, tokenizer = chat
    found = GenerationAttention(model, tokenizer, propagation="gradient").explain(MESSAGES, "it is young")
    assert [source.text for source in found.sources] == ["a film is a film .", "the cat is old .", "the dog is young ."]
    ids = torch.tensor([*found.prompt.ids, *found.response_ids])
    matrix = torch.zeros(1, len(ids), len(ids))
    matrix[0, -4:-1] = rows_of(model, ids, 3, torch.ones(3))
    expected = group_shapley_values(matrix, found.groups[None], "incoming")[0]
    torch.testing.assert_close(found.source_values, expected, rtol=0, atol=1e-6)
    frame = found.source_frame()
    assert frame.value.is_monotonic_decreasing
    assert frame.share.sum() == pytest.approx(1)
    inside = found.values[found.groups >= 0].abs().sum() / found.values.abs().sum()
    assert found.share_outside == pytest.approx(1 - float(inside))


def test_what_the_model_writes_is_explained_as_if_it_were_given(chat: Any) -> None:
    model, tokenizer = chat
    explainer = GenerationAttention(model, tokenizer)
    state = torch.get_rng_state()
    with left_untouched(model):
        written = explainer.explain(MESSAGES, max_new_tokens=4, do_sample=True)
    assert torch.equal(state, torch.get_rng_state())
    assert 1 <= len(written.response_ids) <= 4
    assert "".join(written.response_tokens) == written.response == tokenizer.decode(written.response_ids)
    given = explainer.explain(MESSAGES, written.response)
    if given.response_ids == written.response_ids:
        torch.testing.assert_close(given.values, written.values)


def test_signs_rules_layers_and_heads(chat: Any) -> None:
    model, tokenizer = chat

    def values(**options: Any) -> Tensor:
        return GenerationAttention(model, tokenizer, **options).explain(MESSAGES, "it is young").values

    assert values(variant="rectified").min() >= 0
    whole = torch.stack([values(layers=layer, heads=head) for layer in range(3) for head in range(4)])
    torch.testing.assert_close(whole.mean(0), values())
    assert not torch.allclose(values(propagation="gradient"), values())
    assert torch.equal(values(propagation=AttnLRP(model).propagation), values())


BAD: dict[str, tuple[Any, Any, Any, str]] = {
    "an empty response": (MESSAGES, "", {}, "the response is empty"),
    "an empty prompt": (" ", "fine", {}, "the prompt is empty"),
    "settings of what is given": (MESSAGES, "fine", {"max_new_tokens": 3}, "max_new_tokens is for model.generate"),
    "a prompt that is too long": ("film " * 2100, "fine", {}, "reads 2048 at most"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(chat: Any, name: str) -> None:
    prompt, response, options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        GenerationAttention(*chat).explain(prompt, response, **options)


def test_bad_arguments_are_named(chat: Any) -> None:
    for options, message in (
        ({"score": "odds"}, "score must be 'log_odds', 'log_prob', 'logit'"),
        ({"variant": "both"}, "variant must be 'signed', 'rectified' or"),
        ({"propagation": "lrp"}, "propagation must be"),
    ):
        with pytest.raises(ValueError, match=message):
            GenerationAttention(*chat, **options)
    with pytest.raises(TypeError, match="the prompt must be a text, or messages"):
        GenerationAttention(*chat).explain(3, "fine")
    with pytest.raises(TypeError, match="messages need a role and a content"):
        GenerationAttention(*chat).explain([{"role": "user"}], "fine")
