"""Each rule against its definition, in every form in which models write the function."""

from __future__ import annotations

import gc
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, batch
from torch import Tensor, nn

from captum_attn import AttentionRollout, AttnLRP, IntegratedAttnLRP, ShapleyAttention, ShapleyGradAttention
from captum_attn.core import AttentionCall, observed_forward, tensor_inputs
from captum_attn.core.propagation import (
    ATTNLRP,
    CP,
    PROPAGATIONS,
    Linearised,
    Propagation,
    Proportional,
    constant,
    propagation_named,
    replaced,
)


class Between(nn.Module):
    """A function of states between embeddings that come in as they are and one attention layer."""

    def __init__(self, function: Callable[[Tensor], Tensor], width: int = 4) -> None:
        super().__init__()
        self.function = function
        self.head = nn.Linear(width, 3)

    def forward(self, inputs_embeds: Tensor) -> Tensor:
        x = self.function(inputs_embeds)
        x = x + F.scaled_dot_product_attention(*[x[:, None]] * 3)[:, 0]
        return self.head(x.mean(1))


def relevance_in(function: Callable[[Tensor], Tensor], x: Tensor, propagation: Any = ATTNLRP) -> Tensor:
    """The gradient of what goes into a function, where that of what comes out is known: R_in / x."""
    torch.manual_seed(0)
    out: list[Tensor] = []

    def kept(state: Tensor) -> Tensor:
        out.append(function(state))
        return out[-1]

    model = Between(kept).to(x.dtype)
    with observed_forward(model, tensor_inputs(model, x), propagation=propagation) as run:
        (entrance,) = run.entrances
        gradients = torch.autograd.grad(run.output[:, 1].sum(), [entrance.state, out[-1]])
        assert torch.equal(out[-1], function(x))
    return torch.stack([gradients[0], gradients[1]])


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "gelu": (F.gelu, 0.5),
    "gelu, tanh": (lambda x: F.gelu(x, approximate="tanh"), 0.5),
    "GELU": (nn.GELU(), 0.5),
    "GELU by erf": (lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), 0.5),
    "GELU by erf, gate first": (lambda x: 0.5 * (1 + (x / math.sqrt(2)).erf()) * x, 0.5),
    "GELU by Φ": (lambda x: x * torch.special.ndtr(x), 0.5),
    "GELU by tanh": (
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))),
        0.5,
    ),
    "quick GELU": (lambda x: x * torch.sigmoid(1.702 * x), 0.5),
    "silu": (F.silu, 0.5),
    "SiLU by sigmoid": (lambda x: torch.sigmoid(x) * x, 0.5),
    "SiLU by exp": (lambda x: x / (1 + torch.exp(-x)), 0.5),
    "silu in place": (lambda x: F.silu(x * 1, inplace=True), 0.5),
    "silu in place, of a view": (lambda x: F.silu((x * 1).view(10, 4), inplace=True).view(2, 5, 4), 0.5),
    "relu": (torch.relu, 0.0),
    "relu²": (lambda x: F.relu(x).square(), 0.0),
    "relu ** 2": (lambda x: F.relu(x) ** 2, 0.0),
    "tanh": (torch.tanh, 1.0),
    "soft cap": (lambda x: 30 * torch.tanh(x / 30), 1.0),
    "mish": (F.mish, 0.6),
    "hardswish": (F.hardswish, 0.5),
    "hardswish by relu6": (lambda x: x * F.relu6(x + 3) / 6, 0.5),
    "elu": (F.elu, 1.0),
    "selu": (F.selu, 1.0507009873554805),
    "softsign": (F.softsign, 1.0),
    "addcmul": (lambda x: torch.addcmul(torch.zeros(4).double(), x, torch.special.ndtr(x)), 0.5),
    "x · x": (lambda x: x * x, 0.0),
    "x · x, in place": (lambda x: (x * 1).mul_(x), 0.0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_of_an_activation_its_ratio_is_a_constant(name: str, x: Tensor) -> None:
    function, slope_at_zero = ACTIVATIONS[name]
    x[0, 0, 0] = 0.0
    before, after = relevance_in(function, x)
    expected = torch.where(x == 0, slope_at_zero, function(x) / x) * after
    torch.testing.assert_close(before, expected, rtol=1e-10, atol=1e-12)


WEIGHT, BIAS = torch.tensor([0.5, -1.0, 2.0, 1.5]), torch.tensor([0.1, 0.2, -0.3, 0.4])


def rms(x: Tensor) -> Tensor:
    return (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def sigma(x: Tensor) -> Tensor:
    return (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()


def centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


NORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "layer_norm": (
        lambda x: F.layer_norm(x, (4,), WEIGHT.double(), BIAS.double()),
        lambda x, g: centred(g * WEIGHT) / sigma(x),
    ),
    "layer norm, spelled out": (
        lambda x: centred(x) * torch.rsqrt(x.var(-1, keepdim=True, correction=0) + 1e-5) * WEIGHT,
        lambda x, g: centred(g * WEIGHT) / sigma(x),
    ),
    "layer norm, divided": (
        lambda x: centred(x) / torch.sqrt(centred(x).pow(2).mean(-1, keepdim=True) + 1e-5),
        lambda x, g: centred(g) / sigma(x),
    ),
    "rms_norm": (lambda x: F.rms_norm(x, (4,), WEIGHT.double(), 1e-6), lambda x, g: g * WEIGHT / rms(x)),
    "RMS norm, spelled out": (
        lambda x: WEIGHT * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
        lambda x, g: g * WEIGHT / rms(x),
    ),
    "RMS norm, by a power": (
        lambda x: x * ((x * x).mean(-1, keepdim=True) + 1e-6) ** -0.5,
        lambda x, g: g / rms(x),
    ),
    "group_norm": (
        lambda x: F.group_norm(x.mT, 1).mT,
        lambda x, g: (g - g.mean((1, 2), keepdim=True)) / (x.var((1, 2), correction=0, keepdim=True) + 1e-5).sqrt(),
    ),
    "instance_norm": (
        lambda x: F.instance_norm(x.mT, weight=WEIGHT.double()).mT,
        lambda x, g: (g - g.mean(1, keepdim=True)) * WEIGHT / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt(),
    ),
    "batch_norm": (
        lambda x: F.batch_norm(x.mT, BIAS.double(), 1 + WEIGHT.double() ** 2, WEIGHT.double()).mT,
        lambda x, g: g * WEIGHT / (1 + WEIGHT.double() ** 2 + 1e-5).sqrt(),
    ),
    "normalize": (lambda x: F.normalize(x, dim=-1), lambda x, g: g / x.norm(dim=-1, keepdim=True)),
    "unit length": (lambda x: x / x.norm(dim=-1, keepdim=True), lambda x, g: g / x.norm(dim=-1, keepdim=True)),
}


@pytest.mark.parametrize("name", NORMS)
def test_what_a_norm_divides_by_is_a_constant(name: str, x: Tensor) -> None:
    function, expected = NORMS[name]
    before, after = relevance_in(function, x)
    torch.testing.assert_close(before, expected(x, after), rtol=1e-9, atol=1e-10)


MATRIX = torch.tensor(
    [[0.3, -1.0, 0.2, 0.5], [1.0, 0.4, -0.6, 0.1], [0.0, 0.7, 0.9, -0.2], [0.8, -0.3, 0.1, 1.1]]
).double()
PRODUCTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "gated": (
        lambda x: F.silu(x @ MATRIX) * (x @ MATRIX.T),
        lambda x, g: (
            0.5 * (g * (x @ MATRIX.T) * torch.sigmoid(x @ MATRIX)) @ MATRIX.T + 0.5 * (g * F.silu(x @ MATRIX)) @ MATRIX
        ),
    ),
    "LayerScale": (lambda x: x * WEIGHT, lambda x, g: g * WEIGHT),
    "a sigmoid gate": (lambda x: x * torch.sigmoid(x @ MATRIX), lambda x, g: g * torch.sigmoid(x @ MATRIX)),
    "one minus a sigmoid gate": (
        lambda x: (1 - torch.sigmoid(x @ MATRIX)) * x,
        lambda x, g: g * (1 - torch.sigmoid(x @ MATRIX)),
    ),
    "glu": (
        lambda x: F.glu(torch.cat([x, x @ MATRIX], -1), -1),
        lambda x, g: g * torch.sigmoid(x @ MATRIX),
    ),
    "a query that all tokens meet": (
        lambda x: x * (x[:, :1] @ MATRIX),
        lambda x, g: 0.5 * g * (x[:, :1] @ MATRIX) + F.pad(0.5 * (g * x).sum(1, keepdim=True) @ MATRIX.T, (0, 0, 0, 4)),
    ),
    "a router's weight": (
        lambda x: x * (x @ MATRIX).softmax(-1)[..., :1],
        lambda x, g: g * (x @ MATRIX).softmax(-1)[..., :1],
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_factors_share_unless_one_weighs_the_other(name: str, x: Tensor) -> None:
    function, expected = PRODUCTS[name]
    before, after = relevance_in(function, x)
    torch.testing.assert_close(before, expected(x, after), rtol=1e-9, atol=1e-10)


OUTER: dict[str, Callable[[Tensor], Tensor]] = {
    "matmul": lambda x: x @ x.mT @ x,
    "bmm": lambda x: torch.bmm(torch.bmm(x, mat2=x.mT), x),
    "einsum": lambda x: torch.einsum("bij,bkj,bkd->bid", x, x, x),
    "einsum, then in place": lambda x: torch.einsum("bij,bkj->bik", x, x).mul_(0.3) @ x,
    "einsum of a list": lambda x: torch.einsum("bij,bkj,bkd->bid", [x, x, x]),
    "linear": lambda x: torch.stack([F.linear(one, bias=None, weight=one) for one in x]) @ x,
    "baddbmm": lambda x: torch.baddbmm(torch.zeros(1).double(), torch.baddbmm(torch.zeros(1).double(), x, x.mT), x),
    "in place": lambda x: x @ x.mT @ x.clone().mul_(1.0),
}


@pytest.mark.parametrize("name", OUTER)
def test_products_of_three_hand_all_relevance_on(name: str, x: Tensor) -> None:
    before, after = relevance_in(OUTER[name], x)
    torch.testing.assert_close((before * x).sum((1, 2)), (after * OUTER[name](x)).sum((1, 2)))


def test_fused_and_eager_attention_agree(x: Tensor) -> None:
    def fused(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x[:, None], (x @ MATRIX)[:, None], x[:, None])[:, 0]

    def eager(x: Tensor) -> Tensor:
        return (x @ (x @ MATRIX).mT / 2).softmax(-1) @ x

    for propagation in (ATTNLRP, CP):
        expected = relevance_in(eager, x, propagation)
        torch.testing.assert_close(relevance_in(fused, x, propagation), expected)


def test_cp_gives_values_alone_all_relevance(x: Tensor) -> None:
    def attention(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*[x[:, None]] * 3)[:, 0]

    before, after = relevance_in(attention, x, CP)
    torch.testing.assert_close(before, (x @ x.mT / 2).softmax(-1).mT @ after)


class Snake(torch.autograd.Function):
    """What only its own backward pass knows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x + x.sin().square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (1 + (2 * x).sin())


def test_functions_that_hide_what_they_do_are_refused(x: Tensor) -> None:
    model = Between(Snake.apply).double()
    with pytest.raises(ValueError, match=r"hide what they do \(Snake\).*'attnlrp'.*propagation='gradient'"):
        AttnLRP(model).attribute(x, target=1)
    assert ShapleyGradAttention(model).attribute(x, target=1).isfinite().all()


def test_encoder_layers_of_pytorch_have_rules() -> None:
    """``nn.TransformerEncoder``, whose fused kernel never runs here, without biases: nothing is absorbed under CP."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True, bias=False)
            self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8, 3, bias=False)

        def forward(self, inputs_embeds: Tensor) -> Tensor:
            return self.head(self.encoder(inputs_embeds)[:, 0])

    torch.manual_seed(0)
    model, given = Encoder().double().eval(), torch.randn(2, 5, 8, dtype=torch.float64)
    players = torch.ones(2, 5, dtype=torch.bool)
    for frozen in (False, True):
        found = AttnLRP(model.requires_grad_(not frozen), propagation="cp").attribute_tokens(given, 1, players=players)
        torch.testing.assert_close(found.values.sum(-1), found.scores)


def test_half_precision_gives_about_the_same() -> None:
    for name in ("bert", "llama", "vit"):
        family = FAMILIES[name]
        expected = AttnLRP(family.build()).attribute_tokens(batch(family), target=1).values
        half = (
            AttnLRP(family.build(torch.bfloat16)).attribute_tokens(batch(family, dtype=torch.bfloat16), target=1).values
        )
        assert (half - expected).norm() < 0.06 * expected.norm()
        with torch.autocast("cpu", torch.bfloat16):
            cast = AttnLRP(family.build()).attribute_tokens(batch(family), target=1).values
        assert (cast - expected).norm() < 0.06 * expected.norm()


def written(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    function(x[..., :2])
    return x


UNCOVERED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "softplus": (lambda x: F.softplus(x) + F.gelu(x), "softplus"),
    "below a list": (lambda x: torch.einsum("bij,bkj->bik", [F.softplus(x), x])[..., :4], "softplus"),
    "in place": (lambda x: F.hardtanh_(x * 1), "hardtanh"),
    "by statistics of the batch": (lambda x: F.batch_norm(x.mT, None, None, training=True).mT, "nativebatchnorm"),
    "a blend": (lambda x: torch.lerp(x, 2 * x, x @ MATRIX), "lerp"),
    "in place, of a part": (lambda x: written(x.clone(), torch.Tensor.tanh_), "tanh"),
    "by its inverse": (lambda x: torch.ones(4).double() / (1 + x.abs()), "div"),
    "a convolution by states": (lambda x: F.conv1d(x.mT, x[0, :4, :, None]).mT, "convolution"),
}


@pytest.mark.parametrize("name", UNCOVERED)
def test_functions_without_a_rule_are_named(name: str, x: Tensor) -> None:
    function, named = UNCOVERED[name]
    with (
        pytest.warns(UserWarning, match=rf"'attnlrp' has no rule for functions of Between.*\({named}\)"),
        observed_forward(Between(function).double(), tensor_inputs(Between(function), x), propagation=ATTNLRP),
    ):
        pass


class BentScores(nn.Module):
    """Eager attention whose scores bend before the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.keys, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, inputs_embeds: Tensor) -> Tensor:
        scores = F.softplus(self.queries(inputs_embeds) @ self.keys(inputs_embeds).mT)
        return self.head((scores.softmax(-1) @ inputs_embeds).mean(1))


@pytest.mark.filterwarnings("ignore:'attnlrp' has no rule")
@pytest.mark.parametrize(("rules", "named"), [(ATTNLRP, {"softplus": 1}), (CP, {})])
def test_what_constant_attention_passes_nothing_to_needs_no_rule(rules: Propagation, named: Any, x: Tensor) -> None:
    model = BentScores().double()
    with observed_forward(model, tensor_inputs(model, x), propagation=rules) as run:
        assert run.coverage is not None
        assert run.coverage.plain == named


PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "addmm": lambda x: torch.stack([torch.addmm(one, one, MATRIX) for one in x]),
    "addcmul": lambda x: torch.addcmul(x, x, WEIGHT.double()),
    "lerp": lambda x: torch.lerp(x, x @ MATRIX, WEIGHT.double()),
    "added in place, to a part": lambda x: written(x.clone(), lambda part: part.add_(1.0)),
    "nan_to_num": torch.nan_to_num,
    "linear with a bias": lambda x: F.linear(x, bias=BIAS.double(), weight=MATRIX),
    "softmax": lambda x: x.softmax(-1),
    "log-probabilities": lambda x: F.log_softmax(x, -1),
    "log-odds": lambda x: x - x.logsumexp(-1, keepdim=True),
}


@pytest.mark.parametrize("name", PLAIN)
def test_linear_functions_and_softmax_need_none(name: str, x: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before, after = relevance_in(PLAIN[name], x)
    torch.testing.assert_close(before, torch.autograd.functional.vjp(PLAIN[name], x, after)[1])


def test_a_rule_of_ones_own(x: Tensor) -> None:
    def softplus(applied: Any, input: Tensor, *args: Any) -> Tensor:
        def chord(state: Tensor) -> Linearised:
            output = applied.function(state, *args)
            return Linearised(output, torch.mul, ((output - math.log(2)) / state,))

        return replaced(applied, input, chord)

    mine = ATTNLRP.with_rules("mine", {F.softplus: softplus})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before, after = relevance_in(F.softplus, x, mine)
        stopped, passed = relevance_in(lambda x: x + x.sin(), x, mine.with_rules("stop", {torch.sin: constant}))
    torch.testing.assert_close(before, after * (F.softplus(x) - math.log(2)) / x)
    torch.testing.assert_close(stopped, passed)
    assert mine.name == "mine"
    assert ATTNLRP.rules.keys() < mine.rules.keys()


def undivided(applied: Any, x: Tensor) -> Tensor:
    return replaced(applied, x, lambda x: Linearised(applied.function(x), torch.mul, (x / torch.zeros_like(x),)))


def written_first(applied: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        x.mul_(2)
    return applied.run()


WRONG_RULES: dict[str, tuple[Any, type[Exception], str]] = {
    "twice the output": (
        lambda applied, x: applied.run() * 2,
        ValueError,
        r"the rule for cos returned .* that are off by",
    ),
    "of another shape": (
        lambda applied, x: applied.run()[..., :1],
        ValueError,
        r"returned torch.float64 \(2, 5, 1\), where",
    ),
    "nothing": (lambda applied, x: None, ValueError, "the rule for cos returned a NoneType, where"),
    "in a list": (lambda applied, x: [applied.run()], ValueError, "the rule for cos returned a list, where"),
    "of another dtype": (lambda applied, x: applied.run().float(), ValueError, "returned torch.float32"),
    "of what it wrote": (written_first, ValueError, "off by up to"),
    "no Linearised": (lambda applied, x: replaced(applied, x, torch.cos), TypeError, "the rule for cos makes Tensor"),
    "f(0) = 1": (lambda applied, x: Proportional(0.0)(applied, x), ValueError, r"but cos\(0\) is 1"),
    "divided by 0": (undivided, ValueError, "relevance under the rule for cos is not finite"),
}


IN_PLACE: dict[str, tuple[Callable[[Tensor], Tensor], Any]] = {
    "silu": (lambda x: F.silu(x * 1, inplace=True), {F.silu: Proportional(0.5)}),
    "elu": (lambda x: F.elu(x * 1, inplace=True), {F.elu: Proportional(1.0)}),
    "relu": (lambda x: F.relu(x * 1, inplace=True), {F.relu: lambda applied, *_, **__: applied.run()}),
    "sin_": (lambda x: (x * 1).sin_(), {Tensor.sin_: lambda applied, *_: applied.run()}),
    "dropout": (lambda x: F.dropout(x, 0.5, True), {F.dropout: lambda applied, *_, **__: applied.run()}),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_rules_of_ones_own_for_functions_that_write_or_draw(name: str, x: Tensor) -> None:
    function, rules = IN_PLACE[name]
    model = Between(function).double()
    torch.manual_seed(0)
    expected = model(x)
    torch.manual_seed(0)
    with observed_forward(model, tensor_inputs(model, x), propagation=ATTNLRP.with_rules("mine", rules)) as run:
        assert torch.equal(run.output, expected)


def test_a_rule_is_for_the_function_that_was_meant() -> None:
    mine = ATTNLRP.with_rules("mine", {torch.sigmoid: constant, torch.sin: constant, Tensor.sin: undivided})
    assert mine.rules[Tensor.sigmoid] is mine.rules[torch.sin] is constant
    assert mine.rules[Tensor.sin] is undivided
    assert Tensor.unfold not in ATTNLRP.with_rules("mine", {F.unfold: constant}).rules


@pytest.mark.parametrize("name", WRONG_RULES)
def test_a_wrong_rule_is_refused_by_name(name: str, x: Tensor) -> None:
    rule, error, message = WRONG_RULES[name]
    with pytest.raises(error, match=message):
        relevance_in(torch.cos, x, ATTNLRP.with_rules("mine", {torch.cos: rule}))


SAME: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "addcmul of its addend": (lambda x: torch.addcmul(x, x, x @ MATRIX), lambda x: x + x * (x @ MATRIX)),
    "baddbmm by name": (
        lambda x: torch.baddbmm(batch1=x @ x.mT, batch2=x, input=x),
        lambda x: x + torch.bmm(x @ x.mT, x),
    ),
    "GELU by erfc": (lambda x: x * 0.5 * torch.erfc(-x / math.sqrt(2)), F.gelu),
    "channels first": (
        lambda x: (x.mT * torch.rsqrt(x.mT.var(1, correction=0, keepdim=True) + 1e-5)).mT,
        lambda x: x / torch.sqrt(x.var(-1, correction=0, keepdim=True) + 1e-5),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_two_ways_to_write_a_function_agree(name: str, x: Tensor) -> None:
    one, other = SAME[name]
    torch.testing.assert_close(relevance_in(one, x), relevance_in(other, x), rtol=1e-6, atol=1e-8)


def test_rules_that_are_none_are_named() -> None:
    for wrong in ("gelu", nn.GELU, nn.GELU(), relevance_in):
        with pytest.raises(TypeError, match="is no function of torch, as modules call it"):
            ATTNLRP.with_rules("wrong", {wrong: constant})
    with pytest.raises(TypeError, match="the rule for sin is 'constant', expected a function"):
        ATTNLRP.with_rules("wrong", {torch.sin: "constant"})
    with pytest.raises(ValueError, match="constant_attention=True"):
        ATTNLRP.with_rules("wrong", {F.scaled_dot_product_attention: constant})


def test_names_and_pickles() -> None:
    for name, propagation in PROPAGATIONS.items():
        assert propagation_named(name) is propagation
        assert pickle.loads(pickle.dumps(propagation)) is propagation
    with pytest.raises(ValueError, match=r"'gradient', 'attnlrp', 'cp' or a Propagation, got 'lrp'"):
        propagation_named("lrp")


def test_methods_without_gradients_take_no_rules(x: Tensor) -> None:
    for method in (AttentionRollout, ShapleyAttention):
        with pytest.raises(ValueError, match=rf"{method.__name__} reads attention without gradients.*leave it out"):
            method(Between(F.gelu).double(), propagation="attnlrp").attribute(x)


def test_attention_alone_may_be_a_constant(x: Tensor) -> None:
    alone = Propagation("alone", {}, constant_attention=True)
    model = Between(F.gelu).double()
    found = AttnLRP(model, propagation=alone).attribute(x, target=1)
    assert not torch.equal(found, AttnLRP(model, propagation="gradient").attribute(x, target=1))


def test_nothing_of_a_pass_is_left() -> None:
    def calls() -> int:
        gc.collect()
        return sum(isinstance(thing, AttentionCall) for thing in gc.get_objects())

    model, inputs, before = FAMILIES["bert"].build(), batch(FAMILIES["bert"]), calls()
    for method in (AttnLRP(model), IntegratedAttnLRP(model), ShapleyGradAttention(model, propagation="attnlrp")):
        method.attribute(inputs, target=1)
    assert calls() == before
