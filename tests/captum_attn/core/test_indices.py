"""Layers, heads, tokens and classes chosen by Python's, NumPy's and torch's numbers alike, and never by a bool."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import FAMILIES, text_batch

from captum_attn import IntegratedAttention, MaskTunnel, RawAttention, ShapleyGradAttention
from captum_attn.bench import MaskedModel
from captum_attn.concepts import TTCAV
from captum_attn.controls import counterfactual_attention
from captum_attn.core.indices import as_index, is_index, listed_indices

KINDS = [np.int64, np.uint8, np.array, torch.tensor]
BOOLS = [True, np.True_, np.array(False), torch.tensor(True)]
NO_INDEX = [*BOOLS, 1.0, np.float32(1), torch.tensor(1.0), np.array([1]), torch.tensor([1]), "1", None]
INPUTS = text_batch()


@pytest.fixture(scope="module")
def bert():
    return FAMILIES["bert"].build()


@pytest.mark.parametrize("kind", [int, *KINDS])
def test_every_kind_of_number_is_an_int(kind):
    assert type(as_index(kind(2))) is int
    assert as_index(kind(2)) == 2
    assert listed_indices("heads", kind(2)) == listed_indices("heads", [kind(2)]) == [2]


@pytest.mark.parametrize("value", NO_INDEX, ids=repr)
def test_what_is_no_index(value):
    assert not is_index(value)
    with pytest.raises(TypeError):
        as_index(value)


@pytest.mark.parametrize("value", [*BOOLS, 1.0, "1", [True], [np.True_], [0, "1"], np.array([0.5]), torch.ones(2) > 0])
def test_what_is_no_list_of_indices(value):
    with pytest.raises(TypeError, match="layers must be an index, a sequence of indices or None for all, got"):
        listed_indices("layers", value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [ShapleyGradAttention, RawAttention, IntegratedAttention])
def test_methods_take_every_kind(bert, method, kind):
    expected = method(bert, layers=1, heads=[0, -1], readout=2).attribute(INPUTS, target=1)
    given = method(bert, layers=kind(1), heads=[kind(0), kind(3)], readout=kind(2)).attribute(INPUTS, target=kind(1))
    assert torch.equal(given, expected)


@pytest.mark.parametrize("value", BOOLS, ids=repr)
@pytest.mark.parametrize("name", ["layers", "heads", "readout"])
def test_a_bool_is_no_number_of_a_layer_a_head_or_a_token(bert, name, value):
    with pytest.raises((TypeError, ValueError), match=rf"{name} must be .*(True|False)"):
        ShapleyGradAttention(bert, **{name: value})


@pytest.mark.parametrize("target", [*BOOLS, [True, 0, 1], (0, True)], ids=repr)
def test_a_bool_is_no_target(bert, target):
    with pytest.raises(TypeError, match="target"):
        ShapleyGradAttention(bert).attribute(INPUTS, target=target)


@pytest.mark.parametrize("kind", KINDS)
def test_the_other_rooms_take_every_kind(bert, kind):
    assert TTCAV(bert, layers=kind(1)).layers == TTCAV(bert, layers=[kind(1)]).layers == [1]
    assert TTCAV(bert, layers=[kind(0), np.str_("bert.pooler")]).layers == [0, "bert.pooler"]
    assert MaskedModel(bert, layers=kind(1)).layers == [1]
    replaced = [MaskTunnel(ShapleyGradAttention(bert), replacement=of(4)) for of in (int, kind)]
    one, other = (tunnel.attribute(INPUTS, target=1) for tunnel in replaced)
    assert torch.equal(one, other)


@pytest.mark.parametrize("layers", [*BOOLS, [True], {"a": 1}, 0.5])
def test_concepts_are_of_no_such_layers(bert, layers):
    with pytest.raises(TypeError, match="layers must be indices or names of modules"):
        TTCAV(bert, layers=layers)


def test_a_control_takes_numpys_numbers(bert):
    arguments = {"steps": 1, "show_progress": False}
    one, other = (
        counterfactual_attention(bert, INPUTS, layers=of(1), heads=of(0), **arguments).frame() for of in (int, np.int64)
    )
    assert one.equals(other)
