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
from captum_attn.core.cell_rules import _of_each_entry, rule_of
from captum_attn.core.inputs import tensor_inputs
from captum_attn.core.patches import NoPatchGrid, PatchGrid, spread_over
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
    return spread_over(one, grid, (len(one), 1, height, width))[:, 0] > 0


def images(height=32, width=32):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def by_column(states):
    return states.transpose(2, 3).reshape(*states.shape[:2], -1).permute(0, 2, 1)


def padded(pixels):
    height, width = pixels.shape[2:]
    return F.pad(pixels, (0, -width % 8, 0, -height % 8))


def grey(*before, channels=1):
    return Reader(nn.Conv2d(channels, WIDTH, 8, 8), before=before[0])


def one_by_one(pixels):
    return torch.stack([(image - image.mean()) / image.std() for image in pixels])


def gathered(states, order=range(16)):
    """Tokens in an order of their own."""
    return torch.gather(rows_of(states), 1, torch.tensor([*order])[None, :, None].expand(len(states), -1, WIDTH))


def written(states):
    tokens = torch.zeros(len(states), 18, WIDTH)
    tokens[:, 1:17] = rows_of(states)
    tokens[:, 17:] = 0
    return tokens


def written_into_a_view(states):
    tokens = torch.ones(len(states), 18, WIDTH)
    inner = tokens[:, 1:-1]
    inner.copy_(rows_of(states).flip(1))
    return tokens * 2


def overwritten(states):
    tokens = rows_of(states).contiguous()
    tokens.copy_(rows_of(states).flip(1))
    return tokens


def halved_in_part(states):
    states = states * 2
    states[:, :3].mul_(0.5)
    return states


def on_a_canvas(pixels):
    canvas = pixels.new_zeros(len(pixels), 3, 32, 40)
    canvas[:, :, : pixels.shape[2], : pixels.shape[3]] = pixels
    return canvas


def focused(pixels):
    return torch.cat([pixels[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)


def cut_up(pixels):
    """All pixels of each patch of 8 × 8, as tokens (B, N, 192)."""
    return pixels.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def embedded(tokens):
    return F.linear(F.layer_norm(tokens, tokens.shape[-1:]), seeded((WIDTH, tokens.shape[-1])))


def complex_tokens(states):
    turned = torch.view_as_complex(rows_of(states).unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(turned * torch.polar(torch.ones(16, 8), seeded((16, 8)))).flatten(-2)


def gated_twice(states):
    """By means over the whole map: of each channel, and as wide as the map itself."""
    gate = states.mean((2, 3), keepdim=True)
    return rows_of(states * F.conv2d(gate, seeded((WIDTH, WIDTH, 1, 1))).expand_as(states) + gate)


def on_tokens(change):
    return Reader(tokens=lambda x: change(rows_of(x))), images()


def on_map(change):
    return Reader(tokens=lambda x: rows_of(change(x))), images()


HILBERT = [0, 1, 4, 8, 5, 2, 3, 6, 9, 12, 13, 10, 7, 11, 14, 15]

EXACT = {
    "grey, repeated": (Reader(before=lambda x: x[:, :1].repeat(1, 3, 1, 1)), images()),
    "grey, thrice": (Reader(before=lambda x: torch.cat([x[:, 1:2]] * 3, 1)), images()),
    "grey, the mean": (grey(lambda x: x.mean(1, keepdim=True)), images()),
    "grey, a weighted sum": (grey(lambda x: (x * torch.rand(3, 1, 1)).sum(1, keepdim=True)), images()),
    "other colours": (Reader(before=lambda x: torch.einsum("bchw,cd->bdhw", x, seeded((3, 3)))), images()),
    "channels stacked": (Reader(before=lambda x: torch.stack([(x[:, i] - 0.5) / 0.2 for i in range(3)], 1)), images()),
    "channels side by side": (Reader(before=lambda x: torch.cat([x[:, i : i + 1] - i for i in range(3)], 1)), images()),
    "with coordinates": (
        Reader(nn.Conv2d(4, WIDTH, 8, 8), before=lambda x: torch.cat([x, torch.ones(len(x), 1, 32, 32)], 1)),
        images(),
    ),
    "neighbours in channels": (Reader(nn.Conv2d(12, WIDTH, 4, 4), before=focused), images(32, 48)),
    "unshuffled": (Reader(nn.Conv2d(12, WIDTH, 4, 4), before=lambda x: F.pixel_unshuffle(x, 2)), images(48, 32)),
    "on a canvas": (Reader(before=on_a_canvas), images(29, 35)),
    "transposed": (Reader(before=lambda x: x.transpose(2, 3)), images(32, 48)),
    "a transposed map": (
        Reader(tokens=lambda x: rows_of(F.conv2d(by_column(x).mT.unflatten(2, (4, 4)), seeded((WIDTH, WIDTH, 1, 1))))),
        images(),
    ),
    "a linear layer": (Reader(nn.Identity(), tokens=lambda x: embedded(cut_up(x))), images(32, 48)),
    "unfolded": (Reader(nn.Identity(), tokens=lambda x: embedded(F.unfold(x, 8, stride=8).mT)), images(48, 32)),
    "unfolded, as a view": (
        Reader(
            nn.Identity(),
            tokens=lambda x: (
                x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
                @ seeded((192, WIDTH))
            ),
        ),
        images(32, 40),
    ),
    "merged": (Reader(nn.Conv2d(3, 4, 4, 4), tokens=lambda x: embedded(focused(x).flatten(2).mT)), images()),
    "written into others": (Reader(tokens=written), images()),
    "written into a view": (Reader(tokens=written_into_a_view), images()),
    "overwritten": (Reader(tokens=overwritten), images()),
    "an order from a list": (Reader(tokens=lambda x: rows_of(x)[:, torch.tensor(HILBERT)]), images()),
    "an order, gathered": (Reader(tokens=lambda x: gathered(x, HILBERT)), images()),
    "an order, selected": (on_tokens(lambda x: x.index_select(1, torch.tensor(HILBERT)))),
    "turned over, as tokens": (on_tokens(lambda x: x.flip(1))),
    "moved, as tokens": (on_map(lambda x: x.roll((1, 2), (2, 3)))),
    "mapped by a matrix": (on_tokens(lambda x: torch.einsum("bnd,de->bne", x, seeded((WIDTH, WIDTH))))),
    "mapped by tensordot": (on_tokens(lambda x: torch.tensordot(x, seeded((WIDTH, WIDTH)), 1))),
    "mapped from the left": (Reader(tokens=lambda x: (seeded((WIDTH, WIDTH)) @ x.flatten(2)).mT), images()),
    "conv1d": (Reader(tokens=lambda x: F.conv1d(x.flatten(2), seeded((WIDTH, WIDTH, 1))).mT), images()),
    "a sum of a stack": (on_map(lambda x: torch.stack([x, x.sin()]).sum(0))),
    "hstack": (on_tokens(lambda x: torch.hstack([x[:, 8:], x[:, :8]]))),
    "place by place": (
        Reader(tokens=lambda x: torch.stack([x[..., i, j] for j in range(4) for i in range(4)], 1)),
        images(),
    ),
    "complex": (Reader(tokens=complex_tokens), images()),
    "gates": (on_map(lambda x: F.glu(torch.cat([x, x.reciprocal()], 1), 1))),
    "over channels": (on_map(lambda x: x.log_softmax(1) - x.std(1, keepdim=True) + x.softmax(1))),
    "half of the channels": (on_tokens(lambda x: torch.cat([x[..., :8], torch.ones(len(x), 16, 8)], -1).mul(2))),
    **{
        name: on_map(change)
        for name, change in {
            "prelu": lambda x: F.prelu(x, torch.tensor(0.2)),
            "selu": F.selu,
            "celu": F.celu,
            "sin": torch.sin,
            "logsigmoid": F.logsigmoid,
            "special": torch.special.expit,
            "larger": lambda x: torch.maximum(x, x / 2),
            "in place": lambda x: x.clone().mul_(2).clamp_min_(-100).add_(1),
            "view in place": halved_in_part,
        }.items()
    },
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


PARTS = "parts lie on each other"
SEVERAL = "several parts"
LOST = {
    "turned over": (Reader(before=lambda x: x.flip(3)), "conv2d of an image that was turned"),
    "moved": (Reader(before=lambda x: x.roll(4, 2)), "conv2d of an image.* rolled"),
    "halves as channels": (
        Reader(nn.Conv2d(6, WIDTH, 8, 8), before=lambda x: torch.cat([x[..., :16], x[..., 16:]], 1)),
        PARTS,
    ),
    "quarters as channels": (
        Reader(
            nn.Conv2d(12, WIDTH, 8, 8),
            before=lambda x: torch.cat([part for half in x.chunk(2, 2) for part in half.chunk(2, 3)], 1),
        ),
        PARTS,
    ),
    "mirrored in channels": (Reader(nn.Conv2d(6, WIDTH, 8, 8), before=lambda x: torch.cat([x, x.flip(3)], 1)), PARTS),
    "rolled in channels": (Reader(nn.Conv2d(6, WIDTH, 8, 8), before=lambda x: torch.cat([x, x.roll(16, 3)], 1)), PARTS),
    "mirrored and added": (Reader(before=lambda x: (x + x.flip(3)) / 2), "add"),
    "an unknown function of it added": (Reader(before=lambda x: x + x.cummax(3).values), "cummax"),
    "rolled and added": (on_map(lambda x: x + x.roll(1, 2))[0], "add"),
    "round the edge": (Reader(before=lambda x: F.pad(x[..., 4:-4, 4:-4], (4, 4, 4, 4), mode="circular")), "pad"),
    "pixels as tokens": (
        Reader(nn.Identity(), tokens=lambda x: F.unfold(x, 8, stride=8).mT[..., :WIDTH].contiguous()),
        f"no patch embedding.*{SEVERAL}",
    ),
    "overlapping, unfolded": (
        Reader(nn.Identity(), tokens=lambda x: embedded(F.unfold(x, 9, stride=8, padding=1).mT)),
        "no patch embedding.*linear",
    ),
    "mixed": (Reader(tokens=lambda x: F.linear(x.flatten(2), seeded((16, 16))).mT), "4 × 4.*linear"),
    "mixed from the left": (on_tokens(lambda x: torch.eye(16).flip(0) @ x)[0], "4 × 4.*matmul"),
    "mixed and added": (
        on_tokens(lambda x: torch.baddbmm(x, torch.eye(16).flip(0).expand(2, -1, -1), x))[0],
        "baddbmm",
    ),
    "half of each": (on_tokens(lambda x: torch.cat([x[..., :8], x.flip(1)[..., 8:]], -1))[0], SEVERAL),
    "one or the other": (on_tokens(lambda x: torch.where(torch.arange(16)[:, None] < 8, x, x.flip(1)))[0], "where"),
    "added up": (on_tokens(lambda x: x.cumsum(1))[0], "cumsum"),
    "row by row": (on_map(lambda x: x + x.mean(3, keepdim=True))[0], "add"),
    "an order of its own for each image": (
        Reader(
            tokens=lambda x: rows_of(x).take_along_dim(
                torch.stack([torch.arange(16), torch.arange(15, -1, -1)])[..., None], 1
            )
        ),
        SEVERAL,
    ),
    "ordered by the image": (on_tokens(lambda x: x[:, x[0, :, 0].argsort()])[0], "argsort"),
    "through NumPy": (
        on_tokens(lambda x: x + torch.from_numpy(x.detach().numpy()[:, ::-1].copy()))[0],
        "NumPy",
    ),
    "its data changed": (
        Reader(before=lambda x: with_data(x.clone(), x.flip(2))),
        "conv2d of an image that was turned",
    ),
    "beside its transposed map": (
        Reader(tokens=lambda x: rows_of(x) + rows_of(F.conv2d(x.mT, seeded((WIDTH, WIDTH, 1, 1))))),
        "add",
    ),
    "pooled with gaps": (Reader(nn.Conv2d(3, WIDTH, 4, 4), nn.MaxPool2d(2, 1, dilation=2)), "max_pool2d"),
    "put in order": (Reader(tokens=lambda x: rows_of(x).sort(1).values), "sort"),
    "some left out": (Reader(tokens=lambda x: rows_of(x)[:, 3:]), "13 of the 14 tokens"),
    "twice": (Reader(tokens=lambda x: torch.cat([rows_of(x), rows_of(x)], 1)), "32 of the 33 tokens"),
    "changed unseen": (Reader(tokens=lambda x: changed_unseen(x)), "4 × 4"),
}


def with_data(states, data):
    states.data = data
    return states


def changed_unseen(states):
    """What is read was overwritten by a view of it."""
    tokens = rows_of(states).contiguous()
    first, last = tokens[:, :8], tokens[:, 8:]
    first.copy_(last)
    return torch.cat([first, last], 1)


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
    model = LOST["pixels as tokens"][0].eval()
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


def test_functions_that_count_as_computed_entry_by_entry_are():
    checked, before = set(), torch.rand(3, 7, generator=torch.Generator().manual_seed(2)) / 2 + 0.2
    after = before.clone()
    after[1, 2] += 0.01
    for name in dir(torch.Tensor):
        function = getattr(torch.Tensor, name)
        if rule_of(name) is not _of_each_entry or not callable(function):
            continue
        for others in ((), (before.flip(0),)):
            try:
                one, other = (function(states.clone(), *others) for states in (before, after))
            except (TypeError, RuntimeError, ValueError):  # it takes other arguments
                continue
            if not isinstance(one, torch.Tensor):
                continue
            differs = ~torch.isclose(one, other, rtol=0, atol=0, equal_nan=True)
            differs[1, 2] = False
            assert one.shape == before.shape, name
            assert not differs.any(), name
            checked.add(name)
    assert len(checked) > 150


def test_players_do_not_say_which_patch_is_which():
    model = LOST["put in order"][0].eval()
    players = torch.arange(17).expand(2, -1) > 0
    explainer = ShapleyGradAttention(model)
    result = explainer.attribute_tokens(images(), target=1, players=players)
    assert result.values[players].all()
    with pytest.raises(ValueError, match=r"4 × 4.*sort"):
        _ = result.patches


def test_patches_in_an_order_of_their_own_are_laid_back_in_place():
    model, pixels = EXACT["an order from a list"]
    result = ShapleyGradAttention(model.eval()).attribute_tokens(pixels, target=1)
    assert torch.equal(result.patches.flatten(1)[:, HILBERT], result.values[:, 1:])


def einsum_attention(q, k, v):
    return torch.einsum("bij,bjd->bid", torch.einsum("bid,bjd->bij", q, k).mul(0.25).softmax(-1), v)


def einsum_by_head(q, k, v):
    q, k, v = (states.unflatten(-1, (2, 8)) for states in (q, k, v))
    weights = (torch.einsum("bjhd,bihd->bhij", k, q) + seeded((17, 17))).softmax(-1)
    return torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2)


def with_decomposed_positions(q, k, v):
    """As where positions are scored by the queries, too (SAM, ViTDet)."""
    positions = torch.einsum("bid,ijd->bij", q, seeded((17, 17, WIDTH)))
    return (q @ k.mT + positions).softmax(-1) @ v


def by_distance(q, k, v):
    return torch.softmax(-torch.cdist(q, k), -1) @ v


def stacked(q, k, v):
    qkv = torch.stack([q, k, v], 2).unflatten(-1, (2, 8)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).flatten(2)


def repeated_heads(q, k, v):
    return F.scaled_dot_product_attention(*(states[:, None].repeat(1, 2, 1, 1) for states in (q, k, v))).mean(1)


class Own(nn.Module):
    """An attention of one's own after a class token and patches."""

    def __init__(self, attention, tokens=rows_of):
        super().__init__()
        torch.manual_seed(0)
        self.attention, self.tokens = attention, tokens
        self.stem, self.qkv, self.head = nn.Conv2d(3, WIDTH, 8, 8), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, pixel_values):
        patches = self.tokens(self.stem(pixel_values))
        states = torch.cat([seeded((1, 1, WIDTH)).expand(len(patches), -1, -1), patches], 1)
        return self.head((states + self.attention(*self.qkv(states).chunk(3, -1)))[:, 0])


OWN = [einsum_attention, einsum_by_head, with_decomposed_positions, by_distance, stacked, repeated_heads]


@pytest.mark.parametrize("attention", OWN)
def test_attention_of_ones_own_is_an_arrival(attention):
    assert found(Own(attention), images())[0].grid == PatchGrid(4, 4, 8, 8, 0, 0, tuple(range(1, 17)))
    ordered = Own(attention, lambda x: gathered(x, HILBERT))
    assert found(ordered, images())[0].grid.positions == tuple(1 + HILBERT.index(patch) for patch in range(16))
    lost = Own(attention, lambda x: rows_of(x) + rows_of(x).flip(1))
    assert isinstance(found(lost, images())[0].grid, NoPatchGrid)


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

    for tokens in (gated, gated_twice):
        assert found(Reader(tokens=tokens), images())[0].grid == found(Reader(), images())[0].grid
    assert found(Reader(before=one_by_one), images())[0].grid == found(Reader(), images())[0].grid


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
    assert (tokens.grid.counts, tokens.grid.sizes) == ((5, 4), (4, 4))
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
