"""A result knows what it is of, and shows itself."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.small_models import digits, load_image_model, load_sound_model, load_text_model, load_texture_model
from helpers.textures import striped_fish
from pages import assert_self_contained, views_of
from PIL import Image
from scipy.io import wavfile
from transformers import AutoImageProcessor

from captum_attn import (
    AttnLRP,
    GenericRelevance,
    IntegratedAttnLRP,
    MaskTunnel,
    RawAttention,
    ShapleyAttention,
    ShapleyGradAttention,
)

TEXTS = ["An unspeakably gripping film", "Not good!"]
METHODS = [AttnLRP, IntegratedAttnLRP, ShapleyGradAttention, ShapleyAttention, GenericRelevance, RawAttention]


@pytest.fixture(scope="module")
def text_model():
    return load_text_model()


@pytest.mark.parametrize("method", METHODS)
def test_texts_are_read_as_the_tokenizer_reads_them(text_model, method):
    model, tokenizer = text_model
    explainer = method(model, tokenizer=tokenizer)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    expected = explainer.attribute_tokens(batch, "positive")
    for given in (TEXTS, tuple(TEXTS[:1]) + tuple(TEXTS[1:]) + ("x",), pd.Series(TEXTS), np.array(TEXTS)):
        if isinstance(given, tuple):
            continue  # two texts in a tuple are a pair
        found = explainer.attribute_tokens(given, "positive")
        assert torch.equal(found.values, expected.values)
        assert torch.equal(explainer.attribute(given, "positive"), explainer.attribute(batch, "positive"))
    single = explainer.attribute_tokens(TEXTS[0], "positive")
    torch.testing.assert_close(single.values[0], expected.values[0][: single.values.shape[1]], rtol=1e-4, atol=1e-6)
    assert found.tokens[0] == ["[CLS]", "An", "uns", "pe", "ak", "ably", "gripping", "film", "[SEP]"]
    assert expected.tokens[1] == ["[CLS]", "not", "good", "!", "[SEP]"]
    assert (found.method, found.class_names) == (method.__name__, ["negative", "positive"])


def test_a_pair_of_texts_is_one_input(text_model):
    model, tokenizer = text_model
    found = ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens(("a film", "not good"), 0)
    expected = ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens(
        tokenizer("a film", "not good", return_tensors="pt"), 0
    )
    assert torch.equal(found.values, expected.values)


def test_images_by_path_and_as_pictures(tmp_path):
    model = load_texture_model()
    processor = AutoImageProcessor.from_pretrained("examples/models/vit-textures")
    picture = striped_fish()
    picture.save(tmp_path / "fish.png")
    explainer = AttnLRP(model, processor=processor)
    pixels = processor([picture], return_tensors="pt")["pixel_values"]
    expected = explainer.attribute(pixels)
    for given in (picture, [picture], tmp_path / "fish.png", str(tmp_path / "fish.png"), np.asarray(picture)):
        torch.testing.assert_close(explainer.attribute(given), expected)
    result = explainer.attribute_tokens(picture)
    assert result.top(1).token.item().startswith("patch ")
    place = tuple(int(one) - 1 for one in result.top(1).token.item().removeprefix("patch ").split(", "))
    assert result.patches[0][place] == result.values[0][result.values[0].abs().argmax()]


def test_a_sound_by_path(tmp_path):
    model, extractor = load_sound_model()
    wave = (20_000 * np.sin(np.arange(16_000) / 5)).astype(np.int16)
    wavfile.write(tmp_path / "call.wav", 16_000, np.stack([wave, wave], 1))
    wavfile.write(tmp_path / "bytes.wav", 16_000, (wave / 256 + 128).astype(np.uint8))
    explainer = ShapleyGradAttention(model, processor=extractor)
    found, of_bytes = (explainer.attribute_tokens(tmp_path / name, 0) for name in ("call.wav", "bytes.wav"))
    assert found.origin.inputs.features.shape == (1, 8_000)
    torch.testing.assert_close(of_bytes.values, found.values, rtol=0.2, atol=0.05 * float(found.values.abs().max()))
    assert "data:image/png" in found.page()
    assert found.plot()._repr_png_()


def test_what_cannot_be_read_says_why(text_model):
    model, tokenizer = text_model
    with pytest.raises(TypeError, match="give the explainer tokenizer="):
        AttnLRP(model).attribute("a film")
    with pytest.raises(ValueError, match="makes all that the model takes"):
        AttnLRP(model, tokenizer=tokenizer).attribute("a film", additional_forward_args=torch.ones(1, 4))
    with pytest.raises(ValueError, match="there are no examples"):
        AttnLRP(model, tokenizer=tokenizer).attribute([])
    with pytest.raises(TypeError, match="needs processor="):
        AttnLRP(model).attribute({"text": ["a"], "images": []})


def test_one_input_of_several(text_model):
    model, tokenizer = text_model
    result = ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens(TEXTS, [1, 0])
    assert len(result) == 2
    assert [one.tokens[0] for one in result] == result.tokens
    assert torch.equal(result[-1].values, result.values[1:])
    assert [one.target_name(0) for one in result] == ["positive", "negative"]
    assert [float(one.scores) for one in result] == result.scores.tolist()
    assert [one.title(0) for one in result] == [result.title(0), result.title(1)]
    with pytest.raises(IndexError):
        result[2]
    assert torch.equal(pickle.loads(pickle.dumps(result))[1].values, result[1].values)


@pytest.mark.parametrize("per", [None, "layer", "head"])
def test_pieces_of_words_are_summed(text_model, per):
    model, tokenizer = text_model
    result = ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens(TEXTS, 1, per=per)
    words = result.words()
    assert words.tokens[0] == ["[CLS]", "An", "unspeakably", "gripping", "film", "[SEP]"]
    torch.testing.assert_close(words.values[0, ..., 2], result.values[0, ..., 2:6].sum(-1))
    torch.testing.assert_close(words.values.sum(-1), result.values.sum(-1))
    assert torch.equal(words.words().values, words.values)
    assert words.players.sum(1).tolist() == [4, 3]


def test_tables(text_model):
    model, tokenizer = text_model
    result = ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens(TEXTS, 1)
    frame = result.frame()
    assert frame.groupby("input").size().tolist() == [9, 5]
    assert frame[frame.input == 0].value.tolist() == pytest.approx(result.values[0].tolist())
    top = result.top(2)
    for example, own in top.groupby("input"):
        strongest = result.values[example].abs().topk(2)
        assert own.value.abs().tolist() == pytest.approx(strongest.values.tolist())
        assert own.position.tolist() == strongest.indices.tolist()
    apart = ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens(TEXTS, 1, per="head")
    assert list(apart.frame().columns[:4]) == ["input", "layer", "head", "position"]
    row = apart.frame().set_index(["input", "layer", "head", "position"]).loc[(1, 2, 3, 1)]
    assert row.value == pytest.approx(float(apart.values[1, 2, 3, 1]))
    mean = apart.frame().groupby(["input", "position"]).value.mean()
    assert mean.tolist() == pytest.approx(frame.value.tolist(), rel=1e-4, abs=1e-7)


def test_pages_and_figures(text_model, tmp_path):
    model, tokenizer = text_model
    hostile = ["<script>alert(1)</script> good", "good"]
    result = AttnLRP(model, tokenizer=tokenizer).attribute_tokens(hostile)
    assert_self_contained(result.page())
    for view, values in zip(views_of(result.page()), result.values, strict=True):
        own = view["methods"][0]["values"][0]
        assert own == pytest.approx(values[: len(own)].tolist(), rel=1e-3)
    assert result.to_html(tmp_path / "new" / "page.html").read_text(encoding="utf-8") == result.page()
    assert "<iframe" in result._repr_html_()
    figure = result.plot()
    assert figure._repr_png_().startswith(b"\x89PNG")
    bars = [bar.get_width() for axes in figure.axes for bar in axes.patches]
    playing = result.values[result.players].tolist()
    assert bars == pytest.approx(playing)


def test_of_layers_and_heads_the_mean_is_shown(text_model):
    model, tokenizer = text_model
    explainer = ShapleyGradAttention(model, tokenizer=tokenizer)
    apart, whole = explainer.attribute_tokens(TEXTS, 1, per="head"), explainer.attribute_tokens(TEXTS, 1)
    for one, other in zip(views_of(apart.page()), views_of(whole.page()), strict=True):
        assert one["methods"][0]["values"][0] == pytest.approx(other["methods"][0]["values"][0], rel=1e-2, abs=1e-6)


def test_an_image_is_shown_under_its_patches():
    result = ShapleyGradAttention(load_image_model()).attribute_tokens(digits()[2][:2])
    view = views_of(result.page())[1]
    assert view["picture"]["rows"] * view["picture"]["columns"] == 64
    values = torch.tensor(view["methods"][0]["values"][0])[view["picture"]["tokens"]].view(8, 8)
    torch.testing.assert_close(values, result.patches[1], rtol=1e-3, atol=1e-7)
    heat = result.plot().axes[1].images[-1].get_array()
    torch.testing.assert_close(torch.as_tensor(np.asarray(heat)), result.patches[0].double())


def test_parts_of_a_batch_know_all_of_it(text_model):
    model, tokenizer = text_model
    explainer = MaskTunnel(ShapleyGradAttention(model, tokenizer=tokenizer), tokenizer)
    whole, parts = (explainer.attribute_tokens(TEXTS, 1, internal_batch_size=size) for size in (None, 1))
    assert whole.tokens == parts.tokens
    assert parts.method == "MaskTunnel of ShapleyGradAttention"
    with pytest.raises(ValueError, match="do not know what they are of"):
        _ = replace(whole, origin=None).tokens


def test_layers_and_heads_that_were_chosen_keep_their_numbers(text_model):
    model, tokenizer = text_model
    explainer = ShapleyGradAttention(model, layers=[-1, 1], heads=[3, 1], tokenizer=tokenizer)
    frame = explainer.attribute_tokens("a gripping film", 1, per="head").frame()
    assert sorted({*zip(frame.layer, frame["head"], strict=True)}) == [(1, 1), (1, 3), (3, 1), (3, 3)]
    whole = ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens("a gripping film", 1, per="head")
    keys = ["layer", "head", "position"]
    expected = whole.frame().set_index(keys).value
    found = frame.set_index(keys).value
    assert found.tolist() == pytest.approx(expected[found.index].tolist())


def test_probabilities_are_what_the_configuration_says(text_model):
    model, tokenizer = text_model
    explainer = ShapleyGradAttention(model, tokenizer=tokenizer)
    batch = tokenizer("a gripping film", return_tensors="pt")
    logits = model(**batch).logits[0].detach()
    softmax, sigmoid = (f"{100 * float(one[1]):.0f} %" for one in (logits.softmax(-1), logits.sigmoid()))
    assert softmax != sigmoid
    assert explainer.attribute_tokens("a gripping film").title(0) == f"positive ({softmax})"
    model.config.problem_type = "multi_label_classification"
    try:
        assert explainer.attribute_tokens("a gripping film").title(0) == f"positive ({sigmoid})"
    finally:
        model.config.problem_type = None
    of_function = ShapleyGradAttention(lambda **inputs: model(**inputs).logits, tokenizer=tokenizer)
    assert of_function.attribute_tokens(batch, 1).title(0).startswith("1: score ")
    likely = ShapleyGradAttention(lambda **inputs: model(**inputs).logits.softmax(-1), tokenizer=tokenizer)
    assert likely.attribute_tokens(batch).title(0) == f"1 ({softmax})"


def test_padding_of_a_sound_is_shown_as_silence():
    model, extractor = load_sound_model()
    torch.manual_seed(0)
    waves = [np.random.default_rng(0).normal(size=size).astype(np.float32) for size in (8_000, 3_000)]
    extractor.return_attention_mask = True
    with pytest.warns(UserWarning, match="convolution"):
        result = ShapleyGradAttention(model, processor=extractor).attribute_tokens(waves, 0)
    padded = result[1]
    names = padded.frame().set_index("token").value
    for number, value in enumerate(padded.patches[0].tolist(), 1):
        assert names[f"patch {number}"] == pytest.approx(value)
    heat = padded.plot().axes[0].images[0].get_array()
    torch.testing.assert_close(torch.as_tensor(np.asarray(heat))[0], padded.patches[0].double())
    assert (padded.patches[0][-20:] == 0).all()


@pytest.mark.parametrize("scaled", [lambda pixels: pixels / 255, lambda pixels: pixels / 127.5 - 1])
@pytest.mark.parametrize("listed", [False, True])
def test_pixels_that_were_scaled_are_not_scaled_again(scaled, listed):
    processor = AutoImageProcessor.from_pretrained("examples/models/vit-textures")
    explainer = AttnLRP(load_texture_model(), processor=processor)
    pixels = scaled(np.asarray(striped_fish()).astype(np.float32))
    given = [torch.tensor(pixels).movedim(-1, 0)] if listed else pixels
    with pytest.raises(ValueError, match="would divide them by 255"):
        explainer.attribute(given)


def test_pictures_of_sixteen_bits_and_tables():
    processor = AutoImageProcessor.from_pretrained("examples/models/vit-textures")
    explainer = AttnLRP(load_texture_model(), processor=processor)
    grey = striped_fish().convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    torch.testing.assert_close(explainer.attribute(deep), explainer.attribute(grey))
    with pytest.raises(ValueError, match="convert it to 8 bits"):
        explainer.attribute(grey.convert("F"))
    with pytest.raises(TypeError, match="give one of them, table"):
        explainer.attribute(pd.DataFrame({"text": ["a"]}))


def test_an_element_of_an_array_of_texts_is_a_text(text_model):
    model, tokenizer = text_model
    explainer = ShapleyGradAttention(model, tokenizer=tokenizer)
    assert explainer.attribute_tokens(np.array(TEXTS)[1]).tokens == explainer.attribute_tokens(TEXTS[1]).tokens
    result = explainer.attribute_tokens(TEXTS)
    assert result[np.int64(1)].tokens == result[1].tokens
