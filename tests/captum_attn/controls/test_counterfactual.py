"""Counterfactual attention: what is found is checked by textbook attention, and where nothing can be, nothing is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from families import FAMILIES, batch, text_batch
from helpers.small_models import digits, load_image_model, load_text_model
from models import left_untouched
from replaced_attention import logits_with
from scipy.spatial.distance import jensenshannon
from torch import nn

from captum_attn.controls import counterfactual_attention, seed_variance
from captum_attn.controls.observed_examples import ObservedExamples
from captum_attn.controls.search import SearchSettings, farthest_attention

TEXTS = ["a gripping , funny film", "dull", "not good at all , and far too long", "the cast is a delight"]


@pytest.fixture(scope="module")
def text_model():
    return load_text_model()


def run(text_model, data=TEXTS, **options):
    model, tokenizer = text_model
    return counterfactual_attention(model, data, tokenizer=tokenizer, show_progress=False, **{"steps": 25, **options})


def searched(model, inputs, layers, heads=None, steps=15, seed=0):
    """A batch, its attention and the farthest one, with the settings that a user would have."""
    observed = ObservedExamples(model, inputs, None, batch_size=3, max_length=None).observe([0, 1, 2])
    own = observed.attention()
    settings = SearchSettings(layers, heads, 0.01, steps, 0.3, seed)
    return observed, own, farthest_attention(observed, own, settings, tick=lambda: None)


@pytest.mark.parametrize("layers", [[0, 1, 2], [1], [2]])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit"])
def test_textbook_attention_with_what_was_found_predicts_the_same(name, layers):
    family = FAMILIES[name]
    model, inputs = family.build(), batch(family)
    observed, _, found = searched(model, inputs, layers)
    logits, _ = logits_with(model, inputs, lambda call, attention: found.attention.get(call, attention))
    whole, _ = logits_with(model, inputs, lambda call, attention: attention)
    torch.testing.assert_close(found.probabilities, logits.softmax(-1), rtol=1e-4, atol=1e-5)
    assert ((logits.softmax(-1) - whole.softmax(-1)).abs().sum(-1) / 2).max() <= 0.0101
    assert torch.equal(logits.argmax(-1), whole.argmax(-1))
    for attention in found.attention.values():
        torch.testing.assert_close(attention.sum(-1)[observed.real[:, None].expand(-1, 4, -1)], torch.ones(1).expand(
            int(observed.real.sum()) * 4), rtol=1e-5, atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_only_rows_that_count_and_chosen_heads_are_changed(name):
    model, inputs = FAMILIES[name].build(), text_batch()
    _, own, found = searched(model, inputs, [2], heads=[1, -1], steps=100)
    before, after = own[2].probabilities, found.attention[2]
    changed = (before - after).abs().amax(-1) > 1e-4
    counted = own[2].rows.expand(-1, 4, -1) & torch.tensor([False, True, False, True]).view(1, 4, 1)
    assert torch.equal(changed, counted)
    assert not after[~own[2].keys.expand(-1, 4, -1, -1) & counted[..., None]].any()


def test_the_frame_is_what_scipy_says_of_the_attention_found(text_model):
    model = FAMILIES["bert"].build()
    inputs = text_batch()
    result = counterfactual_attention(model, inputs, steps=15, show_progress=False, layers=[0, -1])
    observed, own, found = searched(model, inputs, [0, 2])
    frame = result.frame().set_index(["example", "layer", "head"])
    for example in range(3):
        of_layers = []
        for layer, other in found.attention.items():
            rows = [q for q in range(9) if own[layer].rows[example, 0, q]]
            by_head = []
            for head in range(4):
                pairs = [(own[layer].probabilities[example, head, q], other[example, head, q]) for q in rows]
                each = [jensenshannon(p.double().numpy(), q.double().numpy()) ** 2 for p, q in pairs]
                assert frame.divergence[example, layer, head] == pytest.approx(np.mean(each), abs=1e-5)
                assert frame.readout[example, layer, head] == pytest.approx(each[0], abs=1e-5)
                by_head.append(np.mean(each))
            assert frame.divergence[example, layer, "all"] == pytest.approx(np.mean(by_head), abs=1e-5)
            of_layers.append(np.mean(by_head))
        assert frame.divergence[example, "all", "all"] == pytest.approx(np.mean(of_layers), abs=1e-5)
        before, after = observed.whole.probabilities[example], found.probabilities[example]
        assert frame.tvd[example, "all", "all"] == pytest.approx((before - after).abs().sum().item() / 2, abs=1e-6)
        change = (after - before)[before.argmax()].item()
        assert frame.change[example, "all", "all"] == pytest.approx(change, abs=1e-6)


def test_on_the_trained_model_it_is_found_and_what_is_kept_of_it_is_the_readouts(text_model):
    result = run(text_model)
    frame = result.frame()
    together = frame[frame.layer == "all"].set_index("example")
    assert (together.tvd <= 0.01).all()
    assert (together.divergence > 0.2).all()
    assert result.share_found == together.found.mean() == 1
    for example, shown in enumerate(result.readouts):
        assert shown.own.shape == shown.counterfactual.shape == (4, 4, len(shown.tokens))
        apart = jensenshannon(shown.own.double().numpy(), shown.counterfactual.double().numpy(), axis=-1) ** 2
        assert together.readout[example] == pytest.approx(apart.mean(), abs=1e-5)
    assert result.readouts[1].tokens == ["[CLS]", "dull", "[SEP]"]


class OneHead(nn.Module):
    """Reads values by one attention from the first token: the output is the weight of each value, and nothing else."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, pixel_values):
        states = pixel_values.flatten(2)[:, None, 0]
        values = self.values.expand(len(states), 1, -1, -1)
        read = nn.functional.scaled_dot_product_attention(states[..., None], states[..., None], values)
        return read[:, 0, 0]


def pixels(model, scores):
    return torch.tensor(scores).view(1, 1, 1, -1)


def test_where_the_output_is_the_attention_nothing_is_found():
    """Two keys of opposite values: the probabilities tell the attention, which can only move as they do."""
    model = OneHead([[3.0, -3.0], [-3.0, 3.0]]).eval()
    images = pixels(model, [1.0, 0.5])
    result = counterfactual_attention(model, images, steps=60, show_progress=False)
    row = result.frame().query("layer == 'all'").iloc[0]
    weight = torch.tensor([1.0, 0.5]).softmax(-1)[0].item()  # of the query 1.0

    def probability(weight):
        return 1 / (1 + math.exp(-6 * (2 * weight - 1)))

    def divergence(other):
        return jensenshannon([weight, 1 - weight], [other, 1 - other]) ** 2

    moves = np.linspace(0, 1, 100_001)
    possible = [m for m in moves if abs(probability(m) - probability(weight)) <= 0.01]
    most = max(divergence(m) for m in (possible[0], possible[-1]))
    assert result.share_found == 0
    assert row.divergence <= most * 1.01
    assert abs(row.change) <= 0.01


def test_where_the_values_are_equal_any_attention_is_as_good():
    """Three keys of the same value: the farthest attention from an almost sharp one is on another key."""
    model = OneHead([[3.0, -3.0]] * 3).eval()
    images = pixels(model, [9.0, 0.0, 0.0])
    result = counterfactual_attention(model, images, steps=60, show_progress=False)
    row = result.frame().query("layer == 'all'").iloc[0]
    assert row.divergence > 0.99 * math.log(2)
    assert row.change == pytest.approx(0, abs=1e-6)
    assert result.share_found == 1


def test_without_a_valid_step_the_models_own_attention_is_kept():
    model, inputs = FAMILIES["bert"].build(), text_batch()
    result = counterfactual_attention(model, inputs, epsilon=1e-9, steps=2, show_progress=False)
    together = result.frame().query("layer == 'all'")
    assert together.divergence.to_numpy() == pytest.approx(0, abs=1e-6)
    assert together.found.sum() == 0
    for shown in result.readouts:
        torch.testing.assert_close(shown.own, shown.counterfactual)


def test_examples_do_not_depend_on_each_other_or_on_padding(text_model):
    alone, together = (run(text_model, steps=4, batch_size=size).frame() for size in (1, 4))
    columns = ["example", "layer", "head"]
    both = alone.merge(together, on=columns)
    assert len(both) == len(alone) == 4 * (4 * 5 + 1)
    np.testing.assert_allclose(both.divergence_x, both.divergence_y, atol=2e-3)


def test_the_same_seed_finds_the_same_and_more_steps_do_not_find_less(text_model):
    first, again, other, longer = (
        run(text_model, steps=steps, seed=seed).frame() for steps, seed in ((8, 0), (8, 0), (8, 1), (16, 0))
    )
    assert first.equals(again)
    assert not first.equals(other)
    best, further = (frame[frame.layer == "all"].divergence.to_numpy() for frame in (first, longer))
    assert (further >= best - 1e-6).all()


@pytest.mark.parametrize("name", ["modernbert", "deberta_v2", "gemma2", "t5", "bart", "beit", "dinov2_registers"])
def test_other_families_too_and_they_are_left_as_they_were(name):
    family = FAMILIES[name]
    model = family.build().train()
    with left_untouched(model):
        result = counterfactual_attention(model, batch(family), steps=12, show_progress=False)
    together = result.frame().query("layer == 'all'")
    assert (together.tvd <= 0.01).all()
    assert together.divergence.max() > 0.05


def test_images_have_patches_to_show():
    result = counterfactual_attention(load_image_model(), digits()[2][:2], steps=10, show_progress=False)
    assert result.readouts[0].grid is not None
    assert len(result.plot_example(1).axes) == 3


def test_inference_mode_changes_nothing(text_model):
    expected = run(text_model, steps=3).frame()
    with torch.inference_mode():
        assert run(text_model, steps=3).frame().equals(expected)


def test_beside_other_seeds_differences_are_paired(text_model):
    model, tokenizer = text_model
    others = [FAMILIES["bert"].build() for _ in range(3)]
    inputs = text_batch()
    generator = torch.Generator().manual_seed(0)
    for other in others[1:]:
        for weight in other.parameters():
            weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    seeds = seed_variance(others, inputs, show_progress=False)
    result = counterfactual_attention(others[0], inputs, steps=10, show_progress=False)
    compared = result.compare(seeds).set_index("layer")
    assert list(compared.index) == [0, 1, 2, "all"]
    mine = result.frame().query("head == 'all'").pivot(index="example", columns="layer", values="divergence")
    theirs = seeds.frame().query("head == 'all'")
    for layer in compared.index:
        of_layer = theirs[theirs.layer == layer].pivot(
            index="example", columns=["first", "second"], values="divergence"
        )
        gain = mine[layer] - of_layer.mean(axis=1)
        assert compared.difference[layer] == pytest.approx(gain.mean())
        assert compared.standard_error[layer] == pytest.approx(gain.std() / math.sqrt(3))
        assert compared.farther[layer] == (mine[layer] > of_layer.max(axis=1)).mean()
    some = counterfactual_attention(others[0], inputs, layers=[1], steps=3, show_progress=False)
    assert list(some.compare(seeds).layer) == [1]
    with pytest.raises(ValueError, match=r"looked at other examples \(3\) than these \(4\)"):
        run((model, tokenizer), steps=1).compare(seeds)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"epsilon": 0},
            ValueError,
            "epsilon is a distance between probabilities: expected one between 0 and 1, got 0",
        ),
        ({"threshold": 0.7}, ValueError, "expected one between 0 and ln 2 = .693, got 0.7"),
        ({"steps": 0}, ValueError, "steps must be at least 1 and learning_rate above 0, got 0 and 0.3"),
        ({"learning_rate": -1.0}, ValueError, "steps must be at least 1 and learning_rate above 0, got 25 and -1.0"),
        ({"layers": [4]}, IndexError, r"layers \[4\] out of range: the model has 4"),
        ({"heads": [9]}, IndexError, r"heads \[9\] out of range: the model has 4"),
        ({"layers": []}, ValueError, "layers is empty"),
        ({"data": [3]}, TypeError, "expected texts"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ],
)
def test_bad_input_is_named_and_the_model_left_as_it_was(text_model, options, error, message):
    with left_untouched(text_model[0]), pytest.raises(error, match=message):
        run(text_model, **options)


def test_examples_and_layers_that_were_not_searched_are_named(text_model):
    result = run(text_model, layers=[1, 3], steps=1)
    with pytest.raises(IndexError, match="there are 4 examples, got 4"):
        result.plot_example(4)
    with pytest.raises(ValueError, match=r"layer 2 was not searched: expected one of \[1, 3\]"):
        result.plot_example(0, layer=2)


def test_texts_without_a_choice_are_not_counted():
    model = FAMILIES["gpt2"].build()
    ids = torch.tensor([[5, 0, 0, 0], [5, 9, 11, 7]])
    batch = {"input_ids": ids.masked_fill(ids == 0, 1), "attention_mask": (ids > 0).long()}
    found = counterfactual_attention(model, batch, steps=30, show_progress=False)
    rows = found.frame().query("layer == 'all'").set_index("example")
    assert rows.divergence.isna().tolist() == [True, False]
    assert rows.found.isna().tolist() == [True, False]
    assert found.share_found in (0.0, 1.0)
    assert "of 1 examples" in found.caption


def test_seeds_are_compared_on_the_heads_that_were_searched_and_on_the_same_texts():
    models = [FAMILIES["bert"].build(), FAMILIES["bert"].build()]
    with torch.no_grad():
        for weight in models[1].bert.encoder.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    batch = text_batch()
    found = counterfactual_attention(models[0], batch, heads=0, steps=5, show_progress=False)
    seeds = seed_variance(models, batch, show_progress=False)
    frame = seeds.frame()
    compared = found.compare(seeds).set_index("layer").seeds
    for layer in range(3):
        expected = frame[(frame.layer == layer) & (frame["head"] == 0)].divergence.mean()
        assert compared[layer] == pytest.approx(expected)
    assert compared["all"] == pytest.approx(compared[[0, 1, 2]].mean())
    other = {**batch, "input_ids": batch["input_ids"].flip(0), "attention_mask": batch["attention_mask"].flip(0)}
    with pytest.raises(ValueError, match="other examples"):
        found.compare(seed_variance(models, other, show_progress=False))
