"""Captum's methods as baselines, against captum run by hand and plain loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from captum.attr import (
    FeatureAblation,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Lime,
    Occlusion,
    Saliency,
    ShapleyValueSampling,
)
from families import FAMILIES, text_batch
from helpers.small_models import digits, load_image_model, load_text_model
from models import left_untouched

from captum_attn.bench import GradientBaseline, MaskedModel, PerturbationBaseline, captum_baselines
from captum_attn.metrics import evaluate

TEXTS = ["a gripping , funny film", "not good", "dull"]
TARGETS = torch.tensor([1, 0, 1])


@pytest.fixture(scope="module")
def text_model():
    return load_text_model()


@pytest.fixture
def inputs(text_model):
    return text_model[1](TEXTS, padding=True, return_tensors="pt")


def worth_of(model, tokenizer, text, target):
    """The probability of a class by the set of words that are kept: one text at a time."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"]

    def worth(kept):
        masked = ids.clone()
        for place in range(ids.shape[1] - 2):
            if place not in kept:
                masked[0, 1 + place] = tokenizer.mask_token_id
        with torch.no_grad():
            return model(masked).logits.softmax(-1)[0, target].item()

    return worth, range(ids.shape[1] - 2)


def exact_shapley(worth, players):
    values = []
    for player in players:
        others, value = [other for other in players if other != player], 0.0
        for size in range(len(others) + 1):
            for coalition in itertools.combinations(others, size):
                gain = worth({*coalition, player}) - worth(set(coalition))
                value += gain / (len(players) * math.comb(len(others), size))
        values.append(value)
    return values


def test_sampling_methods_draw_other_numbers_with_another_seed():
    model, tokenizer = load_text_model()
    inputs, masked = (
        tokenizer("a slow start , but what an ending !", return_tensors="pt"),
        MaskedModel(model, tokenizer),
    )
    first, same, other = (captum_baselines(masked, samples=30, seed=seed) for seed in (0, 0, 1))
    for name in ("Lime", "KernelShap", "ShapleyValueSampling"):
        found = [methods[name](inputs, torch.tensor([1])) for methods in (first, same, other)]
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2]), name


@pytest.mark.parametrize("method", [Saliency, InputXGradient])
def test_gradients_are_captums_on_the_embeddings(text_model, inputs, method):
    model, tokenizer = text_model

    def logits(embeddings):
        return model(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"]).logits

    embeddings = model.get_input_embeddings()(inputs["input_ids"]).detach().requires_grad_()
    expected = method(logits).attribute(embeddings, target=TARGETS).sum(-1).detach()
    found = GradientBaseline(method, MaskedModel(model, tokenizer))(inputs, TARGETS)
    torch.testing.assert_close(found, expected)


def test_integrated_gradients_start_from_masked_words(text_model, inputs):
    model, tokenizer = text_model
    found = GradientBaseline(IntegratedGradients, MaskedModel(model, tokenizer), n_steps=200)(inputs, TARGETS)
    masked = inputs["input_ids"].clone()
    masked[
        (masked != tokenizer.cls_token_id) & (masked != tokenizer.sep_token_id) & inputs["attention_mask"].bool()
    ] = tokenizer.mask_token_id
    with torch.no_grad():
        whole = model(**inputs).logits
        empty = model(**{**inputs, "input_ids": masked}).logits
    gained = (whole - empty).gather(1, TARGETS[:, None]).squeeze(1)  # completeness
    torch.testing.assert_close(found.sum(-1), gained, rtol=0.02, atol=0.02)
    assert not found[:, 0].any()


def test_feature_ablation_is_leaving_out_one_word_at_a_time(text_model, inputs):
    model, tokenizer = text_model
    found = PerturbationBaseline(FeatureAblation, MaskedModel(model, tokenizer))(inputs, TARGETS)
    for row, text, target in zip(found, TEXTS, TARGETS.tolist(), strict=True):
        worth, players = worth_of(model, tokenizer, text, target)
        expected = [worth(set(players)) - worth(set(players) - {player}) for player in players]
        assert row[1 : 1 + len(expected)].tolist() == pytest.approx(expected, abs=1e-5)
        assert not row[1 + len(expected) :].any()


@pytest.mark.parametrize(
    ("method", "options"), [(KernelShap, {"n_samples": 600}), (ShapleyValueSampling, {"evaluations": 1000})]
)
def test_samplers_find_the_shapley_values_of_the_masked_model(text_model, inputs, method, options):
    model, tokenizer = text_model
    baseline = PerturbationBaseline(method, MaskedModel(model, tokenizer, batch_size=200), **options)
    found = baseline(inputs, TARGETS)
    for row, text, target in zip(found, TEXTS, TARGETS.tolist(), strict=True):
        expected = exact_shapley(*worth_of(model, tokenizer, text, target))
        assert row[1 : 1 + len(expected)].tolist() == pytest.approx(expected, abs=0.05)
    torch.testing.assert_close(baseline(inputs, TARGETS), found)  # seeded


@pytest.mark.parametrize(
    ("method", "options"), [(Occlusion, {"sliding_window_shapes": (3,)}), (Lime, {"n_samples": 60})]
)
def test_others_run_on_texts_of_any_length(text_model, inputs, method, options):
    model, tokenizer = text_model
    found = PerturbationBaseline(method, MaskedModel(model, tokenizer), **options)(inputs, TARGETS)
    assert found.shape == inputs["input_ids"].shape
    assert found.isfinite().all()
    assert found[0, 1:6].any()


def test_images_too():
    model, images = load_image_model(), digits()[2][:2]
    masked = MaskedModel(model)
    result = evaluate(model, images, captum_baselines(masked, 30), percentages=[20, 50], show_progress=False)
    assert len(result.methods) == 9
    assert result.curves().probability.between(0, 1).all()


def test_the_model_and_the_random_state_are_left_as_they_were(text_model, inputs):
    model, tokenizer = text_model
    model.train()
    try:
        for baseline in captum_baselines(MaskedModel(model, tokenizer), 20).values():
            with left_untouched(model):
                baseline(inputs, TARGETS)
    finally:
        model.eval()


def test_gradients_work_under_inference_mode(text_model, inputs):
    model, tokenizer = text_model
    for method in (Saliency, IntegratedGradients):
        baseline = GradientBaseline(method, MaskedModel(model, tokenizer))
        expected = baseline(inputs, TARGETS)
        with torch.inference_mode():
            torch.testing.assert_close(baseline({k: v.clone() for k, v in inputs.items()}, TARGETS.clone()), expected)


def test_the_model_goes_in_with_what_replaces_its_tokens(text_model):
    model, tokenizer = text_model
    for make in (captum_baselines, lambda given: GradientBaseline(Saliency, given)):
        with pytest.raises(TypeError, match=r"expected a MaskedModel\(model, tokenizer\), got BertForSequence"):
            make(model)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        captum_baselines(MaskedModel(model, tokenizer), 0)
    model = FAMILIES["bert"].build()
    model.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="labels that do not exclude each other"):
        MaskedModel(model, tokenizer)


def test_a_model_without_embeddings_has_no_gradient_baselines():
    model, inputs = FAMILIES["bert"].build(), text_batch()

    def function(input_ids, attention_mask):
        return model(input_ids, attention_mask)

    masked = MaskedModel(function, replacement=4)
    with pytest.raises(ValueError, match="function takes no inputs_embeds"):
        GradientBaseline(Saliency, masked)(inputs, torch.tensor([0, 1, 2]))
    assert PerturbationBaseline(FeatureAblation, masked)(inputs, torch.tensor([0, 1, 2])).shape == (3, 9)
