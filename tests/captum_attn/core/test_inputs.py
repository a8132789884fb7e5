"""What goes along with the explained input: a companion brings tokens by its shape, whatever values a batch has."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, text_batch
from stacked_models import Attend
from torch import nn

from captum_attn import ShapleyGradAttention
from captum_attn.core import mapping_inputs, observed_forward, tensor_inputs
from captum_attn.core.inputs import ModelInputs, _brings_tokens
from captum_attn.core.origins import FEATURES, OTHER, Provenance

IDS = torch.randint(2, 9, (2, 5), generator=torch.Generator().manual_seed(0))


class Conditioned(nn.Module):
    """Two layers of attention, between which something joins all tokens alike."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.table, self.mix = nn.Embedding(9, 16), nn.Embedding(9, 16), nn.Linear(4, 16)
        self.layers, self.head = nn.ModuleList([Attend(), Attend()]), nn.Linear(16, 3)

    def forward(self, input_ids, condition):
        joining = self.mix(condition) if condition.is_floating_point() else self.table(condition)
        joining = joining.unsqueeze(1) if joining.dim() == 2 else joining
        states = self.layers[0](self.embed(input_ids)) + joining
        return self.head(self.layers[1](states)[:, 0])


JOINING = {
    "a domain": torch.tensor([3, 4]),
    "a column": torch.tensor([[3], [4]]),
    "a column of zeros and ones": torch.tensor([[0], [1]]),
    "tabular features": torch.rand(2, 4),
    "one vector": torch.rand(2, 1, 4),
}


@pytest.mark.parametrize("condition", JOINING.values(), ids=JOINING)
def test_what_joins_all_tokens_alike_leaves_one_stack(condition):
    model = Conditioned().eval()
    inputs = {"input_ids": IDS, "condition": condition}
    with observed_forward(model, mapping_inputs(model, inputs), gradients=False) as run:
        assert [call.module for call in run.calls] == ["layers.0", "layers.1"]
    inside = ShapleyGradAttention(lambda input_ids: model(input_ids, condition[:1]))
    found = ShapleyGradAttention(model).influence(inputs, 1)[:1]
    torch.testing.assert_close(found, inside.influence(IDS[:1], 1))


BRING = {
    "a second text": ("other", torch.zeros(2, 7, dtype=torch.long)),
    "of zeros and ones": ("other", torch.tensor([[0, 1, 1], [1, 0, 1]])),
    "called after masks": ("masked_ids", IDS),
    "embeddings": ("memory", torch.rand(2, 7, 4)),
    "pixels": ("pixel_values", torch.rand(2, 3, 8, 8)),
    "for all examples": ("prompt", torch.rand(1, 7, 4)),
    "without a batch": ("prompt", torch.rand(7, 4)),
}
BRING_NONE = {
    "a mask": ("attention_mask", torch.ones(2, 5)),
    "a mask of keys for queries": ("src_mask", torch.rand(2, 1, 5, 5)),
    "types": ("token_type_ids", IDS),
    "positions": ("position_ids", IDS),
    "one number": ("domain", torch.tensor([3, 4])),
    "a column": ("domain", torch.tensor([[3], [4]])),
    "tabular features": ("tabular", torch.rand(2, 7)),
    "one vector": ("style", torch.rand(2, 1, 7)),
    "a number": ("scale", torch.tensor(2.0)),
    "no tensor": ("scale", 2.0),
}


@pytest.mark.parametrize(("name", "value"), BRING.values(), ids=BRING)
def test_what_has_several_places_for_each_example_brings_tokens(name, value):
    assert _brings_tokens(name, value, 2)


@pytest.mark.parametrize(("name", "value"), BRING_NONE.values(), ids=BRING_NONE)
def test_what_has_one_and_what_is_about_the_tokens_brings_none(name, value):
    assert not _brings_tokens(name, value, 2)


def test_companions_by_place_are_known_by_the_models_names_for_them():
    entered = []

    class Entering(Provenance):
        def enter(self, value, inputs, picture=False):
            assert not picture
            entered.append((value, inputs))
            return value

    inputs = ModelInputs(IDS, None, {}, (IDS > 3, IDS + 1, IDS + 2), places=("mask", "token_type_ids"))
    inputs.call(lambda *given: given, Entering(True))
    assert [number for _, number in entered] == [FEATURES, OTHER]
    assert torch.equal(entered[1][0], IDS + 2)


def test_a_mapping_of_inputs_is_what_a_tokenizer_returned():
    model = FAMILIES["gpt2"].build()
    given = {**text_batch(), "special_tokens_mask": torch.zeros_like(text_batch()["input_ids"])}
    inputs = mapping_inputs(model, given)
    assert inputs.keywords["use_cache"] is False  # added for the model; who reads the mapping gets tensors alone
    assert inputs.mapping().keys() == given.keys()
    assert all(torch.equal(value, given[name]) for name, value in inputs.mapping().items())
    again = mapping_inputs(model, inputs.mapping())
    assert (again.name, again.keywords.keys(), again.notes.keys()) == (
        inputs.name,
        inputs.keywords.keys(),
        inputs.notes.keys(),
    )


def test_a_mapping_names_what_was_given_by_place():
    by_place = tensor_inputs(lambda ids, condition: ids + condition, IDS, (JOINING["a domain"],))
    assert by_place.mapping().keys() == {"input_ids", "condition"}
