"""Language models as scorers and classifiers of responses, against the same by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from chat_models import chat_model
from decoders import decoder
from models import left_untouched
from torch import Tensor
from transformers import BartConfig, BartForCausalLM

from captum_attn import AttentionRollout, AttnLRP, GenerationAttention, ShapleyGradAttention
from captum_attn.comparison import compare
from captum_attn.core import fingerprint
from captum_attn.functional import response_scores
from captum_attn.generation import ResponseClassifier, ScoredResponse, response_inputs
from captum_attn.metrics import evaluate

CHAT = [{"role": "user", "content": "the cat is old . how old is the cat ?"}]
PROMPTS: list[Any] = [CHAT, "the dog is young ."]
RESPONSES = ["it is old", "fine"]


@pytest.fixture(scope="module")
def chat() -> tuple[Any, Any]:
    return chat_model()


def scores_of(model: Any, ids: Tensor, count: int) -> Tensor:
    with torch.no_grad():
        return response_scores(model(input_ids=ids[None]).logits[0, -count - 1 : -1], ids[-count:])


def test_scores_are_those_of_the_tokens(chat: Any) -> None:
    model, tokenizer = chat
    ids = torch.tensor(tokenizer("the cat is old . it is old")["input_ids"])
    parts = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.5, 0.0]])
    expected = scores_of(model, ids, 3)
    torch.testing.assert_close(ScoredResponse(model, 3)(ids[None]), expected.sum()[None, None])
    torch.testing.assert_close(ScoredResponse(model, 3, parts=parts)(ids[None])[0], parts @ expected)
    for count, wrong in ((0, None), (3, torch.ones(1, 2))):
        with pytest.raises(ValueError, match=r"has one token or more|parts must have shape \(S, 3\)"):
            ScoredResponse(model, count, parts=wrong)


def test_texts_of_several_lengths_are_padded_on_the_left() -> None:
    model, short, long = decoder("gpt2"), torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9, 5, 4, 6, 7, 8]])
    padded = torch.cat([torch.cat([torch.zeros(1, 2, dtype=torch.int64), short], 1), long])
    mask = (padded > 0).long()
    scored = ScoredResponse(model, 2)
    torch.testing.assert_close(scored(padded, mask), torch.cat([scored(short), scored(long)]))
    labels = padded.masked_fill(torch.arange(6) < 4, -100)
    classifier = ResponseClassifier(model)
    expected = torch.cat([classifier(short, labels[:1, 2:]), classifier(long, labels[1:])])
    torch.testing.assert_close(classifier(padded, labels, mask), expected)


def test_padding_in_the_place_of_a_response_is_refused() -> None:
    model = decoder("gpt2")
    with pytest.raises(ValueError, match="pad on the left"):
        ScoredResponse(model, 2)(torch.tensor([[5, 6, 7, 8], [5, 6, 7, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]))


@pytest.mark.parametrize("side", [0, -1])
def test_padding_without_a_mask_is_refused(side: int) -> None:
    model = decoder("gpt2")
    model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id = 0, 1, 2
    ids = torch.full((2, 5), 7)
    assert ScoredResponse(model, 2)(ids).shape == (2, 1)
    ids[1, side] = 0
    with pytest.raises(ValueError, match=r"some rows begin or end with padding \(token 0\): give attention_mask="):
        ScoredResponse(model, 2)(ids)
    model.config.bos_token_id = model.config.eos_token_id = 0  # a token that may begin and end texts
    assert ScoredResponse(model, 2)(ids).shape == (2, 1)


def test_models_that_count_padding_read_prompts_one_at_a_time(chat: Any) -> None:
    sizes = {"d_model": 32, "decoder_layers": 3, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "init_std": 0.3}
    torch.manual_seed(0)
    config = BartConfig(vocab_size=len(chat[1]), **sizes, is_decoder=True, max_position_embeddings=60)
    model = BartForCausalLM(config).eval()
    explainer, inputs = GenerationAttention(model, chat[1]), response_inputs(PROMPTS, RESPONSES, chat[1])
    values = explainer.of_batch(inputs, torch.tensor([0, 0]))
    for row in (0, 1):
        expected = explainer.explain(PROMPTS[row], RESPONSES[row]).values
        torch.testing.assert_close(values[row, : len(expected)], expected)
    ids = torch.tensor([[0, 5, 6, 7]])
    with pytest.raises(ValueError, match="BartForCausalLM takes no position_ids, so that padding"):
        ScoredResponse(model, 2)(ids, (ids > 0).long())


def test_scorers_of_other_things_are_told_apart(chat: Any) -> None:
    model, _ = chat
    scorers = [
        ScoredResponse(model, 2),
        ScoredResponse(model, 3),
        ScoredResponse(model, 2, "logit"),
        ScoredResponse(model, 2, lambda logits, _: logits[..., 0]),
        ScoredResponse(model, 2, lambda logits, _: logits[..., 1]),
        ScoredResponse(model, 2, parts=torch.tensor([[1.0, 0.0]])),
        ResponseClassifier(model),
        model,
    ]
    assert len({fingerprint(one) for one in scorers}) == len(scorers)
    assert fingerprint(ScoredResponse(model, 2)) == fingerprint(scorers[0])


def test_a_classifier_says_how_sure_the_model_is_of_its_response(chat: Any) -> None:
    model, tokenizer = chat
    inputs = response_inputs(PROMPTS, RESPONSES, tokenizer)
    plays = inputs.pop("players")
    logits = ResponseClassifier(model)(**inputs)
    for row, response in enumerate(RESPONSES):
        real, count = inputs["attention_mask"][row].bool(), len(response.split())
        ids = inputs["input_ids"][row, real]
        assert tokenizer.decode(ids[-count:]) == response
        torch.testing.assert_close(logits[row, 0] * 2, scores_of(model, ids, count).mean())
        text = PROMPTS[row] if isinstance(PROMPTS[row], str) else PROMPTS[row][0]["content"]
        written = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert inputs["input_ids"][row, plays[row].bool()].tolist() == written
    torch.testing.assert_close(logits.sum(-1), torch.zeros(2))
    inputs["response_ids"][1] = -100
    with pytest.raises(ValueError, match="a row has no response"):
        ResponseClassifier(model)(**inputs)
    with pytest.raises(ValueError, match=r"inputs are those of captum_attn\.generation\.response_inputs"):
        ResponseClassifier(model)(inputs["input_ids"])
    for wrong, message in ((["fine"], "2 prompts and 1 responses"), (["fine", ""], "a response is empty")):
        with pytest.raises(ValueError, match=message):
            response_inputs(PROMPTS, wrong, tokenizer)


def signed_log_odds(sign: int, logits: Tensor, tokens: Tensor) -> Tensor:
    return sign * response_scores(logits, tokens)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("options", [{}, {"variant": "rectified"}, {"variant": "attention"}, {"method": AttnLRP}])
def test_batches_are_explained_row_by_row(chat: Any, side: str, options: Any) -> None:
    model, tokenizer = chat
    explainer, inputs = GenerationAttention(model, tokenizer, **options), response_inputs(PROMPTS, RESPONSES, tokenizer)
    lengths = inputs["attention_mask"].sum(-1).tolist()
    if side == "left":
        whole = inputs["input_ids"].shape[1]
        for column in inputs.values():
            column[1] = column[1].roll(whole - lengths[1])
    values = explainer.of_batch(inputs, torch.tensor([0, 1]))
    for row, sign in enumerate((1, -1)):
        signed = GenerationAttention(model, tokenizer, score=partial(signed_log_odds, sign), **options)
        expected = signed.explain(PROMPTS[row], RESPONSES[row]).values
        real = inputs["attention_mask"][row].bool()
        torch.testing.assert_close(values[row, real], expected, rtol=1e-4, atol=1e-6)
        assert not values[row, ~real].any()


@pytest.mark.parametrize("intervention", ["replacement", "knockout"])
def test_explanations_of_responses_are_evaluated(chat: Any, intervention: Any) -> None:
    model, tokenizer = chat
    classifier, inputs = ResponseClassifier(model), response_inputs(PROMPTS, RESPONSES, tokenizer)
    methods = {
        "one pass": GenerationAttention(model, tokenizer).of_batch,
        "AttnLRP": AttnLRP(classifier),
        "rollout": AttentionRollout(classifier),
    }
    with left_untouched(model):
        found = evaluate(
            classifier,
            inputs,
            methods,
            tokenizer=tokenizer,
            metrics=["comprehensiveness"],
            interventions=[intervention],
            percentages=[50],
            show_progress=False,
        )
    table = found.table()
    mean = table[(table.method == "one pass") & (table.ranking == "scores")]["mean"].item()
    given = {name: column for name, column in inputs.items() if name != "players"}
    probabilities = classifier(**given).softmax(-1)
    targets = probabilities.argmax(-1)
    taken = half_taken(methods["one pass"](inputs, targets), inputs["players"].bool())
    if intervention == "knockout":
        assert mean > 0 or mean < 0
    else:
        less = classifier(**{**given, "input_ids": given["input_ids"].masked_fill(taken, tokenizer.mask_token_id)})
        drops = (probabilities - less.softmax(-1)).gather(1, targets[:, None])
        assert mean == pytest.approx(float(drops.mean()), rel=1e-3, abs=1e-9)


def half_taken(values: Tensor, players: Tensor) -> Tensor:
    """The upper half of each row's players."""
    taken = torch.zeros_like(players)
    for row, plays in enumerate(players):
        (places,) = plays.nonzero(as_tuple=True)
        taken[row, places[values[row, places].argsort(descending=True)[: (len(places) + 1) // 2]]] = True
    return taken


def test_explanations_of_responses_are_compared(chat: Any) -> None:
    model, tokenizer = chat
    classifier, inputs = ResponseClassifier(model), response_inputs(PROMPTS, RESPONSES, tokenizer)
    methods = {"AttnLRP": AttnLRP(classifier), "game": ShapleyGradAttention(classifier, game="cls")}
    found = compare(classifier, inputs, methods, tokenizer=tokenizer, show_progress=False)
    assert repr(found) == "Comparison(2 inputs, methods: AttnLRP, game, random)"
