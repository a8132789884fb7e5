"""Models that attend in windows, or on coarser and coarser grids, are explained key by key."""

from __future__ import annotations

import pytest
import torch
from attention_reference import gradients, recording
from hierarchical_models import MODELS, build, laid_out, pixels
from models import left_untouched
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import captum_attn
from captum_attn import AttnLRP, ShapleyAttention, ShapleyGradAttention


@pytest.mark.parametrize("name", MODELS)
def test_values_are_those_of_eager_attention_laid_where_the_paper_says(name):
    model, images, layers = build(name), pixels(name), MODELS[name].keys
    with recording(model) as recorded:
        scores = model(pixel_values=images).logits[:, 1]
    products = [one.attention.detach() * g for one, g in zip(recorded, gradients(scores, recorded), strict=True)]
    finest = max((keys.grid for keys in layers), key=lambda grid: grid.count)
    for parts, method in ((products, ShapleyGradAttention), ([one.attention for one in recorded], ShapleyAttention)):
        worths = (part.detach().sum(-2) for part in parts)
        expected = [laid_out(worth, keys, finest, 2) for worth, keys in zip(worths, layers, strict=True)]
        explainer = method(model)
        found = explainer.attribute_tokens(images, target=1, per="layer")
        assert found.grid.counts == (finest.count, finest.count)
        assert found.grid.sizes == (finest.size, finest.size)
        assert (found.grid.top, found.grid.left) == (finest.first, finest.first)
        torch.testing.assert_close(found.patches, torch.stack(expected, 1), rtol=1e-4, atol=1e-7)
        mean = explainer.attribute_tokens(images, target=1)
        torch.testing.assert_close(mean.patches, found.patches.mean(1))


class Windowed(nn.Module):
    """4 × 4 patches of 4 × 4 pixels in windows of 2 × 2, then merged to 2 × 2 and all together."""

    def __init__(self, *, order=None, values=None, between=None, twice=False, learned=False, windows_first=False):
        super().__init__()
        self.embed, self.qkv, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 3)
        self.merge, self.query = nn.Linear(32, 8), nn.Parameter(torch.randn(1, 1, 8))
        self.order, self.values, self.between = order, values, between
        self.twice, self.learned, self.windows_first = twice, learned, windows_first

    def attend(self, states):
        query, key, value = self.qkv(states).view(*states.shape[:-1], 3, 2, 4).permute(2, 0, 3, 1, 4)
        value = self.values(value) if self.values else value
        return scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)

    def in_windows(self, states):
        """The attention of (B, 4, 4, 8) in windows."""
        batch = len(states)
        states = states.view(batch, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(batch, 4, 4, 8)
        if self.windows_first:
            states = states.transpose(0, 1)
        found = self.attend(states.reshape(-1, 4, 8)).view(states.shape)
        found = found.transpose(0, 1) if self.windows_first else found
        return found.view(batch, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(batch, 4, 4, 8)

    def forward(self, pixel_values):
        states = self.embed(pixel_values).permute(0, 2, 3, 1)
        states = self.order(states) if self.order else states
        states = states + self.in_windows(states)
        if self.twice:
            states = states + self.in_windows(self.embed(2 * pixel_values).permute(0, 2, 3, 1))
        merged = self.merge(states.view(-1, 2, 2, 2, 2, 8).transpose(2, 3).reshape(-1, 4, 32))
        merged = self.between(merged) if self.between else merged
        merged = merged + self.attend(merged)
        if self.learned:
            query = self.query.expand(len(merged), -1, -1)
            return self.head(scaled_dot_product_attention(query, merged, merged)[:, 0])
        return self.head(merged.mean(1))


def small(count=2):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def windowed(**options):
    torch.manual_seed(0)
    return Windowed(**options).double().eval()


def test_parts_that_change_places_are_followed():
    images = small().double()
    plain = ShapleyGradAttention(windowed()).attribute_tokens(images, target=1, per="layer")
    assert plain.grid.counts == (4, 4)
    rolled = windowed(order=lambda x: x.roll((2, 2), (1, 2)))
    moved = ShapleyGradAttention(rolled).attribute_tokens(images.roll((-8, -8), (2, 3)), target=1, per="layer")
    torch.testing.assert_close(moved.patches.roll((2, 2), (2, 3)), plain.patches)
    across = windowed(order=lambda x: x.transpose(1, 2))
    across.embed.weight.data = across.embed.weight.transpose(2, 3).contiguous()
    turned = ShapleyGradAttention(across).attribute_tokens(images.transpose(2, 3), target=1, per="layer")
    torch.testing.assert_close(turned.patches.transpose(2, 3), plain.patches)


def test_a_head_that_pools_keys_by_learned_queries_is_no_layer():
    model = windowed(learned=True)
    found = captum_attn.inspect(model, small().double(), 1)
    assert [call.role for call in found.calls] == [
        "explained, keys 4 × 4",
        "explained, keys 2 × 2",
        "reads the tokens",
    ]
    assert found.trusted
    assert ShapleyGradAttention(model).attribute_tokens(small().double(), target=1, per="layer").values.shape[1] == 2


def test_one_example_is_what_it_is_in_a_batch():
    for name in ("swin", "hiera", "levit"):
        explainer, images = ShapleyGradAttention(build(name)), pixels(name, 3)
        whole = explainer.attribute_tokens(images, target=1)
        for example in range(3):
            alone = explainer.attribute_tokens(images[example : example + 1], target=1)
            torch.testing.assert_close(alone.values[0], whole.values[example], rtol=1e-4, atol=1e-6)


REFUSED = {
    "values of other tokens than keys": ({"values": lambda v: v.roll(1, 2)}, "nothing says which parts"),
    "chosen by content": ({"order": lambda x: x[:, x[0, :, 0, 0].argsort()]}, "made of several parts"),
    "an order of its own for each": (
        {"order": lambda x: torch.stack([x[0], x[1].flip(0)])},
        "made of several parts",
    ),
    "mixed between stages": ({"between": lambda x: x + x.flip(1)}, "made of several parts"),
    "windows before examples": ({"windows_first": True}, "do not lie together"),
    "through NumPy": (
        {"between": lambda x: x + torch.from_numpy(x.detach().numpy().copy())},
        "nothing says which parts",
    ),
    "twice": ({"twice": True}, "several encoders read the explained input"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_keys_of_unknown_places_are_refused(kind):
    options, reason = REFUSED[kind]
    model = windowed(**options)
    for explain in (ShapleyGradAttention(model), ShapleyAttention(model), AttnLRP(model)):
        with left_untouched(model), pytest.raises(ValueError, match=reason):
            explain.attribute(small().double(), target=1)
