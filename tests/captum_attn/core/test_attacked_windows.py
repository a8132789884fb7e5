"""Windows of all kinds: what is not known to be right is refused, or warned of."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers.attention_reference import gradients, recording
from models import left_untouched
from torch import nn

from captum_attn import AttnLRP, ShapleyAttention, ShapleyGradAttention
from captum_attn.core import NoMatrixError

ROWS, COLUMNS = 4, 8


class Tokens(nn.Module):
    """4 × 8 tokens of 2 × 2 pixels, as a map (B, 4, 8, 8), and what a function makes of them."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.embed, self.coarse = nn.Conv2d(1, 8, 2, 2), nn.Conv2d(1, 8, 4, 4)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.head, self.register = nn.Linear(8, 3), nn.Parameter(torch.randn(1, 1, 8))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.5)

    def heads(self, states):
        return states.unflatten(-1, (2, 4)).transpose(-3, -2)

    def attend(self, asking, asked):
        parts = self.heads(self.query(asking)), self.heads(self.key(asked)), self.heads(self.value(asked))
        return F.scaled_dot_product_attention(*parts).transpose(-3, -2).flatten(-2)

    def windows(self, states):
        """Windows of 2 × 2, and the states they were of."""
        inside = cut(states).flatten(0, 1)
        return states + joined(self.attend(inside, inside), len(states), *states.shape[1:3])

    def all(self, states):
        tokens = states.flatten(1, -2)
        return tokens + self.attend(tokens, tokens)

    def forward(self, pixel_values):
        self.pixels = pixel_values
        states = self.function(self, channels_last(self.embed(pixel_values)))
        del self.pixels
        return self.head(states.flatten(1, -2).mean(1).tanh())


def channels_first(states):
    return states.permute(0, 3, 1, 2)


def channels_last(states):
    return states.permute(0, 2, 3, 1)


def cut(states):
    """(B, windows, 4, D) of a map (B, h, w, D)."""
    batch, rows, columns, width = states.shape
    parts = states.reshape(batch, rows // 2, 2, columns // 2, 2, width)
    return parts.permute(0, 1, 3, 2, 4, 5).reshape(batch, -1, 4, width)


def joined(windows, batch, rows=ROWS, columns=COLUMNS):
    parts = windows.reshape(batch, rows // 2, columns // 2, 2, 2, -1)
    return parts.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, -1)


def images(count=2):
    return torch.randn(count, 1, 8, 16, generator=torch.Generator().manual_seed(0))


def build(function):
    torch.manual_seed(1)
    return Tokens(function).eval()


def explained(model, method=ShapleyGradAttention, **options):
    with left_untouched(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method(model).attribute_tokens(images(), target=1, **options)


def with_registers(model, states):
    """Windows that begin with a token of their own, all of which are read."""
    inside = cut(states).flatten(0, 1)
    inside = torch.cat([model.register.expand(len(inside), -1, -1), inside], 1)
    return (inside + model.attend(inside, inside)).view(len(states), -1, 8)


def registers_alone(model, states):
    return with_registers(model, states).view(len(states), -1, 5, 8)[:, :, 0]


@pytest.mark.parametrize("function", [with_registers, registers_alone])
def test_what_tokens_of_no_place_ask_counts(function):
    model = build(function)
    with recording(model) as (recorded):
        scores = model(images())[:, 1]
    (attention,) = recorded
    (gradient,) = gradients(scores, recorded)
    worth = (attention.attention.detach() * gradient).mean(1).sum(-2)[:, 1:]  # (2 · 8 windows, 4)
    expected = joined(worth[..., None], 2)[..., 0]
    torch.testing.assert_close(explained(model).patches, expected, rtol=1e-4, atol=1e-7)
    with pytest.raises(NoMatrixError, match="class tokens, or padding"):
        explained(model, ShapleyAttention)


def in_groups(model, states):
    """All tokens, by queries in groups."""
    tokens = states.flatten(1, 2)
    found = model.attend(tokens.reshape(-1, 4, 8), tokens.repeat_interleave(8, 0))
    return tokens + found.view(tokens.shape)


def test_values_are_of_heads_however_queries_are_grouped():
    together, grouped = build(Tokens.all), build(in_groups)
    torch.testing.assert_close(together(images()), grouped(images()))
    torch.testing.assert_close(explained(grouped).values, explained(together).values, rtol=1e-4, atol=1e-7)


def as_heads(model, states):
    """Windows beside heads, in one dimension."""
    inside = cut(states)
    parts = (model.heads(layer(inside)).flatten(1, 2) for layer in (model.query, model.key, model.value))
    found = F.scaled_dot_product_attention(*parts).view(len(states), 8, 2, 4, 4).transpose(2, 3).flatten(3)
    return states + joined(found, len(states))


def by_products(model, states):
    """Windows, examples and heads in one dimension."""
    inside = cut(states).flatten(0, 1)
    query, key, value = (model.heads(layer(inside)).flatten(0, 1) for layer in (model.query, model.key, model.value))
    found = torch.bmm((torch.bmm(query, key.mT) / 2).softmax(-1), value)
    return states + joined(found.view(-1, 2, 4, 4).transpose(1, 2).flatten(2), len(states))


@pytest.mark.parametrize("function", [as_heads, by_products])
def test_windows_are_windows_in_whatever_dimension(function):
    model, plain = build(function), build(Tokens.windows)
    torch.testing.assert_close(model(images()), plain(images()))
    torch.testing.assert_close(explained(model).values, explained(plain).values, rtol=1e-4, atol=1e-7)
    with pytest.raises(NoMatrixError, match="windows"):
        ShapleyGradAttention(model).influence(images(), target=1)


class Views(nn.Module):
    """Two views of each image in one batch."""

    def __init__(self, function):
        super().__init__()
        self.inner = build(function)

    def forward(self, pixel_values):
        return self.inner(torch.cat([pixel_values, 2 * pixel_values])).view(2, len(pixel_values), 3).mean(0)


def windows_first(model, states):
    batch, tokens = len(states), states.flatten(1, 2)
    asking = tokens.reshape(batch, 8, 4, 8).transpose(0, 1).reshape(-1, 4, 8)
    found = model.attend(asking, tokens[None].expand(8, -1, -1, -1).reshape(-1, 32, 8))
    return tokens + found.view(8, batch, 4, 8).transpose(0, 1).reshape(tokens.shape)


def keys_of_others(model, states):
    inside = cut(states)
    return states + joined(model.attend(inside.flatten(0, 1), inside.roll(1, 0).flatten(0, 1)), len(states))


def fovea(columns):
    """A part of the image, and all of it on a coarser grid."""

    def function(model, states):
        part = model.all(states[:, :, columns])
        coarse = model.coarse(model.pixels).flatten(2).mT
        return coarse + model.attend(coarse + part.mean(1, keepdim=True), coarse)

    return function


def aliased(model, states):
    whole = torch.zeros_like(states)
    top = whole[:, :2]
    whole[:] = states
    return model.windows(torch.cat([top, whole[:, 2:]], 1))


def unseen(states):
    """What no torch function says: a roll."""
    return torch.vmap(lambda one: one.roll(1, 0))(states)


def values_of_others(mix):
    def function(model, states):
        inside = cut(states).flatten(0, 1)
        query, key = model.heads(model.query(inside)), model.heads(model.key(inside))
        value = model.heads(model.value(inside)).flip(-2)
        found = mix((query @ key.mT / 2).softmax(-1), value)
        return states + joined(found.transpose(1, 2).flatten(2), len(states))

    return function


def read_by_all(asked):
    """Windows, whose results are the keys of all tokens in some form."""

    def function(model, states):
        states = model.windows(states)
        tokens = states.flatten(1, 2)
        return tokens + model.attend(tokens, asked(model, states))

    return function


def among_themselves(made):
    """Windows, whose results attend to each other in some form."""

    def function(model, states):
        tokens = made(model, model.windows(states))
        return tokens + model.attend(tokens, tokens)

    return function


def mixed_in_windows(model, states):
    inside = cut(states).flatten(-2)
    whole = inside @ torch.eye(32).roll(1, 0).add(0.1)
    return joined(whole.view(len(states), -1, 4, 8), len(states)).flatten(1, 2)


def strided(**options):
    return lambda model, states: F.conv2d(channels_first(states), **options).flatten(2).mT


def asking_several(model, states):
    tokens = model.windows(states).flatten(1, 2)
    return tokens + model.attend(tokens + tokens.flip(1) / 2, tokens)


def later_examples(model, states):
    return model.windows(torch.einsum("ab,bhwd->ahwd", torch.ones(len(states), len(states)).tril(), states))


def values_twice(model, states):
    both = lambda attention, value: attention @ value.flip(-2) + attention @ value  # noqa: E731
    return values_of_others(both)(model, states)


REFUSED = {
    "windows before examples": build(windows_first),
    "views in the batch, windows": Views(Tokens.windows),
    "views in the batch": Views(Tokens.all),
    "keys of the other example": build(keys_of_others),
    "examples exchanged": build(lambda model, states: model.windows(states.flip(0))),
    "a part of the image beside it": build(fovea(slice(4, 8))),
    "cells half outside": build(fovea(slice(1, 7))),
    "half of it unseen": build(lambda m, states: m.windows(torch.cat([unseen(states[:, :2]), states[:, 2:]], 1))),
    "an unseen residual": build(lambda m, states: m.windows(m.windows(states) * 0.1 + unseen(states))),
    "a view that was written through": build(aliased),
    "other values, multiplied": build(values_of_others(lambda a, v: a @ v)),
    "other values, transposed": build(values_of_others(lambda a, v: (v.mT @ a.mT).mT)),
    "other values, summed": build(values_of_others(lambda a, v: (a[..., None] * v[..., None, :, :]).sum(-2))),
    "reflected": build(
        lambda m, states: m.windows(channels_last(F.pad(channels_first(states), (0, 2, 0, 0), mode="reflect")))
    ),
    "every second key": build(read_by_all(lambda m, states: states[:, ::2, ::2].flatten(1, 2))),
    "every second key, from the second on": build(read_by_all(lambda m, states: states[:, 1::2, 1::2].flatten(1, 2))),
    "every fourth key": build(read_by_all(lambda m, states: states.flatten(1, 2)[:, torch.arange(0, 32, 4)])),
    "tokens left out": build(among_themselves(lambda m, states: states[:, ::2, ::2].flatten(1, 2))),
    "a kernel that skips": build(read_by_all(strided(weight=torch.ones(8, 8, 1, 1), stride=2))),
    "a dilated kernel": build(read_by_all(strided(weight=torch.ones(8, 8, 2, 2), stride=2, padding=1, dilation=2))),
    "a key of the whole image": build(
        read_by_all(lambda m, states: torch.cat([states.flatten(1, 2), states.mean((1, 2))[:, None]], 1))
    ),
    "queries of several tokens": build(asking_several),
    "tokens twice": build(among_themselves(lambda m, states: states.flatten(1, 2).repeat_interleave(2, 1))),
    "four tokens a patch": build(
        among_themselves(lambda m, states: states.repeat(1, 1, 1, 4).view(len(states), -1, 8))
    ),
    "tokens mixed in windows": build(among_themselves(mixed_in_windows)),
    "examples that read earlier ones": build(later_examples),
    "other values, and then its own": build(values_twice),
}


@pytest.mark.parametrize("method", [ShapleyGradAttention, ShapleyAttention, AttnLRP])
@pytest.mark.parametrize("kind", REFUSED)
def test_unknown_places_and_examples_are_refused(kind, method):
    with pytest.raises(ValueError, match=r"[Nn]or can its keys be laid|nothing says|of a batch see each other"):
        explained(REFUSED[kind], method)


MIXING = {
    "average pooling": lambda states: channels_last(F.avg_pool2d(channels_first(states), 3, 1, 1)),
    "maximum pooling": lambda states: channels_last(F.max_pool2d(channels_first(states), 3, 1, 1)),
    "resizing": lambda states: channels_last(
        F.interpolate(F.interpolate(channels_first(states), size=(2, 4), mode="bilinear"), size=(4, 8), mode="bilinear")
    ),
    "attention of channels": lambda states: F.scaled_dot_product_attention(*[states.flatten(1, 2).mT[:, None]] * 3)[
        :, 0
    ].mT.reshape(states.shape),
    "sigmoid attention in windows": lambda states: joined(
        (cut(states) @ cut(states).mT).sigmoid() @ cut(states), len(states)
    ),
    "linear attention": lambda states: (states.flatten(1, 2) @ (states.flatten(1, 2).mT @ states.flatten(1, 2))).view(
        states.shape
    ),
}


def test_two_views_of_one_example_are_refused():
    with pytest.raises(ValueError, match="more than once, as in several views"):
        ShapleyGradAttention(Views(Tokens.windows)).attribute(images(1), target=1)


@pytest.mark.parametrize("kind", MIXING)
def test_what_mixes_between_stages_is_warned_of(kind):
    def function(model, states):
        states = model.windows(states)
        return model.windows(states + MIXING[kind](states))

    with pytest.warns(UserWarning, match="by other ways than the explained attention"):
        ShapleyGradAttention(build(function)).attribute(images(), target=1)
