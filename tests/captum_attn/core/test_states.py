"""Hidden states, their gradients, and the readout's attention, against hooks on an eager copy of each model."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
import transformers as hf
from families import FAMILIES, batch, text_batch
from models import PlainClassifier, left_untouched
from torch import Tensor, nn

from captum_attn.core import mapping_inputs, observed_forward, tensor_inputs
from captum_attn.core.states import attention_blocks, module_named


def blocks(model, inputs):
    with observed_forward(model, inputs, gradients=False) as run:
        return attention_blocks(run.model, run.calls)


def eager_states(family, model, inputs, names, target):
    """Logits' gradients, hidden states and attention (B, H, N, N) of each layer, by hooks on a copy."""
    eager = family.build(torch.float64, implementation="eager")
    eager.load_state_dict(model.state_dict())
    if not family.own_code:
        eager.set_attn_implementation("plain")
    hidden = []
    for name in dict.fromkeys(names):
        hook = lambda _, __, output: hidden.append(output if isinstance(output, Tensor) else output[0])  # noqa: E731
        eager.get_submodule(name).register_forward_hook(hook)
    output = eager(**inputs, output_attentions=True)
    attentions = output.encoder_attentions if "encoder_attentions" in output else output.attentions
    return torch.autograd.grad(output.logits[:, target].sum(), hidden), hidden, attentions


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "gemma2"])  # its float64 rows of padding are NaN
def test_states_gradients_and_readout_attention_are_those_of_the_eager_model(name, padding):
    family = FAMILIES[name]
    if family.vision and padding == "left":
        pytest.skip("images have no padding")
    model, inputs = family.build(torch.float64), batch(family, padding, torch.float64)
    names = blocks(model, mapping_inputs(model, inputs))
    gradients, hidden, attentions = eager_states(family, model, inputs, names, target=1)
    with left_untouched(model), observed_forward(model, mapping_inputs(model, inputs), modules=set(names)) as run:
        readout = run.readout_gradients(run.output[:, 1], run.states)
        rows = readout.readout.weights()
    assert len(run.states) == len(hidden) == 3
    real = inputs["attention_mask"].bool() if "attention_mask" in inputs else ...  # padding may attend to nothing
    for layer in range(3):
        torch.testing.assert_close(run.states[layer].hidden[real], hidden[layer][real], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(readout.gradients[layer], gradients[layer], rtol=1e-9, atol=1e-11)
        expected = torch.einsum("bq,bhqk->bk", rows, attentions[layer]) / attentions[layer].shape[1]
        torch.testing.assert_close(readout.attention[layer], expected, rtol=1e-10, atol=1e-12)


def test_a_layer_is_the_outermost_entry_of_a_list_with_one_attention():
    bert, albert, t5 = (FAMILIES[name].build() for name in ("bert", "albert", "t5"))
    inputs = text_batch()
    assert blocks(bert, mapping_inputs(bert, inputs)) == [f"bert.encoder.layer.{layer}" for layer in range(3)]
    assert blocks(albert, mapping_inputs(albert, inputs)) == ["albert.encoder.albert_layer_groups.0"] * 3
    assert blocks(t5, mapping_inputs(t5, inputs)) == [f"transformer.encoder.block.{layer}" for layer in range(3)]
    plain = PlainClassifier().eval()
    assert blocks(plain, tensor_inputs(plain, torch.randn(2, 5, 16))) == ["encoder.layers.0", "encoder.layers.1"]


def test_the_tenth_layer_is_not_the_first():
    model = hf.BertForSequenceClassification(
        hf.BertConfig(vocab_size=60, hidden_size=8, num_hidden_layers=12, num_attention_heads=2, intermediate_size=8)
    ).eval()
    assert blocks(model, mapping_inputs(model, text_batch())) == [f"bert.encoder.layer.{layer}" for layer in range(12)]


def test_attention_outside_of_any_list_has_no_block():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, embeddings):
            return self.attention(embeddings, embeddings, embeddings)[0][:, 0]

    model = Single().eval()
    with pytest.raises(ValueError, match=r"'attention' belongs to no entry of a ModuleList.*name the modules"):
        blocks(model, tensor_inputs(model, torch.randn(2, 5, 16)))


def test_shared_modules_are_told_apart_by_call():
    model = FAMILIES["albert"].build()
    inputs = mapping_inputs(model, text_batch())
    with observed_forward(model, inputs, modules={"albert.encoder.albert_layer_groups.0"}) as run:
        assert [(states.call, states.attended) for states in run.states] == [(0, 1), (1, 2), (2, 3)]


def test_states_that_the_output_does_not_depend_on_have_zero_gradients():
    model = FAMILIES["bert"].build()
    with observed_forward(model, mapping_inputs(model, text_batch()), modules={"bert.encoder.layer.2"}) as run:
        (gradient,) = run.readout_gradients(run.output[:, 0], run.states).gradients
    assert gradient[:, 0].any()
    assert not gradient[:, 1:].any()


def test_states_from_before_the_attention_are_refused():
    model = FAMILIES["bert"].build()
    with (
        observed_forward(model, mapping_inputs(model, text_batch()), modules={"bert.embeddings"}) as run,
        pytest.raises(ValueError, match=r"'bert.embeddings' returns before the first attention"),
    ):
        run.readout_gradients(run.output[:, 0], run.states)


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        ("bert.encoder.layer.9", ValueError, r"no module 'bert.encoder.layer.9'; similar names: 'bert.encoder.layer"),
        ("", ValueError, "no module ''"),
        ("bert.pooler", ValueError, r"'bert.pooler' returned a tensor of shape \(3, 32\), expected .* \(3, 9, width\)"),
    ],
)
def test_bad_modules_are_refused_and_leave_no_hook(module, error, message):
    model = FAMILIES["bert"].build()
    observed = observed_forward(model, mapping_inputs(model, text_batch()), modules={module})
    with left_untouched(model), pytest.raises(error, match=message), observed:
        pass


def test_what_returns_no_tensor_is_refused():
    class Named(nn.Module):
        def forward(self, hidden):
            return {"hidden": "none"}

    model = PlainClassifier().eval()
    model.add_module("odd", Named())
    model.forward = lambda embeddings: (model.odd(embeddings), model.head(model.encoder(embeddings)[:, 0]))[1]
    observed = observed_forward(model, tensor_inputs(model, torch.randn(2, 5, 16)), modules={"odd"})
    with pytest.raises(TypeError, match="'odd' returned dict, in which there are no hidden states"), observed:
        pass


def test_states_changed_in_place_are_refused():
    class InPlace(PlainClassifier):
        def forward(self, embeddings):
            hidden = self.encoder(embeddings)
            return self.head(hidden.add_(1.0)[:, 0])

    model = InPlace().eval()
    observed = observed_forward(model, tensor_inputs(model, torch.randn(2, 5, 16)), modules={"encoder.layers.1"})
    with pytest.raises(RuntimeError, match=r"'encoder.layers.1' returned were modified in place"), observed:
        pass


def test_threads_on_one_model_do_not_see_each_others_states():
    model = FAMILIES["bert"].build()
    inputs = mapping_inputs(model, text_batch())
    expected = {}
    for example in range(3):
        with observed_forward(model, inputs[example : example + 1], modules={"bert.encoder.layer.1"}) as run:
            expected[example] = run.states[0].hidden.detach()
    wrong = []

    def work(example):
        for _ in range(20):
            with observed_forward(model, inputs[example : example + 1], modules={"bert.encoder.layer.1"}) as run:
                same = len(run.states) == 1 and torch.equal(run.states[0].hidden, expected[example])
                wrong.extend([] if same else [example])

    threads = [threading.Thread(target=work, args=(example,)) for example in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(not module._forward_hooks for module in model.modules())


def test_the_model_can_be_pickled_and_copied_afterwards():
    model = FAMILIES["vit"].build()
    inputs = mapping_inputs(model, batch(FAMILIES["vit"]))
    with observed_forward(model, inputs, modules={"vit.layers.0"}) as run:
        run.readout_gradients(run.output[:, 0], run.states)
    assert pickle.loads(pickle.dumps(model)).state_dict().keys() == copy.deepcopy(model).state_dict().keys()


def test_the_model_itself_is_no_part():
    with pytest.raises(ValueError, match="no module"):
        module_named(PlainClassifier(), "")
