"""Batches without names: what is certain is taken, and nothing else goes into the model or counts as a label."""

from __future__ import annotations

import re
from dataclasses import replace
from inspect import Parameter, Signature

import pytest
import torch
from families import CLS, FAMILIES, PAD, SEP, image_batch, text_batch
from fine_tuning import FineTuned, monitored, trainer_of
from lightning.fabric.utilities.exceptions import MisconfigurationException
from models import PlainClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_attn import ShapleyGradAttention
from captum_attn.core.inputs import mapping_inputs
from lightning_callbacks import AttributionModule, AttributionWriter, ExplanationMonitor
from lightning_callbacks.batches import LabelledInputs, labelled_inputs

BERT, DISTILBERT, LLAMA, VIT = (FAMILIES[name].build() for name in ("bert", "distilbert", "llama", "vit"))
IDS, MASK = text_batch().values()  # three texts of 9, 6 and 4 tokens
LEFT = text_batch("left")
EMBEDDED = BERT.get_input_embeddings()(IDS).detach()
PIXELS = image_batch()["pixel_values"][:3].repeat(3, 1, 1, 1)[:3]
LABELS, INDICES, WEIGHTS = torch.tensor([2, 0, 1]), torch.tensor([0, 1, 2]), torch.rand(3)
ZEROS, ONES = torch.zeros_like(IDS), torch.ones_like(IDS)
MULTI_HOT = torch.tensor([[1, 0, 1] * 3, [0, 1, 0] * 3, [1, 1, 0] * 3])  # of as many classes as there are tokens
PER_TOKEN = torch.tensor([[0, 0, 2, 0, 1, 1, 0, 0, 0]] * 3)
SQUARE = IDS[:, :3]  # as many texts as tokens

PAIRS = torch.full((2, 8), 7)
PAIRS[:, 0], PAIRS[0, 3], PAIRS[0, 6], PAIRS[1, 4], PAIRS[1, 7], PAIRS[0, 7] = CLS, SEP, SEP, SEP, SEP, PAD
SEGMENTS = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1, 1]])
OF_PAIRS = (PAIRS != PAD).long()


class OwnHead(nn.Module):
    """An encoder under a head of as many classes as the texts have tokens, which its configuration does not know."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = BERT.bert, nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 9))

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        return self.head(self.encoder(input_ids, attention_mask, token_type_ids).last_hidden_state[:, 0])


class NoLayers(nn.Module):
    """A model without a configuration and without linear layers."""

    def forward(self, input_ids, attention_mask=None):
        return input_ids


OWN = OwnHead()

TAKEN = {
    "pixels": (VIT, PIXELS, ["pixel_values"], None),
    "pixels, labels": (VIT, (PIXELS, LABELS), ["pixel_values"], LABELS),
    "pixels, labels (B, 1)": (VIT, (PIXELS, LABELS[:, None]), ["pixel_values"], LABELS[:, None]),
    "pixels, a class for each pixel": (VIT, (PIXELS, PIXELS[:, 0].long()), ["pixel_values"], PIXELS[:, 0].long()),
    "pixels, nothing": (VIT, (PIXELS, None), ["pixel_values"], None),
    "ids, labels": (BERT, (IDS, LABELS), ["input_ids"], LABELS),
    "as many texts as tokens, labels": (BERT, (SQUARE, LABELS), ["input_ids"], LABELS),
    "ids, scores of as many classes as tokens": (BERT, (IDS, MULTI_HOT.float()), ["input_ids"], MULTI_HOT.float()),
    "ids, mask": (BERT, (IDS, MASK), ["input_ids", "attention_mask"], None),
    "ids, mask of texts without padding, of other numbers than of classes": (
        BERT,
        (IDS, ONES),
        ["input_ids", "attention_mask"],
        None,
    ),
    "ids, mask without padding, as many tokens as classes, labels": (
        BERT,
        (SQUARE, ONES[:, :3], LABELS),
        ["input_ids", "attention_mask"],
        LABELS,
    ),
    "the like, nothing": (BERT, (SQUARE, ONES[:, :3], None), ["input_ids", "attention_mask"], None),
    "ids, bool mask, labels": (BERT, (IDS, MASK.bool(), LABELS), ["input_ids", "attention_mask"], LABELS),
    "padding on the left": (BERT, (*LEFT.values(), LABELS), ["input_ids", "attention_mask"], LABELS),
    "ids, mask, labels (B, 1)": (BERT, (IDS, MASK, LABELS[:, None]), ["input_ids", "attention_mask"], LABELS[:, None]),
    "ids, mask, multi-hot (B, C)": (
        BERT,
        (IDS, MASK, MULTI_HOT[:, :4]),
        ["input_ids", "attention_mask"],
        MULTI_HOT[:, :4],
    ),
    "ids, mask, token types of single texts, labels": (
        BERT,
        (IDS, MASK, ZEROS, LABELS),
        ["input_ids", "attention_mask", "token_type_ids"],
        LABELS,
    ),
    "ids, mask, token types of pairs, labels": (
        BERT,
        (PAIRS, OF_PAIRS, SEGMENTS, LABELS[:2]),
        ["input_ids", "attention_mask", "token_type_ids"],
        LABELS[:2],
    ),
    "a tokenizer's own order": (
        BERT,
        (PAIRS, SEGMENTS, OF_PAIRS, LABELS[:2]),
        ["input_ids", "token_type_ids", "attention_mask"],
        LABELS[:2],
    ),
    "ids, mask, positions, labels": (
        LLAMA,
        (LEFT["input_ids"], LEFT["attention_mask"], LEFT["attention_mask"].cumsum(1) - 1, LABELS),
        ["input_ids", "attention_mask", "position_ids"],
        LABELS,
    ),
    "embeddings, mask, labels": (BERT, (EMBEDDED, MASK, LABELS), ["inputs_embeds", "attention_mask"], LABELS),
    "a mapping, labels": (BERT, ({"input_ids": IDS}, LABELS), ["input_ids"], LABELS),
    "a mapping, a label for each token": (BERT, ({"input_ids": IDS}, PER_TOKEN), ["input_ids"], PER_TOKEN),
}


@pytest.mark.parametrize(("model", "batch", "names", "labels"), TAKEN.values(), ids=TAKEN)
@pytest.mark.parametrize("form", [tuple, list])
def test_what_is_certain_is_taken(form, model, batch, names, labels):
    batch = form(batch) if isinstance(batch, tuple) else batch
    given = labelled_inputs(batch, model)
    inputs, found = given.inputs, given.labels
    assert list(inputs) == names
    features, *others = batch if isinstance(batch, list | tuple) else [batch]
    features = features["input_ids"] if isinstance(features, dict) else features
    for given, taken in zip([features, *others], inputs.values(), strict=False):
        assert given is taken or torch.equal(given, taken)
    assert found is labels is None or torch.equal(found, labels)


REFUSED = {
    "pixels, labels, indices": (VIT, (PIXELS, LABELS, INDICES), "batch[1]"),
    "pixels, labels, weights": (VIT, (PIXELS, LABELS, WEIGHTS), "batch[1]"),
    "pixels, no labels, indices": (VIT, (PIXELS, None, INDICES), "batch_inputs="),
    "pixels, labels, paths": (VIT, (PIXELS, LABELS, ["a", "b", "c"]), "batch[1]"),
    "pixels, (labels, indices)": (VIT, (PIXELS[:2], [LABELS[:2], INDICES[:2]]), "batch[1]"),
    "pixels, (both labels, share) of a mixture": (VIT, (PIXELS, (LABELS, LABELS, 0.3)), "batch[1]"),
    "pixels, other pixels": (VIT, (PIXELS, PIXELS), "batch[1]"),
    "pixels, labels of other inputs": (VIT, (PIXELS, LABELS[:2]), "batch[1]"),
    "ids, labels, indices": (BERT, (IDS, LABELS, INDICES), '"labels": batch[1]'),
    "ids, labels, weights": (BERT, (IDS, LABELS, WEIGHTS), '"labels": batch[1]'),
    "as many texts as tokens": (BERT, (SQUARE, LABELS, INDICES), '"labels": batch[1]'),
    "ids, labels (B, 1), indices": (BERT, (IDS, LABELS[:, None], INDICES), '"labels": batch[1]'),
    "ids, mask, labels, weights": (
        BERT,
        (IDS, MASK, LABELS, WEIGHTS),
        '"attention_mask": batch[1], "labels": batch[2]',
    ),
    "ids, ones of as many classes as tokens": (BERT, (SQUARE, ONES[:, :3]), '"labels": batch[1]'),
    "ids, zeros of as many classes as tokens": (BERT, (SQUARE, ZEROS[:, :3]), '"labels": batch[1]'),
    "ids, mask, ones of as many classes": (BERT, (SQUARE, ONES[:, :3], ONES[:, :3]), "batch_inputs="),
    "ids, ones of as many classes as an own head has": (OWN, (IDS, ONES), '"labels": batch[1]'),
    "ids, zeros of as many classes as an own head has": (OWN, (IDS, ZEROS), '"labels": batch[1]'),
    "ids, ones, of a model that does not say how many classes": (NoLayers(), (IDS, ONES), '"labels": batch[1]'),
    "ids, multi-hot of as many classes as tokens": (BERT, (IDS, MULTI_HOT), '"labels": batch[1]'),
    "ids, multi-hot, indices": (BERT, (IDS, MULTI_HOT, INDICES), "batch_inputs="),
    "ids, mask, multi-hot": (BERT, (IDS, MASK, MULTI_HOT), '"attention_mask": batch[1], "labels": batch[2]'),
    "ids, a label for each token": (BERT, (IDS, PER_TOKEN), '"labels": batch[1]'),
    "ids, mask, a label for each token, indices": (BERT, (IDS, MASK, PER_TOKEN, INDICES), "batch_inputs="),
    "ids, mask that hides words": (BERT, (IDS, ONES.index_fill(1, torch.tensor([4]), 0), LABELS), "batch_inputs="),
    "ids, floating mask": (BERT, (IDS, MASK.float()), "batch_inputs="),
    "ids, floating mask, labels": (BERT, (IDS, MASK.float(), LABELS), '"attention_mask": batch[1], "labels": batch[2]'),
    "ids, mask of other texts": (BERT, (IDS, MASK[:, :5], LABELS), "batch_inputs="),
    "segments without separators": (BERT, (IDS, ONES, ONES - (ONES.cumsum(1) < 5).long(), LABELS), "batch_inputs="),
    "token types of a model without": (DISTILBERT, (IDS, MASK, ZEROS, LABELS), "batch_inputs="),
    "token types where positions would be": (LLAMA, (IDS, MASK, ZEROS, LABELS), "batch_inputs="),
    "a mask of a model without": (PlainClassifier(), (torch.rand(3, 9, 16), MASK, LABELS), "batch_inputs="),
    "embeddings, mask without padding": (BERT, (torch.rand(3, 9, 32), MASK, LABELS), '"inputs_embeds": batch[0]'),
    "embeddings, labels, indices": (BERT, (EMBEDDED, LABELS, INDICES), '"labels": batch[1]'),
    "a mapping, labels, indices": (BERT, ({"input_ids": IDS}, LABELS, INDICES), '{**batch[0], "labels": batch[1]}'),
    "a mapping with labels, indices": (BERT, ({"input_ids": IDS, "labels": LABELS}, INDICES), "batch_inputs="),
    "two mappings": (BERT, [{"input_ids": IDS}, {"input_ids": IDS}], "batch_inputs="),
    "indices, pixels": (VIT, (INDICES, PIXELS), "batch_inputs="),
}


@pytest.mark.parametrize(("model", "batch", "example"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_certain_is_refused_and_can_be_said(model, batch, example):
    with pytest.raises(TypeError, match="batch_inputs=, a function") as caught:
        labelled_inputs(batch, model)
    assert example in str(caught.value)
    for part in batch:
        seen = f"{str(part.dtype)[6:]} {tuple(part.shape)}" if isinstance(part, torch.Tensor) else type(part).__name__
        assert seen in str(caught.value)


class TextAndImage(nn.Module):
    def forward(self, input_ids, pixel_values, inputs_embeds=None):
        return pixel_values


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("name", "features"), [("pixel_values", torch.rand(2, 3, 8, 8)), ("inputs_embeds", torch.rand(2, 5, 4))]
)
def test_what_is_explained_of_several_is_what_is_counted_and_cut(name, features, order):
    given = dict([("input_ids", IDS), (name, features)][::order])
    batch = labelled_inputs((given, LABELS[:2]), TextAndImage())
    explained = mapping_inputs(TextAndImage(), batch.inputs)
    assert explained.features is batch.inputs[name]
    assert len(batch) == len(explained) == 2
    assert torch.equal(batch.rows([False, True]).inputs[name], features[1:])
    assert batch.rows([False, True]).labels.tolist() == LABELS[1:2].tolist()
    with pytest.raises(TypeError, match="batch_inputs=, a function"):
        labelled_inputs((given, LABELS), TextAndImage())  # as many as there are ids


def test_labelled_inputs_can_be_replaced_in_part():
    given = LabelledInputs({"input_ids": IDS}, None)
    assert replace(given, labels=LABELS).labels is LABELS
    assert bool(given)


def test_the_function_in_the_message_runs():
    batch = (IDS, MASK, LABELS, WEIGHTS)
    with pytest.raises(TypeError) as caught:
        labelled_inputs(batch, BERT)
    own = eval(re.search(r"lambda batch: \{.*\}", str(caught.value)).group())
    given = labelled_inputs(batch, BERT, own)
    assert torch.equal(given.inputs["attention_mask"], MASK)
    assert torch.equal(given.labels, LABELS)
    with pytest.raises(
        TypeError, match=r"batch_inputs made of a batch a tuple of 3: .* Let it return a mapping, such as"
    ):
        labelled_inputs(batch, BERT, lambda batch: (batch[0], *batch[2:]))


@pytest.mark.parametrize("extra", [INDICES, WEIGHTS])
@pytest.mark.parametrize("features", ["pixels", "ids"])
def test_every_door_refuses_and_takes_what_batch_inputs_makes(features, extra, tmp_path):
    name, model, values = ("pixel_values", VIT, PIXELS) if features == "pixels" else ("input_ids", BERT, IDS)
    loader = DataLoader(TensorDataset(values, LABELS, extra), 2)

    def own(batch):
        return {name: batch[0], "labels": batch[1]}

    def explain(folder, **options):
        trainer = trainer_of([AttributionWriter(tmp_path / folder)])
        trainer.predict(AttributionModule(model, target="label", **options), loader, return_predictions=True)
        return trainer.predict_loop.predictions

    def validate(**options):
        options |= {
            "concepts": None,
            "target": None,
            "processor": None,
            "replacement": 0 if features == "ids" else None,
        }
        monitor = ExplanationMonitor(**monitored(**options))
        module = FineTuned("vit" if features == "pixels" else "bert").eval()
        module.validation_step = lambda batch, batch_idx: None
        trainer_of([monitor]).validate(module, loader, verbose=False)
        return monitor.frame()

    refused = r"labels, indices, weights and masks cannot be told apart.*batch_inputs="
    with pytest.raises(TypeError, match=refused):
        explain("refused")
    with pytest.raises(MisconfigurationException, match=refused):
        validate()
    tables = explain("explained", batch_inputs=own)
    assert [label for table in tables for label in table["label"].to_pylist()] == LABELS.tolist()
    expected = ShapleyGradAttention(model).attribute_tokens({name: values}, target=LABELS)
    found = torch.tensor([score for table in tables for score in table["logit"].to_pylist()])
    torch.testing.assert_close(found, expected.scores, rtol=0, atol=1e-5)
    assert validate(batch_inputs=own)["samples"].tolist() == [3]


PROBES = {
    "a tuple": (IDS, MASK, LABELS),
    "what a loader yields": [IDS, MASK, LABELS],
    "what a loader yields, without labels": [IDS, MASK],
    "a list of batches": [{"input_ids": IDS[:2], "attention_mask": MASK[:2]}, {"input_ids": IDS[2:, :4]}],
    "a mapping": text_batch(),
}


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_a_probe_may_be_a_batch(probe):
    def validate(probe):
        arguments = monitored(concepts=None, target=None, processor=None, replacement=0, probe=probe)
        monitor = ExplanationMonitor(**arguments)
        module = FineTuned().eval()
        module.validation_step = lambda batch, batch_idx: None
        trainer_of([monitor]).validate(module, DataLoader([0]), verbose=False)
        (found,) = monitor.frame().to_dict("records")
        return found

    found = validate(probe)
    assert found["samples"] == 3
    assert ("faithfulness/f1_macro" in found) == (len(probe) == 3)
    with pytest.raises(MisconfigurationException, match="batch_inputs="):
        validate([IDS, LABELS, INDICES])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("input_values", (4, 400)),
        ("input_values", (4, 30, 8)),
        ("input_features", (4, 30, 8)),
        ("pixel_values", (4, 8, 3, 6, 6)),
    ],
)
def test_sounds_and_videos_with_labels(name, shape):
    """By name or as a tensor alone; what stands beside them are labels."""

    class Model(nn.Module):
        def forward(self, **inputs):
            return inputs

    Model.forward.__signature__ = Signature([Parameter("self", 0), Parameter(name, 1), Parameter("attention_mask", 1)])
    features, labels = torch.randn(shape), torch.arange(4)
    mask = torch.ones(shape[:2], dtype=torch.long)
    found = labelled_inputs([features, labels], Model())
    assert list(found.inputs) == [name]
    assert torch.equal(found.inputs[name], features)
    assert torch.equal(found.labels, labels)
    if name != "pixel_values":
        features[1, shape[1] // 2 :] = mask[1, shape[1] // 2 :] = 0
        found = labelled_inputs([features, mask], Model())
        assert list(found.inputs) == [name, "attention_mask"]
        assert found.labels is None
    found = labelled_inputs({name: features, "attention_mask": mask, "labels": labels}, Model())
    assert list(found.inputs) == [name, "attention_mask"]
    assert torch.equal(found.labels, labels)
