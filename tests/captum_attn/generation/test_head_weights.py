"""Learned weights of heads: what they combine, how they are fitted, kept and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import chat_model
from safetensors.torch import save_file
from torch import Tensor

from captum_attn.generation import GenerationAttention, HeadWeights, fit_head_weights, leave_one_out

PARTS = ["the cat is old .", "the dog is young .", "a film is dull .", "the bird is fine ."]
TEXT = " ".join([*PARTS, "how old is the dog ?"])


@pytest.fixture(scope="module")
def chat() -> tuple[Any, Any]:
    return chat_model()


def explained(chat: Any, variant: Any, **options: Any) -> Any:
    return GenerationAttention(*chat, variant=variant, **options).explain(TEXT, "it is young", sources=PARTS)


@pytest.mark.parametrize("variant", ["attention", "signed", "rectified"])
def test_values_are_the_weighted_sum_of_the_heads(chat: Any, variant: Any) -> None:
    weights = HeadWeights(torch.randn(3, 4).double(), variant, "attnlrp")
    found = explained(chat, variant, head_weights=weights)
    each = [[explained(chat, variant, layers=layer, heads=head).values for head in range(4)] for layer in range(3)]
    influence = torch.stack([torch.stack(of_layer) for of_layer in each])
    expected = (weights.weights.float()[..., None] * influence).sum((0, 1))
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-6)
    if variant != "rectified":
        torch.testing.assert_close(found.map.sum(0), found.values, rtol=1e-4, atol=1e-6)


def test_attention_alone_takes_one_forward_pass_and_no_score(chat: Any) -> None:
    found = explained(chat, "attention", score="logit")
    torch.testing.assert_close(found.values, explained(chat, "attention").values)
    assert found.values.min() >= 0
    torch.testing.assert_close(found.values.sum(), torch.tensor(3.0))  # each row of attention sums to 1
    torch.testing.assert_close(found.map.sum(1), torch.ones(3))
    with pytest.raises(ValueError, match="attention alone does not depend on what is compared"):
        found.against("old", at="young")


def test_weights_are_fitted_to_what_is_lost_without_each_source(chat: Any) -> None:
    explainer = GenerationAttention(*chat, variant="signed")
    prompts = [" ".join([*PARTS[:count], f"how old is the {name} ?"]) for count in (3, 4) for name in ("cat", "dog")]
    cases = [explainer.explain(one, "it is young", sources="sentences") for one in prompts]
    weights = fit_head_weights(explainer, cases)
    learned = GenerationAttention(*chat, variant="signed", head_weights=weights)
    lost = torch.cat([leave_one_out(explainer, one) for one in cases])

    def correlation(way: GenerationAttention) -> Tensor:
        values = [way.explain(one, "it is young", sources="sentences").source_values for one in prompts]
        return torch.corrcoef(torch.stack([torch.cat(values), lost]))[0, 1]

    assert correlation(learned) > correlation(explainer)
    assert correlation(learned) > 0.8


def test_each_example_counts_alike_and_idle_heads_do_not() -> None:
    influence = [torch.rand(2, 3, count, generator=torch.Generator().manual_seed(count)) for count in (4, 5, 1)]
    for of_heads in influence:
        of_heads[1, 2] *= 1e-6
    lost = [of_heads[0, 1] + 0.5 * of_heads[1, 0] for of_heads in influence]
    weights = HeadWeights.fit(influence, lost, "attention", "attnlrp").weights
    scaled = [amount * one for amount, one in zip((3, 0.1, 7), lost, strict=True)]
    torch.testing.assert_close(HeadWeights.fit(influence, scaled, "attention", "attnlrp").weights, weights)
    assert weights.flatten().topk(2)[1].tolist() == [1, 3]
    assert weights[1, 2].abs() < 0.05 * weights.max()
    nothing = HeadWeights.fit(influence, [0 * one for one in lost], "attention", "attnlrp")
    assert nothing.weights.abs().max() < 1e-9


def test_weights_are_kept_beside_the_model(tmp_path: Path) -> None:
    weights = HeadWeights(torch.randn(3, 4).double(), "attention", "attnlrp")
    weights.save(tmp_path / "heads.safetensors")
    again = HeadWeights.load(tmp_path / "heads.safetensors")
    assert torch.equal(again.weights, weights.weights)
    assert again.variant == "attention"
    save_file({"other": torch.zeros(2)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="is no file of heads' weights"):
        HeadWeights.load(tmp_path / "other.safetensors")


def test_weights_of_something_else_are_refused(chat: Any) -> None:
    with pytest.raises(
        ValueError, match="these weights are for variant='attention', propagation='attnlrp', not for 'signed'"
    ):
        GenerationAttention(*chat, head_weights=HeadWeights(torch.zeros(3, 4), "attention", "attnlrp"))
    with pytest.raises(ValueError, match=r"for \(2, 4\) layers and heads, but \(3, 4\) are explained"):
        explained(chat, "signed", head_weights=HeadWeights(torch.zeros(2, 4), "signed", "attnlrp"))
    with pytest.raises(ValueError, match="an explainer of all layers and heads, without weights"):
        fit_head_weights(GenerationAttention(*chat, layers=1), [])
    with pytest.raises(ValueError, match="there are no examples"):
        fit_head_weights(GenerationAttention(*chat), [])
