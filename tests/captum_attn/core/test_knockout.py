"""Attention knockout against the same model with an attention mask, or with textbook attention."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from families import FAMILIES, batch, image_batch, plain_attention, text_batch
from models import PlainClassifier, left_untouched
from torch import nn

from captum_attn.core import mapping_inputs, observed_forward, tensor_inputs
from captum_attn.core.forward import plain_output
from captum_attn.core.knockout import knocked_out_output, knockout_calls

MASKED = [name for name, family in FAMILIES.items() if not family.vision]
IMAGES = [name for name, family in FAMILIES.items() if family.vision]


def knocked_out(model, inputs, blocked, layers=None):
    given = mapping_inputs(model, inputs) if isinstance(inputs, dict) else tensor_inputs(model, *inputs)
    with observed_forward(model, given, gradients=False) as run:
        calls = knockout_calls(run, layers)
    return knocked_out_output(model, given, blocked, calls)


def some_words(inputs):
    """Every second token that is neither padding nor the first or the last one of its text."""
    inner = inputs["attention_mask"].bool()
    inner = inner & inner.roll(1, 1) & inner.roll(-1, 1)
    inner[:, 0] = inner[:, -1] = False
    return inner & (torch.arange(inner.shape[1]) % 2 == 0)


@pytest.mark.parametrize("implementation", [None, "eager"])
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", MASKED)
def test_blocking_everywhere_is_what_an_attention_mask_does(name, padding, implementation):
    if (name, padding) == ("deberta_v2", "left"):
        pytest.skip("it reads padding, whose queries may attend to nothing")
    model = FAMILIES[name].build(implementation=implementation)
    inputs = text_batch(padding)
    blocked = some_words(inputs)
    found = knocked_out(model, inputs, blocked)
    others = {}
    if name in ("llama", "qwen2", "gemma2", "gpt2"):  # they count positions from the mask
        others["position_ids"] = torch.arange(inputs["input_ids"].shape[1]).expand(3, -1)
        found = knocked_out(model, {**inputs, **others}, blocked)
    masks = {"attention_mask": inputs["attention_mask"] * ~blocked}
    if name in ("t5", "bart"):  # their decoder reads the input again, shifted by a token
        masks["decoder_attention_mask"] = (~blocked).long().roll(1, 1)
    with torch.no_grad():
        whole = model(**inputs, **others).logits
        expected = model(**{**inputs, **others, **masks}).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - whole).abs().max() > 1e-3


def with_blocked_keys(blocked, layers):
    """Textbook attention in which keys are blocked in some layers."""
    count = iter(range(99))

    def attention(module, query, key, value, attention_mask, **options):
        layer = next(count)
        if layer in layers:
            bias = torch.zeros(blocked.shape).masked_fill(blocked, -torch.inf)[:, None, None]
            attention_mask = bias if attention_mask is None else attention_mask + bias
        return plain_attention(module, query, key, value, attention_mask, **options)

    return attention


@pytest.mark.parametrize("layers", [None, [1], [-1, 0]])
@pytest.mark.parametrize("name", [*IMAGES, "bert", "llama"])
def test_blocking_some_layers_is_what_textbook_attention_does(name, layers):
    family = FAMILIES[name]
    model, inputs = family.build(), batch(family)
    with observed_forward(model, mapping_inputs(model, inputs), gradients=False) as run:
        shape = (run.calls[0].shape[0], run.length)
    blocked = torch.zeros(shape, dtype=torch.bool)
    blocked[0, 2], blocked[1, 2:4] = True, True
    found = knocked_out(model, inputs, blocked, layers)
    reference = family.build(implementation="eager")
    reference.load_state_dict(model.state_dict())
    concerned = range(3) if layers is None else {layer % 3 for layer in layers}
    hf.AttentionInterface.register("plain blocked", with_blocked_keys(blocked, concerned))
    hf.AttentionMaskInterface.register("plain blocked", hf.masking_utils.ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    reference.set_attn_implementation("plain blocked")
    with torch.no_grad():
        expected = reference(**inputs).logits
        whole = model(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], whole[0], atol=1e-4)
    if shape[0] > 2:
        torch.testing.assert_close(found[2], whole[2])  # nothing is blocked there


@pytest.mark.parametrize("frozen", [True, False])
def test_plain_pytorch_encoders_too(frozen):
    model = PlainClassifier().eval().requires_grad_(not frozen)
    embeddings, padding = torch.rand(2, 5, 16), torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 4] = True
    blocked = torch.zeros(2, 5, dtype=torch.bool)
    blocked[:, 1:3] = True
    found = knocked_out(model, (embeddings, (padding,), ["src_key_padding_mask"]), blocked)
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
    blocked = torch.tensor([[False, True, False, False], [True, True, False, False]])
    found = knocked_out(model, (states,), blocked)
    with torch.no_grad():
        expected = model.attention(states, states, states, key_padding_mask=blocked, need_weights=False)[0][:, 0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("implementation", [None, "eager"])
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", FAMILIES)
def test_blocking_nothing_changes_nothing(name, padding, implementation):
    family = FAMILIES[name]
    model, inputs = family.build(implementation=implementation), batch(family, padding)
    with observed_forward(model, mapping_inputs(model, inputs), gradients=False) as run:
        nothing, whole = torch.zeros(3, run.length, dtype=torch.bool), run.output
    torch.testing.assert_close(knocked_out(model, inputs, nothing), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", [None, "eager"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "vit", "deberta_v2", "gemma2"])
def test_a_query_with_nothing_left_gets_zeros_and_no_nan(name, implementation):
    family = FAMILIES[name]
    model = family.build(implementation=implementation)
    inputs = batch(family)
    with observed_forward(model, mapping_inputs(model, inputs), gradients=False) as run:
        everything = torch.ones(3, run.length, dtype=torch.bool)
    nothing_seen = knocked_out(model, inputs, everything)
    assert nothing_seen.isfinite().all()
    if family.vision:  # the class token has only itself, and attention adds the output bias alone
        torch.testing.assert_close(nothing_seen[0], nothing_seen[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MASKED)
def test_a_blocked_token_has_no_effect_on_the_prediction(name):
    model, inputs = FAMILIES[name].build(), text_batch()
    blocked = torch.zeros(3, 9, dtype=torch.bool)
    blocked[:, 1] = True
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][:, 1] = 7
    torch.testing.assert_close(knocked_out(model, inputs, blocked), knocked_out(model, other, blocked))


def test_a_blocked_token_keeps_its_own_state():
    model, inputs = FAMILIES["bert"].build(), text_batch()
    blocked = torch.zeros(3, 9, dtype=torch.bool)
    blocked[:, 2] = True
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][:, 2] = 7
    tokens = hf.BertForTokenClassification(model.config).eval()
    first, second = knocked_out(tokens, inputs, blocked), knocked_out(tokens, other, blocked)
    torch.testing.assert_close(first[:, 1], second[:, 1])
    assert not torch.allclose(first[:, 2], second[:, 2])


def test_a_decoder_that_reads_an_encoder_sees_no_blocked_token_across():
    model, inputs = FAMILIES["t5"].build(), text_batch()
    with observed_forward(model, mapping_inputs(model, inputs), gradients=False) as run:
        everywhere, first = knockout_calls(run), knockout_calls(run, [0])
    # 3 layers of the encoder, and of the decoder 3 across and 3 of its own
    assert sorted(everywhere.values()) == [0] * 6 + [1] * 3
    assert list(first.values()) == [0]


@pytest.mark.parametrize("masked", [-torch.inf, torch.finfo(torch.float32).min, -1e9, -1e4])
@pytest.mark.parametrize("eager", [False, True])
def test_however_models_mask_a_query_with_nothing_left_sees_nothing(masked, eager):
    class One(nn.Module):
        def forward(self, states):
            mask = torch.full((3, 3), masked).triu(1)[None, None]
            heads = states[:, None]
            if eager:
                seen = ((heads @ heads.mT) + mask).softmax(-1) @ heads
            else:
                seen = nn.functional.scaled_dot_product_attention(heads, heads, heads, mask)
            return seen[:, 0]

    states = torch.rand(1, 3, 4)
    found = knocked_out(One(), (states,), torch.tensor([[True, False, False]]))
    assert not found[0, 0].any()  # not even the tokens behind it
    torch.testing.assert_close(found[0, 1], states[0, 1])


@pytest.mark.parametrize("name", ["bert", "deberta_v2", "vit"])
def test_the_model_is_left_as_it_was(name):
    family = FAMILIES[name]
    model, inputs = family.build().train(), batch(family)
    with observed_forward(model, mapping_inputs(model, inputs), gradients=False) as run:
        blocked = torch.zeros(3, run.length, dtype=torch.bool)
    with left_untouched(model):
        knocked_out(model, inputs, blocked)
    with left_untouched(model), pytest.raises(ValueError, match=r"must have the shape \(3, "):
        knocked_out(model, inputs, blocked[:, 1:])


def test_nothing_keeps_a_graph():
    model, inputs = FAMILIES["vit"].build(), image_batch()
    assert not knocked_out(model, inputs, torch.zeros(3, 10).bool()).requires_grad
    assert not plain_output(model, mapping_inputs(model, inputs)).requires_grad


def test_under_inference_mode_the_outputs_are_the_same():
    model, inputs = FAMILIES["vit"].build(), image_batch()
    blocked = torch.zeros(3, 10, dtype=torch.bool)
    blocked[:, 4] = True
    expected = knocked_out(model, inputs, blocked)
    with torch.inference_mode():
        torch.testing.assert_close(knocked_out(model, inputs, blocked), expected)


def test_layers_that_are_not_there_are_named():
    with pytest.raises(IndexError, match=r"layers \[7\] out of range: the model has 3"):
        knocked_out(FAMILIES["vit"].build(), image_batch(), torch.zeros(3, 10).bool(), [7])
