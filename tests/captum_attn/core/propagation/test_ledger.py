"""What the input gets of a score, and what all else absorbs, make up the whole of it, in every family."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, batch
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import accounts
from torch import Tensor, nn

from captum_attn.core import mapping_inputs, observed_forward, tensor_inputs
from captum_attn.core.propagation import ATTNLRP, CP, GRADIENT, Propagation

TOLERANCE = 1e-8
RULES = {"attnlrp": ATTNLRP, "cp": CP}
under_rules = pytest.mark.parametrize("propagation", RULES.values(), ids=RULES)


def _built(name: str, dtype: torch.dtype) -> nn.Module:
    model = FAMILIES[name].build(dtype)
    if name == "gemma2" and dtype == torch.float64:
        model.set_attn_implementation("plain")  # its own code rounds to float32, where masked rows become NaN
    return model


def _shaken(model: nn.Module) -> nn.Module:
    """With norms and biases that matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return model


@under_rules
@pytest.mark.parametrize("name", FAMILIES)
def test_input_and_absorbed_relevance_make_up_the_score(name: str, propagation: Propagation) -> None:
    family = FAMILIES[name]
    model = _shaken(_built(name, torch.float64))
    inputs = mapping_inputs(model, batch(family, dtype=torch.float64))
    _, score, of_input, absorbed = accounts(model, inputs, (1,), propagation)
    assert absorbed.abs() > 0 or propagation is CP
    assert (score - of_input - absorbed).abs() <= TOLERANCE * score.abs()


@under_rules
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_output_is_the_same_bit_by_bit(name: str, dtype: torch.dtype, propagation: Propagation) -> None:
    family, model = FAMILIES[name], _built(name, dtype)
    inputs = mapping_inputs(model, batch(family, dtype=dtype))
    with observed_forward(model, inputs, propagation=GRADIENT) as plain:
        expected = plain.output.detach()
    with observed_forward(model, inputs, propagation=propagation) as run:
        assert torch.equal(run.output, expected)
        assert not run.coverage.plain
        assert not run.coverage.hidden


@pytest.mark.parametrize("propagation", [GRADIENT, ATTNLRP, CP], ids=lambda propagation: propagation.name)
@pytest.mark.parametrize("name", FAMILIES)
def test_pytorchs_own_backward_pass_and_ours_in_tiles_agree(name: str, propagation: Propagation) -> None:
    family, model = FAMILIES[name], _built(name, torch.float64)
    inputs = mapping_inputs(model, batch(family, dtype=torch.float64))
    found, reached = [], []
    for tiles in (True, False):
        with observed_forward(model, inputs, propagation=propagation, tiles=tiles) as run:
            states = [entrance.state for entrance in run.entrances]
            found.append(run.show([], run.output[:, 1], retain_graph=True, features=states))
            reached.append(run.find_readout(run.output[:, 1]))
    assert torch.equal(*reached)
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-12)


def test_a_pass_without_tiles_shows_no_attention() -> None:
    model, inputs = FAMILIES["bert"].build(), batch(FAMILIES["bert"])
    with (
        observed_forward(model, mapping_inputs(model, inputs), tiles=False) as run,
        pytest.raises(ValueError, match="recorded with tiles=False"),
    ):
        run.influence(run.output[:, 1], variant="signed")


@pytest.mark.parametrize("name", ["llama", "modernbert", "t5"])
def test_nothing_is_absorbed_where_there_are_no_biases_and_attention_is_constant(name: str) -> None:
    family = FAMILIES[name]
    model = family.build(torch.float64)
    inputs = mapping_inputs(model, batch(family, dtype=torch.float64))
    with observed_forward(model, inputs, propagation=CP) as run:
        states = [entrance.state for entrance in run.entrances]
        gradients = run.show([], run.output[:, 1], features=states)
        pairs = zip(states, gradients, strict=True)
        relevance = sum((state * gradient).flatten(1).sum(-1) for state, gradient in pairs)
    torch.testing.assert_close(relevance, run.output[:, 1], rtol=1e-6, atol=1e-9)  # Llama's norm rounds to float32


class RandomNetwork(nn.Module):
    """Some blocks, in any order, over tokens, read from their mean or the first one."""

    def __init__(self, blocks: list[str], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks, width = blocks, 6
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "a": nn.Linear(width, width),
                    "b": nn.Linear(width, width),
                    "c": nn.Linear(width, width, bias=False),
                    "norm": nn.LayerNorm(width),
                    "groups": nn.GroupNorm(2, width),
                }
            )
            for _ in blocks
        )
        self.embeddings, self.positions = nn.Embedding(20, width), nn.Parameter(torch.randn(5, width))
        self.head = nn.Linear(width, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embeddings(input_ids) + self.positions
        for block, layer in zip(self.blocks, self.layers, strict=True):
            x = x + getattr(self, block)(x, layer)
        return self.head(x.mean(1))

    def fused(self, x: Tensor, layer: nn.ModuleDict) -> Tensor:
        q, k, v = (layer[name](x).unflatten(-1, (1, 6)).transpose(1, 2) for name in "abc")
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def eager(self, x: Tensor, layer: nn.ModuleDict) -> Tensor:
        scores = torch.baddbmm(self.positions @ self.positions.T, layer["a"](x), layer["b"](x).mT, alpha=0.4)
        return torch.einsum("bij,bjd->bid", scores.softmax(-1), layer["c"](x))

    def capped(self, x: Tensor, layer: nn.ModuleDict) -> Tensor:
        scores = 3 * torch.tanh(torch.matmul(layer["a"](x), other=layer["b"](x).mT) / 3)
        return F.softmax(scores, -1) @ layer["c"](x)

    def gelu(self, x: Tensor, layer: nn.ModuleDict) -> Tensor:
        return layer["b"](F.gelu(layer["a"](layer["norm"](x))))

    def gated(self, x: Tensor, layer: nn.ModuleDict) -> Tensor:
        return layer["c"](F.silu(layer["a"](x)) * layer["b"](x))

    def sigmoid(self, x: Tensor, layer: nn.ModuleDict) -> Tensor:
        return layer["c"](x) * torch.sigmoid(layer["a"](x))

    def unit(self, x: Tensor, layer: nn.ModuleDict) -> Tensor:
        return layer["b"](layer["a"](x) / layer["a"](x).norm(dim=-1, keepdim=True))

    def normalized(self, x: Tensor, layer: nn.ModuleDict) -> Tensor:
        return layer["a"](F.normalize(x, dim=-1))

    def rms(self, x: Tensor, layer: nn.ModuleDict) -> Tensor:
        return layer["b"](F.rms_norm(layer["a"](x), (6,), layer["norm"].weight))

    def grouped(self, x: Tensor, layer: nn.ModuleDict) -> Tensor:
        return layer["groups"](x.mT).mT

    def routed(self, x: Tensor, layer: nn.ModuleDict) -> Tensor:
        weights = layer["a"](x).softmax(-1)[..., :2]
        return layer["b"](x) * weights[..., :1] + layer["c"](x) * weights[..., 1:]

    def in_place(self, x: Tensor, layer: nn.ModuleDict) -> Tensor:
        state = F.silu(layer["a"](x) * 1.0, inplace=True)
        state *= layer["b"](x)
        state.add_(1.0).mul_(0.5)
        return state


BLOCKS = [name for name in vars(RandomNetwork) if not name.startswith("_") and name != "forward"]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=4), st.integers(0, 99), st.sampled_from(list(RULES)))
def test_random_networks(blocks: list[str], seed: int, rules: str) -> None:
    model = RandomNetwork([*blocks, "fused"], seed).double().eval()
    ids = torch.randint(0, 20, (2, 5), generator=torch.Generator().manual_seed(seed))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        expected = model(ids)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output, score, of_input, absorbed = accounts(model, tensor_inputs(model, ids), (2,), RULES[rules])
    assert torch.equal(output, expected)
    assert (score - of_input - absorbed).abs() <= TOLERANCE * (1 + score.abs())
