"""The methods of the how-to page against their definitions in eager code."""

from __future__ import annotations

import copy

import pytest
import torch
from families import FAMILIES, text_batch
from how_to import ran
from models import left_untouched

from captum_attn import ShapleyGradAttention
from captum_attn.core import mapping_inputs, observed_forward
from captum_attn.core.observers import InfluenceObserver
from captum_attn.methods import explain_in_one_pass

PAGE = ran()
InfluenceOnOthers, PeakInfluence, AttCAT = (PAGE[name] for name in ("InfluenceOnOthers", "PeakInfluence", "AttCAT"))

TARGET = 1
BLOCKS = {"bert": "bert.encoder.layer", "gpt2": "transformer.h", "llama": "model.layers"}
METHODS = {
    InfluenceOnOthers: lambda model, name: InfluenceOnOthers(model),
    PeakInfluence: lambda model, name: PeakInfluence(model),
    AttCAT: lambda model, name: AttCAT(model, BLOCKS[name]),
}
each_family = pytest.mark.parametrize("name", BLOCKS)


def eager_pass(name, model):
    """A and G (L, B, H, N, N), the states behind each layer and their gradients (L, B, N, D), from plain autograd."""
    eager = FAMILIES[name].build(implementation="eager")
    eager.load_state_dict(copy.deepcopy(model.state_dict()))
    eager.set_attn_implementation("plain")
    states = []
    for block in eager.get_submodule(BLOCKS[name]):
        block.register_forward_hook(lambda _, __, out: states.append(out if isinstance(out, torch.Tensor) else out[0]))
    output = eager(**text_batch(), output_attentions=True)
    wanted = [*output.attentions, *states]
    gradients = torch.autograd.grad(output.logits[:, TARGET].sum(), wanted, allow_unused=True)
    layers = len(states)
    return *map(torch.stack, (output.attentions, gradients[:layers], states)), torch.stack(gradients[layers:])


def by_definition(method, name, model):
    """The values (B, N) of all tokens, in loops where that is plain."""
    attention, of_attention, states, of_states = (part.detach() for part in eager_pass(name, model))
    real = text_batch()["attention_mask"]
    batch, length = real.shape
    values = torch.zeros(batch, length)
    for example in range(batch):
        readout = 0 if name == "bert" else int(real[example].nonzero().max())
        for token in range(length):
            others = [query for query in real[example].nonzero().flatten().tolist() if query != token]
            product = attention[:, example, :, :, token] * of_attention[:, example, :, :, token]  # (L, H, N)
            values[example, token] = {
                InfluenceOnOthers: product[:, :, others].mean((0, 1)).sum(),
                PeakInfluence: product.max().clamp(min=0),
                AttCAT: (
                    attention[:, example, :, readout, token].mean(1)
                    * (states[:, example, token] * of_states[:, example, token]).sum(-1)
                ).sum(),
            }[method]
    return values


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)


@each_family
@pytest.mark.parametrize("method", METHODS)
def test_values_are_those_of_the_definition(method, name):
    model = FAMILIES[name].build()
    with left_untouched(model):
        result = METHODS[method](model, name).attribute_tokens(text_batch(), TARGET)
    expected = by_definition(method, name, model)
    assert expected[result.players].abs().max() > 0
    close(result.values, expected.masked_fill(~result.players, 0))
    assert not result.values.requires_grad


@each_family
def test_all_of_them_share_one_backward_pass(name, monkeypatch):
    model = FAMILIES[name].build()
    batch = {key: part[:2] for key, part in text_batch().items()}  # as many inputs as classes are looked at twice
    methods = [ShapleyGradAttention(model), *(build(model, name) for build in METHODS.values())]
    methods.append(ShapleyGradAttention(model, layers=[-1]))
    expected = [method.attribute_tokens(batch, TARGET).values for method in methods]
    inputs, modules = mapping_inputs(model, batch), {module for method in methods for module in method.modules}
    passes, backward = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: passes.append(1) or backward(*args, **kwargs))
    with left_untouched(model), observed_forward(model, inputs, modules=modules) as run:
        found, readout = explain_in_one_pass(run, inputs, methods, run.states[1:], TARGET)
    assert len(passes) == 1
    for result, values in zip(found, expected, strict=True):
        close(result.values, values)
    with observed_forward(model, inputs, modules=modules) as run:
        alone = run.readout_gradients(run.output[:, TARGET], run.states[1:])
    for mine, theirs in zip(readout.gradients, alone.gradients, strict=True):
        close(mine, theirs)


def test_several_targets_and_parts_of_a_batch_give_what_each_gives_alone():
    model = FAMILIES["bert"].build()
    method = AttCAT(model, BLOCKS["bert"], heads=[0, 2])
    together = method.attribute_targets(text_batch(), [0, [1, 2, 1]], internal_batch_size=2)
    for result, target in zip(together, [0, [1, 2, 1]], strict=True):
        close(result.values, method.attribute_tokens(text_batch(), target).values)


def test_states_below_the_watched_layers_have_their_gradients_too():
    model = FAMILIES["bert"].build()

    class OfTheTop(AttCAT):
        def observer(self, explained):
            return InfluenceObserver(explained.run.watched([-1]), "attention", explained.readout)

        def solve(self, explained, observer):
            return explained.attributions(torch.stack([gradient.sum(-1) for gradient in explained.gradients]).sum(0))

    result = OfTheTop(model, BLOCKS["bert"]).attribute_tokens(text_batch(), TARGET)
    gradients = eager_pass("bert", model)[3]
    close(result.values, gradients.sum((0, -1)).masked_fill(~result.players, 0))


def test_states_without_gradients_come_alone():
    model = FAMILIES["bert"].build()

    class Lengths(AttCAT):
        needs_gradients = False

        def solve(self, explained, observer):
            assert not explained.gradients
            return explained.attributions(explained.states[-1].hidden.norm(dim=-1))

    result = Lengths(model, BLOCKS["bert"]).attribute_tokens(text_batch())
    lengths = eager_pass("bert", model)[2][-1].norm(dim=-1).detach()
    close(result.values, lengths.masked_fill(~result.players, 0))


def test_modules_that_are_not_there_are_refused():
    model = FAMILIES["bert"].build()
    method = AttCAT(model, BLOCKS["bert"])
    inputs = mapping_inputs(model, text_batch())
    with observed_forward(model, inputs) as run, pytest.raises(ValueError, match="AttCAT needs the hidden states of"):
        explain_in_one_pass(run, inputs, [method])
    method.modules = ["bert.embeddings"]
    with pytest.raises(ValueError, match="returns before the first attention"):
        method.attribute(text_batch())
    method.modules = ["bert.encoder.layers"]
    with pytest.raises(ValueError, match=r"no module 'bert.encoder.layers'; similar names"):
        method.attribute(text_batch())
