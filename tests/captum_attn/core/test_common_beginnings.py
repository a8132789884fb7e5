"""One response to several prompts, what they have in common run once, against a whole pass for each prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from decoders import DECODERS, SIZES, decoder, recurrent
from hypothesis import given, settings
from hypothesis import strategies as st
from models import left_untouched

from captum_attn.core import common_beginnings
from captum_attn.core.common_beginnings import response_logits_of_each

PROMPTS = [[5, 6, 7, 8, 9, 10], [5, 6, 7, 8], [5, 6, 7, 8, 9, 11], [5, 6, 7, 8, 4, 11], [3], [5, 6, 7, 8, 9, 10, 3]]
RESPONSE = [11, 12, 13]


def check(model: Any, prompts: list[list[int]], size: int) -> None:
    seen: list[int] = []
    for numbers, logits in response_logits_of_each(model, prompts, RESPONSE, size):
        assert len(numbers) <= size
        for number, found in zip(numbers, logits, strict=True):
            with torch.no_grad():
                expected = model(torch.tensor([[*prompts[number], *RESPONSE]])).logits[0, -4:-1]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        seen += numbers
    assert sorted(seen) == list(range(len(prompts)))


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", DECODERS)
def test_logits_are_those_of_each_prompt_alone(name: str, size: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(common_beginnings, "_FEWEST", 2)
    with left_untouched(model := decoder(name)):
        check(model, PROMPTS, size)


@given(prompts=st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=7), min_size=1, max_size=8))
@settings(max_examples=25)
def test_whatever_prompts_have_in_common(prompts: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common_beginnings, "_FEWEST", 1)
        check(decoder("llama"), prompts, 2)


def test_what_prompts_have_in_common_runs_once(monkeypatch: Any) -> None:
    monkeypatch.setattr(common_beginnings, "_FEWEST", 2)
    model, ran = decoder("llama"), list[int]()
    model.register_forward_pre_hook(
        lambda _, given, named: ran.append(sum(one.numel() for one in (*given, named.get("input_ids", torch.ones(0))))),
        with_kwargs=True,
    )
    check(model, PROMPTS, 8)  # which tries the cache
    ran.clear()
    list(response_logits_of_each(model, [[5, 6, 7, 8, 9, 10, 3], [5, 6, 7, 8, 9, 4]], RESPONSE))
    assert sum(ran) == 1 + 5 + (2 + 2) + (1 + 2)  # the first is tried


def test_a_model_whose_cache_several_tokens_do_not_read_runs_whole(monkeypatch: Any) -> None:
    monkeypatch.setattr(common_beginnings, "_FEWEST", 2)
    check(recurrent(), PROMPTS, 8)


def test_rotary_embeddings_that_change_with_the_length_run_whole(monkeypatch: Any) -> None:
    monkeypatch.setattr(common_beginnings, "_FEWEST", 2)
    rotary = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 5}
    rotary |= {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "factor": 2.0}
    torch.manual_seed(0)
    model = hf.Phi3ForCausalLM(
        hf.Phi3Config(**SIZES, rope_parameters=rotary, original_max_position_embeddings=5)
    ).eval()
    check(model, [[5, 6, 7, 8, 9, 10, 3], [5, 6, 7, 8, 9, 4, 3], [5, 6, 7, 3, 9, 4, 3]], 1)
