"""Concepts' states are computed once for each state of the model, and never mixed up."""

from __future__ import annotations

import warnings

import pytest
import torch
from families import FAMILIES
from torch import nn

from captum_attn import TTCAV, RawAttention
from captum_attn.concepts.concept_states import StateStore
from captum_attn.concepts.layers import find_layers
from captum_attn.core import mapping_inputs

pytestmark = pytest.mark.filterwarnings("ignore:concept .* its vectors separate held-out")


def images(count, seed):
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


CONCEPTS = {"first": images(6, 1), "second": images(6, 2)}
INPUTS = images(3, 9)


class Counted:
    """A model that counts the images it sees."""

    def __init__(self, seed=0):
        self.model = FAMILIES["vit"].build()
        torch.manual_seed(seed)
        nn.init.normal_(self.model.classifier.weight)
        nn.init.normal_(self.model.vit.layers[0].attention.q_proj.weight, std=0.2)
        RawAttention(self.model).attribute(INPUTS[:1])  # the first time, a model is looked at
        self.seen = 0
        self.model.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, module, args, kwargs):
        self.seen += len(kwargs["pixel_values"])

    def run(self, ttcav, concepts=CONCEPTS):
        self.seen = 0
        return ttcav.interpret(INPUTS, concepts, 0, show_progress=False).table()


ONCE = 2 + 3  # the first input tells the layers, and what is read from where; then all three are explained
TRIED = 1  # example of each concept whose states are known: are they still the same?


def test_states_are_computed_once():
    counted = Counted()
    ttcav = TTCAV(counted.model, n_cavs=2)
    first = counted.run(ttcav)
    assert counted.seen == 12 + ONCE
    assert counted.run(ttcav).equals(first)
    assert counted.seen == 2 * TRIED + ONCE


def test_other_examples_under_the_same_name_are_other_states():
    counted = Counted()
    ttcav = TTCAV(counted.model, n_cavs=2)
    first = counted.run(ttcav)
    other = counted.run(ttcav, {**CONCEPTS, "first": images(6, 3)})
    assert counted.seen == 6 + TRIED + ONCE
    assert not other.equals(first)


def test_the_same_examples_under_another_name_are_the_same_states():
    counted = Counted()
    ttcav = TTCAV(counted.model, n_cavs=2)
    counted.run(ttcav)
    counted.run(ttcav, {"1st": CONCEPTS["first"].clone(), "2nd": CONCEPTS["second"]})
    assert counted.seen == 2 * TRIED + ONCE


def test_one_changed_weight_makes_all_states_new():
    counted = Counted()
    ttcav = TTCAV(counted.model, n_cavs=2)
    first = counted.run(ttcav)
    with torch.no_grad():
        counted.model.vit.layers[1].mlp.fc1.weight[7, 3] += 0.5
    changed = counted.run(ttcav)
    assert counted.seen == 12 + ONCE
    assert not changed.equals(first)
    assert changed.equals(Counted.run(counted, TTCAV(counted.model, n_cavs=2)))


def test_the_same_weights_in_another_configuration_are_other_states(tmp_path):
    counted, other = Counted(), Counted()
    counted.run(TTCAV(counted.model, n_cavs=2, cache_dir=tmp_path))
    for layer in other.model.vit.layers:
        layer.attention.scaling = 1.0
    other.model.config.layer_norm_eps = 0.5
    with pytest.warns(UserWarning, match="was written with other weights"):
        other.run(TTCAV(other.model, n_cavs=2, cache_dir=tmp_path))


def test_other_layers_are_computed_when_asked_for():
    counted = Counted()
    ttcav = TTCAV(counted.model, [0], n_cavs=2)
    counted.run(ttcav)
    ttcav.layers = [1]
    assert counted.run(ttcav).equals(counted.run(TTCAV(counted.model, [1], n_cavs=2)))


def test_the_key_holds_everything_that_states_depend_on():
    model = FAMILIES["bert"].build()
    ids = torch.randint(5, 20, (6, 5), generator=torch.Generator().manual_seed(0))
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    cut = {"input_ids": ids, "attention_mask": torch.ones_like(ids).index_fill(1, torch.tensor([4]), 0)}
    inputs = [mapping_inputs(model, whole), mapping_inputs(model, cut)]
    layers = find_layers(model, inputs[0][:1], [0])
    store = StateStore(model, None, None)
    keys = {
        "whole": store.key([inputs[0]], layers, "players", None),
        "cut": store.key([inputs[1]], layers, "players", None),
        "other layers": store.key([inputs[0]], find_layers(model, inputs[0][:1], [1]), "players", None),
        "other scope": store.key([inputs[0]], layers, "all", None),
        "a token's readout": store.key([inputs[0]], layers, "readout", (1, 0)),
        "another token's readout": store.key([inputs[0]], layers, "readout", (2, 0)),
        "other special ids": StateStore(model, {7}, None).key([inputs[0]], layers, "players", None),
        "twice": store.key([inputs[0], inputs[0]], layers, "players", None),
    }
    assert len(set(keys.values())) == len(keys)
    assert store.key([inputs[0]], layers, "players", (1, 0)) == keys["whole"]


def test_files_serve_another_process(tmp_path):
    counted, again = Counted(), Counted()
    first = counted.run(TTCAV(counted.model, n_cavs=2, cache_dir=tmp_path))
    assert len(list(tmp_path.glob("*.pt"))) == 2
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*are computed again")
        assert again.run(TTCAV(again.model, n_cavs=2, cache_dir=tmp_path)).equals(first)
    assert again.seen == 2 * TRIED + ONCE


@pytest.mark.parametrize("tokens", ["players", "all"])
def test_another_scope_is_another_file(tmp_path, tokens):
    counted = Counted()
    counted.run(TTCAV(counted.model, n_cavs=2, cache_dir=tmp_path))
    found = counted.run(TTCAV(counted.model, n_cavs=2, cache_dir=tmp_path, tokens=tokens))
    assert found.equals(counted.run(TTCAV(counted.model, n_cavs=2, tokens=tokens)))
    assert len(list(tmp_path.glob("*.pt"))) == 4


def test_files_of_other_weights_are_computed_again_and_said_to_be(tmp_path):
    counted, other = Counted(0), Counted(1)
    counted.run(TTCAV(counted.model, n_cavs=2, cache_dir=tmp_path))
    expected = other.run(TTCAV(other.model, n_cavs=2))
    with pytest.warns(UserWarning, match="was written with other weights: the states of concept 'first' are computed"):
        assert other.run(TTCAV(other.model, n_cavs=2, cache_dir=tmp_path)).equals(expected)
    assert other.seen == 12 + ONCE


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


def emptied(path):
    path.write_bytes(b"")


def no_archive(path):
    path.write_text("not a file of states")


def one_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def junk(path):
    path.write_bytes(b"PK\x03\x04junk")


def another_content(path):
    torch.save({"hidden": 1}, path)


def swapped(path):
    other = next(p for p in path.parent.glob("*.pt") if p != path)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [cut, emptied, no_archive, junk, one_bit, another_content, swapped])
def test_damaged_files_are_computed_again_and_said_to_be(tmp_path, damage):
    counted = Counted()
    first = counted.run(TTCAV(counted.model, n_cavs=2, cache_dir=tmp_path))
    damaged = sorted(tmp_path.glob("*.pt"))[0]
    damage(damaged)
    with pytest.warns(
        UserWarning, match=f"{damaged.name} is corrupt: the states of concept '(first|second)' are computed"
    ):
        assert counted.run(TTCAV(counted.model, n_cavs=2, cache_dir=tmp_path)).equals(first)
    with warnings.catch_warnings():  # it was written anew
        warnings.filterwarnings("error", message=".*are computed again")
        counted.run(TTCAV(counted.model, n_cavs=2, cache_dir=tmp_path))
    assert counted.seen == 2 * TRIED + ONCE
    assert not list(tmp_path.glob("*.tmp"))


def test_what_a_model_does_beside_its_weights_makes_other_states(tmp_path):
    counted = Counted()
    model = Scaled(counted.model)
    ttcav = TTCAV(model, n_cavs=2, cache_dir=tmp_path)
    first = ttcav.interpret(INPUTS, CONCEPTS, 0, show_progress=False).table()
    model.scale = -1.0
    expected = TTCAV(model, n_cavs=2).interpret(INPUTS, CONCEPTS, 0, show_progress=False).table()
    assert not expected.equals(first)
    for one in (ttcav, TTCAV(model, n_cavs=2, cache_dir=tmp_path)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file that is no longer of use
            assert one.interpret(INPUTS, CONCEPTS, 0, show_progress=False).table().equals(expected)
    hook = counted.model.vit.layers[0].register_forward_hook(lambda module, args, output: output + 1)
    steered = ttcav.interpret(INPUTS, CONCEPTS, 0, show_progress=False).table()
    hook.remove()
    assert not steered.equals(expected)
    assert ttcav.interpret(INPUTS, CONCEPTS, 0, show_progress=False).table().equals(expected)


class Steering:
    """A hook that adds a vector, and may be bound to another one."""

    vector: float = 0.0

    def add(self, module, args, output):
        return output + self.vector


def test_what_a_hook_is_bound_to_or_another_forward_makes_other_states(tmp_path):
    model, steering = FAMILIES["vit"].build(), Steering()
    first, second = model.vit.layers[0].mlp, model.vit.layers[1].mlp
    first.register_forward_hook(steering.add)
    ttcav = TTCAV(model, n_cavs=2, cache_dir=tmp_path)

    def found(one):
        return one.interpret(INPUTS, CONCEPTS, 0, show_progress=False).table()

    seen = [found(ttcav)]
    for change in (
        lambda: setattr(steering, "vector", 0.5),
        lambda: setattr(second, "forward", lambda states: 2 * states),
    ):
        change()
        expected = found(TTCAV(model, n_cavs=2))
        assert not any(expected.equals(other) for other in seen)
        assert found(ttcav).equals(expected)
        assert found(TTCAV(model, n_cavs=2, cache_dir=tmp_path)).equals(expected)
        seen.append(expected)


class Scaled(nn.Module):
    """A model whose first layer's states are scaled by a plain number."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.scale = model, model.config, 1.0
        model.vit.layers[0].mlp.register_forward_hook(lambda module, args, output: self.scale * output)

    def forward(self, pixel_values):
        return self.model(pixel_values=pixel_values)


class TwoReadouts(nn.Module):
    """A model of two outputs, which are read from its first token and from its last."""

    def __init__(self, only=None):
        super().__init__()
        torch.manual_seed(0)
        self.model, self.only = FAMILIES["bert"].build().bert, only
        self.config, self.heads = self.model.config, nn.Linear(32, 2)

    def forward(self, input_ids):
        hidden = self.model(input_ids=input_ids).last_hidden_state
        weights = 5 * self.heads.weight
        both = torch.stack([hidden[:, 0] @ weights[0], hidden[:, -1] @ weights[1]], 1)
        return both if self.only is None else both[:, self.only :][:, :1]


@pytest.mark.parametrize("output", [0, 1])
def test_states_are_of_the_token_that_the_explained_output_is_read_from(output):
    ids = torch.randint(5, 60, (24, 7), generator=torch.Generator().manual_seed(0))
    sets, inputs = {"first": ids[:8], "second": ids[8:16]}, ids[16:]
    found = TTCAV(TwoReadouts(), n_cavs=2).interpret(inputs, sets, output, show_progress=False).table()
    alone = TTCAV(TwoReadouts(only=output), n_cavs=2).interpret(inputs, sets, 0, show_progress=False).table()
    assert found.effect.tolist() == pytest.approx(alone.effect.tolist(), rel=1e-4)
    assert found.score.tolist() == pytest.approx(alone.score.tolist())
