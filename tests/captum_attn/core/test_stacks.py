"""Which attention is explained follows from who feeds whom, against attention recorded in plain eager code."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers as hf
from families import FAMILIES, batch, image_batch, on, text_batch
from models import left_untouched
from stacked_models import WAYS, Attend, Own, embeddings, signed_influence, straight
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.utils.checkpoint import checkpoint

from captum_attn import RawAttention, ShapleyAttention, ShapleyGradAttention, inspect
from captum_attn.core import mapping_inputs, observed_forward, tensor_inputs
from captum_attn.core.knockout import knocked_out_output, knockout_calls
from captum_attn.core.origins import bits
from captum_attn.core.replacement import replaced_output, replacement_calls


def explained(model, inputs, **others):
    """A ⊙ G (B, L, H, N, N) of the first class but one."""
    names = list(others)
    explainer = ShapleyGradAttention(model, additional_forward_arg_names=names)
    with left_untouched(model):
        return explainer.influence(inputs, 1, tuple(others.values()), per="head")


def assert_equal(got, expected):
    """Up to rounding of the largest: hand-made models have steep gradients."""
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def by_head(influences, batch):
    return torch.stack([one.reshape(batch, -1, *one.shape[-2:]) for one in influences], 1)


# --- One stack, however its attention is written -------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 3])  # two heads: two examples may be taken for heads
@pytest.mark.parametrize("way", ["fused", "eager", "rows", "five dimensions", "synthesized", "talking heads"])
def test_every_way_to_write_attention_is_a_layer_of_its_stack(way, batch, device):
    model, inputs = Own(straight, "fused", way, "eager").to(device), embeddings(batch).to(device)
    expected = by_head(signed_influence(model, inputs), batch)
    assert_equal(explained(model, inputs), expected)


@pytest.mark.parametrize("way", ["sink", "sink first"])
def test_a_sink_is_left_out(way, device):
    model, inputs = Own(straight, way, "fused", way).to(device), embeddings().to(device)
    recorded = signed_influence(model, inputs)
    columns = slice(1, None) if way == "sink first" else slice(0, 5)
    expected = torch.stack([one[..., columns] if one.shape[-1] == 6 else one for one in recorded], 1)
    assert_equal(explained(model, inputs), expected)
    assert inspect(model, inputs).calls[0].role == "explained, a sink left out"


@pytest.mark.parametrize("way", ["sink", "sink first", "rows", "five dimensions", "halves"])
def test_knockout_finds_the_tokens_of_every_softmax(way, device):
    model, inputs = Own(straight, way).to(device), embeddings().to(device)
    blocked = torch.zeros(3, 5, dtype=torch.bool, device=device)
    blocked[:, 2] = True
    moved = inputs.clone()
    moved[:, 2] += 1.0
    calls = None
    with observed_forward(model, tensor_inputs(model, inputs), gradients=False) as run:
        calls = knockout_calls(run)
    knocked, other = (knocked_out_output(model, tensor_inputs(model, x), blocked, calls) for x in (inputs, moved))
    torch.testing.assert_close(knocked, other)  # nobody sees token 2, and it is not read
    assert not torch.allclose(model(inputs), model(moved), atol=1e-3)


@pytest.mark.parametrize("way", ["sink", "rows", "five dimensions", "halves", "synthesized"])
def test_replacing_attention_by_itself_changes_nothing_and_by_another_does(way, device):
    model, inputs = Own(straight, way, "fused").to(device), embeddings().to(device)
    batch = tensor_inputs(model, inputs)
    with observed_forward(model, batch, gradients=False) as run:
        calls = replacement_calls(run)
    same = replaced_output(model, batch, lambda layer, attention, allowed: attention, calls)
    torch.testing.assert_close(same, model(inputs).detach(), rtol=1e-4, atol=1e-5)
    shapes = set()

    def other(layer, attention, allowed):
        shapes.add((attention.shape, allowed.expand(attention.shape).shape))
        return attention.flip(-1)

    assert not torch.allclose(replaced_output(model, batch, other, calls), same, atol=1e-3)
    assert shapes == {(torch.Size([3, 2, 5, 5]),) * 2}


def test_the_same_probabilities_on_parts_of_the_values_are_one_layer(device):
    model, inputs = Own(straight, "halves", "fused", "halves").to(device), embeddings().to(device)
    first, first_too, second, third, third_too = signed_influence(model, inputs)
    expected = torch.stack([first + first_too, second, third + third_too], 1)
    assert_equal(explained(model, inputs), expected)
    rectified = ShapleyGradAttention(model, sign="rectified").influence(inputs, 1, per="head")
    assert_equal(rectified, expected.relu())  # of the sum, not the sum of both


@pytest.mark.parametrize("used", [0, 1])
def test_a_part_of_the_values_that_nothing_reads_has_no_gradient(used, monkeypatch, device):
    def one_half(query, key, value):
        parts = [torch.nn.functional.scaled_dot_product_attention(query, key, half) for half in value.chunk(2, -1)]
        return torch.cat([parts[used]] * 2, -1)

    monkeypatch.setitem(WAYS, "halves", one_half)
    model, inputs = Own(straight, "halves").to(device), embeddings().to(device)
    expected = torch.stack([sum(signed_influence(model, inputs))], 1)
    assert_equal(explained(model, inputs), expected)


def test_heads_before_examples_are_told_by_a_single_example(device):
    model, inputs = Own(straight, "heads first").to(device), embeddings().to(device)
    with left_untouched(model), pytest.raises(ValueError, match=r"not example by example.*internal_batch_size=1"):
        ShapleyGradAttention(model).attribute(inputs, target=1)
    one_by_one = ShapleyGradAttention(model).influence(inputs, 1, internal_batch_size=1, per="head")
    expected = torch.cat([by_head(signed_influence(model, inputs[i : i + 1]), 1) for i in range(3)])
    assert_equal(one_by_one, expected)


def test_two_layers_with_weights_in_common_are_two_layers(device):
    model, inputs = (
        Own(lambda m, x: m.head(m.layers[0](m.layers[0](x))[:, 0]), "fused").to(device),
        embeddings().to(device),
    )
    assert_equal(explained(model, inputs), by_head(signed_influence(model, inputs), 3))


def test_keys_of_a_lower_layer_are_the_same_tokens(device):
    def shared(model, states):
        low = model.layers[0](states)
        return model.head(model.layers[1](model.layers[1](low), low)[:, 0])

    model, inputs = Own(shared, "fused", "eager").to(device), embeddings().to(device)
    assert explained(model, inputs).shape[1] == 3
    assert_equal(explained(model, inputs), by_head(signed_influence(model, inputs), 3))


# --- What cannot be explained is named, in eager as in fused form --------------------------------------------------


def pooled(model, states):
    low = model.layers[0](states)
    return model.head(model.layers[1](low[:, :4].unflatten(1, (2, 2)).mean(2))[:, 0])


def dropped_token(model, states):
    return model.head(model.layers[1](model.layers[0](states)[:, :-1])[:, 0])


def added_token(model, states):
    low = model.layers[0](states)
    return model.head(model.layers[1](torch.cat([low, low.mean(1, keepdim=True)], 1))[:, -1])


def one_query(model, states):
    """Class attention: the last layers are of one query among all tokens."""
    low = model.layers[0](states)
    read = low[:, :1]
    for _ in range(2):
        read = model.layers[1](read, torch.cat([read, low], 1))
    return model.head(read[:, 0])


@pytest.mark.parametrize("method", [ShapleyGradAttention, RawAttention])
@pytest.mark.parametrize("way", ["fused", "eager", "rows"])
@pytest.mark.parametrize("forward", [pooled, dropped_token, added_token, one_query])
def test_layers_of_several_sizes_are_refused_and_never_dropped(forward, way, method):
    model, inputs = Own(forward, "fused", way), embeddings()
    with left_untouched(model), pytest.raises(ValueError, match=r"token-by-token.*matrices of 2 sizes"):
        method(model).attribute(inputs, target=1)


@pytest.mark.parametrize(("way", "reason"), [("sideways", "another dimension"), ("of states", "no products")])
def test_odd_softmaxes_over_tokens_are_refused_by_name(way, reason, device):
    model, inputs = Own(straight, "fused", way).to(device), embeddings().to(device)
    with left_untouched(model), pytest.raises(ValueError, match=rf"'layers.1' has a softmax.*{reason}"):
        ShapleyGradAttention(model).attribute(inputs, target=1)
    assert any(reason in call.role for call in inspect(model, inputs).calls)


class Router(nn.Module):
    """A mixture of experts that are weighted or added up by a product."""

    def __init__(self, product, experts):
        super().__init__()
        self.choose, self.product = nn.Linear(16, experts), product
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(experts))

    def forward(self, states):
        weights = self.choose(states).softmax(-1)
        outputs = torch.stack([expert(states) for expert in self.experts], -2)
        if self.product:
            return states + (weights.unsqueeze(-2) @ outputs).squeeze(-2)
        return states + (weights.unsqueeze(-1) * outputs).sum(-2)


@pytest.mark.parametrize("experts", [4, 5])
@pytest.mark.parametrize("product", [False, True])
def test_routers_relate_no_tokens(product, experts, device):
    def routed(model, states):
        return model.head(model.layers[1](model.router(model.layers[0](states)))[:, 0])

    model = Own(routed, "fused", "eager", router=Router(product, experts)).to(device)
    inputs = embeddings().to(device)
    if product and experts == 5:  # as many as tokens: nothing tells what is mixed
        with pytest.raises(ValueError, match=r"'router' has a softmax.*no products"):
            explained(model, inputs)
        return
    recorded = [one for one in signed_influence(model, inputs) if one.dim() == 4]
    assert_equal(explained(model, inputs), by_head(recorded, 3))


def test_parallel_residual_streams_relate_no_tokens(device):
    def streams(model, states):
        both = torch.stack([states, states * 0.5], 2)  # (B, N, 2, D)
        for layer in model.layers:
            weights = model.choose(states).unflatten(-1, (2, 2)).softmax(-1)
            both = weights @ both
            states = layer(both.sum(2))
            both = both + states.unsqueeze(2)
        return model.head(both.sum(2)[:, 0])

    model, inputs = Own(streams, "fused", "eager", choose=nn.Linear(16, 4)).to(device), embeddings().to(device)
    recorded = [one for one in signed_influence(model, inputs) if one.shape[-1] == 5]
    assert_equal(explained(model, inputs), by_head(recorded, 3))


# --- Two inputs, two runs, two stacks -------------------------------------------------------------------------------


def test_an_encoder_that_also_runs_on_another_input_is_explained_on_its_own(device):
    def similarity(model, states, other):
        first, second = (model.layers[1](model.layers[0](x))[:, 0] for x in (states, other))
        return model.head(first * second)

    model, inputs, other = (
        Own(similarity, "fused", "eager").to(device),
        embeddings().to(device),
        embeddings(seed=1).to(device),
    )
    recorded = signed_influence(model, inputs, other=other)
    assert_equal(explained(model, inputs, other=other), by_head(recorded[:2], 3))


TWICE = {
    "two views": lambda m, x: straight(m, x) + straight(m, x.flip(1)),
    "two calls": lambda m, x: straight(m, x) - 0.5 * straight(m, x),
    "a copy": lambda m, x: straight(m, x) * straight(m, x.clone()).sigmoid(),
    "joined later": lambda m, x: m.head(m.top(m.layers[0](x) + m.layers[0](x.flip(1)))[:, 0]),
}


@pytest.mark.parametrize("way", ["fused", "eager"])
@pytest.mark.parametrize("twice", TWICE)
def test_an_encoder_that_runs_twice_on_the_input_is_refused(twice, way):
    model, inputs = Own(TWICE[twice], way, "eager", top=Attend(way)), embeddings()
    for method in (ShapleyGradAttention(model), RawAttention(model)):
        with left_untouched(model), pytest.raises(ValueError, match=r"ran twice.*beforehand, under torch\.no_grad"):
            method.attribute(inputs, target=1)


@pytest.mark.parametrize("joined", [False, True])
def test_several_encoders_of_one_input_are_refused(joined, device):
    def ensemble(model, states):
        one = model.layers[1](model.layers[0](states))
        other = model.layers[3](model.layers[2](states))
        return model.head((model.top(one + other) if joined else one + other)[:, 0])

    model, inputs = Own(ensemble, "fused", "eager", "fused", "fused", top=Attend()).to(device), embeddings().to(device)
    with left_untouched(model), pytest.raises(ValueError, match="several encoders read the explained input"):
        ShapleyGradAttention(model).attribute(inputs, target=1)


def test_attention_side_by_side_in_a_layer_is_explained(device):
    def parallel(model, states):
        for one, other in (model.layers[:2], model.layers[2:]):
            states = one(states) + other(states)
        return model.head(states[:, 0])

    model, inputs = Own(parallel, "fused", "eager", "eager", "fused").to(device), embeddings().to(device)
    assert_equal(explained(model, inputs), by_head(signed_influence(model, inputs), 3))


@pytest.mark.parametrize("length", [5, 7])  # the same as the input's, or another
def test_a_decoder_of_another_input_is_told_apart_by_what_it_reads(length, device):
    def decoded(model, states, other):
        memory = model.layers[1](model.layers[0](states))
        for own, across in (model.layers[2:4], model.layers[4:6]):
            other = across(own(other), memory)
        return model.head(other[:, -1])

    model = Own(decoded, "fused", "eager", "fused", "eager", "eager", "fused").to(device)
    inputs, other = embeddings().to(device), embeddings(length=length, seed=1).to(device)
    recorded = signed_influence(model, inputs, other=other)
    assert_equal(explained(model, inputs, other=other), by_head(recorded[:2], 3))
    with observed_forward(model, mapping_inputs(model, {"inputs_embeds": inputs, "other": other})) as run:
        roles = [run.sorted.roles[number] for number in range(6)]
        assert roles[:2] == ["explained"] * 2
        assert roles[3::2] == ["reads the tokens"] * 2
        assert knockout_calls(run) == {0: 0, 1: 0, 3: 0, 5: 0}


@pytest.mark.parametrize("size", ["other", "same"])
def test_a_stack_that_other_inputs_join_is_not_of_the_explained_tokens(size, device):
    def joined(model, states, other):
        low = model.layers[0](states)
        high = torch.cat([low, other], 1) if size == "other" else low + other
        return model.head(model.layers[1](high)[:, 0])

    model, inputs, other = (
        Own(joined, "fused", "eager").to(device),
        embeddings().to(device),
        embeddings(seed=1).to(device),
    )
    if size == "same":
        with pytest.raises(ValueError, match="as many tokens as the layers below it"):
            explained(model, inputs, other=other)
        return
    recorded = signed_influence(model, inputs, other=other)
    assert_equal(explained(model, inputs, other=other), by_head(recorded[:1], 3))


def test_learned_queries_that_pool_the_tokens_read_them(device):
    def pooling(model, states):
        query = model.query.weight.unsqueeze(0).expand(len(states), -1, -1)
        return model.head(model.layers[1](query, model.layers[0](states))[:, 0])

    for way in ("fused", "eager"):
        model, inputs = Own(pooling, "fused", way, query=nn.Embedding(1, 16)).to(device), embeddings().to(device)
        recorded = signed_influence(model, inputs)
        assert_equal(explained(model, inputs), by_head(recorded[:1], 3))
        with observed_forward(model, tensor_inputs(model, inputs), gradients=False) as run:
            assert knockout_calls(run) == {0: 0, 1: 0}
        rows = RawAttention(model)
        assert torch.equal(rows.attribute_tokens(inputs).values > 0, torch.ones(3, 5, dtype=torch.bool, device=device))


def test_an_input_that_is_read_by_cross_attention_alone_is_refused(device):
    model = Own(lambda m, x, other: m.head(m.layers[0](other, x)[:, 0]), "fused").to(device)
    with pytest.raises(ValueError, match="none in which the explained input's tokens attend to each other"):
        explained(model, embeddings().to(device), other=embeddings(seed=1).to(device))


# --- Hugging Face's two towers --------------------------------------------------------------------------------------

_TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def two_towers(kind):
    text = {
        **_TOWER,
        "vocab_size": 60,
        "max_position_embeddings": 16,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 1,
    }
    vision = {**_TOWER, "image_size": 12, "patch_size": 4}
    torch.manual_seed(0)
    if kind == "clip":
        model = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    else:
        model = hf.SiglipModel(hf.SiglipConfig(text_config={**text, "projection_size": 32}, vision_config=vision))
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.2)
    return model.eval()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("explain", ["text", "image"])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_tower_that_reads_the_features_is_explained_fused_as_eager(kind, explain, implementation, device):
    model = two_towers(kind).to(device)
    model.set_attn_implementation("eager")
    texts, pixels = text_batch()["input_ids"][:, :7].to(device), image_batch()["pixel_values"].to(device)
    output = model(input_ids=texts, pixel_values=pixels, output_attentions=True)
    scores = output.logits_per_image[:, 1] if explain == "image" else output.logits_per_text[:, 1]
    attentions = (output.vision_model_output if explain == "image" else output.text_model_output).attentions
    gradients = torch.autograd.grad(scores.sum(), attentions)
    expected = torch.stack([(a * g).detach() for a, g in zip(attentions, gradients, strict=True)], 1)
    model.set_attn_implementation(implementation)
    if explain == "image":
        score = lambda pixel_values: model(input_ids=texts, pixel_values=pixel_values).logits_per_image  # noqa: E731
    else:
        score = lambda input_ids: model(input_ids=input_ids, pixel_values=pixels).logits_per_text  # noqa: E731
    explainer = ShapleyGradAttention(score)
    assert_equal(explainer.influence(pixels if explain == "image" else texts, target=1, per="head"), expected)


# --- Gradients that are not there ----------------------------------------------------------------------------------

_TORCHS_OWN_WORDS = pytest.mark.xfail(strict=True, reason="PyTorch's own error, which advises what is refused as well")


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_is_named_with_its_switches_and_attention_alone_works(reentrant, device):
    def saving(model, states):
        for layer in model.layers:
            states = checkpoint(layer, states, use_reentrant=reentrant)
        return model.head(states[:, 0])

    plain, model, inputs = (
        Own(straight, "fused", "eager").to(device),
        Own(saving, "fused", "eager").to(device),
        embeddings().to(device),
    )
    with (
        left_untouched(model),
        pytest.raises((RuntimeError, ValueError), match=r"checkpoint.*set_grad_checkpointing\(False\)"),
    ):
        ShapleyGradAttention(model).attribute(inputs, target=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert inspect(model, inputs).verdict.startswith("refused")
        rows = RawAttention(model, readout=0).attribute(inputs)
    torch.testing.assert_close(rows, RawAttention(plain, readout=0).attribute(inputs))


@pytest.mark.parametrize("implementation", CheckpointImpl)
def test_checkpoint_wrappers_of_fsdp_are_named_and_the_module_inside_works(implementation, device):
    plain, wrapped, inputs = (
        Own(straight, "fused", "eager").to(device),
        Own(straight, "fused", "eager").to(device),
        embeddings().to(device),
    )
    for place, layer in enumerate(list(wrapped.layers)):
        wrapped.layers[place] = checkpoint_wrapper(layer, checkpoint_impl=implementation).eval()
    with (
        left_untouched(wrapped),
        pytest.raises((RuntimeError, ValueError), match=r"module inside of checkpoint_wrapper"),
    ):
        ShapleyGradAttention(wrapped).attribute(inputs, target=1)
    for place, layer in enumerate(list(wrapped.layers)):
        wrapped.layers[place] = layer._checkpoint_wrapped_module
    assert torch.equal(explained(wrapped, inputs), explained(plain, inputs))


class Timm(nn.Module):
    """Blocks under a switch, as timm's models have them."""

    def __init__(self, reentrant):
        super().__init__()
        torch.manual_seed(0)
        self.blocks, self.head = nn.ModuleList(Attend() for _ in range(2)), nn.Linear(16, 3)
        self.grad_checkpointing, self.reentrant = False, reentrant

    def set_grad_checkpointing(self, enable=True):
        self.grad_checkpointing = enable

    def forward(self, inputs_embeds):
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                inputs_embeds = checkpoint(block, inputs_embeds, use_reentrant=self.reentrant)
            else:
                inputs_embeds = block(inputs_embeds)
        return self.head(inputs_embeds.mean(1))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("reentrant", [True, False])
def test_the_switch_that_is_named_works_for_models_like_timms(reentrant, training, device):
    model, inputs = Timm(reentrant).to(device).train(training), embeddings().to(device)
    expected = explained(model, inputs)
    model.set_grad_checkpointing()
    with left_untouched(model), pytest.raises((RuntimeError, ValueError), match=r"set_grad_checkpointing\(False\)"):
        ShapleyGradAttention(model).attribute(inputs, target=1)
    model.set_grad_checkpointing(False)
    assert torch.equal(explained(model, inputs), expected)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["bert", "llama", "t5", "vit"])
def test_checkpointing_of_hugging_face_is_off_while_explaining(name, device):
    family = FAMILIES[name]
    model, inputs = family.build(device=device), batch(family, device=device)
    expected = ShapleyGradAttention(model).influence(inputs, 1)
    model.gradient_checkpointing_enable()
    for training in (False, True):
        model.train(training)
        with left_untouched(model):
            assert torch.equal(ShapleyGradAttention(model).influence(inputs, 1), expected)


@pytest.mark.parametrize("reentrant", [pytest.param(True, marks=_TORCHS_OWN_WORDS), False])
def test_checkpoints_of_a_part_without_attention_are_named(reentrant, device):
    def saving(model, states):
        low = checkpoint(model.mlp, model.layers[0](states), use_reentrant=reentrant)
        return model.head(model.layers[1](low)[:, 0])

    model = Own(saving, "fused", "eager", mlp=nn.Linear(16, 16)).to(device)
    with left_untouched(model), pytest.raises((RuntimeError, ValueError), match=r"set_grad_checkpointing\(False\)"):
        ShapleyGradAttention(model).attribute(embeddings().to(device), target=1)


def test_models_without_an_attention_matrix_are_told_that(device):
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.head = nn.Conv1d(16, 16, 3, padding=1), nn.Linear(16, 3)

        def forward(self, inputs_embeds):
            return self.head(self.mix(inputs_embeds.mT).mT.mean(1))

    for method in (ShapleyGradAttention, RawAttention):
        with pytest.raises(ValueError, match=r"relates tokens by other means.*so there is none to explain"):
            method(Mixer().to(device).eval()).attribute(embeddings().to(device), target=1)


def test_hybrids_say_how_many_layers_have_attention(device):
    class Convolution(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Conv1d(16, 16, 3, padding=1)

        def forward(self, states):
            return states + self.mix(states.mT).mT

    model = Own(straight, "fused", "fused").to(device)
    model.layers.insert(1, Convolution().to(device).eval())
    with pytest.warns(UserWarning, match="2 of the 3 layers of Own have attention"):
        ShapleyGradAttention(model).attribute(embeddings().to(device), target=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ShapleyGradAttention(Own(straight, "fused", "fused").to(device)).attribute(embeddings().to(device), target=1)


# --- Gradient methods and attention alone see the same --------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_alone_finds_the_layers_and_the_readout_that_gradients_find(name, device):
    family = FAMILIES[name]
    model = family.build(device=device)
    inputs = mapping_inputs(model, batch(family, device=device))
    found = []
    for gradients in (True, False):
        with observed_forward(model, inputs, gradients=gradients) as run:
            tokens = run.tokens(None)
            rows = run.readout("auto", run.output[:, 1], tokens).weights().double()
            found.append(([call.module for call in run.calls], rows))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1])


def test_attention_alone_keeps_the_tensors_of_one_layer(device):
    model, inputs = Own(straight, *["fused"] * 8).to(device), embeddings(8, 32).to(device)
    with observed_forward(model, tensor_inputs(model, inputs), gradients=False) as run:
        saved = run._capture._outline._saved
        assert list(saved) == [7]
        kept = sum(one.tensor.numel() for one in saved[7])
        assert 0 < kept < 4 * inputs.numel()
        with pytest.raises(RuntimeError, match="no gradients below the last attention"):
            run.influence(run.output[:, 1], variant="signed")


def test_the_mean_of_all_patches_is_read_with_and_without_gradients(device):
    model, inputs = FAMILIES["dinov2"].build(device=device), on(device, image_batch())
    rows = ShapleyAttention(model, game="cls").attribute_tokens(inputs, target=1).values
    expected = ShapleyAttention(model).influence(inputs, target=1).mean(1)
    torch.testing.assert_close(rows[:, 1:], expected[:, 1:])


def test_bits():
    assert list(bits(0)) == []
    assert list(bits(0b1010001)) == [0, 4, 6]
