"""Of models with a tower for images and one for texts, each is explained beside the other."""

from __future__ import annotations

import inspect

import pytest
import torch
import transformers as hf
from helpers.attention_reference import gradients, recording
from models import left_untouched, randomized

import captum_attn
from captum_attn import AttentionAttribution, AttnLRP, ShapleyGradAttention
from captum_attn.metrics import evaluate
from lightning_callbacks import AttributionModule

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SEEING = {**SIZES, "image_size": 32, "patch_size": 8}
READING = {**SIZES, "vocab_size": 96, "max_position_embeddings": 16}
ENDS = {"bos_token_id": 94, "eos_token_id": 95, "pad_token_id": 0}
BLIP = {
    "text_config": {**READING, **ENDS, "encoder_hidden_size": 32, "sep_token_id": 95},
    "vision_config": SEEING,
    "image_text_hidden_size": 16,
}


MODELS = {
    "clip": lambda: hf.CLIPModel(
        hf.CLIPConfig(text_config={**READING, **ENDS}, vision_config=SEEING, projection_dim=16)
    ),
    "siglip": lambda: hf.SiglipModel(hf.SiglipConfig(text_config=READING, vision_config=SEEING)),
    "chinese clip": lambda: hf.ChineseCLIPModel(
        hf.ChineseCLIPConfig(text_config=READING, vision_config=SEEING, projection_dim=16)
    ),
}


EVERY = [getattr(captum_attn, name) for name in captum_attn.__all__]
EVERY = [one for one in EVERY if inspect.isclass(one) and issubclass(one, AttentionAttribution)]
METHODS = [one for one in EVERY if not any(other is not one and issubclass(other, one) for other in EVERY)]


def seeded(build):
    torch.manual_seed(0)
    return randomized(build())


def pairs(count=2):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 90, (count, 6), generator=generator)
    ids[:, 0], ids[:, -1] = 94, 95
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(count, 3, 32, 32, generator=generator),
    }


def expected(model, scores_of, own_of):
    """The worth of each key in the layers of a tower, (B, N), in eager code."""
    with recording(model) as recorded:
        scores = scores_of()
    own = own_of(recorded)
    of_each = [one.attention.detach() * g for one, g in zip(own, gradients(scores, own), strict=True)]
    assert len(of_each) == 2
    return torch.stack([product.mean(1).sum(-2) for product in of_each]).mean(0)


@pytest.mark.parametrize("name", MODELS)
def test_both_towers_are_what_eager_attention_says_for_each_pair(name):
    model, inputs = seeded(MODELS[name]), pairs()
    with left_untouched(model):
        found = ShapleyGradAttention(model).attribute_modalities(inputs)
    assert list(found) == ["pixel_values", "input_ids"]

    def diagonal():
        return model(**inputs).logits_per_image.diagonal()

    for key, tower in (("pixel_values", "vision_model"), ("input_ids", "text_model")):
        result = found[key]
        worth = expected(
            model, diagonal, lambda seen, tower=tower: [one for one in seen if f"{tower}.encoder" in one.owner]
        )
        torch.testing.assert_close(result.values, worth * result.players, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(result.scores, diagonal().detach(), rtol=1e-4, atol=1e-5)
        assert result.picture is None
    assert found["pixel_values"].patches.shape == (2, 4, 4)
    assert found["input_ids"].grid is None


def matching(model):
    return lambda **pair: model(**pair).itm_score


BLIPS = {
    "matching": (hf.BlipForImageTextRetrieval, matching, 1),
    "captions": (hf.BlipForConditionalGeneration, lambda model: model, (5, 7)),
}


@pytest.mark.parametrize("kind", BLIPS)
def test_towers_that_attend_to_each_other(kind):
    of_class, score, target = BLIPS[kind]
    model, inputs = seeded(lambda: of_class(hf.BlipConfig(**BLIP))), pairs()
    explained = score(model)
    found = ShapleyGradAttention(explained).attribute_modalities(inputs, target)

    def scores():
        output = explained(**inputs)
        return output[:, 1] if kind == "matching" else output.logits[:, 5, 7]

    # Two layers of the image's, then of the text's, each with its attention to the image behind.
    for key, own in (("pixel_values", slice(0, 2)), ("input_ids", slice(2, None, 2))):
        worth = expected(model, scores, lambda seen, own=own: seen[own])
        torch.testing.assert_close(found[key].values, worth * found[key].players, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_every_method_explains_pairs_as_each_by_itself(method):
    model, inputs = seeded(MODELS["clip"]), pairs(3)
    explainer = method(model)
    with left_untouched(model):
        whole = explainer.attribute_modalities(inputs, internal_batch_size=2)
    last = explainer.attribute_modalities({key: value[2:] for key, value in inputs.items()})
    assert {key: result.values.shape for key, result in whole.items()} == {"pixel_values": (3, 17), "input_ids": (3, 6)}
    for key, result in whole.items():
        torch.testing.assert_close(result.values[2:], last[key].values, rtol=1e-4, atol=1e-6)


def test_relevance_of_words_is_their_half_of_the_product_with_an_image_that_is_read_elsewhere():
    model, inputs = seeded(MODELS["clip"]), pairs(1)
    found = AttnLRP(model).attribute_modalities(inputs)["input_ids"]
    of_words = AttnLRP(lambda input_ids: model(**{**inputs, "input_ids": input_ids}).logits_per_text)
    torch.testing.assert_close(2 * found.values, of_words.attribute(inputs["input_ids"], target=0))


def test_one_image_has_several_texts_for_classes():
    model, inputs = seeded(MODELS["clip"]), pairs(3)
    texts = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    explainer = ShapleyGradAttention(model)
    result = explainer.attribute_tokens({**texts, "pixel_values": inputs["pixel_values"][:1]}, target=2)
    of_images = ShapleyGradAttention(lambda pixel_values: model(pixel_values=pixel_values, **texts).logits_per_image)
    assert result.output.shape == (1, 3)
    alone = of_images.attribute_tokens(inputs["pixel_values"], target=2, internal_batch_size=2)
    torch.testing.assert_close(result.values, alone.values[:1])
    measured = evaluate(of_images.forward_func, inputs["pixel_values"], {"game": of_images}, show_progress=False)
    assert measured.table(["comprehensiveness"])["mean"].notna().all()


def all_with_all(model):
    return lambda **inputs: model(**inputs).logits_per_image


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("size", [None, 1, 2])
def test_as_many_images_as_texts_are_neither_pairs_nor_classes(wrapped, size):
    model = seeded(MODELS["clip"])
    explained = all_with_all(model) if wrapped else model
    with left_untouched(model), pytest.raises(ValueError, match=r"pairs.*attribute_modalities.*classes"):
        ShapleyGradAttention(explained).attribute(pairs(), target=0, internal_batch_size=size)
    if size is None:
        if wrapped:
            with pytest.raises(ValueError, match="pairs"):
                ShapleyGradAttention(explained).attribute_modalities(pairs())
        with pytest.raises(ValueError, match="pairs"):
            evaluate(explained, pairs(), {"game": ShapleyGradAttention(explained)}, show_progress=False)
    if not wrapped:
        with pytest.raises(ValueError, match="pairs"):
            AttributionModule(model).predict_step(pairs())


CONTRASTS = {
    "log-probabilities of pairs": lambda s: s.diagonal()[:, None] - s.logsumexp(1, keepdim=True),
    "the best text": lambda s: s.amax(1, keepdim=True),
    "both signs": lambda s: torch.stack([s, -s], -1).flatten(1),
    "a class beside": lambda s: torch.cat([s, torch.zeros(len(s), 1)], 1),
    "a score for each text": lambda s: s[..., None],
}


@pytest.mark.parametrize("kind", CONTRASTS)
@pytest.mark.parametrize("size", [None, 1, 2])
def test_scores_that_depend_on_other_examples_are_refused(kind, size):
    model = seeded(MODELS["clip"])
    explained = ShapleyGradAttention(lambda **inputs: CONTRASTS[kind](model(**inputs).logits_per_image))
    with pytest.raises(ValueError, match="depend on other examples"):
        explained.attribute(pairs(3), target=(0, 0) if kind == "a score for each text" else 0, internal_batch_size=size)


def test_a_tokenizers_special_tokens_do_not_play_among_the_words_alone():
    model, inputs = seeded(MODELS["clip"]), pairs()
    special = torch.zeros_like(inputs["input_ids"])
    special[:, [0, -1]] = 1
    found = ShapleyGradAttention(model).attribute_modalities({**inputs, "special_tokens_mask": special})
    assert torch.equal(found["input_ids"].players, special == 0)
    assert found["pixel_values"].players[:, 1:].all()


def test_pairs_by_a_function_are_cut_as_any_batch():
    model, inputs = seeded(MODELS["clip"]), pairs(3)
    of_pairs = ShapleyGradAttention(lambda **pair: model(**pair).logits_per_image.diagonal()[:, None])
    expected_values = ShapleyGradAttention(model).attribute_modalities(inputs)["pixel_values"].values
    for size in (None, 1, 2):
        found = of_pairs.attribute_tokens(inputs, target=0, internal_batch_size=size)
        torch.testing.assert_close(found.values, expected_values)


def test_one_modality_alone_is_refused():
    model, inputs = seeded(MODELS["clip"]), pairs()
    explainer = ShapleyGradAttention(model)
    with pytest.raises(ValueError, match="two modalities or more"):
        explainer.attribute_modalities({"pixel_values": inputs["pixel_values"]})
    with pytest.raises(ValueError, match="as many examples"):
        explainer.attribute_modalities({**inputs, "pixel_values": inputs["pixel_values"][:1]})
    for alone in ("pixel_values", "input_ids"):
        with left_untouched(model), pytest.raises((ValueError, AttributeError)) as error:
            explainer.attribute({alone: inputs[alone]}, target=0)
        (missing,) = {"pixel_values", "input_ids"} - {alone}
        assert f"the model takes {missing}, too, of which nothing was given" in error.value.__notes__
