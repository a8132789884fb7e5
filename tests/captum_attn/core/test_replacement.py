"""Attention replacement against textbook attention with the same probabilities."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, batch, eager_reference, image_batch, text_batch
from models import PlainClassifier, left_untouched
from replaced_attention import logits_with
from torch import nn

from captum_attn.core import mapping_inputs, observed_forward, tensor_inputs
from captum_attn.core.frozen import without_weights
from captum_attn.core.knockout import knocked_out_output, knockout_calls
from captum_attn.core.replacement import replaced_output, replacement_calls


def replaced(model, inputs, replace, layers=None, gradients=False):
    given = mapping_inputs(model, inputs) if isinstance(inputs, dict) else tensor_inputs(model, *inputs)
    with observed_forward(model, given, gradients=False) as run:
        calls = replacement_calls(run, layers)
    return replaced_output(model, given, replace, calls, gradients)


def own(layer, attention, allowed):
    return attention


def uniform(layer, attention, allowed):
    return (allowed / allowed.sum(-1, keepdim=True).clamp(min=1)).expand_as(attention)


@pytest.mark.parametrize(("padding", "implementation"), [("right", None), ("left", None), ("left", "eager")])
@pytest.mark.parametrize("name", FAMILIES)
def test_replacing_attention_by_itself_changes_nothing(name, padding, implementation):
    family = FAMILIES[name]
    model, inputs = family.build(implementation=implementation), batch(family, padding)
    with torch.no_grad():
        expected = model(**inputs).logits
    torch.testing.assert_close(replaced(model, inputs, own), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("layers", "implementation"), [(None, None), ([1], "eager"), ([-1, 0], None)])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "qwen2", "vit", "dinov2"])
def test_other_attention_is_what_textbook_attention_makes_of_it(name, layers, implementation):
    family = FAMILIES[name]
    model, inputs = family.build(implementation=implementation), batch(family)
    concerned = range(3) if layers is None else {layer % 3 for layer in layers}
    asked = []

    def squared(layer, attention, allowed):
        asked.append(layer)
        return attention.square() / attention.square().sum(-1, keepdim=True)

    found = replaced(model, inputs, squared, layers)
    expected, _ = logits_with(model, inputs, lambda call, a: squared(call, a, None) if call in concerned else a)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert asked[: len(concerned)] == sorted(concerned)
    assert (found - replaced(model, inputs, own)).abs().max() > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_taking_keys_away_and_filling_up_is_a_knockout(name):
    family = FAMILIES[name]
    model, inputs = family.build(), batch(family)
    given = mapping_inputs(model, inputs)
    with observed_forward(model, given, gradients=False) as run:
        blocked = torch.zeros(3, run.length, dtype=torch.bool)
        knocked = knockout_calls(run, range(3))
        calls = replacement_calls(run)
    blocked[:, 2] = True

    def without(layer, attention, allowed):
        kept = attention.masked_fill(blocked[:, None, None], 0.0)
        return kept / kept.sum(-1, keepdim=True).clamp(min=1e-30)

    found = replaced_output(model, given, without, calls)
    expected = knocked_out_output(model, given, blocked, knocked)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "gpt2", "vit", "deberta_v2"])
def test_one_head_alone_can_be_concerned(name):
    family = FAMILIES[name]
    model, inputs = family.build(), batch(family)
    head = torch.arange(4).view(4, 1, 1)

    def of_heads(heads):
        chosen = torch.isin(head, torch.tensor(heads))
        return replaced(model, inputs, lambda *given: torch.where(chosen, uniform(*given), given[1]))

    outputs = [of_heads(heads) for heads in ([], [0], [3], [0, 1, 2, 3])]
    torch.testing.assert_close(outputs[0], replaced(model, inputs, own))
    torch.testing.assert_close(outputs[-1], replaced(model, inputs, uniform))
    for place, output in enumerate(outputs):
        assert all((output - other).abs().max() > 1e-4 for other in outputs[:place])


@pytest.mark.parametrize("implementation", [None, "eager"])
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "gemma2", "t5", "deberta_v2"])
def test_the_keys_that_a_query_may_attend_to_are_told(name, padding, implementation):
    if (name, padding) == ("deberta_v2", "left"):
        pytest.skip("it masks the queries of padding, too, and by zeros")
    model, inputs = FAMILIES[name].build(implementation=implementation), text_batch(padding)
    real = inputs["attention_mask"].bool()
    expected = real[:, None, None].expand(-1, 1, 9, -1)
    if name in ("gpt2", "llama", "gemma2"):
        expected = expected & torch.ones(9, 9, dtype=torch.bool).tril()
    if name == "gemma2":  # a window of 4 tokens in every other layer
        window = torch.ones(9, 9, dtype=torch.bool).triu(-3)
    told = []

    def keep(layer, attention, allowed):
        told.append(allowed.expand(3, -1, 9, 9))
        return attention

    replaced(model, inputs, keep)
    for layer, allowed in enumerate(told):
        seen = expected & window if name == "gemma2" and layer % 2 == 0 else expected
        for example in range(3):
            rows = real[example]
            assert torch.equal(allowed[example][:, rows], seen[example][:, rows].expand(allowed.shape[1], -1, -1))


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit", "deberta_v2", "t5"])
def test_gradients_reach_what_the_attention_is_made_of_and_nothing_else(name):
    family = FAMILIES[name]
    model, inputs = family.build(), batch(family)
    leaves = []

    def with_leaf(layer, attention, allowed):
        leaves.append(torch.zeros_like(attention, requires_grad=True))
        return attention + leaves[-1]

    with left_untouched(model):
        output = replaced(model, inputs, with_leaf, gradients=True)
        found = torch.autograd.grad(output[:, 1].sum(), leaves, retain_graph=True)
        of_weights = torch.autograd.grad(output[:, 1].sum(), [*model.parameters()], allow_unused=True)
    _, _, expected = eager_reference(family, model, inputs, 1, torch.float32)
    torch.testing.assert_close(torch.stack(found, 1), expected, rtol=1e-3, atol=1e-6)
    assert of_weights == (None,) * len(of_weights)


@pytest.mark.parametrize("frozen", [True, False])
def test_plain_pytorch_encoders_too(frozen):
    model = PlainClassifier().eval().requires_grad_(not frozen)
    embeddings, padding = torch.rand(2, 5, 16), torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 4] = True
    blocked = torch.zeros(2, 5, dtype=torch.bool)
    blocked[:, 1:3] = True

    def without(layer, attention, allowed):
        assert torch.equal(allowed[1].any(0).any(0), ~padding[1])
        kept = attention.masked_fill(blocked[:, None, None], 0.0)
        return kept / kept.sum(-1, keepdim=True)

    found = replaced(model, (embeddings, (padding,), ["src_key_padding_mask"]), without)
    with torch.no_grad():
        expected = model(embeddings, src_key_padding_mask=padding | blocked)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", [True, False])
def test_multihead_attention_with_and_without_returned_weights(weights):
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, states):
            return self.attention(states, states, states, need_weights=weights)[0][:, 0]

    model, states = One().eval(), torch.rand(2, 4, 16)
    found = replaced(model, (states,), uniform)
    projected = states @ model.attention.in_proj_weight[32:].T + model.attention.in_proj_bias[32:]
    expected = model.attention.out_proj(projected.mean(1))
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("mask", ["bool", "additive", "causal", "lowest"])
def test_masks_of_every_kind_and_rows_that_see_nothing(mask):
    allowed = torch.tensor([[True, False, False], [False, False, False], [True, False, True]])
    if mask == "causal":
        allowed = torch.ones(3, 3, dtype=torch.bool).tril()
    lowest = -torch.inf if mask == "additive" else torch.finfo(torch.float32).min
    additive = torch.zeros(3, 3).masked_fill(~allowed, lowest)
    given = {"bool": {"attn_mask": allowed}, "causal": {"is_causal": True}}.get(mask, {"attn_mask": additive})

    class One(nn.Module):
        def forward(self, states):
            heads = states[:, None]
            return nn.functional.scaled_dot_product_attention(heads, heads, heads, scale=0.7, **given).flatten(1)

    states, seen, leaf = torch.rand(1, 3, 2), [], torch.zeros(1, 1, 3, 3, requires_grad=True)

    def keep(layer, attention, told):
        seen.append((attention, told))
        return attention + leaf * told

    output = replaced(One(), (states,), keep, gradients=True)
    torch.testing.assert_close(output, One()(states))
    attention, told = seen[0]
    assert told.shape == (1, 1, 3, 3)
    if mask == "lowest":  # as the kernel has it: a row of equal scores
        torch.testing.assert_close(attention[0, 0, 1], torch.full((3,), 1 / 3))
    else:
        assert torch.equal(told[0, 0], allowed)
        assert torch.equal(attention[0, 0] > 0, allowed)
    assert torch.autograd.grad(output.sum(), leaf)[0].isfinite().all()


def test_half_precision_gets_wide_probabilities_and_keeps_its_own_dtype():
    model, inputs = FAMILIES["bert"].build().bfloat16(), text_batch()
    dtypes = set()

    def keep(layer, attention, allowed):
        dtypes.add(attention.dtype)
        return attention

    found = replaced(model, inputs, keep)
    assert dtypes == {torch.float32}
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, model(**inputs).logits, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["bert", "deberta_v2", "vit"])
@pytest.mark.parametrize("gradients", [True, False])
def test_the_model_is_left_as_it_was_even_after_a_mistake(name, gradients):
    family = FAMILIES[name]
    model, inputs = family.build().train(), batch(family)
    with left_untouched(model):
        replaced(model, inputs, uniform, gradients=gradients)
    wrong = "the probabilities that replace layer 0's must be a tensor of the shape"
    for other in (lambda layer, attention, allowed: attention[:, :1], lambda *given: None):
        with left_untouched(model), pytest.raises(ValueError, match=wrong):
            replaced(model, inputs, other, gradients=gradients)


def test_inference_mode_and_no_grad_change_nothing():
    model, inputs = FAMILIES["vit"].build(), image_batch()
    expected = replaced(model, inputs, uniform)
    assert not expected.requires_grad
    leaf = torch.zeros(3, 4, 10, 10, requires_grad=True)
    for context in (torch.inference_mode(), torch.no_grad()):
        with context:
            torch.testing.assert_close(replaced(model, inputs, uniform), expected)
            output = replaced(model, inputs, lambda layer, a, allowed: a + leaf, gradients=True)
        assert torch.autograd.grad(output.sum(), leaf)[0].abs().max() > 0


def test_layers_that_are_not_there_are_named():
    with pytest.raises(IndexError, match=r"layers \[7\] out of range: the model has 3"):
        replaced(FAMILIES["vit"].build(), image_batch(), own, [7])


def test_weights_are_detached_wherever_they_are_given_and_attributes_are_left_alone():
    weight, state = nn.Parameter(torch.ones(2)), torch.ones(2, requires_grad=True) * 2
    args, kwargs = without_weights(torch.addcmul, (state, weight), {"tensor2": weight, "value": 2})
    assert args[0] is state
    assert not args[1].requires_grad
    assert not kwargs["tensor2"].requires_grad
    assert kwargs["value"] == 2
    args, _ = without_weights(torch.Tensor.shape.__get__, (weight,), None)
    assert args[0] is weight
