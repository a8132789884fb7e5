"""Concepts that are the explained class in disguise: told, and left out."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from captum.concept import Concept
from families import FAMILIES
from helpers.small_models import load_text_model, load_texture_model
from helpers.textures import CLASSES, class_images, texture_images
from PIL import Image
from scipy import stats
from tokenizers_of_every_kind import TOKENIZERS
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset
from transformers import LlamaConfig, LlamaForCausalLM

from captum_attn import TTCAV
from captum_attn.concepts.confounds import Confounds, ExplainedInputs, find_confounds, near_inputs
from captum_attn.concepts.experimental_sets import content_of_each
from captum_attn.core import ModelInputs

QUIET = {"show_progress": False}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(count, seed, shift=0.0):
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.fixture(scope="module")
def vit():
    return FAMILIES["vit"].build()


def test_content_does_not_know_padding():
    ids = torch.tensor([[5, 6, 7, 0], [0, 5, 6, 7], [5, 6, 0, 7]])
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1]])
    first, second, third = content_of_each([ModelInputs(ids, "input_ids", {"attention_mask": mask})])
    assert first == second != third
    assert len({*content_of_each([ModelInputs(ids[:2], "input_ids", {}), ModelInputs(ids[2:], "input_ids", {})])}) == 3


def test_content_is_all_that_the_model_reads_of_an_example():
    ids, zeros = torch.tensor([[5, 6, 7], [5, 6, 7]]), torch.zeros(2, 3, dtype=torch.long)
    boxes = torch.arange(24).view(2, 3, 4)
    first, second = content_of_each([ModelInputs(ids, "input_ids", {"bbox": boxes})])
    assert first != second
    by_place = content_of_each([ModelInputs(ids, None, positional=(boxes,), places=("bbox",))])
    assert by_place == [first, second]
    assert content_of_each([ModelInputs(ids.int(), "input_ids", {"bbox": boxes})]) == [first, second]
    alone, again = content_of_each([ModelInputs(ids, "input_ids", {})])
    assert alone == again not in (first, second)
    given = {"attention_mask": torch.ones_like(ids), "token_type_ids": zeros, "scale": torch.tensor(2.0)}
    assert content_of_each([ModelInputs(ids, "input_ids", given)]) == [alone, alone]


def test_near_is_on_the_inputs_side_of_the_others():
    states = torch.cat([noise(30, 6), noise(30, 6, seed=1) + 4])
    concepts = torch.arange(60) // 30
    inputs = noise(40, 6, seed=2) - 4
    half = torch.cat([noise(15, 6, seed=3) - 4, noise(15, 6, seed=4) + 4])
    assert near_inputs(torch.cat([half, states[30:]]), concepts, 0, inputs) == 0.5
    assert near_inputs(states, concepts, 1, inputs) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.tensor(near_inputs(states, concepts, 1, inputs[:1])).isnan()
    unknown = ExplainedInputs([], torch.tensor([[1], [0]]))
    copies = torch.zeros(60, dtype=torch.bool)
    found = find_confounds([states, states], concepts, torch.tensor([0, 1]), unknown, concepts, copies)
    assert found.near.isnan().all()
    assert torch.tensor(found.predicted_shares()).isnan().all()
    assert not found.predicted_more_often().any()
    assert not found.suspicious.any()


def test_what_is_predicted_more_often_is_that_by_the_hypergeometric_distribution():
    concepts = torch.arange(60) // 20
    predicted = torch.zeros(60, dtype=torch.bool)
    predicted[:9], predicted[20:22], predicted[40:43] = True, True, True
    found = Confounds(concepts, predicted, torch.zeros(60, dtype=torch.bool), torch.zeros(3))
    assert found.predicted_shares() == [(0.45, 5 / 40), (0.1, 12 / 40), (0.15, 11 / 40)]
    p_values = [stats.hypergeom.sf(count - 1, 60, 14, 20) for count in (9, 2, 3)]
    assert 3 * p_values[0] < 0.05 < min(p_values[1:])
    assert found.predicted_more_often().tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("targets", "predicted", "expected"),
    [
        ([[1], [1]], [0, 1, 1], [False, True, True]),
        ([[1], [0]], [0, 1, 1], None),  # not one class
        ([[3, 1], [3, 1]], [0, 1, 1], None),  # of a token
        ([[1], [1]], [-1, -1, -1], None),  # an output that is not one of several classes
    ],
)
def test_what_is_explained_may_be_predicted(targets, predicted, expected):
    found = ExplainedInputs([], torch.tensor(targets)).predicted_as_explained(torch.tensor(predicted))
    assert (found if found is None else found.tolist()) == expected


def test_a_concept_that_is_the_class_is_told():
    model, zebra = load_texture_model(), CLASSES.index("zebra")
    concepts = {
        "herd": class_images("zebra", 14, seed=5),
        "dotted": texture_images("dotted", 14, seed=1),
        "plain": texture_images("plain", 14, seed=1),
    }
    inputs = class_images("zebra", 20, seed=2)
    told = r"'herd' \(set 0-1-2\): the model takes 100% of its examples .* \(0% of the.* without them 0 would be left"
    with pytest.warns(UserWarning, match=told):
        scores = TTCAV(model, n_cavs=2).interpret(inputs, concepts, zebra, **QUIET)
    table = scores.concepts().set_index("concept")
    with torch.no_grad():
        for name, examples in concepts.items():
            hits = model(examples).logits.argmax(-1) == zebra
            assert table.predicted[name] == pytest.approx(float(hits.double().mean()))
    assert table.near["herd"] > 0.5 > 0.2 > table.near["plain"]
    assert scores.suspicious() == {"herd": list(range(14))}
    with pytest.raises(ValueError, match="concept 'herd' has too few examples, 0"):
        TTCAV(model).interpret(inputs, concepts, zebra, leave_out=scores.suspicious(), **QUIET)


def test_what_is_left_out_is_as_if_it_had_not_been_given(vit):
    sets = {"bright": images(9, 1, 0.5), "dark": images(8, 2, -0.5), "plain": images(8, 3)}
    inputs, ttcav = images(6, 9), TTCAV(vit, n_cavs=3)
    left = {"bright": [0, 4], "plain": [7]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ttcav.interpret(inputs, sets, 0, leave_out=left, **QUIET)
        kept = {"bright": [1, 2, 3, 5, 6, 7, 8], "dark": range(8), "plain": range(7)}
        given = {name: examples[list(kept[name])] for name, examples in sets.items()}
        expected = ttcav.interpret(inputs, given, 0, **QUIET)
    pd.testing.assert_frame_equal(found.table(), expected.table())
    pd.testing.assert_frame_equal(found.concepts(), expected.concepts())
    assert [list(numbered) for numbered in found.of_set().numbered] == [list(numbers) for numbers in kept.values()]
    for wrong, message in (
        ({"dim": [0]}, r"leave_out: 0 concepts are named 'dim', of \['bright', 'dark', 'plain'\]"),
        ({"dark": [8]}, r"concept 'dark' has 8 examples, from 0, so that \[8\] are none of them"),
        ({"dark": range(4)}, "concept 'dark' has too few examples, 4"),
    ):
        with pytest.raises(ValueError, match=message):
            ttcav.interpret(inputs, sets, 0, leave_out=wrong, **QUIET)


def test_copies_are_told_and_do_not_make_a_concept(vit):
    inputs, dark = images(6, 9), images(8, 2, -0.5)
    bright = images(12, 1, 0.5)
    bright[[3, 10, 11]] = torch.stack([bright[0], inputs[2], dark[7]])
    dark[1] = bright[5]
    ttcav = TTCAV(vit, n_cavs=2)
    with pytest.warns(UserWarning, match=r"concept 'bright' .*: 2 of its 12 examples are copies"):
        scores = ttcav.interpret(inputs, {"bright": bright, "dark": dark}, [0, 1] * 3, **QUIET)
    assert scores.suspicious() == {"bright": [3, 10], "dark": [1, 7]}
    assert scores.concepts().copies.tolist() == [2, 2]
    same = bright[:1].expand(20, -1, -1, -1)
    for examples, count, copies in ((same, 20, 19), (inputs, 6, 6)):
        with pytest.raises(ValueError, match=f"of the {count} examples of concept 'odd', {copies} are copies of each"):
            ttcav.interpret(inputs, {"odd": examples, "dark": dark}, 0, **QUIET)


def test_masks_are_no_numbers_of_examples(vit):
    ttcav, sets = TTCAV(vit, n_cavs=2), {"bright": images(9, 1, 0.5), "dark": images(8, 2, -0.5)}
    mask = torch.zeros(9, dtype=torch.bool)
    for given in (mask, mask.tolist(), mask.numpy(), ["3"], [1.0]):
        with pytest.raises(TypeError, match="leave_out has the numbers of examples, got"):
            ttcav.interpret(images(6, 9), sets, 0, leave_out={"bright": given}, **QUIET)


def test_what_is_given_for_each_input_takes_them_in_order(vit):
    inputs, sets = images(6, 9), {"bright": images(9, 1, 0.5), "dark": images(8, 2, -0.5)}
    ttcav, masks = TTCAV(vit, n_cavs=2), torch.ones(6, 12, 12, dtype=torch.bool)
    images_alone = TensorDataset(inputs)
    for shuffled in (
        DataLoader(images_alone, batch_size=2, sampler=SubsetRandomSampler(range(6))),
        DataLoader(images_alone, batch_sampler=BatchSampler(RandomSampler(images_alone), 2, drop_last=False)),
        DataLoader(images_alone, batch_size=2, shuffle=True),
    ):
        with pytest.raises(ValueError, match="so that targets would be of other examples"):
            ttcav.interpret(shuffled, sets, [0, 1] * 3, **QUIET)
        with pytest.raises(ValueError, match="so that masks would be of other examples"):
            ttcav.sensitivity_maps(shuffled, sets, 0, masks=masks, **QUIET)
    assert len(ttcav.interpret(shuffled, sets, 0, **QUIET).targets) == 6
    ordered = DataLoader(TensorDataset(inputs), batch_size=2)
    with pytest.warns(UserWarning, match=r"explained for several outputs, .* \(3\), .* \(3\): effects are means"):
        assert len(ttcav.interpret(ordered, sets, [0, 1] * 3, **QUIET).targets) == 6


def test_masks_beside_a_processor_that_crops(vit):
    class Cropping:
        do_center_crop = True

        def __call__(self, given):
            return torch.stack(given)

    ttcav, masks = TTCAV(vit, 0, n_cavs=2, processor=Cropping()), torch.ones(6, 12, 12, dtype=torch.bool)
    with pytest.warns(UserWarning, match="processor crops images: masks must be of what is left"):
        ttcav.sensitivity_maps(images(6, 9), {"bright": images(9, 1), "dark": images(8, 2)}, 0, masks=masks, **QUIET)


class Shuffled:
    """Other images at each reading."""

    def __init__(self, examples):
        self.examples, self.turn = examples, 0

    def __iter__(self):
        self.turn += 1
        return iter(self.examples.roll(self.turn, 0).split(4))


def test_numbers_of_other_examples_are_refused(vit):
    inputs, bright = images(6, 9), images(12, 1, 0.5)
    bright[3] = bright[0]
    ttcav = TTCAV(vit, n_cavs=2)
    sets = {"bright": Shuffled(bright), "dark": images(8, 2, -0.5)}
    scores = ttcav.interpret(inputs, sets, [0, 1] * 3, **QUIET)
    with pytest.raises(ValueError, match="'bright' that have other numbers now: does its data loader shuffle"):
        ttcav.interpret(inputs, sets, [0, 1] * 3, leave_out=scores.suspicious(), **QUIET)
    sets["bright"] = bright
    told = ttcav.interpret(inputs, sets, [0, 1] * 3, **QUIET).suspicious()
    assert ttcav.interpret(inputs, sets, [0, 1] * 3, leave_out=told, **QUIET).suspicious() == {}


def test_a_name_of_two_concepts_tells_of_neither(vit):
    first, second = images(8, 1, 0.5), images(8, 4)
    second[5] = second[2]
    dark = Concept(0, "dark", [images(8, 2, -0.5)])
    sets = [[dark, Concept(1, "random", [first])], [dark, Concept(2, "random", [second])]]
    ttcav, inputs = TTCAV(vit, n_cavs=2), images(6, 9)
    scores = ttcav.interpret(inputs, sets, 0, **QUIET)
    with pytest.raises(ValueError, match="several concepts are named 'random': give each a name of its own"):
        scores.suspicious()
    with pytest.raises(ValueError, match="leave_out: 2 concepts are named 'random'"):
        ttcav.interpret(inputs, sets, 0, leave_out={"random": [0]}, **QUIET)


def test_numbers_are_those_given_also_past_what_cannot_be_read(vit):
    model, tokenizer = load_text_model()
    praise = ["a gem", None, "superb", "a delight", None, "a gem", "funny", "gripping", "charming"]
    blame = ["a mess", "awful", "a bore", "stale", "tedious"]
    ttcav, inputs = TTCAV(model, n_cavs=2, processor=tokenizer, on_error="skip"), ["a gripping film"]
    with pytest.warns(UserWarning, match="2 could not be read: number 1"):
        scores = ttcav.interpret(inputs, {"praise": praise, "blame": blame}, 0, **QUIET)
    assert list(scores.of_set().numbered[0]) == [0, 2, 3, 5, 6, 7, 8]
    assert scores.suspicious()["praise"] == [5]
    with pytest.warns(UserWarning, match="2 could not be read"):
        left = ttcav.interpret(inputs, {"praise": praise, "blame": blame}, 0, leave_out={"praise": [5, 7]}, **QUIET)
    assert list(left.of_set().numbered[0]) == [0, 2, 3, 6, 8]


def test_what_can_be_refused_is_refused_before_the_model_reads(vit, monkeypatch):
    ttcav, inputs, sets = TTCAV(vit, n_cavs=2), images(6, 9), {"bright": images(9, 1, 0.5), "dark": images(8, 2, -0.5)}
    monkeypatch.setattr(vit.vit.embeddings, "forward", None)
    with pytest.raises(ValueError, match="0 concepts are named 'dim'"):
        ttcav.interpret(inputs, sets, 0, leave_out={"dim": [0]}, **QUIET)
    with pytest.raises(ValueError, match="6 are copies of each other"):
        ttcav.interpret(inputs, {**sets, "same": inputs}, 0, **QUIET)
    with pytest.raises(ValueError, match="masks must be bool"):
        ttcav.sensitivity_maps(inputs, sets, 0, masks=torch.ones(6, 3, 3, dtype=torch.bool), **QUIET)


@pytest.mark.parametrize("side", ["left", "right"])
def test_copies_are_told_however_texts_are_padded(side):
    tokenizer = TOKENIZERS["word piece"]()
    tokenizer.padding_side = side
    model = FAMILIES["llama"].build()
    model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    praise = ["a gem", "superb", "a delight", "warm and funny", "a good film", "charming", "gripping"]
    sets = {"praise": praise, "blame": ["a mess", "awful", "a bore", "stale and dull", "tedious"]}
    each = [TTCAV(model, n_cavs=2, processor=tokenizer, batch_size=size) for size in (1, 16)]
    alone, together = (one.interpret(["a gem", "a delight"], sets, [0, 1], **QUIET) for one in each)
    assert alone.concepts().copies.tolist() == together.concepts().copies.tolist() == [2, 0]
    assert alone.concepts().p.tolist() == pytest.approx(together.concepts().p.tolist(), rel=1e-4)
    left = each[1].interpret(["a gem", "a delight"], sets, [0, 1], leave_out=alone.suspicious(), **QUIET)
    assert list(left.of_set().numbered[0]) == [1, 3, 4, 5, 6]


def test_numbers_run_on_past_what_a_loader_cannot_read(vit, tmp_path):
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(9)]
    for path in paths:
        Image.fromarray(generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(path)
    paths[7].write_bytes(paths[0].read_bytes())
    for number in (1, 3):
        paths[number].write_text("no picture")

    def read(pictures):
        return torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) / 255 for one in pictures])

    ttcav = TTCAV(vit, n_cavs=2, processor=read, on_error="skip")
    for given in (paths, DataLoader(paths, batch_size=4, collate_fn=list), [paths[:2], paths[2:4], paths[4:]]):
        with pytest.warns(UserWarning, match=r"2 could not be read: number 1 \(.*; number 3 \("):
            scores = ttcav.interpret(images(4, 9), {"bright": given, "dark": images(8, 2, -0.5)}, [0, 1] * 2, **QUIET)
        assert scores.suspicious()["bright"] == [7]


class Saturated(torch.nn.Module):
    """A classifier whose scores do not depend on images that are very bright."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, pixel_values):
        scores = self.model(pixel_values=pixel_values).logits
        return torch.where(pixel_values.mean((1, 2, 3))[:, None] > 2, scores.detach(), scores)


def test_what_has_no_gradient_has_no_state(vit):
    inputs, sets = images(6, 9), {"bright": images(9, 1, 0.5), "dark": images(8, 2, -0.5)}
    blind = images(1, 3, 3)
    ttcav = TTCAV(Saturated(vit), n_cavs=2)
    expected = ttcav.interpret(inputs, sets, 0, **QUIET)
    found = ttcav.interpret(torch.cat([inputs, blind]), sets, 0, **QUIET)
    assert found.concepts().near.tolist() == pytest.approx(expected.concepts().near.tolist())
    assert found.table().score.tolist() == pytest.approx(expected.table().score.tolist())
    assert found.table().effect.tolist() == pytest.approx((expected.table().effect * 6 / 7).tolist(), rel=1e-4)
    with pytest.raises(ValueError, match=r"the output of the examples \[20\] depends on none of their") as error:
        ttcav.interpret(inputs, {**sets, "bright": torch.cat([images(20, 1, 0.5), blind])}, 0, **QUIET)
    assert any("'bright'" in note for note in error.value.__notes__)


def test_tokens_are_not_counted_from_a_beginning_that_is_padding():
    tokenizer = TOKENIZERS["word piece"]()
    tokenizer.padding_side = "left"
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()
    sets = {
        "praise": ["a gem", "superb", "a delight", "warm and funny", "charming"],
        "blame": ["a mess", "awful", "a bore", "stale and dull", "tedious"],
    }
    ttcav = TTCAV(model, n_cavs=2, processor=tokenizer)
    with pytest.raises(ValueError, match=r"target \(2, 9\) counts tokens from the beginning of rows"):
        ttcav.interpret(["a film", "a gripping film"], sets, (2, 9), **QUIET)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*several outputs")
        for side in ("left", "right"):
            tokenizer.padding_side = side
            found = ttcav.interpret(["a film", "a gripping film"], sets, (-1, 9), **QUIET)
            assert found.targets[:, 1].tolist() == [9, 9]
