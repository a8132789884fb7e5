"""Patches are the tokens that depend on the pixels they are said to cover, in any way that images are read."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from families import FAMILIES, image_batch
from torch import nn
from torch.overrides import TorchFunctionMode

from captum_attn import RawAttention, ShapleyGradAttention
from captum_attn.concepts import TTCAV
from captum_attn.core.inputs import tensor_inputs
from captum_attn.core.patches import NoPatchGrid, PatchGrid, spread_over_pixels
from captum_attn.core.run import observed_forward

WIDTH = 16


def rows_of(states):
    """A map (B, D, r, c) as tokens, row by row."""
    return states.flatten(2).mT


def seeded(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


class Reader(nn.Module):
    """Convolutions of an image, what makes tokens of their map, and two transformer layers."""

    def __init__(self, *convolutions, before=None, tokens=rows_of, first=1, last=0, batch_first=True):
        super().__init__()
        torch.manual_seed(0)
        made = convolutions or (nn.Conv2d(3, WIDTH, 8, 8),)
        self.stem = nn.Sequential(*made)
        self.before, self.tokens, self.first, self.last = before or nn.Identity(), tokens, first, last
        self.batch_first = batch_first
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, batch_first=batch_first)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, pixel_values):
        patches = self.norm(self.tokens(self.stem(self.before(pixel_values))))
        ends = (seeded((1, n, WIDTH)).expand(len(patches), -1, -1) for n in (self.first, self.last))
        states = torch.cat([next(ends), patches, next(ends)], 1)
        states = states + 0.1 * seeded((states.shape[1], WIDTH))
        states = self.layers(states if self.batch_first else states.transpose(0, 1))
        return self.head((states if self.batch_first else states.transpose(0, 1)).mean(1))


class Queries(TorchFunctionMode):
    """The queries of the first attention, (B, N, D)."""

    first = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.multi_head_attention_forward and self.first is None:
            self.first = args[0].transpose(0, 1)
        if func is F.scaled_dot_product_attention and self.first is None:
            self.first = args[0].transpose(1, 2).flatten(2)
        return func(*args, **(kwargs or {}))


def read_by_each_token(model, pixels):
    """bool (N, h, w): the pixels that each token depends on when it comes to the first attention, by autograd."""
    pixels = pixels.clone().requires_grad_()
    with Queries() as queries:
        model(pixels)
    states = queries.first
    weights = torch.rand(states.shape[-1], generator=torch.Generator().manual_seed(3), dtype=states.dtype)
    each = [
        torch.autograd.grad((token * weights).sum(), pixels, retain_graph=True, allow_unused=True)[0]
        if token.requires_grad
        else None
        for token in states[0]
    ]
    return torch.stack([torch.zeros_like(pixels[0, 0]) if g is None else g[0].abs().sum(0) for g in each]) > 0


def found(model, pixels):
    with observed_forward(model.eval(), tensor_inputs(model, pixels), gradients=False) as run:
        return run.tokens(None), run.length


def covered(grid, height, width):
    """bool (P, h, w): the pixels that each patch is said to cover."""
    one = torch.eye(grid.rows * grid.columns).unflatten(1, (grid.rows, grid.columns))
    return spread_over_pixels(one, grid, height, width) > 0


def images(height=32, width=32):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def by_column(states):
    return states.transpose(2, 3).reshape(*states.shape[:2], -1).permute(0, 2, 1)


def padded(pixels):
    height, width = pixels.shape[2:]
    return F.pad(pixels, (0, -width % 8, 0, -height % 8))


EXACT = {
    "class token": (Reader(), images()),
    "other sides": (Reader(), images(24, 40)),
    "tokens behind": (Reader(last=3), images()),
    "tokens behind alone": (Reader(first=0, last=2), images()),
    "no other tokens": (Reader(first=0), images()),
    "tokens first": (Reader(batch_first=False, last=2), images()),
    "column by column": (Reader(tokens=by_column), images(24, 32)),
    "what is left over": (Reader(), images(30, 29)),
    "padded at the end": (Reader(before=padded), images(29, 20)),
    "padded around": (Reader(before=lambda x: F.pad(x, (4, 4, 4, 4))), images(24, 24)),
    "cut out": (Reader(before=lambda x: x[..., 4:28, 2:-6]), images()),
    "cut out behind": (Reader(before=lambda x: x.narrow(2, 8, 16)), images()),
    "normalized": (
        Reader(before=lambda x: ((x - 0.5) / torch.tensor([1.0, 2, 3]).view(3, 1, 1)).half().float()),
        images(),
    ),
    "blue first": (Reader(before=lambda x: x[:, [2, 1, 0]]), images()),
    "blue first by a flip": (Reader(before=lambda x: x.flip(1)), images()),
    "blue first by an index": (Reader(before=lambda x: x.index_select(1, torch.tensor([2, 1, 0]))), images()),
    "grey": (Reader(nn.Conv2d(1, WIDTH, 8, 8), before=lambda x: x[:, :1]), images()),
    "channels last": (Reader(before=lambda x: (x.permute(0, 2, 3, 1) * 2).permute(0, 3, 1, 2)), images()),
    "colours first": (Reader(nn.Conv2d(3, 3, 1), nn.Conv2d(3, WIDTH, 8, 8)), images()),
    "two steps": (Reader(nn.Conv2d(3, 8, 4, 4), nn.GELU(), nn.BatchNorm2d(8), nn.Conv2d(8, WIDTH, 2, 2)), images()),
    "pooled": (Reader(nn.Conv2d(3, WIDTH, 4, 4), nn.AvgPool2d(2)), images()),
    "repeated pixels": (Reader(before=lambda x: F.interpolate(x, scale_factor=2, mode="nearest")), images(16, 32)),
    "by blocks": (Reader(tokens=lambda x: x.unflatten(2, (2, 2)).permute(0, 2, 3, 4, 1).flatten(1, 3)), images()),
    "batch norm of tokens": (
        Reader(tokens=lambda x: rows_of(x).flatten(0, 1).relu().view(len(x), -1, WIDTH)),
        images(),
    ),
    "in parts": (Reader(tokens=lambda x: torch.cat(rows_of(x).chunk(2, 1), 1)), images()),
    "turned round": (Reader(tokens=lambda x: torch.cat(rows_of(x).split(4, 1)[::-1], 1)), images()),
    "tokens and a map again": (
        Reader(tokens=lambda x: rows_of(F.conv2d(rows_of(x).mT.unflatten(2, (4, 4)), seeded((WIDTH, WIDTH, 1, 1))))),
        images(),
    ),
    "pixels": (Reader(nn.Identity(), tokens=lambda x: rows_of(x)[..., :1] * seeded((WIDTH,))), images(4, 5)),
}


@pytest.mark.parametrize("name", EXACT)
def test_each_patch_is_the_token_that_reads_its_pixels_and_no_others(name):
    model, pixels = EXACT[name]
    tokens, length = found(model, pixels)
    read = read_by_each_token(model, pixels)
    assert len(read) == length
    assert torch.equal(read[list(tokens.grid.positions)], covered(tokens.grid, *pixels.shape[2:]))
    others = sorted({*range(length)} - {*tokens.grid.positions})
    assert not read[others].any()
    assert tokens.players.sum(0).nonzero().flatten().tolist() == sorted(tokens.grid.positions)


def resized(**options):
    return lambda pixels: F.interpolate(pixels, **options)


SHARED = {
    "enlarged": (Reader(before=resized(size=64, mode="bilinear")), images(), 4, 0),
    "made smaller": (Reader(before=resized(size=(32, 48), mode="bilinear", antialias=True)), images(64, 96), 16, 0),
    "no whole pixels": (Reader(before=resized(size=64, mode="bilinear")), images(40, 40), 5, 0.5),
    "bicubic": (Reader(before=resized(size=64, mode="bicubic")), images(52, 52), 6.5, 0.5),
    "between the outer pixels": (
        Reader(before=resized(size=64, mode="bilinear", align_corners=True)),
        images(),
        8 * 31 / 63,
        0.5,
    ),
    "by a factor": (Reader(before=resized(scale_factor=1.5, mode="bilinear")), images(), 8 / 1.5, 0.5),
    "resized and padded": (
        Reader(before=lambda x: padded(F.interpolate(x, scale_factor=0.5, mode="bilinear"))),
        images(56, 60),
        16,
        0.5,
    ),
    "adaptive": (Reader(before=nn.AdaptiveAvgPool2d(32)), images(64, 64), 16, 0),
    "overlapping": (Reader(nn.Conv2d(3, WIDTH, 7, 4, 3)), images(), 4, 0),
    "overlapping, even": (Reader(nn.Conv2d(3, WIDTH, 8, 4, 2)), images(), 4, 0),
    "a stem": (
        Reader(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, WIDTH, 1)),
        images(),
        4,
        0,
    ),
    "a stem with pooling": (
        Reader(nn.Conv2d(3, 8, 7, 2, 3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, WIDTH, 2, 2)),
        images(),
        8,
        1,
    ),
    "dilated": (Reader(nn.Conv2d(3, WIDTH, 3, 4, 2, dilation=2)), images(), 4, 0),
}


@pytest.mark.parametrize("name", SHARED)
def test_patches_that_share_pixels_lie_in_the_middle_of_what_they_read(name):
    model, pixels, height, tolerance = SHARED[name]
    tokens, _ = found(model, pixels)
    grid = tokens.grid
    assert grid.height == pytest.approx(height)
    read = read_by_each_token(model, pixels)[list(grid.positions)].unflatten(0, (grid.rows, grid.columns))
    inside = 0
    for side, (first, size, count) in enumerate(
        [(grid.top, grid.height, grid.rows), (grid.left, grid.width, grid.columns)]
    ):
        for cell in range(count):
            seen = read.select(side, cell).any(0).any(1 - side).nonzero().flatten()
            start, end = first + cell * size, first + (cell + 1) * size
            assert seen[0] - 0.5 <= max(start, 0)
            assert min(end, pixels.shape[2 + side]) <= seen[-1] + 1.5
            if seen[0] > 0 and seen[-1] < pixels.shape[2 + side] - 1:
                inside += 1
                assert (seen[0] + seen[-1] + 1) / 2 == pytest.approx((start + end) / 2, abs=tolerance + 1e-6)
    assert inside


def unfolded(pixels):
    return F.unfold(pixels, 8, stride=8).mT[..., :WIDTH].contiguous()


LOST = {
    "turned over": (Reader(before=lambda x: x.flip(3)), "flip"),
    "moved": (Reader(before=lambda x: x.roll(4, 2)), "roll"),
    "every other line from a list": (Reader(before=lambda x: x[:, :, torch.arange(0, 32, 2)]), "getitem"),
    "unfolded": (Reader(nn.Identity(), tokens=unfolded), "no patch embedding.*unfold"),
    "linear": (
        Reader(
            nn.Identity(),
            tokens=lambda x: F.linear(
                x.unflatten(3, (4, 8)).unflatten(2, (4, 8)).permute(0, 2, 4, 3, 5, 1).reshape(len(x), 16, -1),
                seeded((WIDTH, 192)),
            ),
        ),
        "no patch embedding.*linear",
    ),
    "mixed": (Reader(tokens=lambda x: F.linear(x.flatten(2), seeded((16, 16))).mT), "4 × 4.*linear"),
    "another map again": (
        Reader(tokens=lambda x: rows_of(F.conv2d(by_column(x).mT.unflatten(2, (4, 4)), seeded((WIDTH, WIDTH, 1, 1))))),
        "conv2d",
    ),
    "pooled with gaps": (Reader(nn.Conv2d(3, WIDTH, 4, 4), nn.MaxPool2d(2, 1, dilation=2)), "max_pool2d"),
    "put in order": (Reader(tokens=lambda x: rows_of(x).sort(1).values), "sort"),
    "some left out": (Reader(tokens=lambda x: rows_of(x)[:, 3:]), "13 of the 14 tokens"),
    "twice": (Reader(tokens=lambda x: torch.cat([rows_of(x), rows_of(x)], 1)), "32 of the 33 tokens"),
    "written into others": (Reader(tokens=lambda x: written(x)), "4 × 4"),
    "overwritten": (Reader(tokens=lambda x: overwritten(x)), "4 × 4"),
}


def written(states):
    tokens = torch.zeros(len(states), 18, WIDTH)
    tokens[:, 1:17] = rows_of(states)
    return tokens


def overwritten(states):
    tokens = rows_of(states).contiguous()
    tokens.copy_(rows_of(states).flip(1))
    return tokens


@pytest.mark.parametrize("name", LOST)
def test_where_the_trail_is_lost_nothing_is_guessed(name):
    model, reason = LOST[name]
    tokens, length = found(model, images())
    assert isinstance(tokens.grid, NoPatchGrid)
    with pytest.raises(ValueError, match=rf"(?s){reason}.*players=, a bool tensor \(B, N\) = \(2, {length}\)"):
        ShapleyGradAttention(model).attribute_tokens(images(), target=1)
    players = torch.arange(length).expand(2, -1) > 1
    result = ShapleyGradAttention(model).attribute_tokens(images(), target=1, players=players)
    assert result.values[players].all()
    with pytest.raises(ValueError, match=rf"(?s){reason}.*attribute_tokens"):
        _ = result.patches
    with pytest.raises(ValueError, match=rf"(?s){reason}.*attribute_tokens"):
        ShapleyGradAttention(model).attribute(images(), target=1, players=players)


def test_all_that_needs_no_map_works_without_one():
    model = LOST["unfolded"][0].eval()
    assert ShapleyGradAttention(model).influence(images(), target=1).shape == (2, 17, 17)
    players = torch.arange(17).expand(2, -1) > 0
    assert RawAttention(model, readout=0).attribute_tokens(images(), players=players).values[players].all()
    many = torch.rand(8, 3, 32, 32)
    concepts = {"light": many * 0.5 + 0.5, "dark": many * 0.5}
    for scope in ("readout", "all"):
        ttcav = TTCAV(model, tokens=scope, n_cavs=2, layers=[0], permutations=20)
        assert ttcav.interpret(images(), concepts, 1, show_progress=False).table().effect.notna().all()
    with pytest.raises(ValueError, match="no patch embedding"):
        TTCAV(model, tokens="players", n_cavs=2, layers=[0]).interpret(images(), concepts, 1, show_progress=False)


def test_players_say_where_the_patches_are_if_they_are_as_many_in_every_image():
    model = LOST["written into others"][0]
    players = torch.zeros(2, 19, dtype=torch.bool)
    players[:, 2:18] = True
    explainer = ShapleyGradAttention(model.eval())
    result = explainer.attribute_tokens(images(), target=1, players=players)
    assert result.grid == PatchGrid(4, 4, 8, 8, 0, 0, tuple(range(2, 18)))
    assert torch.equal(result.patches.flatten(1), result.values[:, 2:18])
    players[0, 2], players[0, 18] = False, True
    with pytest.raises(ValueError, match="4 × 4"):
        _ = explainer.attribute_tokens(images(), target=1, players=players).patches
    with pytest.raises(ValueError, match="explain them apart"):
        explainer.attribute_tokens(images(), target=1, players=players, internal_batch_size=1)


def test_players_do_not_move_patches_that_are_known():
    players = torch.zeros(2, 20, dtype=torch.bool)
    players[:, 3:19] = True
    model = EXACT["tokens behind"][0].eval()
    result = ShapleyGradAttention(model).attribute_tokens(images(), target=1, players=players)
    assert result.grid.positions == tuple(range(1, 17))
    assert not result.patches[:, 0, :2].any()


def test_a_patch_that_covers_no_given_pixel_has_no_place_on_the_map():
    model = Reader(before=lambda x: F.pad(x, (0, 12, 0, 0))).eval()
    result = ShapleyGradAttention(model).attribute_tokens(images(32, 20), target=1)
    assert result.patches.shape == (2, 4, 4)
    with pytest.raises(ValueError, match=r"4 of the 4 × 4 patches cover none of the given 32 × 20 pixels"):
        result.spread_over(images(32, 20))


@pytest.mark.parametrize("name", ["padded at the end", "cut out", "turned round"])
@pytest.mark.parametrize("name_shared", ["no whole pixels", "overlapping"])
def test_the_map_keeps_sums(name, name_shared):
    for model, pixels in (EXACT[name], SHARED[name_shared][:2]):
        explainer = ShapleyGradAttention(model.eval())
        values = explainer.attribute_tokens(pixels, target=1).values
        spread = explainer.attribute(pixels, target=1)
        assert spread.shape == pixels.shape
        torch.testing.assert_close(spread.sum((1, 2, 3)), values.sum(1))


def test_nothing_is_kept_of_the_model_and_it_stays_as_it_was():
    model, pixels = EXACT["tokens behind"]
    with observed_forward(model.eval(), tensor_inputs(model, pixels)) as run:
        assert not run._patches._traces
    pickle.dumps(model)
    with pytest.raises(ZeroDivisionError):
        ShapleyGradAttention(Reader(tokens=lambda x: x / (1 // 0)).eval()).attribute(pixels)
    assert not torch.overrides._get_current_function_mode_stack()


def test_a_gate_for_the_whole_map_changes_nothing():
    def gated(states):
        return rows_of(states * F.adaptive_avg_pool2d(states, 1).sigmoid() + F.avg_pool2d(states, 4))

    tokens, _ = found(Reader(tokens=gated), images())
    assert tokens.grid == found(Reader(), images())[0].grid


@pytest.mark.parametrize(
    "tokens",
    [
        lambda x: rows_of(x) + by_column(x),
        lambda x: rows_of(x + F.conv2d(x, seeded((WIDTH, WIDTH, 3, 3)), padding=2)[..., 2:, 1:-1]),
    ],
)
def test_maps_that_do_not_lie_on_each_other_lose_the_trail(tokens):
    assert isinstance(found(Reader(tokens=tokens), images())[0].grid, NoPatchGrid)


def test_a_residual_convolution_keeps_it():
    model = Reader(tokens=lambda x: rows_of(x + F.conv2d(x, seeded((WIDTH, WIDTH, 3, 3)), padding=1)))
    assert found(model, images())[0].grid == found(Reader(), images())[0].grid


def test_families_of_transformers():
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    yolos = hf.YolosModel(hf.YolosConfig(**small, image_size=[32, 32], patch_size=8, num_detection_tokens=5)).eval()

    def detector(pixel_values):
        return yolos(pixel_values=pixel_values).last_hidden_state[:, -1, :3]

    tokens, _ = found(FunctionOf(yolos, detector), images())
    assert tokens.grid == PatchGrid(4, 4, 8, 8, 0, 0, tuple(range(1, 17)))
    registers = FAMILIES["dinov2_registers"].build()
    tokens, _ = found(registers, image_batch()["pixel_values"])
    assert tokens.grid == PatchGrid(3, 3, 4, 4, 0, 0, tuple(range(3, 12)))
    vit = FAMILIES["vit"].build()

    def other_size(pixel_values):
        return vit(pixel_values=pixel_values, interpolate_pos_encoding=True).logits

    tokens, _ = found(FunctionOf(vit, other_size), images(20, 16))
    assert tokens.grid[:4] == (5, 4, 4, 4)
    siglip = hf.SiglipVisionConfig(**small, image_size=32, patch_size=8, vision_use_head=False)
    pooled = hf.SiglipVisionModel(siglip).eval()
    tokens, _ = found(FunctionOf(pooled, lambda pixel_values: pooled(pixel_values).last_hidden_state.mean(1)), images())
    assert tokens.grid.positions == tuple(range(16))


class FunctionOf(nn.Module):
    """A model of its output alone."""

    def __init__(self, model, function):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, pixel_values):
        return self.function(pixel_values)
