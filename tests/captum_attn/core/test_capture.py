"""What the capture sees, and that it leaves nothing behind."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import peft
import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from families import FAMILIES, batch, on, plain_attention, text_batch
from models import PlainClassifier, left_untouched
from torch import nn

from captum_attn import ShapleyGradAttention
from captum_attn.core import AttentionCapture, mapping_inputs, observed_forward, tensor_inputs
from captum_attn.core.models import evaluation_mode
from captum_attn.core.no_matrix import NoMatrixError


def influence(model, inputs, target=1, variant="rectified", **options):
    with observed_forward(model, inputs) as run:
        return run.influence(run.output[:, target], variant=variant, **options)


def bert(device="cpu"):
    model = FAMILIES["bert"].build(device=device)
    return model, mapping_inputs(model, on(device, text_batch()))


def test_calls_are_named_by_their_module():
    model = FAMILIES["t5"].build()
    with AttentionCapture(model, gradients=False) as capture:
        model(**text_batch())
    assert capture.calls[0].module == "transformer.encoder.block.0.layer.0.SelfAttention"
    assert capture.calls[4].module == "transformer.decoder.block.0.layer.1.EncDecAttention"


def test_bart_is_explained_through_its_encoder():
    model = FAMILIES["bart"].build()
    with observed_forward(model, mapping_inputs(model, text_batch())) as run:
        assert [call.module for call in run.calls] == [f"model.encoder.layers.{i}.self_attn" for i in range(3)]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_decoders_are_recognised_by_their_masks(name, padding, device):
    model = FAMILIES[name].build(device=device)
    with observed_forward(model, mapping_inputs(model, on(device, text_batch(padding)))) as run:
        assert run.causal


@pytest.mark.parametrize("name", ["bert", "deberta_v2", "t5", "vit"])
def test_encoders_are_not_causal(name, device):
    family = FAMILIES[name]
    model = family.build(device=device)
    with observed_forward(model, mapping_inputs(model, batch(family, device=device))) as run:
        assert not run.causal


def plain_reference(model, embeddings, padding, target):
    """A ⊙ ReLU(G) of ``nn.TransformerEncoder`` written out by hand, mean over layers and heads."""
    hidden, attentions = embeddings, []
    for layer in model.encoder.layers:
        attention = layer.self_attn
        projected = F.linear(hidden, attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in projected.chunk(3, -1))
        scores = query @ key.mT / 8**0.5
        scores = scores.masked_fill(padding[:, None, None, :], float("-inf"))
        attentions.append(scores.softmax(-1))
        mixed = attention.out_proj((attentions[-1] @ value).transpose(1, 2).flatten(-2))
        hidden = layer.norm1(hidden + mixed)
        hidden = layer.norm2(hidden + layer.linear2(layer.linear1(hidden).relu()))
    score = model.head(hidden[:, 0])[:, target].sum()
    gradients = torch.autograd.grad(score, attentions)
    return torch.stack([a * g.relu() for a, g in zip(attentions, gradients, strict=True)]).mean((0, 2))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_transformer_encoder_equals_the_same_written_out(frozen, dtype, device):
    model = PlainClassifier().to(device, dtype).eval().requires_grad_(not frozen)
    embeddings = torch.randn(2, 5, 16, dtype=dtype).to(device)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2], device=device)
    expected = plain_reference(copy.deepcopy(model).requires_grad_(), embeddings, padding, 1)
    with left_untouched(model):
        actual = influence(model, tensor_inputs(model, embeddings, (padding,), ("src_key_padding_mask",)))
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= (1e-5 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("average", [False, True])
def test_multi_head_attention_that_returns_its_weights_equals_the_same_written_out(average, device):
    class WithWeights(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x):
            mixed, weights = self.attention(x, x, x, average_attn_weights=average)
            returned.append(weights)
            return mixed[:, 0, :3]

    returned: list[torch.Tensor] = []
    model, x = WithWeights().to(device).double().eval(), torch.randn(2, 5, 16, dtype=torch.double).to(device)
    observed = influence(model, tensor_inputs(model, x), variant="signed", per="head")[:, 0]
    packed = model.attention
    query, key, value = (
        part.unflatten(-1, (4, 4)).transpose(1, 2)
        for part in F.linear(x, packed.in_proj_weight, packed.in_proj_bias).chunk(3, -1)
    )
    probabilities = (query @ key.mT / 2).softmax(-1)
    score = packed.out_proj((probabilities @ value).transpose(1, 2).flatten(-2))[:, 0, 1].sum()
    (gradient,) = torch.autograd.grad(score, probabilities)
    torch.testing.assert_close(observed, probabilities * gradient, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(returned[0], probabilities.mean(1) if average else probabilities)


def test_position_bias_that_depends_on_the_input_passes_its_gradient_on(device):
    class GatedBias(nn.Module):
        """Two layers; the second one's additive mask is computed from the first one's output."""

        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(8, 1)
            self.scores = None

        def attend(self, x, bias):
            heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
            if self.scores is None:
                return F.scaled_dot_product_attention(heads, heads, heads, attn_mask=bias).transpose(1, 2).flatten(-2)
            mixed, probabilities = plain_attention(self, heads, heads, heads, bias)
            self.scores.append(probabilities)
            return mixed.flatten(-2)

        def forward(self, x):
            x = x + self.attend(x, None)
            bias = self.gate(x).transpose(1, 2).unsqueeze(1)  # (B, 1, 1, N)
            return (x + self.attend(x, bias))[:, 0, :3]

    model, x = GatedBias().to(device).double().eval(), torch.randn(2, 5, 8, dtype=torch.double).to(device)
    actual = influence(model, tensor_inputs(model, x), variant="signed", per="head")
    model.scores = []
    score = model(x.requires_grad_())[:, 1].sum()
    expected = torch.stack(
        [a * g for a, g in zip(model.scores, torch.autograd.grad(score, model.scores), strict=True)], 1
    )
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_left_behind(name, device):
    family = FAMILIES[name]
    model = family.build(device=device).train()
    inputs = mapping_inputs(model, batch(family, device=device))
    with left_untouched(model):
        influence(model, inputs)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_nothing_is_left_behind_after_an_exception(where, device):
    model, inputs = bert(device)
    model.train()
    boom = RuntimeError("boom")

    def fail(*_):
        raise boom

    layer = model.bert.encoder.layer[1]
    handle = layer.register_forward_hook(
        fail if where == "forward" else lambda module, args, output: output.register_hook(fail) and None
    )
    with left_untouched(model), pytest.raises(RuntimeError, match="boom"):
        influence(model, inputs)
    handle.remove()
    with left_untouched(model):
        influence(model, inputs)
    pickle.loads(pickle.dumps(model))


def test_existing_gradients_stay(device):
    model, inputs = bert(device)
    model(**on(device, text_batch())).logits.sum().backward()
    with left_untouched(model):
        influence(model, inputs)


@pytest.mark.parametrize("training", [False, True])
def test_threads_may_explain_one_model_at_once(training, device):
    model, inputs = bert(device)
    model.train(training)
    expected = [influence(model, inputs, target) for target in range(3)]
    barrier = threading.Barrier(3)

    def work(target):
        barrier.wait()
        return [influence(model, inputs, target) for _ in range(5)]

    with left_untouched(model), ThreadPoolExecutor(3) as pool:
        found = list(pool.map(work, range(3)))
    for target in range(3):
        for each in found[target]:
            torch.testing.assert_close(each, expected[target], rtol=0, atol=1e-7)


def test_a_part_stays_in_eval_mode_while_the_whole_is_explained():
    model, _ = bert()
    model.train()
    with evaluation_mode(model):
        with evaluation_mode(model.bert):
            assert not model.bert.training
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())


def test_dropout_is_off_while_explaining(device):
    model, inputs = bert(device)
    expected = influence(model, inputs)
    model.train()
    assert torch.equal(influence(model, inputs), expected)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_mode_of_the_caller_does_not_matter(context, device):
    model, inputs = bert(device)
    expected = influence(model, inputs)
    with context(), left_untouched(model):
        fresh = mapping_inputs(model, on(device, text_batch()))
        assert torch.equal(influence(model, fresh), expected)


def test_inference_tensors_as_embeddings(device):
    model, _ = bert(device)
    with torch.inference_mode():
        embeddings = model.get_input_embeddings()(on(device, text_batch())["input_ids"])
    assert influence(model, tensor_inputs(model, embeddings)).isfinite().all()


def test_weights_made_in_inference_mode_are_refused_with_the_remedy():
    with torch.inference_mode():
        model = FAMILIES["bert"].build()
    with pytest.raises(RuntimeError, match="outside inference mode"):
        influence(model, mapping_inputs(model, text_batch()))


def test_frozen_and_trainable_weights_give_the_same(device):
    model, inputs = bert(device)
    expected = influence(model, inputs)
    assert torch.equal(influence(model.requires_grad_(False), inputs), expected)


def test_no_weight_takes_part_in_the_graph(device):
    model, inputs = bert(device)
    with observed_forward(model, inputs) as run:
        reached = set()
        stack = [run.output.grad_fn]
        while stack:
            node = stack.pop()
            if node is not None and node not in reached:
                reached.add(node)
                stack += [parent for parent, _ in node.next_functions]
        leaves = {id(node.variable) for node in reached if hasattr(node, "variable")}
    leaves -= {id(call.probe) for call in run.calls}
    assert len(leaves) == 1  # where the input comes in
    assert not leaves & {id(weight) for weight in model.parameters()}


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_by_autocast_or_weights_stays_within_its_tolerance(name, device):
    tolerance = 0.15 if name == "t5" else 0.03  # T5 does not scale its scores, and large ones round coarsely
    family = FAMILIES[name]
    model = family.build(device=device)
    expected = influence(model, mapping_inputs(model, batch(family, device=device)))
    with torch.autocast(device.type, torch.bfloat16):
        by_autocast = influence(model, mapping_inputs(model, batch(family, device=device)))
    model.bfloat16()
    by_weights = influence(model, mapping_inputs(model, batch(family, dtype=torch.bfloat16, device=device)))
    for actual in (by_autocast, by_weights):
        assert actual.dtype == torch.float32
        assert (actual - expected).norm() / expected.norm() < tolerance


@pytest.mark.parametrize("layers", [[0], [1, 2], [-1], [2, 0]])
def test_layers_are_means_over_the_chosen_ones(layers, device):
    model, inputs = bert(device)
    each = influence(model, inputs, per="layer")
    chosen = sorted({layer % 3 for layer in layers})
    torch.testing.assert_close(influence(model, inputs, layers=layers), each[:, chosen].mean(1))
    torch.testing.assert_close(influence(model, inputs, layers=layers, per="layer"), each[:, chosen])


@pytest.mark.parametrize("heads", [[0], [1, 3], [-1]])
def test_heads_are_means_over_the_chosen_ones(heads, device):
    model, inputs = bert(device)
    each = influence(model, inputs, per="head")
    torch.testing.assert_close(influence(model, inputs, heads=heads), each[:, :, heads].mean((1, 2)))


def test_several_outputs_from_one_forward_pass(device):
    model, inputs = bert(device)
    forwards = []
    handle = model.register_forward_hook(lambda *_: forwards.append(1))
    with observed_forward(model, inputs) as run:
        several = [run.influence(run.output[:, c], variant="signed", retain_graph=c < 2) for c in range(3)]
    assert len(forwards) == 1
    handle.remove()
    for target in range(3):
        torch.testing.assert_close(several[target], influence(model, inputs, target, "signed"))


def test_lora_equals_the_merged_model(device):
    model, _ = bert(device)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query", "value"], init_lora_weights=False))
    adapted.eval()
    with left_untouched(adapted):
        actual = influence(adapted, mapping_inputs(adapted, on(device, text_batch())))
    merged = copy.deepcopy(adapted).merge_and_unload()
    expected = influence(merged, mapping_inputs(merged, on(device, text_batch())))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-7)


def test_a_compiled_model_is_explained_through_its_original(device):
    model, inputs = bert(device)
    assert torch.equal(influence(torch.compile(model), inputs), influence(model, inputs))


def test_distributed_data_parallel_is_explained_through_the_module_inside(tmp_path):
    model, inputs = bert()
    expected = influence(model, inputs)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        assert torch.equal(influence(wrapped, inputs), expected)
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(influence(nn.DataParallel(model), inputs), expected)


@pytest.mark.parametrize("part", ["whole", "layer"])
def test_a_model_compiled_inside_is_refused(part):
    model, inputs = bert()
    (model if part == "whole" else model.bert.encoder.layer[0]).compile()
    with pytest.raises(ValueError, match=r"compiled in place.*\.compile\(\)"):
        influence(model, inputs)


def test_windows_have_no_rows_and_columns():
    config = hf.SwinConfig(image_size=16, patch_size=2, window_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2])
    model = hf.SwinForImageClassification(config).eval()
    inputs = tensor_inputs(model, torch.rand(2, 3, 16, 16))
    with left_untouched(model), pytest.raises(NoMatrixError, match=r"windows.*rows, columns.*game='incoming'"):
        influence(model, inputs)


def test_random_numbers_that_a_model_draws_are_put_back(device):
    class Noisy(PlainClassifier):
        def forward(self, embeddings):
            return super().forward(embeddings + torch.randn_like(embeddings))

    model, embeddings = Noisy().to(device).eval(), torch.randn(2, 5, 16).to(device)
    with left_untouched(model):
        influence(model, tensor_inputs(model, embeddings))


def test_a_model_without_attention_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(80, 3))
    with pytest.raises(ValueError, match=r"no attention was seen.*scaled_dot_product_attention"):
        influence(model, tensor_inputs(model, torch.randn(2, 5, 16)))


def test_a_flash_attention_configuration_is_refused_with_the_remedy():
    model, inputs = bert()
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match=r"flash_attention_2.*set_attn_implementation\('sdpa'\)"):
        influence(model, inputs)


def test_an_output_that_does_not_depend_on_attention_is_refused(device):
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.classifier = PlainClassifier()

        def forward(self, x):
            return self.classifier(x).detach()

    model = Detached().to(device).eval()
    with pytest.raises(RuntimeError, match="does not depend"):
        influence(model, tensor_inputs(model, torch.randn(1, 4, 16).to(device)))


def test_attention_inputs_changed_in_place_are_noticed(device):
    class InPlace(nn.Module):
        def forward(self, x):
            heads = x.unflatten(-1, (2, 8)).transpose(1, 2).clone()
            mixed = F.scaled_dot_product_attention(heads, heads, heads)
            heads += 1
            return mixed.flatten(1)[:, :3]

    model = InPlace()
    with pytest.raises(RuntimeError, match="modified in place"):
        influence(model, tensor_inputs(model, torch.randn(1, 4, 16).to(device)))


@pytest.mark.parametrize("options", [{"layers": [3]}, {"heads": [-5]}])
def test_layers_and_heads_out_of_range(options):
    model, inputs = bert()
    with left_untouched(model), pytest.raises(IndexError, match="out of range: the model has"):
        influence(model, inputs, **options)


@pytest.mark.parametrize("options", [{"per": "layers"}, {"variant": "rectifed"}])
def test_misspelt_options_are_refused(options):
    model, inputs = bert()
    with pytest.raises(ValueError, match=r"must be .*'rectifed'|must be .*'layers'"):
        influence(model, inputs, **options)


class Hand(nn.Module):
    """Attention on (B, N, D), with something else beside it; reads the first token."""

    def __init__(self, beside):
        super().__init__()
        self.beside = beside

    def forward(self, x):
        return (x + self.beside(self, x))[:, 0, :3]


def single_head(module, x):
    return F.scaled_dot_product_attention(x, x, x)


def with_keywords(module, x):
    return torch.softmax(input=x[:, None] @ x[:, None].mT / 4, dim=-1).squeeze(1) @ x


def beside_a_router(module, x):
    return single_head(module, x) * x.unflatten(-1, (2, 2, 4)).softmax(-1).flatten(-3)


@pytest.mark.parametrize("beside", [single_head, with_keywords, beside_a_router])
def test_hand_written_attention_is_told_from_other_softmaxes(beside, device):
    model, x = Hand(beside).double(), torch.randn(2, 5, 16, dtype=torch.double).to(device)
    with observed_forward(model, tensor_inputs(model, x)) as run:
        assert (run.layers, run.heads) == (1, 1)
        observed = run.influence(run.output[:, 1], variant="signed")
    probabilities = (x @ x.mT / 4).softmax(-1)
    factor = x.unflatten(-1, (2, 2, 4)).softmax(-1).flatten(-3) if beside is beside_a_router else torch.ones_like(x)
    gradient = factor[:, 0, 1, None] * x[:, :, 1]
    torch.testing.assert_close(observed[:, 0], probabilities[:, 0] * gradient)


def test_a_layer_without_a_graph_is_refused(device):
    def half_frozen(module, x):
        with torch.no_grad():
            x = single_head(module, x)
        return single_head(module, x)

    model = Hand(half_frozen)
    inputs = tensor_inputs(model, torch.randn(2, 5, 16).to(device))
    with left_untouched(model), pytest.raises(ValueError, match=r"ran under torch.no_grad\(\) inside the model"):
        influence(model, inputs)


def test_a_bound_method_is_its_model_and_a_function_finds_it(device):
    model, inputs = bert(device)
    expected = influence(model, inputs)
    model.train()
    assert torch.equal(influence(model.forward, inputs), expected)
    with pytest.raises(ValueError, match=r"BertForSequenceClassification in training mode: call \.eval\(\)"):
        influence(lambda **keywords: model(**keywords).logits, inputs)
    model.eval()
    assert torch.equal(influence(lambda **keywords: model(**keywords).logits, inputs), expected)


def test_a_function_of_an_encoder_decoder_is_explained_through_its_encoder(device):
    model = FAMILIES["bart"].build(device=device)
    inputs = mapping_inputs(model, on(device, text_batch()))
    assert torch.equal(influence(lambda **keywords: model(**keywords).logits, inputs), influence(model, inputs))


HOSTS = ("captum", "shap", "lightning", "transformers", "sklearn", "torchmetrics", "matplotlib", "pandas")


@pytest.mark.parametrize(("package", "absent"), [("functional", HOSTS), ("core", (*HOSTS, "scipy"))])
def test_mathematics_and_core_can_be_imported_without_what_they_do_not_need(package, absent):
    program = (
        f"import sys\nfor host in {absent}: sys.modules[host] = None\n"
        f"import captum_attn.{package} as package\n"
        "print(sorted(set(package.__all__) ^ set(dir(package))), sys.modules.get('captum_attn.bench'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] None"


def test_functions_that_are_compiled_run_as_they_are_written():
    """Dynamo would take the mode in, and mix up what it saw: the second explanation had another output."""

    def activation(states):
        return F.gelu(states) * states.sigmoid()

    class Gated(nn.Module):
        def __init__(self, function):
            super().__init__()
            torch.manual_seed(0)
            self.model, self.function, self.linear = FAMILIES["bert"].build(), function, nn.Linear(32, 32)

        def forward(self, input_ids):
            states = self.model.get_input_embeddings()(input_ids)
            return self.model(inputs_embeds=states + self.function(self.linear(states))).logits

    ids = text_batch()["input_ids"][:1]
    model = Gated(torch.compile(activation, backend="eager"))
    expected = model(ids)
    for propagation in ("gradient", "attnlrp") * 3:
        found = ShapleyGradAttention(model, propagation=propagation).attribute_tokens(ids, target=1)
        plain = ShapleyGradAttention(Gated(activation), propagation=propagation).attribute_tokens(ids, target=1)
        torch.testing.assert_close(found.output, expected)
        torch.testing.assert_close(found.values, plain.values)
        torch.testing.assert_close(model(ids), expected)
