"""Layers are found in one forward pass, whatever is asked for."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, batch
from models import left_untouched
from stacked_models import Attend
from torch import nn

from captum_attn import TTCAV
from captum_attn.concepts import Layer, find_layers
from captum_attn.core import mapping_inputs


class Passes:
    """Counts the forward passes of a model, in its context."""

    def __init__(self, model):
        self.model, self.examples = model, []

    def __enter__(self):
        def count(module, args, keywords, output):
            self.examples.append(len(output.logits))

        self.hook = self.model.register_forward_hook(count, with_kwargs=True)
        return self

    def __exit__(self, *_):
        self.hook.remove()


def model_and_example(name):
    model = FAMILIES[name].build()
    return model, mapping_inputs(model, batch(FAMILIES[name]))[:1]


WANTED = {
    "all": None,
    "indices": [0, -1],
    "a name": ["bert.encoder.layer.0"],
    "both": [0, "bert.encoder.layer.1.output", "bert.encoder"],
}


@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED)
def test_the_model_runs_once_though_it_was_never_seen_before(wanted):
    model, example = model_and_example("bert")
    with left_untouched(model), Passes(model) as passes:
        find_layers(model, example, wanted)
    assert passes.examples == [1]


@pytest.mark.parametrize(("wanted", "message"), [([], "layers is empty"), (["bert.encode"], "no module 'bert.encode'")])
def test_what_modules_tell_is_refused_without_a_pass(wanted, message):
    model, example = model_and_example("bert")
    with Passes(model) as passes, pytest.raises(ValueError, match=message):
        find_layers(model, example, wanted)
    assert not passes.examples


def test_a_wrong_number_and_modules_that_do_not_run_once_are_named():
    model, example = model_and_example("albert")
    shared = next(name for name, _ in model.named_modules() if name.endswith("albert_layers.0"))
    with pytest.raises(ValueError, match=r"runs \d times in a forward pass: give the indices"):
        find_layers(model, example, [shared])
    with pytest.raises(ValueError, match="does not run, or is no part that is called"):
        find_layers(model, example, ["albert.encoder.albert_layer_groups"])
    with pytest.raises(IndexError, match="layers"):
        find_layers(model, example, [9])


@pytest.mark.parametrize("name", ["bert", "albert", "gpt2", "vit", "distilbert", "bart"])
def test_each_layers_states_are_what_its_module_returns_then(name):
    model, example = model_and_example(name)
    layers, returned = find_layers(model, example, None), {}
    hooks = [
        model.get_submodule(module).register_forward_hook(
            lambda _, __, output, name=module: returned.setdefault(name, []).append(
                output if isinstance(output, torch.Tensor) else output[0]
            )
        )
        for module in {layer.module for layer in layers}
    ]
    with torch.no_grad():
        hidden = example.call(lambda **inputs: model(**inputs, output_hidden_states=True))
    for hook in hooks:
        hook.remove()
    states = hidden.encoder_hidden_states if "encoder_hidden_states" in hidden else hidden.hidden_states
    assert [layer.index for layer in layers] == list(range(len(states) - 1))
    for layer, expected in zip(layers[:-1], states[1:-1], strict=True):  # the last may be normalized behind its module
        torch.testing.assert_close(returned[layer.module][layer.call], expected)


class Averages(nn.Module):
    """Two layers of attention, between which each token gets the mean of all."""

    def __init__(self):
        super().__init__()
        self.embed, self.layers, self.head = nn.Embedding(9, 16), nn.ModuleList([Attend(), Attend()]), nn.Linear(16, 3)

    def forward(self, input_ids):
        states = self.layers[0](self.embed(input_ids))
        return self.head(self.layers[1](states + states.mean(1, keepdim=True))[:, 0])


def test_what_passes_beside_the_attention_is_said_in_that_pass():
    model = Averages().eval()
    example = mapping_inputs(model, {"input_ids": torch.tensor([[1, 4, 2, 7, 3]])})
    with pytest.warns(UserWarning, match="depend on other tokens by other ways"):
        layers = find_layers(model, example, None)
    assert [layer.name for layer in layers] == ["layers.0", "layers.1"]


def test_names_and_numbers_are_found_together_as_one_by_one():
    model, example = model_and_example("bert")
    wanted = ["bert.encoder.layer.1.output", 2, "bert.encoder", 0]
    each = [layer for one in wanted for layer in find_layers(model, example, [one])]
    together = find_layers(model, example, wanted)
    assert together == sorted(each, key=lambda layer: (layer.index, layer.name))
    assert together[0] == Layer("bert.encoder.layer.0", "bert.encoder.layer.0", 0, 0)


def test_scores_take_a_pass_for_each_batch_and_two_for_layers_and_readout():
    model = FAMILIES["vit"].build()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(10, 3, 12, 12, generator=generator)
    ttcav = TTCAV(model, layers=[0, "vit.layers.1"], n_cavs=2, batch_size=5)
    with Passes(model) as passes:
        ttcav.interpret(images[:3], {"some": images, "others": -images}, target=1, show_progress=False)
    assert passes.examples == [1, 1, 5, 5, 5, 5, 3]
