"""Learned weights of heads: what they combine, how they are fitted, kept and refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import chat_model
from helpers.planted_cases import answer_of, made
from helpers.small_models import load_answering_model
from safetensors.torch import save_file

from captum_attn.generation import ExplainedResponse, GenerationAttention, HeadWeights, fit_head_weights, leave_one_out

PARTS = ["the cat is old .", "the dog is young .", "a film is dull .", "the bird is fine ."]
TEXT = " ".join([*PARTS, "how old is the dog ?"])


@pytest.fixture(scope="module")
def chat() -> tuple[Any, Any]:
    return chat_model()


def explained(chat: Any, variant: Any, **options: Any) -> Any:
    return GenerationAttention(*chat, variant=variant, **options).explain(TEXT, "it is young", sources=PARTS)


@pytest.mark.parametrize("variant", ["attention", "signed", "rectified"])
def test_values_are_the_weighted_sum_of_the_heads(chat: Any, variant: Any) -> None:
    weights = HeadWeights(torch.randn(3, 4).double(), GenerationAttention(*chat, variant=variant).explains)
    found = explained(chat, variant, head_weights=weights)
    each = [[explained(chat, variant, layers=layer, heads=head).values for head in range(4)] for layer in range(3)]
    influence = torch.stack([torch.stack(of_layer) for of_layer in each])
    expected = (weights.weights.float()[..., None] * influence).sum((0, 1))
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-6)
    if variant != "rectified":
        torch.testing.assert_close(found.map.sum(0), found.values, rtol=1e-4, atol=1e-6)


def test_attention_alone_takes_no_score(chat: Any) -> None:
    found = explained(chat, "attention", score="logit")
    torch.testing.assert_close(found.values, explained(chat, "attention").values)
    assert found.values.min() >= 0
    torch.testing.assert_close(found.values.sum(), torch.tensor(3.0))  # each row of attention sums to 1
    torch.testing.assert_close(found.map.sum(1), torch.ones(3))
    with pytest.raises(ValueError, match="attention alone does not depend on what is compared"):
        found.against("old", at="young")


def test_they_are_the_ridge_of_what_is_lost_without_each_source(chat: Any) -> None:
    explainer = GenerationAttention(*chat)
    prompts = [" ".join([*PARTS[:count], f"how old is the {name} ?"]) for count in (3, 4) for name in ("cat", "dog")]
    cases = [explainer.explain(one, "it is young", sources="sentences") for one in prompts]
    weights = fit_head_weights(explainer, cases)
    of_heads = torch.cat([one.by_source(explainer.influence_of_heads(one)).flatten(0, 1).T for one in cases]).double()
    scale = of_heads.std(correction=0)
    of_heads = of_heads / scale
    each = [leave_one_out(explainer, one).double() for one in cases]
    lost = torch.cat([one / one.abs().max() for one in each])
    centred = of_heads - of_heads.mean(0)
    expected = torch.linalg.solve(centred.T @ centred + 10 * torch.eye(12).double(), centred.T @ (lost - lost.mean()))
    torch.testing.assert_close(weights.weights.flatten(), expected / scale, rtol=1e-6, atol=1e-9)


def test_on_other_stories_they_bring_attention_nearer_to_ablations() -> None:
    model, tokenizer = load_answering_model()
    written = [(case, answer_of(case, model, tokenizer, 24)) for case in made(14, ["plain"], seed=3)]
    stories = [(case, text) for case, text in written if case.answer in text]

    def explained_by(explainer: GenerationAttention, stories: list[Any]) -> list[ExplainedResponse]:
        return [explainer.explain(case.messages, text, sources=case.paragraphs) for case, text in stories]

    plain = GenerationAttention(model, tokenizer, variant="attention")
    fitted, others = stories[:4], stories[4:]
    assert len(others) > 6
    weights = fit_head_weights(plain, explained_by(plain, fitted))
    found = explained_by(plain, others)
    learned = explained_by(GenerationAttention(model, tokenizer, variant="attention", head_weights=weights), others)
    lost = [leave_one_out(plain, one) for one in found]

    def pearson(one: Any, other: Any) -> float:
        return float(torch.corrcoef(torch.stack([one, other]))[0, 1])

    before, after = (
        sum(
            float(torch.corrcoef(torch.stack([one.source_values, of]))[0, 1]) for one, of in zip(way, lost, strict=True)
        )
        for way in (found, learned)
    )
    assert (after - before) / len(others) > 0.04


def test_each_example_counts_alike_and_idle_heads_do_not() -> None:
    influence = [torch.rand(2, 3, count, generator=torch.Generator().manual_seed(count)) for count in (4, 5, 1)]
    for of_heads in influence:
        of_heads[1, 2] *= 1e-6
    lost = [of_heads[0, 1] + 0.5 * of_heads[1, 0] for of_heads in influence]
    weights = HeadWeights.fit(influence, lost, {}).weights
    scaled = [amount * one for amount, one in zip((3, 0.1, 7), lost, strict=True)]
    torch.testing.assert_close(HeadWeights.fit(influence, scaled, {}).weights, weights)
    assert weights.flatten().topk(2)[1].tolist() == [1, 3]
    assert weights[1, 2].abs() < 0.05 * weights.max()
    for nothing in ([0 * one for one in lost], [one[:1] for one in lost]):
        with pytest.raises(ValueError, match="nothing to learn from these examples"):
            HeadWeights.fit([of[..., : len(one)] for of, one in zip(influence, nothing, strict=True)], nothing, {})


def test_weights_are_kept_beside_the_model(tmp_path: Path) -> None:
    weights = HeadWeights(torch.randn(3, 4).double(), {"variant": "attention", "score": "logit"})
    weights.save(tmp_path / "heads.safetensors")
    again = HeadWeights.load(tmp_path / "heads.safetensors")
    assert torch.equal(again.weights, weights.weights)
    assert again.explains == weights.explains
    save_file({"other": torch.zeros(2)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="is no file of heads' weights"):
        HeadWeights.load(tmp_path / "other.safetensors")


def test_weights_of_something_else_are_refused(chat: Any) -> None:
    explainer = GenerationAttention(*chat)
    weights = HeadWeights(torch.zeros(3, 4), explainer.explains)
    GenerationAttention(copy.deepcopy(chat[0]).bfloat16(), chat[1], head_weights=weights)
    other = copy.deepcopy(chat[0])
    with torch.no_grad():
        other.lm_head.weight.neg_()
    options: dict[str, Any]
    for model, options in (
        (other, {}),
        (chat[0], {"variant": "attention"}),
        (chat[0], {"score": "logit"}),
        (chat[0], {"propagation": "gradient"}),
        (chat[0], {"layers": 1}),
    ):
        with pytest.raises(ValueError, match=r"these weights are for all layers and heads, and .* fit them anew"):
            GenerationAttention(model, chat[1], head_weights=weights, **options)
    with pytest.raises(ValueError, match=r"for \(2, 4\) layers and heads, but \(3, 4\) are explained"):
        explained(chat, "signed", head_weights=HeadWeights(torch.zeros(2, 4), explainer.explains))
    with pytest.raises(ValueError, match="an explainer of all layers and heads, without weights"):
        fit_head_weights(GenerationAttention(*chat, layers=1), [])
    with pytest.raises(ValueError, match="there are no examples"):
        fit_head_weights(GenerationAttention(*chat), [])
