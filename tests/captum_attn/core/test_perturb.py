"""Replacing tokens."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from nested_configs import nested_configs
from tokenizers_of_every_kind import TOKENIZERS

from captum_attn.core import ModelInputs
from captum_attn.core.patches import (
    NoPatchGrid,
    PatchGrid,
    PatchLayout,
    Side,
    feature_sums,
    painted_over,
    patch_means,
    patch_sums,
    spread_over,
    under_patches,
    with_patches_replaced,
)
from captum_attn.core.perturb import check_replacement, default_replacement, replace_tokens


def test_ids_are_replaced_and_all_else_stays():
    inputs = ModelInputs(torch.tensor([[5, 6, 7]]), "input_ids", {"attention_mask": torch.ones(1, 3)})
    changed = replace_tokens(inputs, torch.tensor([[False, True, False]]), 4)
    assert changed.features.tolist() == [[5, 4, 7]]
    assert changed.keywords is inputs.keywords
    assert inputs.features.tolist() == [[5, 6, 7]]


@pytest.mark.parametrize("replacement", ["mean", "zeros"])
def test_patches_are_replaced_pixel_by_pixel(replacement):
    pixels = torch.rand(2, 3, 5, 6)  # the last row of pixels belongs to no patch
    grid = PatchGrid(rows=2, columns=3, height=2, width=2)
    chosen = torch.zeros(2, 7, dtype=torch.bool)  # a class token and 6 patches
    chosen[0, 1 + 4] = True
    changed = replace_tokens(ModelInputs(pixels, "pixel_values"), chosen, replacement, grid).features
    patches = [pixels[0, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2] for r in range(2) for c in range(3)]
    expected = pixels.clone()
    expected[0, :, 2:4, 2:4] = sum(patches) / 6 if replacement == "mean" else 0.0
    torch.testing.assert_close(changed, expected)


def test_patches_that_the_model_padded_or_cut_off_are_replaced_where_they_lie():
    pixels = torch.rand(1, 2, 5, 6) + 1
    grid = PatchGrid(2, 2, 4, 3, top=-2, left=1, positions=(3, 2, 1, 0))
    chosen = torch.tensor([[False, True, False, True]])  # the first and the third patch
    zeros = replace_tokens(ModelInputs(pixels, "pixel_values"), chosen, "zeros", grid).features
    expected = pixels.clone()
    expected[..., 1:4] = 0
    assert torch.equal(zeros, expected)
    mean = replace_tokens(ModelInputs(pixels, "pixel_values"), chosen, "mean", grid).features
    assert torch.equal(mean[..., 0], pixels[..., 0])
    assert torch.equal(mean[..., 4:], pixels[..., 4:])
    left, right = pixels[..., 2, 1:4], pixels[..., 2, 4:6]  # the first line of the lower patches, padding in the upper
    torch.testing.assert_close(mean[..., 2, 1:3], (left[..., :2] + right) / 2)
    torch.testing.assert_close(mean[..., 2, 3], left[..., 2])


def test_patches_that_share_pixels_cannot_be_replaced_one_by_one():
    inputs, chosen = ModelInputs(torch.rand(1, 3, 5, 5), "pixel_values"), torch.ones(1, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="share pixels"):
        replace_tokens(inputs, chosen, "zeros", PatchGrid(2, 2, 2.5, 2.5))
    with pytest.raises(ValueError, match="the reason; so its tokens cannot"):
        replace_tokens(inputs, chosen, "mean", NoPatchGrid("the reason"))


@pytest.mark.parametrize("top", [-1.5, -1.0, -0.5, 0.0, 0.5, 1.25])
def test_patches_between_pixels_are_replaced_from_the_nearest_one_on(top):
    pixels = torch.rand(1, 3, 5, 5) + 1
    replaced = replace_tokens(
        ModelInputs(pixels, "pixel_values"), torch.tensor([[True, False]]), "zeros", PatchGrid(2, 1, 2, 5, top=top)
    ).features
    first = {-1.5: -1, -1.0: -1, -0.5: 0, 0.0: 0, 0.5: 1, 1.25: 1}[top]
    rows = [row for row in (first, first + 1) if row >= 0]
    assert not replaced[:, :, rows].any()
    kept = [row for row in range(5) if row not in rows]
    assert torch.equal(replaced[:, :, kept], pixels[:, :, kept])


def test_values_of_pixels_are_summed_over_patches_in_reading_order():
    pixels = torch.arange(16.0).view(1, 4, 4)
    assert patch_sums(pixels, PatchGrid(2, 2, 2, 2)).tolist() == [[[10, 18], [42, 50]]]
    assert patch_means(pixels, PatchGrid(2, 2, 2, 2)).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]
    assert patch_sums(pixels, PatchGrid(1, 2, 4, 1.5, left=-0.5)).tolist() == [[[24, 28 + 32 / 2]]]


SIZES = st.floats(0.3, 3)
SHIFTS = st.sampled_from([0, 1, 0.5, -0.5])


@given(st.integers(1, 4), st.integers(1, 4), SIZES, SIZES, st.floats(-0.2, 3), st.floats(-0.2, 3))
def test_spreading_keeps_sums_and_summing_up_gives_the_patches_back(rows, columns, height, width, top, left):
    grid = PatchGrid(rows, columns, height, width, top, left)
    values = torch.rand(2, rows, columns, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    spread = spread_over(values, grid, (2, 3, 16, 16))
    torch.testing.assert_close(spread.sum((1, 2, 3)), values.sum((1, 2)))
    whole = PatchGrid(rows, columns, 4, 3)
    torch.testing.assert_close(feature_sums(spread_over(values, whole, (2, 3, 4 * rows, 3 * columns)), whole), values)


def test_what_patches_cover_of_an_image_by_hand():
    image = torch.arange(30.0).view(1, 5, 6)
    assert under_patches(image, PatchGrid(5, 2, 1, 3)) is image
    assert under_patches(image, PatchGrid(5, 3, 5 / 5, 6 / 3 + 1e-12)) is image
    assert torch.equal(under_patches(image, PatchGrid(2, 1, 2, 4, 1, 2)), image[:, 1:5, 2:6])
    around = under_patches(image, PatchGrid(4, 2, 2, 4, -1, -2), beyond=0.5)
    assert torch.equal(around, F.pad(image, (2, 0, 1, 2), value=0.5))
    assert under_patches(torch.arange(6.0)[None], PatchGrid(1, 2, 1, 2.5)).tolist() == [[0, 1, 2, 2, 3, 4]]
    assert under_patches(torch.arange(2.0)[None], PatchGrid(1, 4, 1, 0.5, left=0)).tolist() == [[0, 1]]
    assert under_patches(torch.arange(3.0)[None], PatchGrid(1, 4, 1, 0.5, left=1)).tolist() == [[1, 1, 2, 2]]
    with pytest.raises(ValueError, match="lost its way"):
        under_patches(image, NoPatchGrid("it lost its way"))


def test_where_patches_lie():
    assert PatchGrid(3, 2, 4, 2.5, -1, 2).extent == (2, 7, 11, -1)
    assert PatchGrid(2, 3, 1.5, 2).covers(3, 6)
    for other in ((3, 7), (4, 6), (2, 6), (3, 5)):
        assert not PatchGrid(2, 3, 1.5, 2).covers(*other)
    assert not PatchGrid(2, 3, 1.5, 2, top=-1).covers(3, 6)
    assert not PatchGrid(2, 3, 1.5, 2, left=0.1).covers(3, 6)


def test_what_does_not_fit_the_inputs_is_refused():
    chosen = torch.tensor([[True, False]])
    with pytest.raises(TypeError, match="cannot replace tokens of embeddings by 4"):
        replace_tokens(ModelInputs(torch.rand(1, 2, 8), "inputs_embeds"), chosen, 4)
    with pytest.raises(TypeError, match="ids by 'mean'"):
        replace_tokens(ModelInputs(torch.tensor([[1, 2]]), "input_ids"), chosen, "mean")
    with pytest.raises(ValueError, match="token id, or 'mean' or 'zeros'"):
        check_replacement("median")


IDS = ModelInputs(torch.tensor([[1, 2]]), "input_ids")


def test_the_mask_token_replaces_text_and_the_mean_patch_images():
    tokenizer = TOKENIZERS["word piece"]()
    assert default_replacement(IDS, tokenizer, None) == tokenizer.mask_token_id
    assert default_replacement(ModelInputs(torch.rand(1, 3, 4, 4), "pixel_values"), None, None) == "mean"


def without_mask(**ids):
    tokens = {"mask_token_id": None, "pad_token_id": None, "unk_token_id": None}
    return SimpleNamespace(pad_token="<pad>", unk_token="<unk>", **{**tokens, **ids})


def test_a_tokenizer_without_a_mask_token_warns_and_gives_its_next_best():
    with pytest.warns(UserWarning, match="no mask token: tokens are replaced by '<pad>'"):
        assert default_replacement(IDS, without_mask(pad_token_id=0, unk_token_id=3), None) == 0
    decoder = SimpleNamespace(pad_token_id=0, is_encoder_decoder=False)
    with pytest.warns(UserWarning, match="replaced by '<unk>'"):
        assert default_replacement(IDS, without_mask(pad_token_id=0, unk_token_id=3), decoder) == 3


def test_padding_of_a_nested_configuration_is_no_replacement():
    for config in nested_configs(pad_token_id=0)[:2]:
        with pytest.warns(UserWarning, match="replaced by '<unk>'"):
            assert default_replacement(IDS, without_mask(pad_token_id=0, unk_token_id=3), config) == 3


def test_padding_that_would_move_the_readout_is_no_replacement():
    gpt2 = FAMILIES["gpt2"].build().config
    with pytest.raises(ValueError, match="give the id of a token that says nothing"):
        default_replacement(IDS, without_mask(pad_token_id=gpt2.pad_token_id), gpt2)
    with pytest.raises(ValueError, match="give tokenizer=, or replacement="):
        default_replacement(IDS, None, gpt2)


def overlap(side, number, entry):
    """The part of an entry that a patch covers along a side, by hand."""
    start = side.first + number * side.size
    return max(0.0, min(start + side.size, entry + 1) - max(start, entry))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.data())
def test_layouts_along_any_dimensions_by_hand(sides, data):
    dims = sorted(data.draw(st.permutations(range(1, 5)))[:sides])
    layout = PatchLayout(
        tuple(
            Side(dim, data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 2, 1.5])), data.draw(SHIFTS))
            for dim in dims
        )
    )
    shape = (2, 6, 7, 6, 7)
    values = torch.rand(2, *layout.counts, dtype=torch.double)
    places = list(itertools.product(*map(range, layout.counts)))
    entries = list(itertools.product(*(range(shape[dim]) for dim in dims)))
    covered = {
        (place, entry): math.prod(map(overlap, layout.sides, place, entry)) for place in places for entry in entries
    }
    painted, expected = painted_over(values, layout, shape), torch.zeros(2, *(shape[dim] for dim in dims)).double()
    for (place, entry), part in covered.items():
        expected[:, *entry] += part * values[:, *place]
    assert painted.shape == (2, *(shape[dim] if dim in dims else 1 for dim in range(1, 5)))
    torch.testing.assert_close(painted.flatten(1), expected.flatten(1))
    spread = spread_over(values, layout, shape)
    torch.testing.assert_close(spread.flatten(1).sum(1), values.flatten(1).sum(1))
    features = torch.rand(shape, dtype=torch.double)
    summed = features.sum([dim for dim in range(1, 5) if dim not in dims])
    for place in places:
        by_hand = sum(covered[place, entry] * summed[:, *entry] for entry in entries)
        torch.testing.assert_close(feature_sums(features, layout)[:, *place], by_hand)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.booleans(), st.data())
def test_patches_along_any_dimensions_are_replaced_by_hand(sides, mean, data):
    dims = sorted(data.draw(st.permutations(range(1, 5)))[:sides])
    layout = PatchLayout(
        tuple(Side(d, data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), data.draw(SHIFTS)) for d in dims)
    )
    features = torch.rand(2, 4, 5, 4, 6, dtype=torch.double)
    chosen = torch.rand(2, len(layout)) < 0.5
    found = with_patches_replaced(features, chosen, mean, layout)
    for index in itertools.product(*map(range, features.shape)):
        place, within = [], []
        for side in layout.sides:
            number, rest = divmod(index[side.dim] - math.floor(side.first + 0.5), int(side.size))
            place.append(number if 0 <= number < side.count else None)
            within.append(rest)
        if None in place or not chosen[index[0]].view(layout.counts)[tuple(place)]:
            assert found[index] == features[index]
            continue
        like = []
        for other in itertools.product(*map(range, layout.counts)):
            at = list(index)
            for side, number, rest in zip(layout.sides, other, within, strict=True):
                at[side.dim] = math.floor(side.first + 0.5) + number * int(side.size) + rest
            if all(0 <= entry < count for entry, count in zip(at, features.shape, strict=True)):
                like.append(float(features[tuple(at)]))
        assert float(found[index]) == pytest.approx(sum(like) / len(like) if mean else 0.0)
