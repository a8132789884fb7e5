"""The pass over the tokens that predict a response, against a pass over the whole sequence, eager, by autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from decoders import DECODERS, SIZES, decoder, enlarge, recurrent
from models import left_untouched
from torch import Tensor

from captum_attn.core.observers import InfluenceObserver
from captum_attn.core.propagation import ATTNLRP, CP, GRADIENT
from captum_attn.core.readout import KnownRows
from captum_attn.core.response_pass import Responses, response_pass
from captum_attn.functional import response_scores

LONG = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 11}
LONG |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "factor": 2.0}


def responses(count: int = 4) -> Responses:
    """Two texts of 14 places; the first one's response ends early, the second one's prompt begins late."""
    ids = torch.randint(3, 50, (2, 14), generator=torch.Generator().manual_seed(1))
    real = torch.ones(2, 14, dtype=torch.bool)
    real[0, -1], real[1, :3] = False, False
    return Responses(ids, real, count)


def positions_of(model: Any, of: Responses) -> Tensor:
    """RoBERTa counts from behind the position of padding."""
    return of.positions + (model.config.pad_token_id + 1 if "Roberta" in type(model).__name__ else 0)


def whole_pass(model: Any, of: Responses, score: str) -> tuple[Tensor, Tensor]:
    """Logits (B, T, V), and A ⊙ G (B, T, N) of the mean over layers and heads, by eager attention and autograd."""
    known = {"position_ids": positions_of(model, of)} if "opt" not in type(model).__name__.lower() else {}
    known = known if "bloom" not in type(model).__name__.lower() else {}
    model.config._attn_implementation = "eager"
    output = model(input_ids=of.ids, attention_mask=of.real.long(), output_attentions=True, use_cache=False, **known)
    logits = output.logits[:, -of.count - 1 : -1]
    selected = response_scores(logits, of.predicted, score) * of.real[:, -of.count :]
    gradients = torch.autograd.grad(selected.sum(), output.attentions)
    products = [(one * other).mean(1) for one, other in zip(output.attentions, gradients, strict=True)]
    return logits.detach(), torch.stack(products).mean(0)[:, -of.count - 1 : -1].detach()


@pytest.mark.parametrize("score", ["log_odds", "log_prob"])
@pytest.mark.parametrize("name", DECODERS)
def test_rows_are_those_of_a_pass_over_the_whole_sequence(name: str, score: Any) -> None:
    model, of = decoder(name), responses()
    implementation = model.config._attn_implementation
    logits, expected = whole_pass(model, of, score)
    model.config._attn_implementation = implementation
    with left_untouched(model), response_pass(model, of) as run:
        real = of.real[:, -of.count :]
        torch.testing.assert_close(run.logits[real], logits[real], rtol=1e-5, atol=1e-6)
        rows = InfluenceObserver(run.watched(), "signed")
        summed = InfluenceObserver(run.watched(), "signed", KnownRows(torch.ones(2, of.count)))
        run.show([rows, summed], response_scores(run.logits, of.predicted, score) * real)
    torch.testing.assert_close(rows.influence, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(summed.influence, rows.influence.sum(1))
    assert rows.influence[..., -1].eq(0).all()


@pytest.mark.parametrize("propagation", [GRADIENT, ATTNLRP, CP], ids=lambda one: one.name)
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3, sliding"])
def test_rows_under_rules_are_those_of_an_observed_pass_over_the_whole_sequence(name: str, propagation: Any) -> None:
    from captum_attn.core import mapping_inputs, observed_forward

    model, of = decoder(name), responses()
    known = {"input_ids": of.ids, "attention_mask": of.real.long(), "position_ids": positions_of(model, of)}
    found = []
    with observed_forward(model, mapping_inputs(model, known), propagation=propagation) as whole:
        observer = InfluenceObserver(whole.watched(), "signed")
        logits = whole.output[:, -of.count - 1 : -1]
        whole.show([observer], (response_scores(logits, of.predicted) * of.real[:, -of.count :]).sum(-1))
        found.append(observer.influence[:, -of.count - 1 : -1])
    with response_pass(model, of, propagation=propagation) as run:
        observer = InfluenceObserver(run.watched(), "signed")
        run.show([observer], response_scores(run.logits, of.predicted) * of.real[:, -of.count :])
        found.append(observer.influence)
    torch.testing.assert_close(*found, rtol=0, atol=1e-5 * float(found[0].abs().max()))


def test_a_response_to_one_token_and_of_one_token() -> None:
    model = decoder("llama")
    for of in (Responses(torch.tensor([[5, 6, 7]]), torch.ones(1, 3).bool(), 2), responses(1)):
        _, expected = whole_pass(model, of, "logit")
        model.config._attn_implementation = "sdpa"
        with response_pass(model, of) as run:
            observer = InfluenceObserver(run.watched(), "signed")
            run.show([observer], response_scores(run.logits, of.predicted, "logit") * of.real[:, -of.count :])
        torch.testing.assert_close(observer.influence, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3, sliding"])
def test_half_precision_is_off_by_its_rounding(name: str) -> None:
    model, of = decoder(name), responses()
    _, expected = whole_pass(model, of, "log_odds")
    model.config._attn_implementation = "sdpa"
    with response_pass(model.to(torch.bfloat16), of) as run:
        observer = InfluenceObserver(run.watched(), "signed")
        run.show([observer], response_scores(run.logits, of.predicted) * of.real[:, -of.count :])
    off = (observer.influence.float() - expected).abs().max() / expected.abs().max()
    assert off < 0.05


def test_what_has_no_such_rows_is_refused() -> None:
    sizes = {"d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4, "d_kv": 8}
    t5 = hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=50, **sizes))
    bert = hf.BertLMHeadModel(hf.BertConfig(**{**SIZES, "is_decoder": False}))
    for model, message in ((t5, "no causal language model with a cache"), (bert, "returns no cache")):
        with pytest.raises(ValueError, match=message), response_pass(model.eval(), responses()):
            pass


def test_attention_that_runs_twice_in_a_layer_is_refused() -> None:
    model = hf.DiffLlamaForCausalLM(hf.DiffLlamaConfig(**SIZES, attn_implementation="eager")).eval()
    with pytest.raises(ValueError, match="ran twice in a row, but one matrix is explained in each layer"):
        with_response(model)
    with_response(hf.DiffLlamaForCausalLM(hf.DiffLlamaConfig(**SIZES, attn_implementation="sdpa")).eval())


def test_what_was_tried_is_tried_again_on_other_weights() -> None:
    model = recurrent(scale=1)
    with response_pass(model, responses(1), gradients=False):
        pass  # of one token, the recurrence goes step by step
    enlarge(model, 6)
    with pytest.raises(ValueError, match="predicts a response otherwise"):
        with_response(model)


def test_a_cache_that_several_tokens_do_not_read_is_refused() -> None:
    model = recurrent()
    with pytest.raises(ValueError, match="predicts a response otherwise from its cache"):
        with_response(model)


def with_response(model: Any) -> None:
    with response_pass(model, responses()):
        pass


@pytest.mark.parametrize("kinds", [["sliding_attention"] * 2, ["full_attention", "sliding_attention"]])
def test_sinks_shift_no_column(kinds: list[str]) -> None:
    sizes = {**SIZES, "num_hidden_layers": 2, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}
    torch.manual_seed(0)
    model = hf.GptOssForCausalLM(hf.GptOssConfig(**sizes, sliding_window=4, layer_types=kinds)).eval()
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks)
    of = responses()
    logits, expected = whole_pass(model, of, "log_odds")
    with response_pass(model, of) as run:
        real = of.real[:, -of.count :]
        torch.testing.assert_close(run.logits[real], logits[real], rtol=1e-4, atol=1e-5)
        observer = InfluenceObserver(run.watched(), "signed")
        run.show([observer], response_scores(run.logits, of.predicted) * real)
    torch.testing.assert_close(observer.influence, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_of_one_token_each_layer_groups_its_heads_as_it_does() -> None:
    model = decoder("gemma3, sliding")
    of = responses(1)
    _, expected = whole_pass(model, of, "log_odds")
    model.config._attn_implementation = "sdpa"
    with response_pass(model, of) as run:
        observer = InfluenceObserver(run.watched(), "signed")
        run.show([observer], response_scores(run.logits, of.predicted) * of.real[:, -1:])
    torch.testing.assert_close(observer.influence, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rotary_embeddings_that_change_within_the_response_are_refused(kind: str) -> None:
    model: Any
    if kind == "longrope":
        config = hf.Phi3Config(**SIZES, rope_parameters=LONG, original_max_position_embeddings=11)
        model = hf.Phi3ForCausalLM(config).eval()
    else:
        rotary = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
        model = hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, rope_parameters=rotary, max_position_embeddings=11)).eval()
    of = responses()
    with pytest.raises(ValueError, match=rf"from 11 tokens on \({kind}\)"), response_pass(model, of):
        pass
    with response_pass(model, Responses(of.ids[:, :12], of.real[:, :12], 3)) as run:
        assert run.logits.shape == (2, 3, 50)
