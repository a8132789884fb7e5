"""Attributions averaged over masked copies, against a plain loop over single inputs."""

from __future__ import annotations

import pickle

import pytest
import torch
from families import FAMILIES, batch, image_batch, text_batch
from helpers.small_models import digits, load_image_model, load_text_model
from models import left_untouched
from transformers import BertForTokenClassification

from captum_attn import MaskTunnel, ShapleyAttention, ShapleyGradAttention

TEXTS = ["a gripping , funny film", "not good at all , and far too long to sit through", "dull", "no plot"]


@pytest.fixture(scope="module")
def text_model():
    return load_text_model()


def by_hand(model, tokenizer, text, target, parts, rounds, seed=0, **options):
    """Mean values of the tokens over the copies that have them: one text, one copy at a time."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    count = ids.shape[1] - 2
    explainer = ShapleyGradAttention(model, tokenizer=tokenizer, **options)
    total, copies = torch.zeros(ids.shape[1]), torch.zeros(ids.shape[1])
    for number in range(rounds):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(1_000_003 * seed + number))
        for part in range(parts):
            absent = [1 + place for place in range(count) if count > 1 and order[place] * parts // count == part]
            masked = ids.clone()
            masked[0, absent] = tokenizer.mask_token_id
            players = torch.ones_like(ids, dtype=torch.bool)
            players[0, [0, -1, *absent]] = False
            total += explainer.attribute(masked, target=target, players=players)[0]
            copies += players[0]
    return total / copies.clamp(min=1)


@pytest.mark.parametrize("options", [{}, {"game": "cls", "sign": "rectified"}, {"game": "mutual", "layers": [-1]}])
@pytest.mark.parametrize(("parts", "rounds", "seed"), [(2, 1, 0), (3, 2, 5)])
def test_values_are_those_of_a_loop(text_model, parts, rounds, seed, options):
    model, tokenizer = text_model
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    tunnel = MaskTunnel(
        ShapleyGradAttention(model, tokenizer=tokenizer, **options), tokenizer, parts=parts, rounds=rounds, seed=seed
    )
    found = tunnel.attribute(inputs, target=1)
    for row, text in zip(found, TEXTS, strict=True):
        expected = by_hand(model, tokenizer, text, 1, parts, rounds, seed, **options)
        torch.testing.assert_close(row[: len(expected)], expected, rtol=1e-4, atol=1e-7)
        assert not row[len(expected) :].any()


def test_the_predicted_class_is_that_of_the_whole_input(text_model):
    model, tokenizer = text_model
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    tunnel = MaskTunnel(ShapleyGradAttention(model, tokenizer=tokenizer), tokenizer, rounds=2)
    result = tunnel.attribute_tokens(inputs)
    with torch.no_grad():
        logits = model(**inputs).logits
    torch.testing.assert_close(result.output, logits)
    assert torch.equal(result.targets.squeeze(1), logits.argmax(-1))
    torch.testing.assert_close(result.scores, logits.amax(-1))
    torch.testing.assert_close(result.values, tunnel.attribute(inputs, target=logits.argmax(-1)))


def test_one_token_alone_is_never_taken_away(text_model):
    model, tokenizer = text_model
    explainer = ShapleyGradAttention(model, tokenizer=tokenizer)
    inputs = tokenizer("dull", return_tensors="pt")
    torch.testing.assert_close(MaskTunnel(explainer, tokenizer).attribute(inputs), explainer.attribute(inputs))


def test_batches_and_seeds(text_model):
    model, tokenizer = text_model
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    explainer = ShapleyGradAttention(model, tokenizer=tokenizer)
    whole = MaskTunnel(explainer, tokenizer).attribute(inputs)
    torch.testing.assert_close(
        MaskTunnel(explainer, tokenizer).attribute(inputs, internal_batch_size=1), whole, rtol=1e-4, atol=1e-7
    )
    other = MaskTunnel(explainer, tokenizer, seed=1).attribute(inputs)
    assert not torch.allclose(other, whole)


@pytest.mark.parametrize("replacement", [None, "zeros"])
def test_images_in_the_shape_of_their_pixels(replacement):
    model, images = load_image_model(), digits()[2][:3]
    tunnel = MaskTunnel(ShapleyGradAttention(model), replacement=replacement)
    pixels, tokens = tunnel.attribute(images), tunnel.attribute_tokens(images)
    assert pixels.shape == images.shape
    torch.testing.assert_close(pixels.sum((1, 2, 3)), tokens.values.sum(-1))
    assert tokens.patches.shape[0] == 3
    (in_a_tuple,) = tunnel.attribute((images,))
    torch.testing.assert_close(in_a_tuple, pixels)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_and_the_model_is_left_as_it_was(name):
    family = FAMILIES[name]
    model, inputs = family.build().train(), batch(family)
    tunnel = MaskTunnel(ShapleyGradAttention(model), replacement=None if family.vision else 4)
    with left_untouched(model):
        result = tunnel.attribute_tokens(inputs)
    assert result.values.isfinite().all()
    assert result.values[result.players].any()
    assert not result.values[~result.players].any()


def test_a_token_and_its_class_as_a_target():
    model = BertForTokenClassification(FAMILIES["bert"].config()).eval()
    tunnel = MaskTunnel(ShapleyGradAttention(model), replacement=4)
    result = tunnel.attribute_tokens(text_batch(), target=(-1, 2))
    assert result.targets.tolist() == [[8, 2], [5, 2], [3, 2]]


def test_attention_alone_needs_no_target():
    model = BertForTokenClassification(FAMILIES["bert"].config()).eval()
    assert MaskTunnel(ShapleyAttention(model), replacement=4).attribute(text_batch()).shape == (3, 9)


def test_attention_alone_can_be_averaged_too(text_model):
    model, tokenizer = text_model
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert (
        MaskTunnel(ShapleyAttention(model, tokenizer=tokenizer), tokenizer).attribute(inputs).shape
        == inputs["input_ids"].shape
    )


def test_it_is_more_faithful_on_made_up_reviews(text_model):
    from helpers.reviews import made_up_reviews

    from captum_attn.metrics import evaluate

    model, tokenizer = text_model
    explainer = ShapleyGradAttention(model, tokenizer=tokenizer)
    methods = {"whole": explainer, "copies": MaskTunnel(explainer, tokenizer, rounds=3)}
    result = evaluate(model, made_up_reviews()[:80], methods, tokenizer=tokenizer, show_progress=False)
    each = (
        result.scores(["comprehensiveness"])
        .query("ranking == 'scores'")
        .pivot(index="example", columns="method", values="value")
    )
    gain = each["copies"] - each["whole"]
    assert gain.mean() > 2 * gain.sem()


def test_bad_arguments_are_refused(text_model):
    model, tokenizer = text_model
    explainer = ShapleyGradAttention(model, tokenizer=tokenizer)
    for options in ({"parts": 1}, {"rounds": 0}, {"parts": 2.5}):
        with pytest.raises(ValueError, match="parts must be at least 2 and rounds at least 1"):
            MaskTunnel(explainer, tokenizer, **options)
    with pytest.raises(TypeError, match="attribution of this package, got BertForSequenceClassification"):
        MaskTunnel(model)
    with pytest.raises(ValueError, match="token id, or 'mean' or 'zeros'"):
        MaskTunnel(explainer, replacement="median")
    with pytest.raises(ValueError, match="give tokenizer=, or replacement="):
        MaskTunnel(explainer).attribute(tokenizer("good", return_tensors="pt"))
    embeddings = model.get_input_embeddings()(tokenizer("good", return_tensors="pt")["input_ids"]).detach()
    with pytest.raises(TypeError, match="cannot replace tokens of embeddings"):
        MaskTunnel(explainer, replacement=4).attribute(embeddings)
    with pytest.raises(IndexError, match="out of range"):
        MaskTunnel(explainer, tokenizer).attribute(tokenizer("good", return_tensors="pt"), target=7)


def test_it_pickles_with_its_explainer(text_model):
    model, tokenizer = text_model
    tunnel = MaskTunnel(ShapleyGradAttention(model, tokenizer=tokenizer), tokenizer)
    inputs = tokenizer("a good film", return_tensors="pt")
    copy = pickle.loads(pickle.dumps(tunnel))
    torch.testing.assert_close(copy.attribute(inputs), tunnel.attribute(inputs))


def test_under_inference_mode():
    model, inputs = FAMILIES["vit"].build(), image_batch()
    expected = MaskTunnel(ShapleyGradAttention(model)).attribute(inputs)
    with torch.inference_mode():
        torch.testing.assert_close(MaskTunnel(ShapleyGradAttention(model)).attribute(inputs), expected)
