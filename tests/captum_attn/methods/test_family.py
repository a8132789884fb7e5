"""Each explanation against its definition, spelled out on eager attention and its gradients, in every family."""

from __future__ import annotations

from functools import partial

import plain_methods as plain
import pytest
import torch
import transformers as hf
from families import FAMILIES, batch, eager_reference, text_batch
from numpy.polynomial.legendre import leggauss
from torch import nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from captum_attn import (
    AttentionFlow,
    AttentionRollout,
    GeneralizedAttentionFlow,
    GenericRelevance,
    GradientAttentionRollout,
    GradSAM,
    IntegratedAttention,
    NormAttention,
    RawAttention,
)
from captum_attn.functional import barrier_flow

TARGET = 1
ONE_STACK = [name for name in FAMILIES if name not in ("t5", "bart")]
MATRICES = {
    AttentionRollout: lambda attention, gradient: plain.rollout(attention),
    partial(AttentionRollout, residual=0.2): lambda attention, gradient: plain.rollout(attention, 0.2),
    GenericRelevance: plain.generic_relevance,
    GradientAttentionRollout: plain.gradient_rollout,
}


def relative_error(actual, expected):
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max())


def real_tokens(inputs, attention):
    return inputs.get("attention_mask", torch.ones(3, attention.shape[-1])).bool()


def reference(name, dtype=torch.float32):
    family = FAMILIES[name]
    model, inputs = family.build(dtype), batch(family, dtype=dtype)
    _, attention, gradient = eager_reference(family, model, inputs, TARGET, dtype)
    return model, inputs, attention, gradient


def readout_token(name, real):
    """The first token of an encoder, the last one that is no padding of a decoder."""
    decoder = name in ("gpt2", "llama", "qwen2", "gemma2")
    return real.long().cumsum(-1).argmax(-1) if decoder else real.long().argmax(-1)


@pytest.mark.parametrize("method", MATRICES, ids=lambda method: getattr(method, "__name__", "AttentionRollout(.2)"))
@pytest.mark.parametrize("name", ONE_STACK)
def test_matrices_are_those_of_the_definition(name, method):
    model, inputs, attention, gradient = reference(name)
    real = real_tokens(inputs, attention)
    expected = MATRICES[method](attention, gradient)
    actual = method(model).matrix(inputs, target=TARGET)
    assert relative_error(actual[real], expected[real]) <= 1e-5  # rows of padding are each kernel's own
    off_diagonal = expected - expected.diagonal(dim1=1, dim2=2).diag_embed()
    assert relative_error((actual - expected)[real] + off_diagonal[real], off_diagonal[real]) <= 1e-4


@pytest.mark.parametrize("method", [AttentionRollout, GenericRelevance])
@pytest.mark.parametrize("name", ["bert", "vit", "gpt2"])
def test_rollout_and_generic_relevance_to_six_digits(name, method):
    model, inputs, attention, gradient = reference(name, torch.float64)
    real = real_tokens(inputs, attention)
    actual = method(model).matrix(inputs, target=TARGET)
    assert relative_error(actual[real], MATRICES[method](attention, gradient)[real]) <= 1e-10
    model, inputs, attention, gradient = reference(name)
    actual = method(model).matrix(inputs, target=TARGET)
    assert relative_error(actual[real], MATRICES[method](attention, gradient)[real]) <= 1e-6


@pytest.mark.parametrize("rows", ["readout", "incoming"])
@pytest.mark.parametrize("method", MATRICES, ids=lambda method: getattr(method, "__name__", "AttentionRollout(.2)"))
@pytest.mark.parametrize("name", ["bert", "gpt2", "vit", "beit"])
def test_values_are_rows_of_the_matrix(name, method, rows):
    model, inputs, attention, gradient = reference(name, torch.float64)
    real = real_tokens(inputs, attention)
    result = method(model, rows=rows).attribute_tokens(inputs, target=TARGET)
    matrix = MATRICES[method](attention, gradient)
    if method is GenericRelevance:
        matrix = matrix - torch.eye(real.shape[1])
    if method is GradientAttentionRollout:
        matrix = matrix - plain.kept_of_itself(attention, gradient).diag_embed()
    matrix = matrix.masked_fill(~real.unsqueeze(-1), 0.0)
    if rows == "incoming":
        expected = matrix.sum(1)
    elif name == "beit":  # the mean of the patches is read
        expected = matrix[:, 1:].mean(1)
    else:
        expected = matrix[torch.arange(3), readout_token(name, real)]
    expected = expected.masked_fill(~result.players, 0.0)
    assert relative_error(result.values, expected) <= 1e-10
    assert not result.values[~result.players].any()


@pytest.mark.parametrize("name", FAMILIES)
def test_raw_attention_and_grad_sam_are_those_of_the_definition(name):
    model, inputs, attention, gradient = reference(name)
    real = real_tokens(inputs, attention)
    incoming = RawAttention(model, rows="incoming").attribute_tokens(inputs)
    expected = plain.raw_attention(attention * real[:, None, None, :, None]).sum(1)
    assert relative_error(incoming.values, expected.masked_fill(~incoming.players, 0.0)) <= 1e-5
    gathered = GradSAM(model).attribute_tokens(inputs, target=TARGET)
    expected = plain.grad_sam(attention, gradient, real)
    assert relative_error(gathered.values, expected.masked_fill(~gathered.players, 0.0)) <= 1e-5


def test_raw_attention_of_one_head_is_its_row():
    model, inputs, attention, _ = reference("bert")
    result = RawAttention(model, layers=-1, heads=2).attribute_tokens(inputs)
    torch.testing.assert_close(result.values[result.players], attention[:, -1, 2, 0][result.players])
    assert RawAttention(model).attribute_tokens(inputs, per="head").values.shape == (3, 3, 4, 9)


@pytest.mark.parametrize("name", ["bert", "gpt2", "vit", "deberta_v2"])
def test_attention_flow_is_that_of_networkx(name):
    model, inputs, attention, _ = reference(name)
    real = real_tokens(inputs, attention)
    result = AttentionFlow(model).attribute_tokens(inputs)
    for example, readout in enumerate(readout_token(name, real).tolist()):
        players = result.players[example]
        expected = plain.attention_flow(attention[example], readout)[players]
        torch.testing.assert_close(result.values[example, players], expected, rtol=0, atol=1e-6)
    assert result.values.std() > 0


@pytest.mark.parametrize("heads", [[0], [1, 3]])
def test_some_heads_and_layers_alone_count(heads):
    model, inputs, attention, _ = reference("bert")
    flow = AttentionFlow(model, heads=heads, layers=[0, 2]).attribute_tokens(inputs)
    some = attention[:, [0, 2]][:, :, heads]
    expected = plain.attention_flow(some[0], 0)
    torch.testing.assert_close(flow.values[0, flow.players[0]], expected[flow.players[0]], rtol=0, atol=1e-6)
    each = [IntegratedAttention(model, heads=head, n_steps=3).attribute(inputs, target=TARGET) for head in heads]
    together = IntegratedAttention(model, heads=heads, n_steps=3).attribute(inputs, target=TARGET)
    torch.testing.assert_close(together, torch.stack(each).mean(0), rtol=1e-4, atol=1e-7)
    rolled = AttentionRollout(model, heads=heads, layers=[0, 2]).matrix(inputs)
    torch.testing.assert_close(rolled[0], plain.rollout(some)[0])


@pytest.mark.parametrize("information", ["attention", "gradient", "attention_gradient"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "vit"])
def test_generalized_flow_is_the_central_flow_through_the_information_tensor(name, information):
    model, inputs, attention, gradient = reference(name)
    real = real_tokens(inputs, attention)
    capacities = {
        "attention": attention,
        "gradient": gradient.clamp(min=0) * (attention > 0),
        "attention_gradient": (attention * gradient).clamp(min=0),
    }[information].mean(2)
    sources = torch.zeros_like(real)
    sources[torch.arange(3), readout_token(name, real)] = True
    result = GeneralizedAttentionFlow(model, information=information).attribute_tokens(inputs, target=TARGET)
    expected = barrier_flow(capacities, sources).float().masked_fill(~result.players, 0.0)
    assert relative_error(result.values, expected) <= 1e-3  # capacities differ in the last digit


@pytest.mark.parametrize("information", ["attention", "gradient", "attention_gradient"])
@pytest.mark.parametrize("name", ["bert", "modernbert", "llama"])
def test_generalized_flow_of_a_text_does_not_depend_on_its_batch(name, information):
    model, inputs = FAMILIES[name].build().double(), text_batch()
    method = GeneralizedAttentionFlow(model, information=information)
    together = method.attribute(inputs, target=TARGET)
    in_parts = method.attribute(inputs, target=TARGET, internal_batch_size=2)
    torch.testing.assert_close(in_parts, together, rtol=1e-10, atol=1e-13)
    assert together.dtype == torch.double
    for row, real in enumerate(inputs["attention_mask"].bool()):
        alone = method.attribute({key: column[[row]][:, real] for key, column in inputs.items()}, target=TARGET)[0]
        torch.testing.assert_close(together[row, real], alone, rtol=1e-10, atol=1e-13)
        assert alone.any()


# --- norms ------------------------------------------------------------------------------------------------------------


def contributions_in_bert(model, inputs):
    """Vectors (B, N, N, D) that tokens contribute to each other in each layer, before and after residual and norm."""
    output = model(**inputs, output_hidden_states=True)
    for state, layer in zip(output.hidden_states, model.bert.encoder.layer, strict=False):
        own, projection = layer.attention.self, layer.attention.output
        value = own.value(state).unflatten(-1, (4, 8)).transpose(1, 2)
        weight = projection.dense.weight.unflatten(-1, (4, 8))
        yield state, value, weight, projection.dense.bias, projection.LayerNorm


def test_norms_in_bert_are_lengths_of_the_vectors_that_make_up_its_states():
    model, inputs, attention, _ = reference("bert")
    real = inputs["attention_mask"].bool()
    plain_norms, full_norms = [], []
    with torch.no_grad():
        for depth, (state, value, weight, bias, norm) in enumerate(contributions_in_bert(model, inputs)):
            vectors = torch.einsum("bhij,bhjd,ohd->bijo", attention[:, depth], value, weight)
            plain_norms.append(vectors.norm(dim=-1))
            own = torch.eye(9)[None, :, :, None] * state[:, :, None]
            total = vectors.sum(2) + bias + state
            spread = (total.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()[:, :, None]
            centred = vectors + own - (vectors + own).mean(-1, keepdim=True)
            shares = centred / spread * norm.weight
            rest = (bias - bias.mean()) / spread.squeeze(2) * norm.weight + norm.bias
            torch.testing.assert_close(shares.sum(2) + rest, norm(total), rtol=1e-4, atol=1e-5)
            full_norms.append(shares.norm(dim=-1))
    for residual, norms in ((False, plain_norms), (True, full_norms)):
        expected = torch.stack(norms).mean(0)
        actual = NormAttention(model, residual=residual).matrix(inputs)
        assert relative_error(actual[real], expected[real]) <= 1e-5


def test_norms_in_gpt2_and_llama_and_vit():
    for name in ("gpt2", "llama", "vit"):
        model, inputs, attention, _ = reference(name)
        states = model(**inputs, output_hidden_states=True).hidden_states
        plain_norms, with_residual = [], []
        for depth, state in enumerate(states[:3]):
            value, weight = value_and_projection(name, model, depth, state)
            vectors = torch.einsum("bhij,bhjd,ohd->bijo", attention[:, depth], value, weight)
            plain_norms.append(vectors.norm(dim=-1))
            own = torch.eye(state.shape[1])[None, :, :, None] * state[:, :, None]
            with_residual.append((vectors + own).norm(dim=-1))
        real = real_tokens(inputs, attention)
        for residual, norms in ((False, plain_norms), (True, with_residual)):
            actual = NormAttention(model, residual=residual).matrix(inputs)
            assert relative_error(actual[real], torch.stack(norms).mean(0)[real]) <= 1e-5


def value_and_projection(name, model, depth, state):
    """Values (B, H, N, d), and the output projection (D, H, d), of a layer that takes a state."""
    if name == "gpt2":
        block = model.transformer.h[depth]
        value = block.attn.c_attn(block.ln_1(state)).chunk(3, -1)[2]
        weight = block.attn.c_proj.weight.T
    elif name == "llama":
        block = model.model.layers[depth]
        value = block.self_attn.v_proj(block.input_layernorm(state))
        value = value.unflatten(-1, (2, 8)).repeat_interleave(2, -2).flatten(-2)
        weight = block.self_attn.o_proj.weight
    else:
        block = next(module for key, module in model.named_modules() if key.endswith(f"layers.{depth}"))
        named = dict(block.named_modules())
        value = next(named[key] for key in named if key.endswith("v_proj"))(block.layernorm_before(state))
        weight = next(named[key] for key in named if key.endswith("o_proj")).weight
    return value.unflatten(-1, (4, 8)).transpose(1, 2), weight.unflatten(-1, (4, 8))


@pytest.mark.parametrize("name", FAMILIES)
def test_norms_in_fused_and_eager_attention_agree(name):
    family = FAMILIES[name]
    model, inputs = family.build(), batch(family)
    expected = NormAttention(model, rows="incoming").attribute(inputs)
    assert expected.isfinite().all()
    assert expected.abs().max() > 0
    if not family.own_code:
        model.set_attn_implementation("eager")
        torch.testing.assert_close(NormAttention(model, rows="incoming").attribute(inputs), expected)


# --- integrated attention ---------------------------------------------------------------------------------------------


def scaled_attention(module, query, key, value, attention_mask, scaling=None, **_):
    """Textbook attention, of which one layer's is multiplied by a factor."""
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    probabilities = (scores if attention_mask is None else scores + attention_mask).softmax(-1)
    probabilities = probabilities * getattr(module, "test_factor", 1.0)
    return (probabilities @ value).transpose(1, 2).contiguous(), probabilities


hf.AttentionInterface.register("scaled", scaled_attention)
hf.AttentionMaskInterface.register("scaled", ALL_MASK_ATTENTION_FUNCTIONS["eager"])


def attention_modules(model):
    return [m for name, m in model.named_modules() if name.endswith(("attention.self", ".attn", "attention.attention"))]


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_integrated_attention_is_the_integral_of_its_definition(name):
    model, inputs, attention, _ = reference(name)
    real = inputs["attention_mask"].bool()
    actual = IntegratedAttention(model, n_steps=5).attribute_tokens(inputs, target=TARGET)
    model.set_attn_implementation("scaled")
    places, weights = leggauss(5)
    expected = torch.zeros(3, 3, 9)
    for depth, module in enumerate(attention_modules(model)):
        for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
            module.test_factor = float(place)
            output = model(**inputs, output_attentions=True)
            (gradient,) = torch.autograd.grad(output.logits[:, TARGET].sum(), output.attentions[depth])
            influence = (attention[:, depth] * gradient).mean(1) * real.unsqueeze(-1)
            expected[:, depth] += float(weight) * influence.sum(1)
        del module.test_factor
    expected = expected.mean(1).masked_fill(~actual.players, 0.0)
    assert relative_error(actual.values, expected) <= 1e-5


@pytest.mark.parametrize("name", ["bert", "deberta_v2", "vit"])
def test_integrated_attention_is_complete(name):
    model, inputs, attention, _ = reference(name)
    everyone = torch.ones(attention.shape[0], attention.shape[-1], dtype=torch.bool) & real_tokens(inputs, attention)
    for layer in (0, 2):
        method = IntegratedAttention(model, layers=layer, n_steps=30)
        result = method.attribute_tokens(inputs, target=TARGET, players=everyone)
        expected = (result.scores - output_without_attention(model, inputs, layer)) / attention.shape[2]
        torch.testing.assert_close(result.values.sum(-1), expected, rtol=1e-3, atol=1e-5)


class PackedAttention(nn.Module):
    """One layer of PyTorch's attention, which spells out its probabilities to return them; tokens are averaged."""

    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, states, weight=1.0):
        mixed, _ = self.attention(states, states, states, need_weights=True)
        bias = self.attention.out_proj.bias
        return self.head((weight * (mixed - bias) + bias + states).tanh().mean(1))


def test_integrated_attention_is_complete_in_packed_attention_of_a_batch():
    model, states = PackedAttention().eval(), torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    result = IntegratedAttention(model, n_steps=20).attribute_tokens(states, target=1)
    with torch.no_grad():
        expected = (model(states) - model(states, 0.0))[:, 1] / 2
    torch.testing.assert_close(result.values.sum(-1), expected, rtol=1e-4, atol=1e-6)


def test_integrated_attention_sees_no_more_tokens_at_once_than_it_says():
    model, seen = FAMILIES["bert"].build(), []
    handle = model.register_forward_pre_hook(lambda *call: seen.append(call[2]["input_ids"].numel()), with_kwargs=True)
    IntegratedAttention(model, n_steps=30).attribute({"input_ids": torch.randint(5, 60, (1, 500))}, target=0)
    handle.remove()
    assert max(seen) == 2000


def output_without_attention(model, inputs, layer):
    """The target's logit when one layer's attention returns nothing but the bias of its projection."""
    modules = [m for n, m in model.named_modules() if n.endswith(("attention.output.dense", "attention.o_proj"))]

    def nothing(module, args):
        return (torch.zeros_like(args[0]),)

    handle = modules[layer].register_forward_pre_hook(nothing)
    with torch.no_grad():
        logits = model(**inputs).logits[:, TARGET]
    handle.remove()
    return logits
