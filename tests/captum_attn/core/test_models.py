"""Which models can be explained: gradients that are not there, code that cannot be seen, modules of every kind."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, text_batch
from models import PlainClassifier, left_untouched
from torch import Tensor, nn

from captum_attn import AttentionRollout, RawAttention, ShapleyAttention, ShapleyGradAttention
from captum_attn.concepts import TTCAV
from captum_attn.core.models import check_model, unwrapped


def bert():
    return FAMILIES["bert"].build()


def dynamic(model, kinds=(nn.Linear,)):
    return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), set(kinds), dtype=torch.qint8)


def converted(model: nn.Module, convert) -> nn.Module:
    """The model with other linear layers."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, convert(child))
    return model


class WeightOnly(nn.Module):
    """A linear layer whose weights are kept in 8 bits, and multiplied as floats."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("integers", (linear.weight.detach() / scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        return F.linear(states, self.integers * self.scale, self.bias)


class RoundedInput(WeightOnly):
    """The same, where what the layer takes is rounded, too."""

    def forward(self, states: Tensor) -> Tensor:
        step = states.detach().abs().amax() / 127
        return super().forward((states / step).round() * step)


class StraightThrough(WeightOnly):
    """The same, with a gradient as if nothing were rounded."""

    def forward(self, states: Tensor) -> Tensor:
        step = states.detach().abs().amax() / 127
        return super().forward(states + ((states / step).round() * step - states).detach())


class IntegerWeight(Tensor):
    """A weight as torchao has it, that says how a layer's input is rounded before it is multiplied."""

    act_quant_kwargs = object()


def integer_weights(linear: nn.Linear) -> nn.Linear:
    weight = linear.weight.detach().as_subclass(IntegerWeight)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


def test_layers_that_compute_in_integers_are_named():
    model, inputs = dynamic(bert()), text_batch()
    concepts = {name: {"input_ids": torch.randint(5, 30, (6, 4))} for name in "ab"}
    for explain in (
        lambda: ShapleyGradAttention(model).attribute(inputs, target=1),
        lambda: TTCAV(model, layers=[0]).interpret(inputs, concepts, show_progress=False),
    ):
        with pytest.raises(RuntimeError, match=r"encoder\.layer\.0.* 15 others are quantized.*no gradients"):
            explain()


def test_a_quantized_layer_anywhere_is_enough():
    model = bert()
    model.classifier = dynamic(nn.Sequential(model.classifier))
    with pytest.raises(RuntimeError, match=r"layers 'classifier\.0' are quantized"):
        ShapleyGradAttention(model).attribute(text_batch(), target=1)


def test_weights_that_round_what_they_multiply_are_named():
    model = converted(PlainClassifier().eval(), integer_weights)
    with pytest.raises(RuntimeError, match="quantized together with what they take"):
        ShapleyGradAttention(model).attribute(torch.randn(2, 5, 16), target=1)


@pytest.mark.parametrize(
    "kind", [lambda: dynamic(nn.Sequential(nn.Linear(3, 3))), lambda: nn.Sequential(RoundedInput(nn.Linear(3, 3)))]
)
def test_a_function_that_computes_in_integers_is_refused_by_what_it_did(kind):
    model, head = bert(), kind()
    explainer = ShapleyGradAttention(lambda **inputs: head(model(**inputs).logits))
    with left_untouched(model), pytest.raises(RuntimeError, match=r"step that has no gradient \(.*(Round|NotImpl)"):
        explainer.attribute(text_batch(), target=1)


@pytest.mark.parametrize("method", [RawAttention, AttentionRollout, ShapleyAttention])
def test_attention_alone_needs_no_gradients(method):
    model, inputs = bert(), text_batch()
    small = dynamic(model)
    values, expected = method(small).attribute(inputs), method(model).attribute(inputs)
    torch.testing.assert_close(values, expected, rtol=0.1, atol=0.1 * float(expected.max()))
    assert not torch.equal(values, expected)


@pytest.mark.parametrize("layer", [WeightOnly, StraightThrough])
def test_quantized_weights_alone_keep_their_gradients(layer):
    model, inputs = bert(), text_batch()
    small = converted(copy.deepcopy(model), layer).eval()
    expected = ShapleyGradAttention(model).attribute(inputs, target=1)
    values = ShapleyGradAttention(small).attribute(inputs, target=1)
    assert (values - expected).abs().max() < 0.1 * expected.abs().max()
    assert not torch.equal(values, expected)


def test_quantized_embeddings_lie_below_all_attention():
    model, inputs = bert(), text_batch()
    words = model.get_input_embeddings()
    expected = ShapleyGradAttention(model).attribute(inputs, target=1)
    words.qconfig = torch.ao.quantization.float_qparams_weight_only_qconfig
    model.set_input_embeddings(torch.ao.nn.quantized.Embedding.from_float(words))
    values = ShapleyGradAttention(model).attribute(inputs, target=1)
    assert (values - expected).abs().max() < 0.1 * expected.abs().max()


class Keeps(PlainClassifier):
    """A module with a tokenizer for an attribute."""

    tokenizer = "anything"


def test_a_module_that_keeps_its_tokenizer_is_a_module():
    torch.manual_seed(0)
    model, embeddings = Keeps().eval(), torch.randn(2, 5, 16)
    without = PlainClassifier().eval()
    without.load_state_dict(model.state_dict())
    expected = ShapleyGradAttention(without).attribute(embeddings, target=1)
    assert torch.equal(ShapleyGradAttention(model).attribute(embeddings, target=1), expected)
    assert torch.equal(ShapleyGradAttention(model.forward).attribute(embeddings, target=1), expected)


def test_an_object_that_tokenizes_is_told_what_to_give():
    class Sentiment:
        def __init__(self) -> None:
            self.model, self.tokenizer = PlainClassifier(), "anything"

        def __call__(self, text: str) -> str:
            return text

    for given in (Sentiment(), "bert-base-uncased"):
        with pytest.raises(TypeError, match=r"of a pipeline, give pipeline\.model, and of an object .* a function"):
            check_model(given)


def layer():
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()


class Around(nn.Module):
    """A model with an embedding and a head around a part."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.head = part, nn.Linear(16, 3)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.head(self.part(embeddings)[:, 0])


def softmax(embeddings: Tensor) -> Tensor:
    return embeddings.softmax(-1)


STATES = torch.randn(2, 5, 16)
UNSEEN = {
    "traced": (
        lambda: torch.jit.trace(Around(layer()), STATES, check_trace=False),
        "the model is a TopLevelTracedModule",
    ),
    "scripted": (lambda: torch.jit.script(Around(layer())), "the model is a RecursiveScriptModule"),
    "the method": (lambda: torch.jit.script(Around(layer())).forward, "the model is a ScriptMethod"),
    "a function": (lambda: torch.jit.script(softmax), "the model is a ScriptFunction"),
    "a traced part": (lambda: Around(torch.jit.trace(layer(), STATES, check_trace=False)), "part 'part' of the model"),
    "a scripted part": (lambda: nn.Sequential(Around(torch.jit.script(layer()))), r"part '0\.part' of the model"),
    "exported": (lambda: torch.export.export(Around(layer()), (STATES,)).module(), "torch.export exported"),
    "an exported part": (lambda: Around(torch.export.export(layer(), (STATES,)).module()), "part 'part'.*torch.export"),
}


@pytest.mark.parametrize(("build", "message"), UNSEEN.values(), ids=UNSEEN)
@pytest.mark.parametrize("method", [ShapleyGradAttention, RawAttention])
def test_code_that_no_longer_runs_in_python_is_refused_by_name(build, message, method):
    with pytest.raises(ValueError, match=f"{message}.*Explain the module that it was made from"):
        method(build()).attribute(STATES, target=1)


def test_parts_without_attention_may_be_compiled_as_they_like():
    torch.manual_seed(0)
    model = Around(layer())
    expected = ShapleyGradAttention(model).attribute(STATES, target=1)
    heads = (torch.jit.trace(model.head, STATES[:, 0]), torch.export.export(model.head, (STATES[:, 0],)).module())
    for head in heads:
        model.head = head
        torch.testing.assert_close(ShapleyGradAttention(model).attribute(STATES, target=1), expected)
    traced_in_python = torch.fx.symbolic_trace(model.head)
    assert unwrapped(traced_in_python) is traced_in_python
