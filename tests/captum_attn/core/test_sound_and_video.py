"""Sounds and videos are explained as texts and images are: exactly, and laid over what each token reads."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from signal_models import MODELS, REACH, STRIDE, WAVES_SETTINGS, batch, build
from torch import nn
from torch.overrides import TorchFunctionMode

from captum_attn import AttnLRP, IntegratedAttnLRP, MaskTunnel, RawAttention, ShapleyAttention, ShapleyGradAttention
from captum_attn.core import mapping_inputs, observed_forward
from captum_attn.metrics import evaluate

RETURNED = [name for name in MODELS if name not in ("wavlm", "v-jepa 2")]  # those that return all attention


def target_of(name):
    return (3, 1) if name.endswith("frames") else 1


@pytest.mark.parametrize("name", RETURNED)
def test_influence_is_that_of_eager_attention_and_autograd(name):
    model, inputs = build(name), batch(name)
    found = ShapleyGradAttention(model).influence(inputs, target=target_of(name), per="head")
    model.set_attn_implementation("eager")
    output = model(**inputs, output_attentions=True)
    score = output.logits[:, 3, 1] if name.endswith("frames") else output.logits[:, 1]
    attentions = getattr(output, "encoder_attentions", None) or output.attentions
    expected = [a * g for a, g in zip(attentions, torch.autograd.grad(score.sum(), attentions), strict=True)]
    torch.testing.assert_close(found, torch.stack(expected, 1).detach(), rtol=1e-4, atol=1e-7)


class FirstQueries(TorchFunctionMode):
    """The states (B, N, H · d) of which the first fused attention is asked."""

    states = None

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if self.states is None and function is nn.functional.scaled_dot_product_attention:
            self.states = args[0].transpose(1, 2).flatten(2)
        if self.states is None and function is nn.functional.multi_head_attention_forward:
            self.states = args[0].transpose(0, 1)
        return function(*args, **(kwargs or {}))


def read_by_each_token(model, inputs):
    """bool (N, ...), the entries of the first input that each token depends on when it comes to the first attention."""
    ((name, features),) = inputs.items()
    features = features.clone().requires_grad_()
    with FirstQueries() as first:
        model(**{name: features})
    weights = torch.rand(first.states.shape[-1], generator=torch.Generator().manual_seed(3))
    each = [
        torch.autograd.grad((token * weights).sum(), features, retain_graph=True, allow_unused=True)[0]
        for token in first.states[0]
    ]
    return torch.stack([torch.zeros_like(features[0]) if one is None else one[0] for one in each]) != 0


def without_position_convolutions(model):
    """Convolutions among the tokens say where these are; without them, each token reads its own entries alone."""
    for name, parameter in model.named_parameters():
        if "pos_conv" in name and ("original0" in name or "bias" in name or "layers" in name):
            parameter.data.zero_()
    return model


@pytest.mark.parametrize("name", MODELS)
def test_each_patch_lies_in_the_middle_of_what_its_token_reads(name):
    model, inputs = without_position_convolutions(build(name)), batch(name)
    tokens = ShapleyGradAttention(model).attribute_tokens(inputs, target=target_of(name))
    read = read_by_each_token(model, inputs)
    assert len(read) == tokens.values.shape[1]
    layout = tokens.grid
    for position, place in zip(layout.positions, torch.cartesian_prod(*map(torch.arange, layout.counts)), strict=True):
        for side, number in zip(layout.sides, place.view(-1).tolist(), strict=True):
            others = [dim for dim in range(read.dim() - 1) if dim != side.dim - 1]
            along = read[position].any(others) if others else read[position]
            entries = along.nonzero().flatten()
            first, last = int(entries[0]), int(entries[-1]) + 1
            centre = side.first + (number + 0.5) * side.size
            inside = first > 0 and last < len(along)  # else padding may be read, too
            assert abs(centre - (first + last) / 2) <= (0 if inside else side.size / 2)
            assert first <= side.first + number * side.size + 0.5
            assert last >= side.first + (number + 1) * side.size - 0.5
    assert tokens.players.sum(1).tolist() == [len(layout)] * 2


@pytest.mark.parametrize("name", MODELS)
def test_values_are_spread_over_what_is_heard_and_seen(name):
    model, inputs = build(name), batch(name)
    (features,) = inputs.values()
    for method in (ShapleyGradAttention(model), RawAttention(model), AttnLRP(model)):
        tokens = method.attribute_tokens(inputs, target=target_of(name))
        spread = method.attribute(inputs, target=target_of(name))
        assert spread.shape == features.shape
        torch.testing.assert_close(spread.flatten(1).sum(1), tokens.values.sum(1), rtol=1e-4, atol=1e-6)
    assert tokens.patches.shape == (2, *tokens.grid.counts)


WAVE_MODEL = build("wav2vec2")


@settings(max_examples=12, deadline=None)
@given(st.integers(REACH + 1, 600))
def test_tokens_of_waves_of_any_length_lie_side_by_side(samples):
    waves = torch.randn(1, samples, generator=torch.Generator().manual_seed(samples))
    tokens = ShapleyGradAttention(WAVE_MODEL).attribute_tokens(waves, target=0)
    (side,) = tokens.grid.sides
    count = (samples - REACH) // STRIDE + 1
    assert (side.count, side.size, side.first) == (count, STRIDE, (REACH - STRIDE) / 2)
    spread = ShapleyGradAttention(WAVE_MODEL).attribute(waves, target=0)[0]
    start = int(side.first)
    assert not spread[:start].any()
    assert not spread[start + count * STRIDE :].any()
    of_each = spread[start : start + count * STRIDE].view(count, STRIDE)
    torch.testing.assert_close(of_each, tokens.values[0, :, None].expand(-1, STRIDE) / STRIDE)


PADDED = [("wav2vec2", 430, 270), ("hubert", 430, 270), ("wavlm", 430, 270), ("unispeech", 430, 270)]
METHODS = {
    "game": ShapleyGradAttention,
    "attention": partial(ShapleyAttention, readout="mean"),
    "AttnLRP": AttnLRP,
    "IntegratedAttnLRP": IntegratedAttnLRP,
    "MaskTunnel": lambda model: MaskTunnel(ShapleyGradAttention(model), rounds=1),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "whole", "part"), [*PADDED, ("wav2vec2-bert", 30, 12)])
def test_padded_sounds_are_explained_as_each_is_alone(name, whole, part, method):
    model = build(name)
    ((key, features),) = batch(name).items()
    mask = torch.ones(2, whole, dtype=torch.long)
    features[1, part:], mask[1, part:] = 0, 0
    explain = METHODS[method](model).attribute_tokens
    both = explain({key: features, "attention_mask": mask}, target=1)
    alone = explain({key: features[1:, :part], "attention_mask": mask[1:, :part]}, target=1)
    count = alone.values.shape[1]
    assert both.players.sum(1).tolist() == [both.values.shape[1], count]
    assert not both.values[1, count:].any()
    if method == "MaskTunnel" and name != "wav2vec2-bert":  # which tokens are absent together is drawn for each batch
        return
    torch.testing.assert_close(both.values[1, :count], alone.values[0], rtol=1e-3, atol=1e-6)


class WithLengths(nn.Module):
    """Is told how long sounds are, not which entries are padding."""

    def __init__(self, model, told=True):
        super().__init__()
        self.model, self.config, self.told = model, model.config, told

    def forward(self, input_values, input_lengths):
        places = torch.arange(input_values.shape[1]) < input_lengths[:, None]
        return self.model(input_values, attention_mask=places.long() if self.told else None)


def test_lengths_tell_padding_by_what_attention_may_see():
    waves, lengths = batch("wav2vec2")["input_values"], torch.tensor([430, 270])
    given = {"input_values": waves, "input_lengths": lengths}
    found = ShapleyGradAttention(WithLengths(build("wav2vec2"))).attribute_tokens(given, target=1)
    assert found.players.sum(1).tolist() == [21, 13]
    with pytest.warns(UserWarning, match="what input_lengths says of padding cannot be told"):
        found = ShapleyGradAttention(WithLengths(build("wav2vec2"), told=False)).attribute_tokens(given, target=1)
    assert found.players.all()


@pytest.mark.parametrize("name", ["wav2vec2", "whisper", "spectrogram patches", "videomae"])
def test_sounds_and_videos_are_evaluated(name):
    model, inputs = build(name), batch(name)
    (features,) = inputs.values()
    layout = ShapleyGradAttention(model).attribute_tokens(inputs, target=0).grid
    heard = torch.zeros(features.shape[:2] if features.dim() < 5 else (2, 8, 16, 16), dtype=torch.bool)
    heard = heard if features.dim() != 3 else torch.zeros(features.shape, dtype=torch.bool)
    side = layout.sides[0]
    heard[:, : int(side.first + 2 * side.size)] = True

    def of_entries(batch, targets):
        return torch.rand_like(features)

    game = ShapleyGradAttention(model)
    methods = {"of entries": of_entries, "game": game, "tunnel": MaskTunnel(game, rounds=1)}
    found = evaluate(
        model, inputs, methods, rationales=heard, percentages=[50], interventions=("replacement", "knockout"),
        show_progress=False,
    )  # fmt: skip
    table = found.table(["comprehensiveness", "token_f1"])
    assert table["mean"].notna().all()
    assert {"of entries", "game", "tunnel", "random"} == set(table.method)


@pytest.mark.parametrize(
    ("name", "shape", "advice"),
    [
        ("wav2vec2", (1, 12), "at least one window long"),
        ("wav2vec2", (1, 2, 430), "one channel"),
        ("wav2vec2-bert", (1, 30, 20), "that the model's own processor makes"),
        ("videomae", (1, 16, 3, 16, 16), "as many frames"),
        ("videomae", (1, 3, 8, 16, 16), r"\(B, frames, C, h, w\)"),
    ],
)
def test_errors_of_the_model_say_what_it_expects(name, shape, advice):
    key = MODELS[name][3]
    with pytest.raises((RuntimeError, ValueError)) as error:
        ShapleyGradAttention(build(name)).attribute({key: torch.randn(shape)}, target=0)
    assert any(re.search(advice, note) for note in error.value.__notes__)


def test_what_is_no_sound_or_video_is_refused():
    waves, frames = build("wav2vec2"), build("videomae")
    explain = ShapleyGradAttention(waves).attribute
    with pytest.raises(TypeError, match=r"got torch.int64 of shape .* as input_values"):
        explain({"input_values": torch.ones(2, 400, dtype=torch.long)}, target=0)
    with pytest.raises(TypeError, match="If these are waves, give a mapping"):
        ShapleyGradAttention(lambda x: waves(x).logits).attribute(torch.randn(2, 400), target=0)
    assert ShapleyGradAttention(lambda x: waves(x).logits).attribute(batch("wav2vec2"), target=0).shape == (2, 430)
    with pytest.raises(TypeError, match="floating-point pixels"):
        ShapleyGradAttention(frames).attribute({"pixel_values": torch.randn(2, 8)}, target=0)
    squeezed = hf.SEWForSequenceClassification(hf.SEWConfig(**{**WAVES_SETTINGS, "squeeze_factor": 2})).eval()
    with pytest.raises(ValueError, match=r"nothing says which of the model's .* of the given 430 samples"):
        ShapleyGradAttention(squeezed).attribute_tokens(torch.randn(2, 430), target=0)
    assert ShapleyGradAttention(squeezed).influence(torch.randn(2, 430), target=0).dim() == 3
    inputs = mapping_inputs(frames, batch("videomae"))
    with observed_forward(frames, inputs, gradients=False) as run:
        assert run.tokens(None).grid.counts == (4, 2, 2)


class Shifting(nn.Module):
    """A listener whose tokens go through convolutions with an even kernel, each of which reads half a token earlier."""

    def __init__(self, times):
        super().__init__()
        torch.manual_seed(0)
        self.cut = nn.Conv1d(1, 16, 10, 10)
        self.moves = nn.ModuleList([nn.Conv1d(16, 16, 4, padding=2) for _ in range(times)])
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 16, batch_first=True), 2)
        self.head = nn.Linear(16, 3)

    def forward(self, input_values):
        states = self.cut(input_values[:, None])
        for move in self.moves:
            states = move(states)[..., :-1]
        return self.head(self.layers(states.mT).mean(1))


@pytest.mark.parametrize("times", [0, 1])
def test_half_a_token_is_no_move(times):
    layout = ShapleyGradAttention(Shifting(times).eval()).attribute_tokens(torch.randn(1, 120), target=0).grid
    assert (layout.sides[0].count, layout.sides[0].size, layout.sides[0].first) == (12, 10, 0)


def test_several_halves_are_no_patches_any_more():
    with pytest.raises(ValueError, match=r"12 of the 12 tokens .* are patches, of 13 .*: not one for each patch"):
        ShapleyGradAttention(Shifting(3).eval()).attribute_tokens(torch.randn(1, 120), target=0)
