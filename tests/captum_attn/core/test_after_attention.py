"""What follows attention, as seen from outside: projections, residual connections, layer norms."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, text_batch
from models import PlainClassifier, left_untouched
from peft import LoraConfig, get_peft_model
from torch import nn

from captum_attn import NormAttention
from captum_attn.core import mapping_inputs, observed_forward, tensor_inputs, tiles

POST_NORM = ("bert", "roberta", "distilbert", "electra", "albert", "deberta_v2")
PRE_NORM = ("modernbert", "gpt2", "llama", "qwen2")


@pytest.mark.parametrize("name", [*POST_NORM, *PRE_NORM, "gemma2"])
def test_norms_belong_to_the_sum_in_post_norm_models_only(name):
    model, inputs = FAMILIES[name].build(), text_batch()
    with (
        left_untouched(model),
        observed_forward(model, mapping_inputs(model, inputs), False, after_attention=True) as run,
    ):
        for call in run.calls:
            after = run.after_attention[call.layer]
            assert after.projection.shape == (32, 32)
            assert (after.norm is not None) == (name in POST_NORM)
            assert (after.residual is not None) == (name != "gemma2")  # which normalizes before it adds


def test_outputs_are_not_kept_unless_asked_for():
    model = FAMILIES["bert"].build()
    with observed_forward(model, mapping_inputs(model, text_batch())) as run:
        assert run.after_attention is None


def test_packed_attention_is_followed_too():
    model, states = PlainClassifier().eval(), torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    with observed_forward(model, tensor_inputs(model, states), False, after_attention=True) as run:
        first = run.after_attention[0]
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


class Block(nn.Module):
    """A layer with a norm after its sum, which scales and adds in one of many ways."""

    def __init__(self, way, eps=0.1):
        super().__init__()
        self.inside, self.projection = nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm, self.wide, self.last = nn.LayerNorm(8, eps=eps), nn.Linear(8, 8), nn.LayerNorm(8)
        self.scale, self.way = nn.Parameter(torch.rand(8) + 0.5), way

    def added(self, states, mixed):
        scale = self.scale
        return {
            "plain": lambda: states + mixed,
            "reversed": lambda: mixed + states,
            "in place": lambda: states.add_(mixed),
            "scaled": lambda: states + mixed * scale,
            "scaled in place": lambda: states + mixed.mul_(scale),
            "scaled by a view": lambda: states + scale.view(1, 1, -1) * mixed,
            "halved": lambda: states + 0.5 * mixed,
            "weighted sum": lambda: torch.add(states, mixed, alpha=0.5),
            "fused": lambda: torch.addcmul(states, mixed, scale),
            "gated": lambda: states + mixed * torch.sigmoid(states),
            "gated by tokens": lambda: states + mixed * torch.sigmoid(states[..., :1]),
        }[self.way]()

    def heads(self, states):
        return [part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.inside(states).chunk(3, -1)]

    def forward(self, states):
        query, key, value = self.heads(states)
        grouped = nn.functional.scaled_dot_product_attention(query, key[:, :1], value[:, :1], enable_gqa=True)
        states = self.norm(self.added(states, self.projection(grouped.transpose(1, 2).flatten(-2))))
        return self.last(states + self.wide(states))[:, 0]

    def contributions(self, states, residual):
        """Lengths (B, N, N), from vectors, which with the rest must make up the state that is normalized."""
        query, key, value = self.heads(states)
        attention = (query @ key[:, :1].mT / 2).softmax(-1)
        factor = 0.5 if self.way == "halved" else self.scale if self.way.startswith("scaled") else 1.0
        weight = self.projection.weight.unflatten(-1, (2, 4))
        vectors = torch.einsum("bhij,bhjd,ohd->bijo", attention, value[:, :1].expand(-1, 2, -1, -1), weight) * factor
        if not residual:
            return vectors.norm(dim=-1)
        total = states + vectors.sum(2) + self.projection.bias * factor
        vectors = vectors + torch.eye(states.shape[1])[None, :, :, None] * states.unsqueeze(2)
        spread = (total.var(-1, correction=0) + self.norm.eps).sqrt()[..., None, None]
        return ((vectors - vectors.mean(-1, keepdim=True)) / spread * self.norm.weight).norm(dim=-1)


WAYS = ("plain", "reversed", "in place", "scaled", "scaled in place", "scaled by a view", "halved")


@pytest.mark.parametrize("tile", [1, 20, 100, 1 << 19])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_norms_however_the_block_adds_and_attention_is_cut(way, residual, tile, monkeypatch):
    monkeypatch.setitem(tiles.TILE_ELEMENTS, "cpu", tile)
    model, states = Block(way).eval(), torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.contributions(states, residual)
    actual = NormAttention(model, residual=residual).matrix(states.clone())
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["gated", "gated by tokens"])
def test_a_gate_before_the_sum_has_no_residual(way):
    states = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))  # as many tokens as a state is wide
    assert NormAttention(Block(way).eval()).attribute(states).abs().max() > 0
    with pytest.raises(ValueError, match="residual=True is undefined"):
        NormAttention(Block(way).eval(), residual=True).attribute(states)


@pytest.mark.parametrize("way", ["weighted sum", "fused"])
def test_what_cannot_be_followed_is_refused(way):
    states = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="not followed by one linear output projection"):
        NormAttention(Block(way).eval()).attribute(states)


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
    with observed_forward(model, tensor_inputs(model, states), False, after_attention=True) as run:
        after = run.after_attention[0]
    assert after.projection is not None
    assert after.residual is None
    with pytest.raises(ValueError, match="blocks are parallel"):
        NormAttention(model, residual=True).attribute(states)
