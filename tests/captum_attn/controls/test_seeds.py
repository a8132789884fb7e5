"""Attention of models from other seeds, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import FAMILIES, image_batch, text_batch
from helpers.small_models import load_image_model, load_text_model
from models import left_untouched
from replaced_attention import logits_with
from scipy.spatial.distance import jensenshannon

from captum_attn.controls import seed_variance


def seeds_of(name, count):
    models = [FAMILIES[name].build() for _ in range(count)]
    generator = torch.Generator().manual_seed(1)
    for model in models[1:]:
        for weight in model.parameters():
            weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    return models


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_everything_is_what_a_loop_over_heads_and_rows_finds(name):
    models, inputs = seeds_of(name, 2), text_batch()
    frame = seed_variance(models, inputs, batch_size=2, show_progress=False).frame()
    logits, attention = zip(*(logits_with(model, inputs, lambda call, a: a) for model in models), strict=True)
    real = inputs["attention_mask"].bool()
    found = frame.set_index(["example", "layer", "head"])
    for example in range(3):
        places = real[example].nonzero().flatten().tolist()
        read = places[-1] if name == "gpt2" else 0
        rows = [places[1:], places[1:], [read]] if name == "gpt2" else [places, places, [read]]
        of_layers = []
        for layer in range(3):
            first, second = (a[layer][example].double().numpy() for a in attention)
            each = jensenshannon(first, second, axis=-1)[:, rows[layer]] ** 2
            for head in range(4):
                assert found.divergence[example, layer, head] == pytest.approx(each[head].mean(), abs=1e-5)
            readout = jensenshannon(first, second, axis=-1)[:, read] ** 2
            assert found.readout[example, layer, "all"] == pytest.approx(readout.mean(), abs=1e-5)
            of_layers.append(each.mean())
        assert found.divergence[example, "all", "all"] == pytest.approx(np.mean(of_layers), abs=1e-5)
        before, after = (output[example].softmax(-1) for output in logits)
        assert found.tvd[example, "all", "all"] == pytest.approx((before - after).abs().sum().item() / 2, abs=1e-5)
        assert found.changed[example, "all", "all"] == float(before.argmax() != after.argmax())


def test_of_several_models_all_pairs_are_compared_and_the_table_averages_them_first():
    models, inputs = dict(zip("abc", seeds_of("bert", 3), strict=True)), text_batch()
    result = seed_variance(models, inputs, show_progress=False)
    frame = result.frame()
    assert set(zip(frame["first"], frame["second"], strict=True)) == {("a", "b"), ("a", "c"), ("b", "c")}
    together = frame[frame.layer == "all"]
    by_example = together.groupby("example").divergence.mean()
    row = result.table().query("layer == 'all' and measure == 'divergence'").iloc[0]
    assert row["mean"] == pytest.approx(by_example.mean())
    assert row.standard_error == pytest.approx(by_example.std() / np.sqrt(3))
    assert row.n == 3
    assert result.models == ["a", "b", "c"]


def test_a_model_is_not_apart_from_itself():
    model = FAMILIES["vit"].build()
    frame = seed_variance([model, model], image_batch(), show_progress=False).frame()
    assert frame.divergence.abs().max() < 1e-6
    assert frame.tvd.max() < 1e-6


def test_models_are_left_as_they_were_under_inference_mode_too():
    models = seeds_of("vit", 2)
    expected = seed_variance(models, image_batch(), show_progress=False).frame()
    with left_untouched(models[0]), left_untouched(models[1]), torch.inference_mode():
        assert seed_variance(models, image_batch(), show_progress=False).frame().equals(expected)


def test_bad_input_is_named():
    model, tokenizer = load_text_model()
    with pytest.raises(ValueError, match="models must be at least two, trained from different seeds, got 1"):
        seed_variance([model], ["a film"], tokenizer=tokenizer)
    with pytest.raises(TypeError, match="models must be a sequence or a mapping of models, got BertForSequence"):
        seed_variance(model, ["a film"], tokenizer=tokenizer)
    other = FAMILIES["bert"].build()
    with pytest.raises(ValueError, match=r"one architecture and read the same tokens, got .*'1': \(3, 4, 9, 3\)"):
        seed_variance([model, other], text_batch(), show_progress=False)
    with pytest.raises(TypeError, match="model must be a module or a function, got str"):
        seed_variance([model, "other"], ["a film"], tokenizer=tokenizer)
    with pytest.raises(ValueError, match="there is no data"):
        seed_variance([load_image_model()] * 2, torch.empty(0, 1, 8, 8))
