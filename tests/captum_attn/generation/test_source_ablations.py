"""Scores without sources, against prompts that are written without them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from chat_models import chat_model

from captum_attn.generation import (
    GenerationAttention,
    leave_one_out,
    linear_datamodeling_score,
    random_absences,
    scores_without,
    top_k_drop,
)
from captum_attn.generation.source_ablations import _left

PARTS = ["the cat is old .", "the dog is young , and so is the bird .", "a film is dull ."]
QUESTION = "how old is the dog ?"


@pytest.fixture(scope="module")
def explainer() -> GenerationAttention:
    return GenerationAttention(*chat_model())


def prompt(parts: list[str], messages: bool) -> Any:
    text = " ".join([*parts, QUESTION])
    return [{"role": "user", "content": text}] if messages else text


@pytest.mark.parametrize("messages", [True, False])
def test_scores_are_those_of_prompts_without_the_sources(explainer: Any, messages: bool) -> None:
    explained = explainer.explain(prompt(PARTS, messages), "it is young", sources=PARTS)
    absent = torch.tensor([[False, False, False], [True, False, False], [False, True, True], [True, True, True]])
    found = scores_without(explainer, explained, absent, batch_size=3).sum(-1)
    for row, score in zip(absent.tolist(), found, strict=True):
        left = [part for part, gone in zip(PARTS, row, strict=True) if not gone]
        expected = explainer.explain(prompt(left, messages), "it is young", sources=[QUESTION]).scores.sum()
        torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)
    single = scores_without(explainer, explained, torch.eye(3).bool()).sum(-1)
    torch.testing.assert_close(leave_one_out(explainer, explained), found[0] - single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "source", "left"),
    [
        ("Ann is old. Bob is young.\n\nAnswer:", "Bob is young.", "Ann is old.\n\nAnswer:"),
        ("### One:\nIt is old.\n\n### Two:", "It is old.", "### One:\n\n### Two:"),
        ("One. Two. Three.", "Two.", "One. Three."),
        ("One. Two.", "One.", "Two."),
        ("One. Two.", "Two.", "One."),
        ("<s>One.</s>", "One.", "<s></s>"),
    ],
)
def test_what_is_left_of_a_text(text: str, source: str, left: str) -> None:
    start = text.index(source)
    assert _left(f"<{text}>", 1, 1 + len(text), [(1 + start, 1 + start + len(source))]) == left


def test_a_prompt_of_which_nothing_is_left_is_refused() -> None:
    model, tokenizer = chat_model()
    tokenizer.backend_tokenizer.post_processor = None
    explainer = GenerationAttention(model, tokenizer)
    explained = explainer.explain("the cat is old .", "fine", sources="sentences")
    if len(explainer.tokenizer("")["input_ids"]) == 0:
        with pytest.raises(ValueError, match="has no tokens left"):
            leave_one_out(explainer, explained)


def test_the_score_of_a_linear_model_is_one() -> None:
    values, absent = torch.randn(5), random_absences(5, 20)
    assert absent.shape == (20, 5)
    assert torch.equal(absent, random_absences(5, 20))
    scores = (~absent).float() @ values
    assert linear_datamodeling_score(values, absent, scores.exp()) == 1
    assert linear_datamodeling_score(values, absent, -scores) == -1


def test_the_highest_sources_are_left_out_together(explainer: Any) -> None:
    explained = explainer.explain(prompt(PARTS, True), "fine", sources=PARTS)
    values = torch.tensor([0.2, -1.0, 0.4])
    without = explainer.explain(prompt([PARTS[1]], True), "fine", sources=[PARTS[1]])
    expected = float(explained.scores.sum() - without.scores.sum())
    assert top_k_drop(explainer, explained, values, 2) == pytest.approx(expected, abs=1e-4)
    lost = leave_one_out(explainer, explained)
    assert top_k_drop(explainer, explained, lost) == pytest.approx(float(lost.max()), abs=1e-4)
    for wrong, k in ((values[:2], 1), (values, 4), (values, 0)):
        with pytest.raises(ValueError, match=r"expected values \(3,\) and k from 1 to 3"):
            top_k_drop(explainer, explained, wrong, k)


def test_absences_of_another_form_are_refused(explainer: Any) -> None:
    explained = explainer.explain(prompt(PARTS, True), "fine", sources=PARTS)
    with pytest.raises(ValueError, match=r"expected values \(K,\), absent \(S, K\) and scores \(S,\)"):
        linear_datamodeling_score(torch.ones(3), torch.eye(3).bool(), torch.ones(3, 2))
    for absent in (torch.zeros(2, 3), torch.zeros(3).bool(), torch.zeros(2, 4).bool()):
        with pytest.raises(ValueError, match=r"absent must be bool \(S, 3\)"):
            scores_without(explainer, explained, absent)
