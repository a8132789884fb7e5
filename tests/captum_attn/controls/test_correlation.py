"""Correlations of attention and importance against plain loops with attention returned by eager code."""

from __future__ import annotations

import math

import pytest
import torch
from families import FAMILIES, image_batch, text_batch
from helpers.small_models import digits, load_image_model, load_text_model
from models import left_untouched
from transformers import AutoModelForSequenceClassification

from captum_attn.controls import attention_correlation

TEXTS = ["a gripping , funny film", "dull", "not good at all , and far too long", "the cast is a delight"]


@pytest.fixture(scope="module")
def text_model():
    return load_text_model()


def kendall(first, second):
    """τ_b by counting pairs."""
    agree = disagree = tied_first = tied_second = 0
    for i in range(len(first)):
        for j in range(i):
            sign = float((first[i] - first[j]).sign()), float((second[i] - second[j]).sign())
            agree += sign[0] * sign[1] > 0
            disagree += sign[0] * sign[1] < 0
            tied_first += sign[0] == 0
            tied_second += sign[1] == 0
    pairs = len(first) * (len(first) - 1) // 2
    whole = math.sqrt((pairs - tied_first) * (pairs - tied_second))
    return (agree - disagree) / whole if whole else math.nan


def loop(model, tokenizer, text):
    """Attention (L, H, N, N) and the two importances of a text's words, by eager code and one token at a time."""
    eager = AutoModelForSequenceClassification.from_pretrained(model.name_or_path, attn_implementation="eager").float()
    inputs = tokenizer(text, return_tensors="pt")
    words = [place for place, i in enumerate(inputs["input_ids"][0].tolist()) if i not in tokenizer.all_special_ids]
    embeddings = eager.get_input_embeddings()(inputs["input_ids"]).detach().requires_grad_()
    mask = inputs["attention_mask"]
    output = eager(inputs_embeds=embeddings, attention_mask=mask, output_attentions=True)
    whole = output.logits[0].softmax(-1)
    gradient = torch.autograd.grad(output.logits[0, whole.argmax()], embeddings)[0]
    moved = []
    for word in words:
        ids = inputs["input_ids"].clone()
        ids[0, word] = tokenizer.mask_token_id
        with torch.no_grad():
            moved.append((eager(input_ids=ids, attention_mask=mask).logits[0].softmax(-1) - whole).abs().sum() / 2)
    attention = torch.cat(output.attentions).detach()
    return attention, words, (gradient * embeddings).sum(-1)[0, words].abs().detach(), torch.stack(moved).detach()


@pytest.mark.parametrize("rows", ["readout", "incoming"])
def test_everything_is_what_a_loop_over_single_texts_finds(text_model, rows):
    model, tokenizer = text_model
    result = attention_correlation(model, TEXTS, tokenizer=tokenizer, rows=rows, batch_size=3, show_progress=False)
    frame = result.frame().set_index(["pair", "layer", "head"]).sort_index()
    for example, text in enumerate(TEXTS):
        attention, words, gradient, moved = loop(model, tokenizer, text)
        given = (attention[:, :, 0] if rows == "readout" else attention.mean(2))[:, :, words]

        def found(*place, example=example):
            rows = frame.loc[[place]]
            return rows[rows.example == example].iloc[0]

        reference = found("gradient ~ leave-one-out", "none", "mean")
        assert reference.tau == pytest.approx(kendall(gradient, moved), abs=1e-6, nan_ok=True)
        assert reference.tokens == len(words)
        for name, importance in (("gradient", gradient), ("leave-one-out", moved)):
            pair = f"attention ~ {name}"
            for layer, head in ((0, 0), (1, 3), (3, 2)):
                expected = kendall(given[layer, head], importance)
                assert found(pair, layer, head).tau == pytest.approx(expected, abs=1e-6, nan_ok=True)
            expected = kendall(given[2].mean(0), importance)
            assert found(pair, 2, "mean").tau == pytest.approx(expected, abs=1e-6, nan_ok=True)
            expected = kendall(given.mean((0, 1)), importance)
            assert found(pair, "mean", "mean").tau == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_p_values_of_few_tokens_are_those_of_all_orders(text_model):
    """Of 4 tokens in the same order, 2 of the 24 orders are as far from independence."""
    model, tokenizer = text_model
    frame = attention_correlation(model, ["a good fun film"], tokenizer=tokenizer, show_progress=False).frame()
    agreeing = frame[frame.tau.abs() == 1]
    assert len(agreeing)
    assert agreeing.p_value.to_numpy() == pytest.approx(2 / 24)
    assert (frame.significant == (frame.p_value < 0.05)).all()


def test_one_token_has_no_ranking(text_model):
    model, tokenizer = text_model
    result = attention_correlation(model, TEXTS, tokenizer=tokenizer, show_progress=False)
    frame = result.frame()
    alone = frame[frame.example == 1]
    assert (alone.tokens == 1).all()
    assert alone.tau.isna().all()
    assert alone.significant.isna().all()
    assert (result.table().n == 3).all()


def test_images_by_patches_of_one_pixel():
    model, images = load_image_model(), digits()[2][:2]
    frame = attention_correlation(model, images, show_progress=False).frame()
    assert (frame.tokens == 64).all()
    for example, image in enumerate(images):
        pixels = image[None].clone().requires_grad_()
        logits = model(pixel_values=pixels).logits[0]
        whole = logits.softmax(-1).detach()
        gradient = (torch.autograd.grad(logits.max(), pixels)[0] * pixels).abs().flatten().detach()
        changed = image.expand(64, -1, -1, -1).clone()
        changed.view(64, 64)[torch.arange(64), torch.arange(64)] = image.mean()
        with torch.no_grad():
            moved = (model(pixel_values=changed).logits.softmax(-1) - whole).abs().sum(-1) / 2
        found = frame[(frame.example == example) & (frame.layer == "none")].tau.item()
        assert found == pytest.approx(kendall(gradient, moved), abs=0.02)  # some tokens are almost tied


@pytest.mark.parametrize("name", ["gpt2", "llama", "modernbert"])
def test_other_families_too(name, text_model):
    model = FAMILIES[name].build()
    with left_untouched(model):
        frame = attention_correlation(model, text_batch("left"), replacement=4, show_progress=False).frame()
    assert frame.tau.abs().max() <= 1


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_decoders_that_read_padding_where_there_are_embeddings_are_refused(name):
    with pytest.raises(ValueError, match="Pad on the left"):
        attention_correlation(FAMILIES[name].build(), text_batch(), replacement=4, show_progress=False)


def test_models_that_take_no_embeddings_are_refused():
    with pytest.raises(ValueError, match="takes no inputs_embeds"):
        attention_correlation(FAMILIES["t5"].build(), text_batch(), replacement=4, show_progress=False)


def test_texts_of_one_word_have_nothing_to_rank(text_model):
    model, tokenizer = text_model
    found = attention_correlation(model, ["dull", "good"], tokenizer=tokenizer, show_progress=False)
    assert "over 0 of 2 examples" in found.caption
    with pytest.raises(ValueError, match="nothing to plot"):
        found.plot()


def test_inference_mode_changes_nothing():
    model = FAMILIES["vit"].build()
    expected = attention_correlation(model, image_batch(), show_progress=False).frame()
    with torch.inference_mode():
        assert attention_correlation(model, image_batch(), show_progress=False).frame().equals(expected)


def test_bad_input_is_named(text_model):
    model, tokenizer = text_model
    with pytest.raises(ValueError, match="rows must be 'readout' or 'incoming', got 'cls'"):
        attention_correlation(model, TEXTS, tokenizer=tokenizer, rows="cls")
    with pytest.raises(ValueError, match="nothing says what replaces a token"):
        attention_correlation(model, text_batch(), show_progress=False)
    with pytest.raises(ValueError, match="replacement must be a token id"):
        attention_correlation(model, TEXTS, tokenizer=tokenizer, replacement="median")
