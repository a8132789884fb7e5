"""What follows attention, as seen from outside: projections, residual connections, layer norms."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, text_batch
from models import PlainClassifier, left_untouched
from peft import LoraConfig, get_peft_model
from torch import nn

from captum_attn import NormAttention
from captum_attn.core import mapping_inputs, observed_forward, tensor_inputs

POST_NORM = ("bert", "roberta", "distilbert", "electra", "albert", "deberta_v2")
PRE_NORM = ("modernbert", "gpt2", "llama", "qwen2")


@pytest.mark.parametrize("name", [*POST_NORM, *PRE_NORM, "gemma2"])
def test_norms_belong_to_the_sum_in_post_norm_models_only(name):
    model, inputs = FAMILIES[name].build(), text_batch()
    with left_untouched(model), observed_forward(model, mapping_inputs(model, inputs), False, outputs=True) as run:
        for call in run.calls:
            output = run.outputs[call.layer]
            assert output.projection.shape == (32, 32)
            assert (output.norm is not None) == (name in POST_NORM)
            assert (output.residual is not None) == (name != "gemma2")  # which normalizes before it adds


def test_outputs_are_not_kept_unless_asked_for():
    model = FAMILIES["bert"].build()
    with observed_forward(model, mapping_inputs(model, text_batch())) as run:
        assert run.outputs is None


def test_packed_attention_is_followed_too():
    model, states = PlainClassifier().eval(), torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    with observed_forward(model, tensor_inputs(model, states), False, outputs=True) as run:
        first = run.outputs[0]
    layer = model.encoder.layers[0]
    assert torch.equal(first.projection, layer.self_attn.out_proj.weight)
    assert torch.equal(first.residual, states)
    assert torch.equal(first.norm.weight, layer.norm1.weight)


def test_adapters_on_the_projection_must_be_merged():
    model, inputs = FAMILIES["bert"].build(), text_batch()
    adapted = get_peft_model(
        model, LoraConfig(target_modules=["attention.output.dense"], init_lora_weights=False)
    ).eval()
    with pytest.raises(ValueError, match=r"not followed by one linear output projection.*merge_and_unload"):
        NormAttention(adapted).attribute(inputs)
    values = NormAttention(adapted.merge_and_unload()).attribute(inputs)
    assert values.abs().max() > 0


class ParallelBlock(nn.Module):
    """Attention and a feed-forward layer side by side, added to each other before the state, as in GPT-NeoX."""

    def __init__(self):
        super().__init__()
        self.values, self.projection, self.wide = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, states):
        query = self.values(states).unflatten(-1, (2, 4)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(query, query, query)
        attended = self.projection(mixed.transpose(1, 2).flatten(-2))
        return (self.wide(states) + attended + states)[:, 0]


def test_a_parallel_branch_is_not_taken_for_the_residual():
    model, states = ParallelBlock().eval(), torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    with observed_forward(model, tensor_inputs(model, states), False, outputs=True) as run:
        output = run.outputs[0]
    assert output.projection is not None
    assert output.residual is None
    with pytest.raises(ValueError, match="blocks are parallel"):
        NormAttention(model, residual=True).attribute(states)
