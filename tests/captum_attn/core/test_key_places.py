"""Models that attend in windows, or on coarser and coarser grids, are explained key by key."""

from __future__ import annotations

import pickle
import warnings

import pytest
import torch
import transformers as hf
from helpers.attention_reference import gradients, recording
from hierarchical_models import MODELS, build, laid_out, pixels
from hypothesis import given
from hypothesis import strategies as st
from ledger import accounts
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from models import left_untouched
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.data import DataLoader

import captum_attn
from captum_attn import (
    TTCAV,
    AttentionRollout,
    AttnLRP,
    GradientAttentionRollout,
    GradSAM,
    IntegratedAttention,
    IntegratedAttnLRP,
    MaskTunnel,
    RawAttention,
    ShapleyAttention,
    ShapleyGradAttention,
)
from captum_attn.controls import uniform_attention
from captum_attn.core import NoMatrixError, tensor_inputs
from captum_attn.core.key_places import _shares
from captum_attn.core.patches import Side
from captum_attn.core.propagation import ATTNLRP
from captum_attn.functional import permutation_shapley
from captum_attn.metrics import evaluate
from lightning_callbacks import AttributionModule, ExplanationMonitor
from shap_attn import AttentionExplainer


@pytest.mark.parametrize("name", MODELS)
def test_values_are_those_of_eager_attention_laid_where_the_paper_says(name):
    model, images, layers = build(name), pixels(name), MODELS[name].keys
    with recording(model) as recorded:
        scores = model(pixel_values=images).logits[:, 1]
    products = [one.attention.detach() * g for one, g in zip(recorded, gradients(scores, recorded), strict=True)]
    finest = max((keys.grid for keys in layers), key=lambda grid: grid.count)
    for parts, method in ((products, ShapleyGradAttention), ([one.attention for one in recorded], ShapleyAttention)):
        worths = (part.detach().sum(-2) for part in parts)
        expected = [laid_out(worth, keys, finest, 2) for worth, keys in zip(worths, layers, strict=True)]
        explainer = method(model)
        found = explainer.attribute_tokens(images, target=1, per="layer")
        assert found.grid.counts == (finest.count, finest.count)
        assert found.grid.sizes == (finest.size, finest.size)
        assert (found.grid.top, found.grid.left) == (finest.first, finest.first)
        torch.testing.assert_close(found.patches, torch.stack(expected, 1), rtol=1e-4, atol=1e-7)
        mean = explainer.attribute_tokens(images, target=1)
        torch.testing.assert_close(mean.patches, found.patches.mean(1))


class Windowed(nn.Module):
    """4 × 4 patches of 4 × 4 pixels in windows of 2 × 2, then merged to 2 × 2 and all together."""

    def __init__(
        self, *, order=None, values=None, between=None, twice=False, learned=False, windows_first=False, whole=False
    ):
        super().__init__()
        self.embed, self.qkv, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 3)
        self.merge, self.query = nn.Linear(32, 8), nn.Parameter(torch.randn(1, 1, 8))
        self.order, self.values, self.between = order, values, between
        self.twice, self.learned, self.windows_first, self.whole = twice, learned, windows_first, whole

    def attend(self, states):
        query, key, value = self.qkv(states).view(*states.shape[:-1], 3, 2, 4).permute(2, 0, 3, 1, 4)
        value = self.values(value) if self.values else value
        return scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)

    def in_windows(self, states):
        """The attention of (B, 4, 4, 8) in windows."""
        batch = len(states)
        states = states.view(batch, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(batch, 4, 4, 8)
        if self.windows_first:
            states = states.transpose(0, 1)
        found = self.attend(states.reshape(-1, 4, 8)).view(states.shape)
        found = found.transpose(0, 1) if self.windows_first else found
        return found.view(batch, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(batch, 4, 4, 8)

    def forward(self, pixel_values):
        states = self.embed(pixel_values).permute(0, 2, 3, 1)
        states = self.order(states) if self.order else states
        if self.whole:
            states = states.flatten(1, 2)
            return self.head((states + self.attend(states)).mean(1))
        states = states + self.in_windows(states)
        if self.twice:
            states = states + self.in_windows(self.embed(2 * pixel_values).permute(0, 2, 3, 1))
        merged = self.merge(states.view(-1, 2, 2, 2, 2, 8).transpose(2, 3).reshape(-1, 4, 32))
        merged = self.between(merged) if self.between else merged
        merged = merged + self.attend(merged)
        if self.learned:
            query = self.query.expand(len(merged), -1, -1)
            return self.head(scaled_dot_product_attention(query, merged, merged)[:, 0])
        return self.head(merged.mean(1))


def small(count=2):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def windowed(**options):
    torch.manual_seed(0)
    return Windowed(**options).double().eval()


def test_parts_that_change_places_are_followed():
    images = small().double()
    plain = ShapleyGradAttention(windowed()).attribute_tokens(images, target=1, per="layer")
    assert plain.grid.counts == (4, 4)
    rolled = windowed(order=lambda x: x.roll((2, 2), (1, 2)))
    moved = ShapleyGradAttention(rolled).attribute_tokens(images.roll((-8, -8), (2, 3)), target=1, per="layer")
    torch.testing.assert_close(moved.patches.roll((2, 2), (2, 3)), plain.patches)
    across = windowed(order=lambda x: x.transpose(1, 2))
    across.embed.weight.data = across.embed.weight.transpose(2, 3).contiguous()
    turned = ShapleyGradAttention(across).attribute_tokens(images.transpose(2, 3), target=1, per="layer")
    torch.testing.assert_close(turned.patches.transpose(2, 3), plain.patches)


def test_a_head_that_pools_keys_by_learned_queries_is_no_layer():
    model = windowed(learned=True)
    found = captum_attn.inspect(model, small().double(), 1)
    assert [call.role for call in found.calls] == [
        "explained, keys 4 × 4",
        "explained, keys 2 × 2",
        "reads the tokens",
    ]
    assert found.trusted
    assert ShapleyGradAttention(model).attribute_tokens(small().double(), target=1, per="layer").values.shape[1] == 2


def test_one_example_is_what_it_is_in_a_batch():
    for name in ("swin", "hiera", "levit"):
        explainer, images = ShapleyGradAttention(build(name)), pixels(name, 3)
        whole = explainer.attribute_tokens(images, target=1)
        for example in range(3):
            alone = explainer.attribute_tokens(images[example : example + 1], target=1)
            torch.testing.assert_close(alone.values[0], whole.values[example], rtol=1e-4, atol=1e-6)


REFUSED = {
    "values of other tokens than keys": ({"values": lambda v: v.roll(1, 2)}, "nothing says which parts"),
    "chosen by content": ({"order": lambda x: x[:, x[0, :, 0, 0].argsort()]}, "made of several parts"),
    "an order of its own for each": (
        {"order": lambda x: torch.stack([x[0], x[1].flip(0)])},
        "made of several parts",
    ),
    "mixed between stages": ({"between": lambda x: x + x.flip(1)}, "made of several parts"),
    "windows before examples": ({"windows_first": True}, "do not lie together"),
    "through NumPy": (
        {"between": lambda x: x + torch.from_numpy(x.detach().numpy().copy())},
        "nothing says which parts",
    ),
    "twice": ({"twice": True}, "several encoders read the explained input"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_keys_of_unknown_places_are_refused(kind):
    options, reason = REFUSED[kind]
    model = windowed(**options)
    for explain in (ShapleyGradAttention(model), ShapleyAttention(model), AttnLRP(model)):
        with left_untouched(model), pytest.raises(ValueError, match=reason):
            explain.attribute(small().double(), target=1)


@pytest.mark.parametrize("name", ["swin", "pvt", "hiera", "segformer"])
def test_kernels_precisions_and_the_spread_over_pixels(name):
    model, images = build(name), pixels(name)
    with left_untouched(model):
        fused = ShapleyGradAttention(model).attribute_tokens(images, target=1)
        pixel_values = ShapleyGradAttention(model).attribute(images, target=1)
    assert pixel_values.shape == images.shape
    pickle.loads(pickle.dumps(model))
    if name != "hiera":  # has no other code
        model.set_attn_implementation("eager")
        eager = ShapleyGradAttention(model).attribute_tokens(images, target=1)
        torch.testing.assert_close(eager.values, fused.values, rtol=1e-4, atol=1e-6)
    double = ShapleyGradAttention(model.double()).attribute_tokens(images.double(), target=1)
    assert double.values.dtype == torch.double
    torch.testing.assert_close(double.values.float(), fused.values, rtol=1e-3, atol=1e-6)
    half = ShapleyGradAttention(model.bfloat16()).attribute_tokens(images.bfloat16(), target=1)
    assert half.grid == fused.grid
    assert torch.nn.functional.cosine_similarity(half.values.double(), double.values).min() > 0.9


def test_what_is_spread_over_pixels_adds_up_to_the_values_of_patches_within_the_image():
    explainer, images = ShapleyGradAttention(build("swin")), pixels("swin")
    tokens = explainer.attribute_tokens(images, target=1)
    spread = explainer.attribute(images, target=1).sum(1)
    torch.testing.assert_close(spread.unflatten(1, (16, 4)).unflatten(3, (16, 4)).sum((2, 4)), tokens.patches)


def test_methods_without_rows_explain_windows():
    model, images = build("swin"), pixels("swin")
    with left_untouched(model):
        game = ShapleyGradAttention(model).attribute_tokens(images, target=1)
        auto = ShapleyGradAttention(model, game="auto").attribute_tokens(images, target=1)
        assert torch.equal(auto.values, game.values)
        apart = ShapleyGradAttention(model).attribute_tokens(images, target=1, per="layer").values
        last = ShapleyGradAttention(model, layers=[-1]).attribute_tokens(images, target=1)
        torch.testing.assert_close(last.values, apart[:, -1])
        under_rules = ShapleyGradAttention(model, propagation="attnlrp").attribute_tokens(images, target=1)
        assert not torch.allclose(under_rules.values, game.values)
        for method in (AttnLRP(model), IntegratedAttnLRP(model), MaskTunnel(ShapleyGradAttention(model))):
            assert method.attribute(images, target=1).shape == images.shape


@pytest.mark.parametrize("name", ["swin", "hiera", "segformer"])
def test_relevance_of_pixels_and_what_is_absorbed_make_up_the_score(name):
    model, images = build(name).double(), pixels(name).double()
    _, score, of_input, absorbed = accounts(model, tensor_inputs(model, images), (1,), ATTNLRP)
    torch.testing.assert_close(of_input + absorbed, score, rtol=1e-8, atol=1e-8)
    explainer = AttnLRP(model, baseline="zeros")
    if explainer.attribute_tokens(images, target=1).grid.top == 0:  # else some pixels at the edge are of no patch
        torch.testing.assert_close(explainer.attribute(images, target=1).sum(), of_input)


@pytest.mark.parametrize("method", [ShapleyAttention, ShapleyGradAttention, AttnLRP])
@pytest.mark.parametrize("name", MODELS)
def test_what_mixes_neighbours_by_convolution_is_warned_of_once_by_whatever_method(name, method):
    explainer, images = method(build(name)), pixels(name)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        explainer.attribute(images, target=1)
        explainer.attribute(images, target=1)
    mixed = [one for one in seen if "depend on other tokens by other ways" in str(one.message)]
    assert len(mixed) == MODELS[name].convolves


def test_a_refusal_says_the_same_again():
    explainer = ShapleyGradAttention(build("swin"), game="cls")
    refusals = []
    for _ in range(3):
        with pytest.raises(NoMatrixError) as refusal:
            explainer.attribute(pixels("swin"), target=1)
        refusals.append(str(refusal.value))
    assert len({*refusals}) == 1
    assert "Nor can" not in refusals[0]


def test_sides_that_leave_something_over_are_refused_with_a_way_on():
    model = build("swin")
    with pytest.raises(NoMatrixError, match=r"Nor can its keys.*multiples of the coarsest patch"):
        ShapleyGradAttention(model).attribute(torch.randn(1, 3, 64, 68), target=1)


ROWS = {
    "another game": lambda model, images: ShapleyGradAttention(model, game="cls").attribute(images, target=1),
    "an interacting game": lambda model, images: ShapleyGradAttention(model, game="mutual").attribute(images, target=1),
    "one head": lambda model, images: ShapleyGradAttention(model, heads=0).attribute(images, target=1),
    "heads apart": lambda model, images: ShapleyGradAttention(model).attribute_tokens(images, target=1, per="head"),
    "an estimator": lambda model, images: ShapleyGradAttention(model, estimator=permutation_shapley).attribute(
        images, target=1
    ),
    "a matrix": lambda model, images: ShapleyGradAttention(model).influence(images, target=1),
    "rows of the readout": lambda model, images: RawAttention(model).attribute(images, target=1),
    "products of matrices": lambda model, images: AttentionRollout(model).attribute(images),
    "products with gradients": lambda model, images: GradientAttentionRollout(model).attribute(images, target=1),
    "rows of queries": lambda model, images: GradSAM(model).attribute(images, target=1),
    "scaled attention": lambda model, images: IntegratedAttention(model, n_steps=2).attribute(images, target=1),
    "states of tokens": lambda model, images: TTCAV(model, n_cavs=2).interpret(
        images, {"a": pixels("swin", 10)[2:], "b": -pixels("swin", 20)[10:]}, 1, show_progress=False
    ),
    "replaced attention": lambda model, images: uniform_attention(model, images, show_progress=False),
    "knocked out keys": lambda model, images: evaluate(
        model, images, {"game": ShapleyGradAttention(model)}, interventions=["knockout"], show_progress=False
    ),
}


@pytest.mark.parametrize("kind", ROWS)
def test_what_needs_rows_columns_or_tokens_of_one_size_is_refused_with_what_works(kind):
    model = build("swin")
    with left_untouched(model), pytest.raises(ValueError, match=r"windows.*(game='incoming'|replacement)"):
        ROWS[kind](model, pixels("swin"))


def test_evaluation_shap_and_lightning_take_windows():
    model, images = build("swin"), pixels("swin", 4)
    game = ShapleyGradAttention(model)
    measured = evaluate(model, images, {"game": game, "relevance": AttnLRP(model)}, show_progress=False)
    assert set(measured.table(["comprehensiveness"]).method) == {"game", "relevance", "random"}
    found = game.attribute_tokens(images, target=[2] * 4)
    explanation = AttentionExplainer(model)(images)
    assert explanation.values.shape == (4, 16, 16, 1, 3)
    torch.testing.assert_close(torch.tensor(explanation.values[..., 0, 2]).float(), found.patches, rtol=1e-4, atol=1e-6)
    rows = AttributionModule(model, target=2).predict_step({"pixel_values": images}).to_pylist()
    torch.testing.assert_close(torch.tensor([row["scores"] for row in rows]), found.values, rtol=1e-4, atol=1e-6)
    assert {(row["rows"], row["columns"], row["patch_height"]) for row in rows} == {(16, 16, 4.0)}


class FineTuned(LightningModule):
    def __init__(self):
        super().__init__()
        self.model = build("swin")

    def validation_step(self, batch, batch_idx):
        pass


def test_the_monitor_measures_faithfulness_and_refuses_concepts(tmp_path):
    images = pixels("swin", 24)
    loader = DataLoader(list(zip(images[:6], torch.arange(6) % 3, strict=True)), 3)

    def validated(**options):
        monitor = ExplanationMonitor(faithfulness=ShapleyGradAttention, figures=False, on_error="raise", **options)
        trainer = Trainer(accelerator="cpu", callbacks=[monitor], logger=False, default_root_dir=tmp_path)
        trainer.validate(FineTuned(), loader, verbose=False)
        return trainer.callback_metrics

    assert torch.isfinite(validated()["faithfulness/comprehensiveness"])
    with pytest.raises(MisconfigurationException, match=r"windows.*same tokens in all layers"):
        validated(concepts={"a": images[6:15], "b": -images[15:]})


def test_a_model_may_attend_in_windows_and_to_all_tokens_in_turn():
    model, images = windowed(), small().double()
    apart = ShapleyGradAttention(model).attribute_tokens(images, target=1)
    model.whole = True
    together = ShapleyGradAttention(model)
    assert together.influence(images, target=1).shape == (2, 16, 16)
    again = ShapleyGradAttention(windowed(whole=True)).attribute_tokens(images, target=1)
    assert torch.equal(together.attribute_tokens(images, target=1).values, again.values)
    model.whole = False
    assert torch.equal(ShapleyGradAttention(model).attribute_tokens(images, target=1).values, apart.values)


@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(0, 12), st.sampled_from([-1.5, -0.5, 0, 0.5]), st.integers(1, 8)
)
def test_coarse_keys_are_shared_out_by_overlap(count, times, more, first, unit):
    """Counted in units of half a pixel."""
    finest = Side(2, count * times + more, unit, first)
    coarse = Side(2, count, times * unit, first)
    shares = _shares(coarse, finest)
    torch.testing.assert_close(shares.sum(1), torch.ones(count, dtype=torch.double))
    expected = torch.zeros(count, finest.count, dtype=torch.double)
    for number in range(count):
        expected[number, number * times : (number + 1) * times] = 1 / times
    torch.testing.assert_close(shares, expected)


def test_a_grid_that_is_halved_with_a_remainder_is_covered_but_for_less_than_a_cell():
    """LeViT as it is used: 14 × 14 tokens of 224 × 224 pixels, then 7 × 7, then 4 × 4."""
    torch.manual_seed(0)
    config = hf.LevitConfig(hidden_sizes=[16, 32, 48], num_attention_heads=[2, 2, 4], depths=[1, 1, 1], num_labels=3)
    found = ShapleyGradAttention(hf.LevitForImageClassification(config).eval()).attribute_tokens(
        torch.randn(2, 3, 224, 224), target=1, per="layer"
    )
    assert found.grid.counts == (14, 14)
    assert found.values.isfinite().all()
