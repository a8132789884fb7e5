"""Uniform and permuted attention against textbook attention with the same probabilities."""

from __future__ import annotations

import itertools
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import FAMILIES, batch, image_batch, text_batch
from helpers.small_models import load_text_model
from models import left_untouched
from replaced_attention import logits_with
from scipy.spatial.distance import jensenshannon

from captum_attn.controls import effects, permuted_attention, total_variation, uniform_attention

TEXTS = ["a gripping , funny film", "dull", "not good at all , and far too long", "the cast is a delight"]


def keys_of(inputs, causal):
    """bool (B, 1, N, N): what may be attended to, spelled out in loops."""
    real = inputs["attention_mask"].bool()
    keys = torch.zeros(len(real), 1, *real.shape[1:] * 2, dtype=torch.bool)
    for example, query, key in itertools.product(range(len(real)), range(real.shape[1]), range(real.shape[1])):
        keys[example, 0, query, key] = real[example, query] and real[example, key] and (key <= query or not causal)
    return keys


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_uniform_attention_is_what_textbook_attention_makes_of_it(name, padding):
    model, inputs = FAMILIES[name].build(), text_batch(padding)
    result = uniform_attention(model, inputs, per="head", batch_size=2, show_progress=False)
    keys = keys_of(inputs, name != "bert")
    even = keys / keys.sum(-1, keepdim=True).clamp(min=1)
    whole = logits_with(model, inputs, lambda call, attention: attention)[0].softmax(-1)
    places = [(0, "all"), (2, "all"), ("all", "all"), (1, 0), (2, 3)]
    for layer, head in places:
        heads = torch.ones(4, 1, 1, dtype=torch.bool) if head == "all" else torch.arange(4).view(4, 1, 1) == head

        def change(call, attention, layer=layer, heads=heads):
            concerned = heads & keys.any(-1, keepdim=True) & (layer in ("all", call))
            return torch.where(concerned, even, attention)

        after = logits_with(model, inputs, change)[0].softmax(-1)
        rows = result.frame().query("layer == @layer and head == @head")
        assert rows.example.tolist() == [0, 1, 2]
        assert rows.tvd.tolist() == pytest.approx(total_variation(whole, after).tolist(), abs=1e-5)
        assert rows.changed.tolist() == (whole.argmax(-1) != after.argmax(-1)).double().tolist()
    assert len(result.frame()) == 3 * (3 + 1 + 3 * 4)


def test_labels_give_the_accuracy_before_and_after():
    model, inputs = FAMILIES["bert"].build(), text_batch()
    with torch.no_grad():
        predicted = model(**inputs).logits.argmax(-1)
    labels = [int(predicted[0]), (int(predicted[1]) + 1) % 3, int(predicted[2])]
    result = uniform_attention(model, inputs, labels=labels, show_progress=False)
    frame = result.frame()
    assert frame[frame.layer == "none"].correct.tolist() == [1, 0, 1]
    keys = keys_of(inputs, causal=False)
    even = keys / keys.sum(-1, keepdim=True).clamp(min=1)
    after = logits_with(model, inputs, lambda _, a: torch.where(keys.any(-1, keepdim=True), even, a))[0].argmax(-1)
    expected = [float(after[place] == label) for place, label in enumerate(labels)]
    assert frame[frame.layer == "all"].correct.tolist() == expected
    assert "correct" in result.to_markdown()
    assert "correct" not in uniform_attention(model, inputs, show_progress=False).frame()


def test_permuted_attention_of_two_keys_is_kept_or_turned_round():
    """The second of a decoder's two tokens has two keys: each head keeps its weights or swaps them."""
    model = FAMILIES["gpt2"].build()
    inputs = {"input_ids": torch.tensor([[7, 9]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
    whole = logits_with(model, inputs, lambda call, attention: attention)[0].softmax(-1)
    possible = []
    for swapped in itertools.product([False, True], repeat=4):

        def change(call, attention, swapped=swapped):
            changed = attention.clone()
            for head in range(4):
                changed[0, head, 1] = attention[0, head, 1].flip(-1) if swapped[head] else attention[0, head, 1]
            return changed if call == 0 else attention

        possible.append(total_variation(whole, logits_with(model, inputs, change)[0].softmax(-1)).item())
    found = [
        permuted_attention(model, inputs, permutations=1, seed=seed, show_progress=False).frame().tvd[0]
        for seed in range(8)
    ]
    assert all(min(abs(tvd - value) for value in possible) < 1e-5 for tvd in found)
    assert len({round(tvd, 6) for tvd in found}) > 3


def test_effects_of_permutations_are_medians_over_them_and_repeat():
    model, tokenizer = load_text_model()
    options = {"tokenizer": tokenizer, "show_progress": False}
    one = permuted_attention(model, TEXTS, permutations=3, seed=3, **options).frame()
    again = permuted_attention(model, TEXTS, permutations=3, seed=3, **options).frame()
    other = permuted_attention(model, TEXTS, permutations=3, seed=4, **options).frame()
    assert one.equals(again)
    assert not one.equals(other)
    assert set((one.changed * 3).round(6)) <= {0.0, 1.0, 2.0, 3.0}


def test_results_do_not_depend_on_the_batches():
    model, tokenizer = load_text_model()
    for control in (partial(permuted_attention, permutations=2), uniform_attention):
        frames = [
            control(model, TEXTS, tokenizer=tokenizer, batch_size=size, show_progress=False).frame() for size in (1, 4)
        ]
        assert frames[0].example.tolist() == sorted(frames[0].example)
        np.testing.assert_allclose(frames[0].tvd, frames[1].tvd, atol=1e-5)


@pytest.mark.parametrize("name", ["modernbert", "deberta_v2", "gemma2", "t5", "vit"])
def test_other_families_too(name):
    family = FAMILIES[name]
    model, inputs = family.build(), batch(family)
    with left_untouched(model):
        for control in (uniform_attention, partial(permuted_attention, permutations=2)):
            frame = control(model, inputs, show_progress=False).frame()
            assert frame.tvd.between(0, 1).all()
            assert frame.tvd.max() > 1e-3


def test_inference_mode_changes_nothing():
    model, inputs = FAMILIES["vit"].build(), image_batch()
    expected = permuted_attention(model, inputs, show_progress=False).frame()
    with torch.inference_mode():
        found = permuted_attention(model, image_batch(), show_progress=False).frame()
    assert found.equals(expected)


def test_bad_input_is_named():
    model, tokenizer = load_text_model()
    with pytest.raises(ValueError, match="per must be 'layer' or 'head', got 'token'"):
        uniform_attention(model, TEXTS, tokenizer=tokenizer, per="token")
    with pytest.raises(ValueError, match="permutations must be at least 1, got 0"):
        permuted_attention(model, TEXTS, tokenizer=tokenizer, permutations=0)
    with pytest.raises(ValueError, match="2 labels for 4 examples"):
        uniform_attention(model, TEXTS, tokenizer=tokenizer, labels=[0, 1])
    with pytest.raises(ValueError, match="texts need tokenizer="):
        uniform_attention(model, TEXTS)
    with pytest.raises(TypeError, match="model must be a module or a function"):
        uniform_attention("bert", TEXTS, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="there is no data"):
        permuted_attention(model, [], tokenizer=tokenizer)


def test_labels_of_no_class_are_refused():
    with pytest.raises(ValueError, match="label 5 of example 0 is out of range: the model has 3 classes"):
        uniform_attention(FAMILIES["bert"].build(), text_batch(), labels=[5, 1, 0], show_progress=False)


def test_the_effect_of_several_draws_is_their_median():
    before = torch.tensor([[0.5, 0.5]])
    after = torch.tensor([[[0.5, 0.5]], [[0.6, 0.4]], [[1.0, 0.0]]])
    observed = SimpleNamespace(whole=SimpleNamespace(probabilities=before), examples=[7])
    (row,) = effects._rows(observed, None, effects.Place(0, "all"), after)
    assert row["tvd"] == pytest.approx(0.1)
    assert row["divergence"] == pytest.approx(jensenshannon([0.5, 0.5], [0.6, 0.4]) ** 2, abs=1e-6)
    assert row["example"] == 7
