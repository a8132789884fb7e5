"""Of models that read an image among the words of a text, both play: words are words, and patches lie in the image."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from ledger import accounts
from models import left_untouched, randomized
from PIL import Image

from captum_attn import (
    AttentionRollout,
    AttnLRP,
    IntegratedAttention,
    IntegratedAttnLRP,
    MaskTunnel,
    RawAttention,
    ShapleyGradAttention,
)
from captum_attn.core import mapping_inputs, observed_forward
from captum_attn.core.patches import patch_sums
from captum_attn.core.perturb import replace_tokens
from captum_attn.core.propagation import ATTNLRP

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SEEING = {**SIZES, "image_size": 32, "patch_size": 8}
WRITING = {**SIZES, "vocab_size": 96, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 1}
IMAGE = 90  # the token in whose places patches are put


def llava():
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**SEEING),
        text_config=hf.LlamaConfig(**WRITING),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    return hf.LlavaForConditionalGeneration(config), 16


def paligemma():
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**SEEING, projection_dim=32),
        text_config=hf.GemmaConfig(**WRITING),
        image_token_index=IMAGE,
        projection_dim=32,
    )
    return hf.PaliGemmaForConditionalGeneration(config), 16


def internvl():
    """Four patches become one token."""
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**{**SEEING, "image_size": [32, 32], "patch_size": [8, 8]}),
        text_config=hf.Qwen2Config(**WRITING),
        image_token_id=IMAGE,
        vision_feature_layer=-1,
    )
    return hf.InternVLForConditionalGeneration(config), 4


def gemma3():
    """Patches are pooled, and take the type of others."""
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**SEEING),
        text_config=hf.Gemma3TextConfig(**WRITING, query_pre_attn_scalar=8),
        image_token_index=IMAGE,
        mm_tokens_per_image=4,
    )
    return hf.Gemma3ForConditionalGeneration(config), 4


MODELS = {"llava": llava, "paligemma": paligemma, "internvl": internvl, "gemma-3": gemma3}


def build(name):
    torch.manual_seed(0)
    model, count = MODELS[name]()
    return randomized(model), count


def batch(count, before=(3, 3)):
    generator = torch.Generator().manual_seed(1)
    rows = []
    for words in before:
        ids = torch.randint(5, 80, (7,), generator=generator)
        rows.append(torch.cat([ids[:words], torch.full((count,), IMAGE), ids[words:]]))
    ids, pixels = torch.stack(rows), torch.randn(2, 3, 32, 32, generator=generator)
    types = (ids == IMAGE).long()  # without them, PaliGemma has other masks in eager attention than in fused one
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "token_type_ids": types}


def inputs_of(name, count, **options):
    given = batch(count, **options)
    return given if "gemma" in name else {key: value for key, value in given.items() if key != "token_type_ids"}


@pytest.mark.parametrize("name", MODELS)
def test_words_and_patches_play_and_influence_is_that_of_eager_autograd(name):
    model, count = build(name)
    inputs = inputs_of(name, count)
    result = ShapleyGradAttention(model, game="cls").attribute_tokens(inputs, target=(-1, 7))
    assert result.players.all()
    side = int(count**0.5)
    assert (result.picture.rows, result.picture.columns, result.picture.height) == (side, side, 32 / side)
    assert result.picture.positions == tuple(range(3, 3 + count))
    assert torch.equal(result.patches.flatten(1), result.values[:, 3 : 3 + count])
    spread = result.spread_over_picture(inputs["pixel_values"])
    torch.testing.assert_close(spread.flatten(1).sum(1), result.patches.flatten(1).sum(1))
    with pytest.raises(ValueError, match="of an image beside a text, spread_over_picture"):
        result.spread_over(inputs["pixel_values"])
    assert ShapleyGradAttention(model).attribute(inputs, target=(-1, 7)).shape == inputs["input_ids"].shape
    found = ShapleyGradAttention(model).influence(inputs, target=(-1, 7), per="head")
    model.set_attn_implementation("eager")
    output = model(**inputs, output_attentions=True)
    gradients = torch.autograd.grad(output.logits[:, -1, 7].sum(), output.attentions)
    expected = torch.stack([a * g for a, g in zip(output.attentions, gradients, strict=True)], 1)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-7)
    again = ShapleyGradAttention(model, game="cls").attribute_tokens(inputs, target=(-1, 7))
    assert again.picture == result.picture


@pytest.mark.parametrize("name", MODELS)
def test_each_patch_is_the_token_that_reads_its_pixels(name):
    """Of the vision tower, whose tokens read each other, only each patch's own way is left: its values are nothing."""
    model, count = build(name)
    for part, parameter in model.named_parameters():
        if "vision" in part and any(end in part for end in ("v_proj.weight", "v_proj.bias")):
            parameter.data.zero_()
    inputs = inputs_of(name, count)
    pixels = inputs.pop("pixel_values").requires_grad_()
    seen = []

    def keep(_, args, kwargs):
        seen.append(kwargs["inputs_embeds"])

    hook = model.model.language_model.register_forward_pre_hook(keep, with_kwargs=True)
    model(**inputs, pixel_values=pixels)
    hook.remove()
    picture = ShapleyGradAttention(model).attribute_tokens({**inputs, "pixel_values": pixels.detach()}, (-1, 7)).picture
    for patch, position in enumerate(picture.positions):
        row, column = divmod(patch, picture.columns)
        (read,) = torch.autograd.grad(seen[0][0, position].sum(), pixels, retain_graph=True)
        rows, columns = (read[0].abs().sum((0, side)).nonzero().flatten().tolist() for side in (2, 1))
        size = int(picture.height)
        assert (rows[0], rows[-1] + 1) == (row * size, (row + 1) * size)
        assert (columns[0], columns[-1] + 1) == (column * size, (column + 1) * size)


def test_texts_in_which_patches_are_other_tokens_have_no_map_together():
    model, count = build("llava")
    inputs = inputs_of("llava", count, before=(3, 5))
    result = ShapleyGradAttention(model).attribute_tokens(inputs, target=(-1, 7))
    assert result.players.all()
    with pytest.raises(ValueError, match="other tokens than in others: explain them one by one"):
        _ = result.patches
    for row in range(2):
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        alone = ShapleyGradAttention(model).attribute_tokens(one, target=(-1, 7))
        torch.testing.assert_close(alone.values[0], result.values[row], rtol=1e-4, atol=1e-7)
        assert alone.picture.positions[0] == (3, 5)[row]


def test_other_methods_and_a_text_alone():
    model, count = build("llava")
    inputs = inputs_of("llava", count)
    under_rules = ShapleyGradAttention(model, propagation="attnlrp")
    for method in (RawAttention(model), AttentionRollout(model), IntegratedAttention(model, n_steps=2), under_rules):
        assert method.attribute_tokens(inputs, target=(-1, 7)).patches.shape == (2, 4, 4)
    words = {"input_ids": torch.arange(5, 12)[None], "attention_mask": torch.ones(1, 7, dtype=torch.long)}
    result = ShapleyGradAttention(model).attribute_tokens(words, target=(-1, 7))
    assert result.picture is None
    with pytest.raises(ValueError, match="there are no patches"):
        _ = result.patches


@pytest.mark.parametrize("name", MODELS)
def test_relevance_of_words_and_pixels_and_what_is_absorbed_make_up_the_score(name):
    model, count = build(name)
    model = model.double()
    inputs = {
        key: value.double() if value.is_floating_point() else value for key, value in inputs_of(name, count).items()
    }
    _, score, of_input, absorbed = accounts(model, mapping_inputs(model, inputs), (-1, 7), ATTNLRP)
    torch.testing.assert_close(of_input + absorbed, score, rtol=1e-8, atol=1e-8)
    with left_untouched(model):
        relevance = AttnLRP(model).attribute_tokens(
            {**inputs, "players": torch.ones_like(inputs["input_ids"])}, (-1, 7)
        )
    grid = relevance.picture
    with observed_forward(model, mapping_inputs(model, inputs), propagation=ATTNLRP) as run:
        scores = run.output[:, -1, 7]
        words, pixels = (entrance.state for entrance in sorted(run.entrances, key=lambda one: one.picture))
        of_words, of_pixels = torch.autograd.grad(scores.sum(), [words, pixels])
    mean = inputs["pixel_values"].unflatten(3, (grid.columns, -1)).unflatten(2, (grid.rows, -1)).mean((2, 4), True)
    difference = inputs["pixel_values"] - mean.expand(-1, -1, grid.rows, -1, grid.columns, -1).flatten(4).flatten(2, 3)
    torch.testing.assert_close(relevance.patches, patch_sums(difference * of_pixels, grid).sum(1))
    of_text = inputs["input_ids"] != IMAGE
    torch.testing.assert_close(relevance.values[of_text], (words * of_words).sum(-1)[of_text])


def test_contexts_lack_patches_as_they_lack_words():
    """Halfway between the mean patch and the image, relevance is that of the image halfway, for all of the way."""
    model, count = build("llava")
    inputs = inputs_of("llava", count)
    patches = {**inputs, "players": (inputs["input_ids"] == IMAGE).long()}
    found = IntegratedAttnLRP(model, passes=1).attribute_tokens(patches, target=(-1, 7))
    pixels = inputs["pixel_values"]
    mean = pixels.unfold(2, 8, 8).unfold(3, 8, 8).mean((2, 3)).repeat(1, 1, 4, 4)
    halfway = AttnLRP(model).attribute_tokens({**patches, "pixel_values": (pixels + mean) / 2}, target=(-1, 7))
    torch.testing.assert_close(found.patches, 2 * halfway.patches, rtol=1e-4, atol=1e-6)


def test_relevance_of_an_image_whose_places_are_unknown_is_refused():
    model, count = build("llava")
    inputs = inputs_of("llava", count)
    inputs["input_ids"][1] = inputs["input_ids"][1].roll(2)
    for method in (AttnLRP(model), IntegratedAttnLRP(model)):
        with pytest.raises(ValueError, match="explain them one by one"):
            method.attribute_tokens(inputs, target=(-1, 7))


def test_absent_patches_are_replaced_in_the_image_and_words_in_the_text():
    model, count = build("llava")
    inputs = mapping_inputs(model, inputs_of("llava", count))
    picture = ShapleyGradAttention(model).attribute_tokens(inputs.mapping(), target=(-1, 7)).picture
    chosen = torch.zeros(2, 23, dtype=torch.bool)
    chosen[0, [1, 4]] = chosen[1, 20] = True
    found = replace_tokens(inputs, chosen, 9, picture=picture)
    assert found.features[0, 1] == found.features[1, 20] == 9
    assert torch.equal(found.features == IMAGE, inputs.features == IMAGE)
    changed = (found.picture != inputs.picture).any(1)
    assert changed[0, :8, 8:16].all()
    assert int(changed.sum()) == 64
    tunnel = MaskTunnel(ShapleyGradAttention(model), replacement=9, rounds=1)
    result = tunnel.attribute_tokens(inputs.mapping(), target=(-1, 7))
    assert result.patches.shape == (2, 4, 4)
    assert result.values.isfinite().all()


def test_what_has_no_map_together_says_why():
    model, count = build("llava")
    inputs = inputs_of("llava", count, before=(3, 5))
    parts = ShapleyGradAttention(model).attribute_tokens(inputs, target=(-1, 7), internal_batch_size=1)
    whole = ShapleyGradAttention(model).attribute_tokens(inputs, target=(-1, 7))
    torch.testing.assert_close(parts.values, whole.values, rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match="other tokens in one part of the batch"):
        _ = parts.patches
    ids = torch.cat([inputs["input_ids"][:1], inputs["input_ids"][:1]], 1)
    two = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": inputs["pixel_values"]}
    result = ShapleyGradAttention(model).attribute_tokens(two, target=(-1, 7))
    with pytest.raises(ValueError, match=r"pixels \(2, 3, 32, 32\) are not one image .* for each of 1 texts"):
        _ = result.patches
    with pytest.raises(ValueError, match="among the words of the text, but inside of a function"):
        ShapleyGradAttention(lambda **given: model(**given).logits).attribute_tokens(inputs, target=(-1, 7))


def qwen():
    config = hf.Qwen2VLConfig(
        text_config={
            **WRITING,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
            "bos_token_id": None,
            "eos_token_id": None,
        },
        vision_config={
            "depth": 1,
            "embed_dim": 32,
            "num_heads": 4,
            "hidden_size": 32,
            "patch_size": 4,
            "mlp_ratio": 2,
            "spatial_merge_size": 2,
        },
        image_token_id=IMAGE,
        video_token_id=91,
        vision_start_token_id=92,
        vision_end_token_id=93,
    )
    return randomized(hf.Qwen2VLForConditionalGeneration(config))


def cut_by_the_processor(image):
    processor = getattr(hf, "Qwen2VLImageProcessorPil", None) or pytest.skip("this transformers has no such processor")
    return processor(patch_size=4, merge_size=2, min_pixels=64, max_pixels=32 * 32)(image, return_tensors="pt")


def test_an_image_that_the_processor_has_cut_is_laid_out_as_it_says():
    """24 × 32 pixels: three rows of four tokens, each of 8 × 8."""
    torch.manual_seed(0)
    model, cut = qwen(), cut_by_the_processor(Image.new("RGB", (32, 24)))
    ids = torch.tensor([[7, 92, *[IMAGE] * 12, 93, 8, 9]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).long(),
        **cut,
    }
    with left_untouched(model):
        found = ShapleyGradAttention(model).attribute_tokens(inputs, target=(-1, 7))
    grid = found.picture
    assert (grid.counts, grid.sizes, grid.positions) == ((3, 4), (8, 8), tuple(range(2, 14)))
    assert torch.equal(found.patches.flatten(1), found.values[:, 2:14])
    for row in range(3):  # what the processor gives for a bright block is what the token there is made of
        for column in range(4):
            image = Image.new("RGB", (32, 24))
            image.paste((255, 255, 255), (8 * column, 8 * row, 8 * column + 8, 8 * row + 8))
            bright = (cut_by_the_processor(image)["pixel_values"] != cut["pixel_values"]).any(1).nonzero().flatten()
            assert {int(place) // 4 for place in bright} == {4 * row + column}
    with pytest.raises(ValueError, match="whose relevance is not followed"):
        AttnLRP(model).attribute_tokens(inputs, target=(-1, 7))
    with pytest.raises(ValueError, match="the processor has cut the image"):
        MaskTunnel(ShapleyGradAttention(model), replacement=5).attribute(inputs, target=(-1, 7))
    two = {
        name: torch.cat([value, value.roll(1) if value.shape == ids.shape else value]) for name, value in inputs.items()
    }
    with pytest.raises(ValueError, match="of one size and place"):
        _ = ShapleyGradAttention(model).attribute_tokens(two, target=(-1, 7)).patches
