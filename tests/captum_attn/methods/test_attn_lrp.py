"""Relevance of the input under rules: against a case by hand, captum's gradients, and in every form of input.

The rules themselves, and the models written out: ``core/propagation``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from captum.attr import InputXGradient, IntegratedGradients
from families import FAMILIES, SEP, batch, image_batch, text_batch
from helpers.shrunk_models import LABELS, tiny_inputs, tiny_model
from helpers.small_models import load_text_model
from model_families import candidates
from models import left_untouched
from numpy.polynomial.legendre import leggauss
from torch import Tensor, nn

from captum_attn import AttnLRP, IntegratedAttnLRP, ShapleyGradAttention
from captum_attn.core import mapping_inputs, observed_forward
from captum_attn.core.origins import Entrance
from captum_attn.methods import explain_in_one_pass


class ByHand(nn.Module):
    """Two tokens of one number each, 1 and 2: attention, and a gated product with a bias, read from token 0.

    Scores of token 0 are ln 2 · (1 · 1, 1 · 2), its attention is (1/3, 2/3), its state 1/3 + 4/3 = 5/3, and the output
    ReLU(5/3) · 3 · 5/3 + 1 = 28/3. Of that relevance, the bias absorbs 1, and each factor gets half of 25/3, which both
    hand on to the state. There, values get half, (1/5, 4/5) · 25/6 = (5/6, 10/3), and attention the other half, as
    much. Softmax hands s_i (R_i − a_i ΣR) on to a score s_i: ln 2 · (5/6 − 25/18) = −5/9 ln 2, and
    2 ln 2 · (10/3 − 50/18) = 10/9 ln 2. Of the first, both halves are token 0's; of the second, one is token 1's.
    """

    def forward(self, inputs_embeds: Tensor) -> Tensor:
        scores = math.log(2) * inputs_embeds @ inputs_embeds.mT
        state = (scores[:, None].softmax(-1) @ inputs_embeds[:, None])[:, 0, 0]
        return F.relu(state) * (3 * state) + 1


def test_two_layers_by_hand() -> None:
    states, log2 = torch.tensor([[[1.0], [2.0]]], dtype=torch.float64), math.log(2)
    found = AttnLRP(ByHand()).attribute_tokens(states, target=0)
    assert float(found.scores) == pytest.approx(28 / 3)
    expected = [5 / 6 - 5 / 9 * log2 + 5 / 9 * log2, 10 / 3 + 5 / 9 * log2]
    assert found.values[0].tolist() == pytest.approx(expected)
    found = AttnLRP(ByHand(), propagation="cp").attribute_tokens(states, target=0)
    assert found.values[0].tolist() == pytest.approx([25 / 3 / 5, 25 / 3 * 4 / 5])


@pytest.mark.parametrize("name", ["bert", "vit", "llama"])
def test_without_rules_it_is_captums_input_times_gradient_and_integrated_gradients(name: str) -> None:
    family = FAMILIES[name]
    model = family.build(torch.float64)
    if family.vision:
        given, arguments = image_batch(torch.float64)["pixel_values"], {}
        players = None

        def forward(pixels: Tensor) -> Tensor:
            return model(pixel_values=pixels).logits
    else:
        inputs = text_batch()
        given = model.get_input_embeddings()(inputs["input_ids"]).detach()
        arguments = {"additional_forward_args": (inputs["attention_mask"],)}
        players = inputs["attention_mask"].bool()

        def forward(embeddings: Tensor, mask: Tensor) -> Tensor:
            return model(inputs_embeds=embeddings, attention_mask=mask).logits

    plain = {"propagation": "gradient", "baseline": "zeros"}
    found = AttnLRP(model, **plain).attribute(given, 1, **arguments, players=players)
    expected = InputXGradient(forward).attribute(given, target=1, **arguments)
    mask = 1 if players is None else players[..., None]
    torch.testing.assert_close(found, expected * mask)
    found = IntegratedAttnLRP(model, passes=1, **plain).attribute(given, 1, **arguments, players=players)
    baseline = given * 0 if players is None else given * ~players[..., None]  # padding stays as it is
    integrated = IntegratedGradients(forward)
    expected = integrated.attribute(given, baseline, target=1, n_steps=1, method="gausslegendre", **arguments)
    rounds = {"rtol": 1e-3, "atol": 1e-5} if name == "llama" else {}  # its norm, to float32
    torch.testing.assert_close(found, expected * mask, **rounds)


@pytest.mark.parametrize("passes", range(1, 10))
def test_the_mean_over_a_path_and_what_is_left(passes: int) -> None:
    model = FAMILIES["bert"].build(torch.float64)
    ids = text_batch()["input_ids"][:1]
    given, other = (model.get_input_embeddings()(part).detach() for part in (ids, torch.full_like(ids, 7)))
    players = torch.tensor([False, *[True] * 7, False])

    def relevance(presence: Tensor) -> Tensor:
        state = torch.lerp(other, given, presence.where(players, 1.0)[None, :, None]).requires_grad_()
        (gradient,) = torch.autograd.grad(model(inputs_embeds=state).logits[0, 1], state)
        return ((given - other) * gradient)[0].sum(-1) * players

    on_path = {1: 1, 2: 1, 3: 1, 4: 3, 5: 3, 6: 5, 7: 5, 8: 7, 9: 7}[passes]
    points, weights = (torch.from_numpy(part) / 2 for part in leggauss(on_path))
    path = [weight * relevance((0.5 + point).expand(9)) for point, weight in zip(points, weights, strict=True)]
    mean = torch.stack(path).sum(0)
    order = torch.where(players, mean, -torch.inf).argsort(descending=True)
    expected = on_path * mean
    for count in (2, 1)[: passes - on_path]:  # 20 %, and 10 %, of seven tokens
        expected = expected + relevance(torch.ones(9, dtype=torch.float64).index_fill(0, order[:count], 0.0))
    method = IntegratedAttnLRP(model, passes=passes, baseline=7, propagation="gradient")
    torch.testing.assert_close(method.attribute(ids, target=1)[0], expected / passes)


@pytest.mark.parametrize("method", [AttnLRP, IntegratedAttnLRP])
@pytest.mark.parametrize("propagation", ["attnlrp", "cp"])
def test_pixels_sum_to_patches(method: type[AttnLRP], propagation: str) -> None:
    model, images = FAMILIES["dinov2"].build(), image_batch()["pixel_values"]
    attribution = method(model, propagation=propagation)
    patches, pixels = attribution.attribute_tokens(images, target=1).patches, attribution.attribute(images, target=1)
    torch.testing.assert_close(pixels.unfold(2, 4, 4).unfold(3, 4, 4).sum((1, 4, 5)), patches)
    assert pixels[0, 0, :4, :4].std() > 0  # of each pixel its own


def test_a_baseline_is_what_the_input_is_compared_with() -> None:
    model, inputs = FAMILIES["bert"].build(), text_batch()
    table = model.get_input_embeddings().weight
    with observed_forward(model, mapping_inputs(model, inputs), propagation=AttnLRP(model).propagation) as run:
        (entrance,) = run.entrances
        (gradient,) = run.show([], run.output[:, 1], features=[entrance.state])
    for baseline, state in ((7, table[7]), ("zeros", 0 * table[7]), (None, 0 * table[7])):
        found = AttnLRP(model, baseline=baseline).attribute_tokens(inputs, target=1)
        expected = ((entrance.state - state) * gradient).sum(-1) * found.players
        torch.testing.assert_close(found.values, expected.detach())
    images = image_batch()["pixel_values"]
    vit = FAMILIES["vit"].build()
    same = images.view(3, 3, 3, 4, 3, 4).mean((2, 4), keepdim=True).expand(3, 3, 3, 4, 3, 4).reshape(images.shape)
    assert AttnLRP(vit).attribute(images, target=1).abs().max() > 1e-3
    assert AttnLRP(vit).attribute(same, target=1).abs().max() < 1e-6  # every patch is the mean of all
    assert AttnLRP(vit, baseline="zeros").attribute(same, target=1).abs().max() > 1e-3


def test_the_path_begins_at_the_mask_token_where_there_is_one() -> None:
    model, tokenizer = load_text_model()
    inputs = tokenizer(["a gripping , funny film"], return_tensors="pt")
    embeddings = model.get_input_embeddings()(inputs["input_ids"]).detach()
    without = deepcopy(tokenizer)
    without.mask_token = None

    def found(tokenizer: Any, given: Any = inputs, **options: Any) -> Tensor:
        method = IntegratedAttnLRP(model, tokenizer=tokenizer, **options)
        return method.attribute_tokens(given, target=1).values

    assert torch.equal(found(tokenizer), found(tokenizer, baseline="mask"))
    assert torch.equal(found(tokenizer), found(without, baseline=tokenizer.mask_token_id))
    assert not torch.allclose(found(tokenizer), found(without))
    assert torch.equal(found(without), found(tokenizer, baseline="zeros"))
    assert torch.equal(found(tokenizer, embeddings), found(without, embeddings))


def test_bad_baselines_and_passes_are_named() -> None:
    model = FAMILIES["bert"].build()
    with pytest.raises(ValueError, match="baseline must be 'zeros'"):
        AttnLRP(model, baseline="mask token")
    with pytest.raises(ValueError, match="baseline='mask' needs the tokenizer"):
        AttnLRP(model, baseline="mask")
    with pytest.raises(ValueError, match="ids have no baseline 'mean'"):
        AttnLRP(model, baseline="mean").attribute(text_batch())
    with pytest.raises(ValueError, match="ids have no baseline 60"):
        AttnLRP(model, baseline=60).attribute(text_batch())
    with pytest.raises(ValueError, match="embeddings have no baseline 4"):
        AttnLRP(model, baseline=4).attribute(torch.randn(1, 6, 32))
    for passes in (0, 10, 2.0, True):
        with pytest.raises(ValueError, match="passes must be a whole number from 1 to 9"):
            IntegratedAttnLRP(model, passes=passes)


def test_a_text_that_is_looked_up_twice_gets_both_parts() -> None:
    """T5 for classification reads the text in the encoder, and shifted by a token in the decoder; it has no biases."""
    model, inputs = FAMILIES["t5"].build(torch.float64), text_batch()
    method, players = AttnLRP(model, propagation="cp"), inputs["attention_mask"].bool()
    found = method.attribute_tokens(inputs, target=1, players=players)
    with observed_forward(model, mapping_inputs(model, inputs), propagation=method.propagation) as run:
        states = [entrance.state for entrance in run.entrances]
        gradients = run.show([], run.output[:, 1], features=states)
    encoder, decoder = ((state * part).sum(-1).detach() for state, part in zip(states, gradients, strict=True))
    others = (encoder * ~players).sum(-1) + decoder[:, 0] + (decoder[:, 1:] * ~players[:, :-1]).sum(-1)
    torch.testing.assert_close(found.values.sum(-1) + others, found.scores)
    integrated = IntegratedAttnLRP(model, propagation="gradient", passes=1, baseline="zeros")
    found = integrated.attribute_tokens(inputs, target=1, players=players)

    def halfway(entrance: Entrance) -> Tensor:
        half = 0.5 * players
        shifted = torch.cat([torch.zeros_like(half[:, :1]), half[:, :-1]], 1)
        return entrance.state * (1 - (half if torch.equal(entrance.ids, inputs["input_ids"]) else shifted))[..., None]

    with observed_forward(model, mapping_inputs(model, inputs), shift=halfway) as run:
        states = [entrance.state for entrance in run.entrances]
        gradients = run.show([], run.output[:, 1], features=states)
    tables = [entrance.table[entrance.ids] for entrance in run.entrances]
    encoder, decoder = ((state * part).sum(-1).detach() for state, part in zip(tables, gradients, strict=True))
    expected = encoder + torch.cat([decoder[:, 1:], torch.zeros_like(decoder[:, :1])], 1)
    torch.testing.assert_close(found.values, expected * players)


class Before(nn.Module):
    """Computes something of its input before a model takes it in."""

    def __init__(self, model: nn.Module, compute: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.compute = model, compute

    def forward(self, features: Tensor) -> Tensor:
        return self.model(self.compute(self.model, features)).logits


@torch.no_grad()
def normalized(model: nn.Module, pixels: Tensor) -> Tensor:
    return (pixels - 0.5) / 0.2


def by_the_brightest(model: nn.Module, pixels: Tensor) -> Tensor:
    return pixels / pixels.detach().amax((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("compute", [normalized, by_the_brightest])
@pytest.mark.parametrize("method", [AttnLRP, IntegratedAttnLRP])
def test_input_that_is_computed_with_before_it_comes_in_is_refused(method, compute) -> None:
    model, images = Before(FAMILIES["vit"].build(), compute), image_batch()["pixel_values"]
    assert ShapleyGradAttention(model).attribute(images).isfinite().all()
    with pytest.raises(ValueError, match=r"computes with its input without gradients.*ShapleyGradAttention"):
        method(model).attribute(images)


def test_input_that_is_read_beside_itself_without_gradients_is_refused() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = FAMILIES["bert"].build()

        def forward(self, input_ids: Tensor) -> Tensor:
            words = self.model.get_input_embeddings()(input_ids)
            return self.model(inputs_embeds=words + words.detach().tanh()).logits

    for method in (AttnLRP(Beside()), IntegratedAttnLRP(Beside())):
        with pytest.raises(ValueError, match="computes with its input without gradients"):
            method.attribute(text_batch()["input_ids"])


def test_positions_of_the_shape_of_ids_are_constants() -> None:
    class Positioned(nn.Module):
        def __init__(self, positions: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.model, self.positions, self.table = FAMILIES["bert"].build(), positions, nn.Embedding(9, 32)

        def forward(self, input_ids: Tensor) -> Tensor:
            words = self.model.get_input_embeddings()(input_ids)
            return self.model(inputs_embeds=words * self.table(self.positions(input_ids))).logits

    ids = text_batch()["input_ids"]
    expected = AttnLRP(Positioned(lambda ids: torch.arange(9)[None].expand(3, 9))).attribute(ids, target=1)
    for positions in (lambda ids: torch.arange(9)[None].expand_as(ids), lambda ids: torch.ones_like(ids).cumsum(1) - 1):
        torch.testing.assert_close(AttnLRP(Positioned(positions)).attribute(ids, target=1), expected)


def test_half_precision_gives_float32_and_what_overflows_is_named() -> None:
    model = FAMILIES["bert"].build(torch.bfloat16)
    for method in (AttnLRP(model), IntegratedAttnLRP(model)):
        assert method.attribute(text_batch(), target=1).dtype == torch.float32

    class Overflows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = FAMILIES["bert"].build(torch.float16)

        def forward(self, input_ids: Tensor) -> Tensor:
            words = self.model.get_input_embeddings()(input_ids)
            return self.model(inputs_embeds=words + (words * 3e3).square().clamp(max=1.0)).logits

    with pytest.raises(ValueError, match=r"not finite.*dtype=torch.float32"):
        AttnLRP(Overflows()).attribute(text_batch()["input_ids"], target=1)


def test_overlapping_patches_keep_their_sums() -> None:
    class Overlapping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.patches, self.head = nn.Conv2d(3, 8, 6, stride=3), nn.Linear(8, 3)

        def forward(self, pixel_values: Tensor) -> Tensor:
            states = self.patches(pixel_values).flatten(2).mT[:, None]
            return self.head((states + F.scaled_dot_product_attention(states, states, states))[:, 0].mean(1))

    images = image_batch()["pixel_values"]
    for method in (AttnLRP(Overlapping(), baseline="zeros"), IntegratedAttnLRP(Overlapping(), baseline="zeros")):
        values = method.attribute_tokens(images, target=1).values
        torch.testing.assert_close(method.attribute(images, target=1).sum((1, 2, 3)), values.sum(-1))


def test_embeddings_without_gradients_are_refused() -> None:
    class Looked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = FAMILIES["bert"].build()

        def forward(self, input_ids: Tensor) -> Tensor:
            with torch.no_grad():
                words = self.model.get_input_embeddings()(input_ids)
            return self.model(inputs_embeds=words).logits

    for method in (AttnLRP(Looked()), IntegratedAttnLRP(Looked(), baseline=7)):
        with pytest.raises(ValueError, match="computes with its input without gradients"):
            method.attribute(text_batch()["input_ids"])


def test_pixels_of_patches_that_do_not_play_get_nothing() -> None:
    model, images = FAMILIES["vit"].build(), image_batch()["pixel_values"]
    players = torch.zeros(3, 10, dtype=torch.bool)
    players[:, 1:5] = True  # the first row of patches, and one more
    for method in (AttnLRP(model, baseline="zeros"), IntegratedAttnLRP(model)):
        pixels = method.attribute(images, target=1, players=players)
        values = method.attribute_tokens(images, target=1, players=players).values
        torch.testing.assert_close(pixels.sum((1, 2, 3)), values.sum(-1))
        assert not pixels[:, :, 4:, 4:].any()
        assert pixels[:, :, :4].any()


def test_other_integers_that_are_made_of_ids_are_no_tokens() -> None:
    class Parity(nn.Module):
        """Adds what a table of two says of each id."""

        def __init__(self) -> None:
            super().__init__()
            self.model, self.parities = FAMILIES["bert"].build(), nn.Embedding(2, 32)

        def forward(self, input_ids: Tensor) -> Tensor:
            words = self.model.get_input_embeddings()(input_ids)
            return self.model(inputs_embeds=words + self.parities(input_ids % 2)).logits

    torch.manual_seed(0)
    model, ids = Parity(), text_batch()["input_ids"][:1]
    model.parities.weight.data.zero_()
    expected = AttnLRP(model.model, baseline=59).attribute(ids, target=1)
    torch.testing.assert_close(AttnLRP(model, baseline=59).attribute(ids, target=1), expected)
    model.parities.weight.data.normal_()
    with pytest.warns(UserWarning, match=r"looks up states of shape \(1, 9, 32\) by other integers"):
        AttnLRP(model).attribute(ids, target=1)
    model.parities.weight.data.zero_()
    expected = IntegratedAttnLRP(model.model, baseline=59).attribute(ids, target=1)
    torch.testing.assert_close(IntegratedAttnLRP(model, baseline=59).attribute(ids, target=1), expected)


def test_sequence_first_models_give_tokens_their_own() -> None:
    chosen = {candidate.model_class: candidate for candidate in candidates()}["XLNetForTokenClassification"]
    model = tiny_model(getattr(hf, chosen.model_class), LABELS)
    inputs = tiny_inputs(model, chosen.task)
    for method in (AttnLRP(model), IntegratedAttnLRP(model)):
        together = method.attribute(inputs, target=(2, 1))
        alone = method.attribute({name: part[:1] for name, part in inputs.items()}, target=(2, 1))
        assert together.shape == inputs["input_ids"].shape
        torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-6)


def test_all_points_of_a_path_in_one_batch_are_the_points_one_by_one() -> None:
    model, inputs = FAMILIES["bert"].build(torch.float64), text_batch()
    whole = IntegratedAttnLRP(model, passes=6).attribute(inputs, target=1)
    one_by_one = IntegratedAttnLRP(model, passes=6).attribute(inputs, target=1, internal_batch_size=1)
    torch.testing.assert_close(whole, one_by_one)
    long = {name: part.repeat(1, 60)[:, :500] for name, part in text_batch().items()}
    config = hf.BertConfig(vocab_size=60, max_position_embeddings=512, hidden_size=16, num_hidden_layers=1)
    config.num_attention_heads, config.intermediate_size = 2, 16
    model = hf.BertForSequenceClassification(config).eval()  # 4 points of 3 × 500 tokens do not fit in a batch
    one_by_one = IntegratedAttnLRP(model).attribute(long, target=1, internal_batch_size=1)
    torch.testing.assert_close(IntegratedAttnLRP(model).attribute(long, target=1), one_by_one, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("method", [AttnLRP, IntegratedAttnLRP])
def test_several_targets_of_one_pass(method: type[AttnLRP]) -> None:
    model, inputs = FAMILIES["bert"].build().train(), text_batch()
    with left_untouched(model):
        both = method(model).attribute_targets(inputs, [0, 2])
    for target, found in zip((0, 2), both, strict=True):
        torch.testing.assert_close(found.values, method(model).attribute_tokens(inputs, target=target).values)


def test_methods_under_other_rules_do_not_share_a_pass() -> None:
    model = FAMILIES["bert"].build()
    inputs = mapping_inputs(model, text_batch())
    methods = [AttnLRP(model), ShapleyGradAttention(model, propagation="attnlrp")]
    with observed_forward(model, inputs, propagation=methods[0].propagation) as run:
        (relevance, game), _ = explain_in_one_pass(run, inputs, methods, target=1, retain_graph=True)
        with pytest.raises(ValueError, match=r"\['gradient'\] cannot be explained from a pass under 'attnlrp'"):
            explain_in_one_pass(run, inputs, [ShapleyGradAttention(model)])
    torch.testing.assert_close(relevance.values, methods[0].attribute_tokens(text_batch(), target=1).values)
    torch.testing.assert_close(game.values, methods[1].attribute_tokens(text_batch(), target=1).values)


def test_input_that_comes_in_as_other_states_than_the_tokens_is_refused() -> None:
    class Hashed(nn.Module):
        """Looks up other integers than the tokens' ids."""

        def __init__(self) -> None:
            super().__init__()
            self.model = FAMILIES["bert"].build()

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.model(input_ids=input_ids * 31 % 60).logits

    ids = torch.tensor([[2, 9, 11, SEP]])
    assert ShapleyGradAttention(Hashed()).attribute(ids).isfinite().all()
    for method in (AttnLRP(Hashed()), IntegratedAttnLRP(Hashed())):
        with pytest.raises(ValueError, match=r"comes into the model as states of shape \(\d, 4, 32\), and nothing"):
            method.attribute(ids)


def test_batches_are_their_examples() -> None:
    for name in ("modernbert", "gemma2", "deit"):
        family = FAMILIES[name]
        model, inputs = family.build(torch.float32), batch(family)
        whole = AttnLRP(model).attribute(inputs, target=1)
        parts = AttnLRP(model).attribute(inputs, target=1, internal_batch_size=1)
        torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-5)
