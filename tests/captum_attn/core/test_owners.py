"""The walk over the stack finds the modules that are being called."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from models import PlainClassifier
from stacked_models import Own, embeddings
from torch import nn

from captum_attn import ShapleyGradAttention, inspect
from captum_attn.core import AttentionCapture
from captum_attn.core.owners import CallOwners


class Asking(nn.Module):
    """Asks who owns the call, if it is told whom to ask."""

    def __init__(self):
        super().__init__()
        self.owners, self.names = None, []

    def forward(self, x):
        if self.owners is not None:
            self.names.append(self.owners.innermost())
        return x


def nest(**parts):
    """A module of named parts, called one after the other."""

    class Nest(nn.Module):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                self.add_module(name, part)

        def forward(self, x):
            for part in self.children():
                x = part(x)
            return x

    return Nest()


def names_of(root, call, *asking):
    owners = CallOwners(root)
    for one in asking:
        one.owners = owners
    call(torch.ones(1))
    return owners, [one.names for one in asking]


def test_names_are_those_of_named_modules():
    asking, deep = Asking(), Asking()
    model = nest(first=asking, rest=nest(second=nn.Sequential(deep)))
    _, names = names_of(model, model, asking, deep)
    assert names == [["first"], ["rest.second.0"]]
    assert model.get_submodule("rest.second.0") is deep


def test_the_innermost_module_of_the_model_is_named_if_it_calls_others():
    outside = Asking()

    class Calls(nn.Module):
        def forward(self, x):
            return hidden[0](x)

    hidden = [outside]  # a list hides it from the model
    model = nest(part=Calls())
    _, names = names_of(model, model, outside)
    assert names == [["part"]]


def test_the_root_itself_has_no_name_and_a_module_in_two_places_its_first():
    alone = Asking()
    assert names_of(alone, alone, alone)[1] == [[""]]
    shared = Asking()
    model = nest(one=shared, other=nn.Sequential(shared))
    assert names_of(model, model, shared)[1] == [["one", "one"]]


def test_a_function_that_calls_two_modules_has_two_roots():
    first, second = Asking(), Asking()
    one, other = nest(part=first), nn.Sequential(second)
    owners, names = names_of(None, lambda x: other(one(x)), first, second)
    assert names == [["part"], ["Sequential.0"]]
    assert owners.roots == [one, other]


def test_a_function_that_calls_none_has_no_name():
    owners = CallOwners(None)
    assert owners.innermost() == ""
    assert owners.roots == []


def test_a_model_that_is_not_on_the_stack_is_an_error():
    asking = Asking()
    model = nest(part=asking)
    owners = CallOwners(model)
    with pytest.raises(RuntimeError, match="no module of the Nest was found on the stack"):
        owners.innermost()

    class Threaded(nn.Module):
        def forward(self, x):
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(asking.forward, x).result()

    model = nest(part=Threaded())
    asking.owners = CallOwners(model)
    with pytest.raises(RuntimeError, match="attention runs in another thread than the model"):
        model(torch.ones(1))


def test_another_pytorch_is_told_of_instead_of_naming_nothing(monkeypatch):
    model = PlainClassifier().eval()
    monkeypatch.delattr(nn.Module, "_call_impl")
    for root in (model, None):
        with pytest.raises(RuntimeError, match=r"torch\.nn\.Module\._call_impl is gone.*please report it"):
            CallOwners(root)
    with pytest.raises(RuntimeError, match="_call_impl is gone"):
        AttentionCapture(model, gradients=True)
    with pytest.raises(RuntimeError, match="_call_impl is gone"):
        ShapleyGradAttention(model).attribute(torch.randn(2, 5, 16), target=1)
    assert "_call_impl is gone" in inspect(model, torch.randn(2, 5, 16), 1).verdict


def test_a_walk_that_finds_nothing_is_an_error_and_never_a_map(monkeypatch):
    """As in a PyTorch that keeps the function's name and calls modules by another one."""
    model = PlainClassifier().eval()
    monkeypatch.setattr("captum_attn.core.owners._modules_on_the_stack", list)
    with pytest.raises(RuntimeError, match="its layers cannot be told apart"):
        ShapleyGradAttention(model).attribute(torch.randn(2, 5, 16), target=1)


def test_hooks_and_forward_that_is_called_by_hand_are_no_hindrance():
    by_hand = Own(lambda m, x: m.head(m.layers[1].forward(m.layers[0](x))[:, 0]), "fused", "eager")
    by_hand.layers[0].register_forward_hook(lambda module, args, output: output * 1)
    found = inspect(by_hand, embeddings(), 1)
    assert found.trusted
    assert [call.module for call in found.calls] == ["layers.0", ""]
