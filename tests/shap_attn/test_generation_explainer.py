"""What a language model writes, as SHAP explanations."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shap
import torch
from chat_models import chat_model
from models import left_untouched
from readers_of_images import llava, photograph
from transformers import pipeline

from captum_attn import GenerationAttention
from shap_attn import AttentionExplainer, GenerationExplainer

PROMPTS = ["the cat is old . how old is the cat ?", "a film ."]
CHAT = [{"role": "user", "content": PROMPTS[0]}]
SETTINGS: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}


@pytest.fixture(scope="module")
def chat() -> tuple[Any, Any]:
    return chat_model()


@pytest.fixture(scope="module")
def explainer(chat: Any) -> Any:
    return AttentionExplainer(*chat)


def test_values_are_the_map_of_the_response(chat: Any, explainer: Any) -> None:
    assert type(explainer) is GenerationExplainer
    with left_untouched(chat[0]):
        explanation = explainer([CHAT], responses=["it is old"])
    expected = GenerationAttention(*chat).explain(CHAT, "it is old")
    assert "".join(explanation.data[0]) == expected.prompt.text
    count = len(expected.prompt.ids)
    np.testing.assert_allclose(explanation[0].values.T, expected.map[:, :count], atol=1e-6)
    assert explanation[0].output_names == [*expected.response_tokens]
    assert not explanation[0].base_values.any()


def test_words_sum_up_their_pieces_and_special_tokens_are_in_none(chat: Any, explainer: Any) -> None:
    text = "unlikely grandeurs ."
    pieces, words = (one([text], responses=["fine"])[0] for one in (explainer, AttentionExplainer(*chat, words=True)))
    assert [*words.data] == ["unlikely ", "grandeurs ", "."]
    assert all(pieces.data)
    found = GenerationAttention(*chat).explain(text, "fine", sources="messages", question="")
    inside = [end > start for start, end in found.prompt.offsets]
    assert not all(inside)  # [CLS]
    total = float(found.map[0, : len(inside)][torch.tensor(inside)].sum())
    assert words.values.sum() == pytest.approx(total, abs=1e-6)
    assert pieces.values.sum() == pytest.approx(total, abs=1e-6)


def test_a_pipeline_writes_as_it_is_set_up_to(chat: Any) -> None:
    pipe = pipeline("text-generation", model=chat[0], tokenizer=chat[1], **SETTINGS)
    for prompt in (PROMPTS[0], CHAT):
        for model in (pipe, shap.models.TransformersPipeline(pipe)) if prompt is CHAT else (pipe,):
            explanation = AttentionExplainer(model)(prompt)
            written = pipe(prompt, return_full_text=False)[0]["generated_text"]
            text = written if isinstance(written, str) else written[-1]["content"]
            assert "".join(explanation[0].output_names).strip() == text.strip()
    assert AttentionExplainer(pipe)(PROMPTS[0], max_new_tokens=2).shape[-1] == 2


def test_a_pipelines_model_writes_without_dropout(chat: Any) -> None:
    model, tokenizer = chat_model()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, **SETTINGS)
    explainer = AttentionExplainer(pipe)
    expected = explainer(PROMPTS[0]).output_names
    model.train()
    with left_untouched(model):
        assert explainer(PROMPTS[0]).output_names == expected


def test_a_prompt_that_the_pipeline_closes_is_refused(chat: Any) -> None:
    model, tokenizer = chat_model()
    tokenizer.eos_token = "[SEP]"
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, **SETTINGS)
    with pytest.raises(ValueError, match="not the prompt's own tokens"):
        AttentionExplainer(pipe)(PROMPTS[0])


def test_prompts_and_responses_of_several_lengths_are_sliced_and_drawn(explainer: Any) -> None:
    explanation = explainer(PROMPTS, responses=["it is old", "fine"], silent=True)
    assert explanation[0].shape == (explanation.data[0].size, 3)
    assert explanation[1].output_names.tolist() == ["fine"]
    assert explanation[0][:, " old"].values == pytest.approx(explanation[0].values[:, 2])
    alike = explainer(PROMPTS, responses=["it is old", "it is young"])
    assert alike[1].output_names.tolist() == ["it", " is", " young"]
    for one in (explanation[0], explanation[1], alike[1], alike[1][:, 2]):
        html = shap.plots.text(one, display=False)
        assert all(str(segment).strip() in html for segment in one.data)


def test_an_explainer_is_pickled_saved_and_loaded(explainer: Any, tmp_path: Path) -> None:
    explainer.save(tmp_path / "explainer.zip")
    expected = explainer(PROMPTS[0], responses="it is old").values
    for copy in (pickle.loads(pickle.dumps(explainer)), AttentionExplainer.load(tmp_path / "explainer.zip")):
        assert np.array_equal(copy(PROMPTS[0], responses="it is old").values, expected)


def test_bad_arguments_are_named(chat: Any, explainer: Any) -> None:
    model, tokenizer = chat
    with pytest.raises(TypeError, match="LlamaForCausalLM needs its tokenizer, got None"):
        AttentionExplainer(model)
    with pytest.raises(TypeError, match="unexpected keyword argument 'game'"):
        AttentionExplainer(model, tokenizer, game="mutual")
    for wrong, kind, message in (
        (3, TypeError, "prompts must be a text"),
        ([], ValueError, "there are no prompts"),
        ([3], TypeError, "the prompt must be a text, or messages"),
    ):
        with pytest.raises(kind, match=message):
            explainer(wrong, responses=["fine"])
    with pytest.raises(TypeError, match="outputs are all tokens of the response"):
        explainer(PROMPTS[0], responses="fine", outputs=[0])
    with pytest.raises(ValueError, match="2 prompts but 1 responses"):
        explainer(PROMPTS, responses="fine")
    with pytest.warns(UserWarning, match="link=.* has no effect"):
        explainer(PROMPTS[1], responses="fine", link=shap.links.logit)
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, **SETTINGS)
    with pytest.raises(ValueError, match="the pipeline wrote 2 texts"):
        AttentionExplainer(pipe)(PROMPTS[0], do_sample=True, num_return_sequences=2)
    tokenizer_of_pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, add_special_tokens=False)
    with pytest.raises(ValueError, match="not the prompt's own tokens"):
        AttentionExplainer(tokenizer_of_pipe)(PROMPTS[0], **SETTINGS)


def test_images_among_words_are_segments_with_places(tmp_path: Path) -> None:
    model, processor = llava()
    prompts = ["<image> the cat is old . how old is it ?", "<image> the dog is young ."]
    images = [photograph(0), photograph(1)]
    explainer = AttentionExplainer(model, processor)
    assert type(explainer) is GenerationExplainer
    explanation = explainer(prompts, responses=["it is old", "young"], images=images)
    for number, (prompt, response) in enumerate(zip(prompts, ["it is old", "young"], strict=True)):
        found = GenerationAttention(model, processor).explain(prompt, response, images=images[number], question="")
        row = explanation[number]
        assert "".join(row.data) == found.prompt.text
        assert list(row.data[:15]) == ["▪"] * 15
        of_parts = found.map[:, 1:17].unflatten(1, (4, 4))
        names = explanation.feature_names[number]
        assert names[:17] == [*(f"image: row {r}, column {c}" for r in range(4) for c in range(4)), "the"]
        place = names.index("image: row 2, column 1")
        np.testing.assert_allclose(row.values[place], of_parts[:, 2, 1], atol=1e-6)
    explainer.save(tmp_path / "explainer.zip")
    loaded = AttentionExplainer.load(tmp_path / "explainer.zip")
    again = loaded(prompts[:1], responses=["it is old"], images=images[0])
    np.testing.assert_allclose(again[0].values, explanation[0].values, atol=1e-6)
    written = explainer(prompts[:1], images=images[:1], max_new_tokens=3)
    assert written.shape[2] <= 3
    with pytest.raises(TypeError, match="needs its processor, got None"):
        AttentionExplainer(model)
    with pytest.raises(ValueError, match="2 prompts but images for 1"):
        explainer(prompts, responses=["it", "is"], images=images[:1])
    with pytest.raises(ValueError, match="places for an image"):
        explainer(prompts[:1], responses=["it"])
