"""Explanations of responses, against eager attention and autograd over the whole sequence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from chat_models import chat_model
from models import left_untouched
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Metaspace
from torch import Tensor, nn
from transformers import (
    AddedToken,
    BertConfig,
    BertForMaskedLM,
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from captum_attn import AttentionRollout, AttnLRP, RawAttention, ShapleyAttention, ShapleyGradAttention
from captum_attn.functional import group_shapley_values, response_scores
from captum_attn.generation import (
    ExplainedResponse,
    GenerationAttention,
    ScoredResponse,
    response_inputs,
    without_end,
)
from captum_attn.generation.response_rows import check_unchanged

MESSAGES = [
    {"role": "system", "content": "a film is a film ."},
    {"role": "user", "content": "the cat is old . the dog is young .\n\nhow old is the dog ?"},
]


@pytest.fixture(scope="module")
def chat() -> tuple[Any, Any]:
    return chat_model()


def whole_matrix(model: Any, ids: Tensor, weights: Tensor, score: Any = "log_odds") -> Tensor:
    """A ⊙ G (1, N, N) of all rows, for weights (T,) of the response's scores, by eager attention and autograd."""
    count = len(weights)
    model.config._attn_implementation = "eager"
    output = model(input_ids=ids[None], output_attentions=True)
    model.config._attn_implementation = "sdpa"
    scores = response_scores(output.logits[0, -count - 1 : -1], ids[-count:], score)
    gradients = torch.autograd.grad(scores @ weights, output.attentions)
    products = [(one * other)[0].mean(0) for one, other in zip(output.attentions, gradients, strict=True)]
    return torch.stack(products).mean(0)[None].detach()


def rows_of(model: Any, ids: Tensor, weights: Tensor, score: Any = "log_odds") -> Tensor:
    """A ⊙ G (T, N) of the tokens that predict the response."""
    return whole_matrix(model, ids, weights, score)[0, -len(weights) - 1 : -1]


@pytest.mark.parametrize("score", ["log_odds", "log_prob", "logit"])
@pytest.mark.parametrize("prompt", [MESSAGES, "the cat is old . the dog is young ."])
def test_values_are_those_of_the_whole_sequence(chat: Any, prompt: Any, score: Any) -> None:
    model, tokenizer = chat
    with left_untouched(model):
        found = GenerationAttention(model, tokenizer, score=score, propagation="gradient").explain(
            prompt, "it is young"
        )
    ids = torch.tensor([*found.prompt.ids, *found.response_ids])
    rows = rows_of(model, ids, torch.ones(3), score)
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
    expected = torch.stack([rows_of(model, ids, one).sum(0) for one in torch.eye(3)])
    before = found.of("young"), found.of((0, 2))  # by passes of their own
    torch.testing.assert_close(found.map, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(found.map.sum(0), found.values, rtol=0, atol=1e-6)
    for values in (before, (found.of("young"), found.of((0, 2)))):
        torch.testing.assert_close(values[0], found.map[2], rtol=0, atol=1e-6)
        torch.testing.assert_close(values[1], found.map[:2].sum(0), rtol=0, atol=1e-6)
    for wrong, said in (
        ("old", "does not stand in"),
        ("", "does not stand in"),
        ((1, 1), "not among"),
        ((0, 4), "not among"),
    ):
        with pytest.raises(ValueError, match=f"{said} the response"):
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
    torch.testing.assert_close(found.against("old", at=(2, 3)), values)
    for other, at, said in (("young", "young", "differ in no token"), ("old", "nowhere", "does not stand in")):
        with pytest.raises(ValueError, match=said):
            found.against(other, at)


def test_sources_get_the_shapley_values_of_groups(chat: Any) -> None:
    model, tokenizer = chat
    found = GenerationAttention(model, tokenizer, propagation="gradient").explain(MESSAGES, "it is young")
    assert [source.text for source in found.sources] == ["a film is a film .", "the cat is old .", "the dog is young ."]
    ids = torch.tensor([*found.prompt.ids, *found.response_ids])
    matrix = torch.zeros(1, len(ids), len(ids))
    matrix[0, -4:-1] = rows_of(model, ids, torch.ones(3))
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
    torch.testing.assert_close(explainer.explain(MESSAGES, written.response_ids).values, written.values)


def test_signs_rules_layers_and_heads(chat: Any) -> None:
    model, tokenizer = chat

    def values(**options: Any) -> Tensor:
        return GenerationAttention(model, tokenizer, **options).explain(MESSAGES, "it is young").values

    assert values(variant="rectified").min() >= 0
    whole = torch.stack([values(layers=layer, heads=head) for layer in range(3) for head in range(4)])
    torch.testing.assert_close(whole.mean(0), values())
    assert not torch.allclose(values(propagation="gradient"), values())
    assert torch.equal(values(propagation=AttnLRP(model).propagation), values())


def test_sources_play_games_on_the_whole_sequence(chat: Any) -> None:
    model, tokenizer = chat
    explainer = GenerationAttention(model, tokenizer, propagation="gradient")
    found = explainer.explain(MESSAGES, "it is young")
    ids = torch.tensor([*found.prompt.ids, *found.response_ids])
    matrix = whole_matrix(model, ids, torch.ones(3))
    for game in ("incoming", "mutual", "max_mutual"):
        with left_untouched(model):
            values = explainer.source_game(found, game)
        expected = group_shapley_values(matrix, found.groups[None], game)[0]
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-5 * float(matrix.abs().max()))
    torch.testing.assert_close(explainer.source_game(found, "cls"), found.source_values, rtol=0, atol=1e-6)


def test_other_methods_explain_by_a_pass_over_the_whole_sequence(chat: Any) -> None:
    model, tokenizer = chat
    plain = partial(ShapleyGradAttention, game="incoming")
    with left_untouched(model):
        found = GenerationAttention(model, tokenizer, method=plain).explain(MESSAGES, "it is young")
    ids = torch.tensor([*found.prompt.ids, *found.response_ids])
    expected = whole_matrix(model, ids, torch.ones(3))[0].sum(0)
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    rows = GenerationAttention(model, tokenizer, propagation="gradient").explain(MESSAGES, "it is young")
    torch.testing.assert_close(found.scores, rows.scores)
    assert found.map.shape == (3, len(ids))
    torch.testing.assert_close(found.map.sum(0), found.values, rtol=0, atol=1e-6)
    (old,) = tokenizer("old", add_special_tokens=False)["input_ids"]
    contrast = found.against("old", at="young")

    def margin(logits: Tensor, _: Tensor) -> Tensor:
        return (logits[..., ids[-1]] - logits[..., old]) * torch.tensor([0.0, 0.0, 1.0])

    expected = whole_matrix(model, ids, torch.ones(3), margin)[0].sum(0)
    torch.testing.assert_close(contrast, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_relevance_of_the_input_is_that_of_attnlrp(chat: Any) -> None:
    model, tokenizer = chat
    found = GenerationAttention(model, tokenizer, method=AttnLRP).explain(MESSAGES, "it is young")
    ids = torch.tensor([[*found.prompt.ids, *found.response_ids]])
    scored = ScoredResponse(model, 3, parts=torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]))
    whole, part = AttnLRP(scored).attribute_targets({"input_ids": ids, "players": torch.ones_like(ids)}, [0, 1])
    torch.testing.assert_close(found.values, whole.values[0])
    torch.testing.assert_close(found.of("young"), part.values[0])
    torch.testing.assert_close(whole.scores[0], found.scores.sum())


def test_a_score_of_ones_own(chat: Any) -> None:
    def margin(logits: Tensor, tokens: Tensor) -> Tensor:
        return logits.gather(-1, tokens[..., None])[..., 0] - logits.mean(-1)

    found = GenerationAttention(*chat, score=margin, propagation="gradient").explain(MESSAGES, "it is young")
    ids = torch.tensor([*found.prompt.ids, *found.response_ids])
    rows = rows_of(chat[0], ids, torch.ones(3), margin)
    torch.testing.assert_close(found.values, rows.sum(0), rtol=0, atol=1e-5 * float(rows.abs().max()))
    assert found.score == "margin"
    assert "gradient of the margin" in found.page()
    with pytest.raises(ValueError, match=r"a score is a number for each token, \(1, 3\), got \(\)"):
        GenerationAttention(*chat, score=lambda logits, _: logits.sum()).explain(MESSAGES, "it is young")


def test_another_response_is_compared_as_a_whole(chat: Any) -> None:
    explainer = GenerationAttention(*chat)
    found, other = (explainer.explain(MESSAGES, text) for text in ("it is young", "nobody knows"))
    count = len(found.prompt.ids)
    values = found.against("nobody knows")
    torch.testing.assert_close(values[:count], found.values[:count] - other.values[:count])
    assert not values[count:].any()


def test_a_response_may_be_ids(chat: Any) -> None:
    explainer = GenerationAttention(*chat)
    found = explainer.explain(MESSAGES, "it is young")
    assert torch.equal(explainer.explain(MESSAGES, found.response_ids).values, found.values)
    for wrong in ([-1], [10**6], [True], ["it"]):
        with pytest.raises(ValueError, match="a response is a text, or ids from 0 to"):
            explainer.explain(MESSAGES, wrong)


def test_what_the_model_cannot_write_is_refused(chat: Any) -> None:
    model, tokenizer = chat_model()
    never = tokenizer("young", add_special_tokens=False)["input_ids"][0]
    model.lm_head.register_forward_hook(lambda _, __, logits: logits.index_fill(-1, torch.tensor(never), -torch.inf))
    explainer = GenerationAttention(model, tokenizer)
    found = explainer.explain(MESSAGES, "it is old")
    for ask in (
        lambda: explainer.explain(MESSAGES, "it is young"),
        lambda: found.against("it is young"),
        lambda: found.against("young", at="old"),
    ):
        with pytest.raises(ValueError, match="LlamaForCausalLM cannot write this: its score is"):
            ask()


def test_models_that_are_not_causal_are_refused(chat: Any) -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertForMaskedLM(BertConfig(vocab_size=len(chat[1]), intermediate_size=16, **sizes)).eval()
    t5 = T5ForConditionalGeneration(T5Config(d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8))
    for model in (bert, t5):
        with pytest.raises(ValueError, match="is no causal language model"):
            ScoredResponse(model, 2)
        for options in ({}, {"method": AttnLRP}):
            with pytest.raises(ValueError, match=r"is no causal language model|returns no cache"):
                GenerationAttention(model, chat[1], **options).explain(MESSAGES, "it is young")


def test_tokens_joined_are_the_response_as_it_is(chat: Any) -> None:
    model, tokenizer = chat_model()
    tokenizer.clean_up_tokenization_spaces = True
    found = GenerationAttention(model, tokenizer).explain(MESSAGES, "do n't like it , no .")
    assert "".join(found.response_tokens) == found.response
    assert all(found.response_tokens)
    chosen = found.of("like")
    place = [token.strip() for token in found.response_tokens].index("like")
    torch.testing.assert_close(chosen, found.map[place], rtol=1e-4, atol=1e-6)


def test_characters_of_several_bytes_each_have_their_own(chat: Any) -> None:
    words = ["<unk>", "▁", "▁is", *(f"<0x{number:02X}>" for number in range(256)), "i", "s"]
    vocabulary = {word: place for place, word in enumerate(words)}
    backend = Tokenizer(BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = Metaspace()
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    found = GenerationAttention(chat[0], tokenizer).explain("i s", "日本 is")
    assert "".join(found.response_tokens) == found.response
    assert [token for token in found.response_tokens if token.strip()] == ["日", "本", "i", "s"]
    count = len(found.response_ids)
    assert found._chosen("is").nonzero().flatten().tolist() == [count - 2, count - 1]


def test_methods_that_do_not_depend_on_a_score_are_not_asked_to_compare(chat: Any) -> None:
    for method in (RawAttention, AttentionRollout):
        found = GenerationAttention(*chat, method=method).explain(MESSAGES, "it is young")
        for ask in (lambda: found.against("old", at="young"), lambda: found.against("nobody knows")):  # noqa: B023
            with pytest.raises(ValueError, match="does not depend on what is compared"):
                ask()
    with pytest.raises(ValueError, match="says the same of every response"):
        GenerationAttention(*chat, method=ShapleyAttention).explain(MESSAGES, "it is young")


def test_special_tokens_that_close_a_response_are_cut_off(chat: Any) -> None:
    _, tokenizer = chat_model()
    tokenizer.add_tokens([AddedToken("<|end|>", special=True)])
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert without_end([7, 8, end, end], tokenizer) == [7, 8]
    assert without_end([7, tokenizer.unk_token_id], tokenizer) == [7, tokenizer.unk_token_id]


def test_a_model_that_writes_by_a_static_cache(chat: Any) -> None:
    explainer = GenerationAttention(*chat)
    static = explainer.explain(MESSAGES, max_new_tokens=3, do_sample=False, cache_implementation="static")
    expected = explainer.explain(MESSAGES, max_new_tokens=3, do_sample=False)
    assert static.response_ids == expected.response_ids
    torch.testing.assert_close(static.values, expected.values)


SEVERAL = GenerationConfig(num_return_sequences=2, do_sample=True)
BAD: dict[str, tuple[Any, Any, Any, str]] = {
    "an empty response": (MESSAGES, "", {}, "the response is empty"),
    "an empty prompt": (" ", "fine", {}, "the prompt is empty"),
    "settings of what is given": (MESSAGES, "fine", {"max_new_tokens": 3}, "max_new_tokens is for model.generate"),
    "a prompt that is too long": ("film " * 2100, "fine", {}, "reads 2048 at most"),
    "a response that would be too long": ("film " * 2000, None, {"max_new_tokens": 60}, "reads 2048 at most"),
    "a mask": (MESSAGES, None, {"attention_mask": torch.ones(1, 3)}, "attention_mask come from the prompt"),
    "several responses": (
        MESSAGES,
        None,
        {"generation_config": SEVERAL},
        "one response",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(chat: Any, name: str) -> None:
    prompt, response, options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        GenerationAttention(*chat).explain(prompt, response, **options)


def test_tokens_that_the_model_does_not_know_are_named(chat: Any) -> None:
    model, tokenizer = chat_model()
    tokenizer.add_tokens(["zebra"])
    for prompt, response in (("a zebra .", "fine"), ("a film .", "zebra")):
        with pytest.raises(ValueError, match=r"the tokenizer has the token 8000, but LlamaForCausalLM knows 8000"):
            GenerationAttention(model, tokenizer).explain(prompt, response)
    with pytest.raises(TypeError, match="a response is a text, or a list of ids, got int"):
        GenerationAttention(*chat).explain("a film .", 14)


def test_bad_arguments_are_named(chat: Any) -> None:
    for options, message in (
        ({"score": "odds"}, "score must be 'log_odds', 'log_prob', 'logit'"),
        ({"variant": "both"}, "variant must be 'signed', 'rectified' or"),
        ({"propagation": "lrp"}, "propagation must be"),
    ):
        with pytest.raises(ValueError, match=message):
            GenerationAttention(*chat, **options)
    for options in ({"method": AttnLRP, "variant": "rectified"}, {"method": AttnLRP, "heads": 1}):
        with pytest.raises(ValueError, match="are for the response's rows, which method= does not read"):
            GenerationAttention(*chat, **options)
    mutual = GenerationAttention(*chat, method=partial(ShapleyGradAttention, game="mutual"))
    with pytest.raises(ValueError, match=r"ask GenerationAttention\.source_game"):
        mutual.explain(MESSAGES, "fine")
    with pytest.raises(TypeError, match="method must make an attribution of a model"):
        GenerationAttention(*chat, method=lambda *_, **__: 3).explain(MESSAGES, "fine")
    with pytest.raises(TypeError, match="method must be a class or function"):
        GenerationAttention(*chat, method="attnlrp")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the tokenizer must be the model's, got NoneType"):
        GenerationAttention(chat[0], None)
    with pytest.raises(TypeError, match="sources must be 'sentences'"):
        GenerationAttention(*chat).explain(MESSAGES, "fine", sources=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the prompt must be a text, or messages"):
        GenerationAttention(*chat).explain(3, "fine")
    with pytest.raises(TypeError, match="messages need a role and a content"):
        GenerationAttention(*chat).explain([{"role": "user"}], "fine")


@pytest.mark.parametrize("method", [None, AttnLRP])
def test_later_questions_are_of_the_model_that_was_explained(method: Any) -> None:
    model, tokenizer = chat_model()
    found = GenerationAttention(model, tokenizer, method=method).explain(MESSAGES, "it is old")
    questions: list[Callable[[], Tensor]] = [
        lambda: found.map,
        lambda: found.of("old"),
        lambda: found.against("young", at="old"),
        lambda: found.against("it is young"),
    ]
    weight = model.lm_head.weight
    for question in questions:
        with torch.no_grad():
            weight.mul_(1.1)
        with pytest.raises(ValueError, match=r"no longer what it was.*explain it again"):
            question()
        with torch.no_grad():
            weight.div_(1.1)
    with torch.inference_mode():
        again = GenerationAttention(model, tokenizer, method=method).explain(MESSAGES, "it is old")
        torch.testing.assert_close(again.values, found.values, rtol=1e-4, atol=1e-6)
        assert all(question().isfinite().all() for question in questions)


def test_a_changed_score_is_named() -> None:
    explained, found = torch.tensor([-torch.inf, 1.0, 2.0]), torch.tensor([-torch.inf, 1.00005, 3.0])
    with pytest.raises(ValueError, match=r"its score 2 was 2\.0000, and is 3\.0000"):
        check_unchanged(torch.nn.Identity(), explained, found, torch.float32)
    check_unchanged(torch.nn.Identity(), explained, explained + 0.05, torch.bfloat16)


def test_another_response_takes_the_prompt_once() -> None:
    model, tokenizer = chat_model()
    lengths: list[int] = []
    model.register_forward_pre_hook(lambda _, __, given: lengths.append(given["input_ids"].shape[1]), with_kwargs=True)
    found = GenerationAttention(model, tokenizer).explain(MESSAGES, "it is old")
    found.against("it is fine")  # of as many tokens
    lengths.clear()
    found.against("it is young")
    assert lengths == [len(found.prompt.ids) - 1, 3, 3]


def test_models_are_tried_once_for_responses_of_one_token_and_once_for_others() -> None:
    model, tokenizer = chat_model()
    explainer, passes = GenerationAttention(model, tokenizer), list[int]()
    model.register_forward_pre_hook(lambda *_: passes.append(1))

    def passes_for(response: str) -> int:
        passes.clear()
        explainer.explain(MESSAGES, response)
        return len(passes)

    known = [passes_for(response) for response in ("fine", "fine", "it is old", "old", "it is fine")]
    assert known[1::2] + known[4:] == [2, 2, 2] < [known[0], known[2], 3]
    assert passes_for("it is old , it is fine") > 2  # a longer text may be attended to otherwise
    model.lm_head.register_forward_pre_hook(lambda *_: None)
    assert passes_for("it is old") > 2


def test_attention_that_changes_with_the_length_is_refused_at_any_time() -> None:
    class Sparse(LlamaForCausalLM):
        """Long inputs read their beginning no more, as with attention to the best keys alone."""

        def forward(self, input_ids: Tensor, attention_mask: Tensor, **given: Any) -> Any:
            if input_ids.shape[1] > 12:
                attention_mask = attention_mask.index_fill(1, torch.arange(6), 0)
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **given)

    plain, tokenizer = chat_model()
    model = Sparse(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    explainer = GenerationAttention(model, tokenizer, propagation="gradient")
    explainer.explain("is it old ?", "fine", sources=["is it old"])
    with pytest.raises(ValueError, match="predicts a response otherwise from its cache"):
        explainer.explain(f"{'the cat is old . ' * 8} how old is the dog ?", "it is young")


def test_attention_to_what_are_no_tokens_is_refused() -> None:
    class Prompted(nn.Module):
        """Attention, and beside it attention to a few vectors that were learned, as LLaMA-Adapter has it."""

        def __init__(self, attention: nn.Module) -> None:
            super().__init__()
            self.attention, self.keys = attention, nn.Parameter(torch.randn(1, 4, 5, 8))

        def forward(self, hidden_states: Tensor, **given: Any) -> Any:
            found, weights = self.attention(hidden_states=hidden_states, **given)
            queries = hidden_states.view(1, -1, 4, 8).transpose(1, 2)
            read = (queries @ self.keys.mT).softmax(-1) @ self.keys
            return found + read.transpose(1, 2).flatten(2), weights

    model, tokenizer = chat_model()
    for layer in model.model.layers:
        layer.self_attn = Prompted(layer.self_attn)
    with pytest.raises(ValueError, match=r"has shape \(1, 4, 3, 5\), expected \(1, 4, 3\) and \d+ keys"):
        GenerationAttention(model, tokenizer).explain(MESSAGES, "it is old")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_every_question_in_other_precisions(dtype: torch.dtype) -> None:
    model, tokenizer = chat_model()
    found = GenerationAttention(model.to(dtype), tokenizer).explain(MESSAGES, "it is old")
    plain = GenerationAttention(chat_model()[0], tokenizer).explain(MESSAGES, "it is old")
    for one, other in zip(answers(found), answers(plain), strict=True):
        assert one.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        off = (one.float() - other).abs().max() / other.abs().max()
        assert off < (1e-4 if dtype == torch.float64 else 0.1)


def answers(found: ExplainedResponse) -> list[Tensor]:
    """What can be asked about a response."""
    return [
        *(found.of("old"), found.map, found.of("old"), found.of((0, 2)), found.source_values),
        *(found.against("young", at="old"), found.against("it is young")),
    ]


def test_a_batch_is_explained_where_it_is_scored() -> None:
    model, tokenizer = chat_model()
    inputs = response_inputs(["a film .", "the cat is old ."], ["fine", "it is old"], tokenizer)
    explainer, targets = GenerationAttention(model, tokenizer), torch.tensor([0, 1])
    expected = explainer.of_batch(inputs, targets)
    with torch.inference_mode():
        assert torch.equal(explainer.of_batch(inputs, targets), expected)
    ids = inputs["response_ids"]
    hole = ids.clone()
    hole[1, ids[1].ne(-100).nonzero()[1]] = -100
    tail = ids.clone()
    tail[1, ids[1].ne(-100).nonzero()[-1]] = -100
    for other in (hole, tail, ids.where(ids == -100, ids + 1)):
        with pytest.raises(ValueError, match="response_ids must be the last of a row's tokens"):
            explainer.of_batch({**inputs, "response_ids": other}, targets)
    with pytest.raises(ValueError, match="targets must be 0"):
        explainer.of_batch(inputs, targets + 1)


def test_what_is_not_read_as_it_is_written_is_refused() -> None:
    model, tokenizer = chat_model()
    explainer = GenerationAttention(model, tokenizer)
    unknown = "日本"
    assert tokenizer.unk_token_id in tokenizer(unknown)["input_ids"]
    for ask in (
        lambda: explainer.explain(MESSAGES, unknown),
        lambda: explainer.explain(MESSAGES, "it is old").against(unknown, at="old"),
    ):
        with pytest.raises(ValueError, match=r"the tokenizer does not know all of '(it is )?日本'"):
            ask()
    assert explainer.explain(MESSAGES, tokenizer.unk_token).response_ids == (tokenizer.unk_token_id,)
    found = explainer.explain(MESSAGES, "it is old", sources=[(0, 1), (1, 3)])
    with pytest.raises(ValueError, match="has no token of its own"):
        found.source_frame()
    found = explainer.explain(MESSAGES, torch.tensor(tokenizer("it is old", add_special_tokens=False)["input_ids"]))
    with pytest.raises(ValueError, match="game must be one of 'cls', "):
        explainer.source_game(found, "none")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="contrasts must be a mapping"):
        found.page([found.values])  # type: ignore[arg-type]
    for part in (1, slice(0, 1), (0, 1, 2), (0.0, 1.0)):
        with pytest.raises(TypeError, match="a part is a text, or two numbers of tokens"):
            found.of(part)
    with pytest.raises(ValueError, match=r"values must be of \d+ tokens"):
        found.by_source(found.values[:-1])


def test_scores_of_ones_own_see_one_shape() -> None:
    shapes = set()

    def score(logits: Tensor, tokens: Tensor) -> Tensor:
        shapes.add(logits.dim())
        return logits.gather(-1, tokens[..., None])[..., 0]

    explainer = GenerationAttention(*chat_model(), score=score)
    found = explainer.explain(MESSAGES, "it is old")
    assert found.map.isfinite().all()
    assert shapes == {3}
