"""SHAP's explainers as baselines, against enumeration and against SHAP as its users call it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import shap
import torch
from helpers.small_models import digits, load_image_model, load_text_model
from tokenizers_of_every_kind import TOKENIZERS, classifier
from transformers import pipeline

from captum_attn.bench import MaskedModel
from captum_attn.metrics import evaluate
from shap_attn import ExactBaseline, PartitionBaseline

TEXTS = ["a gripping , funny film", "not good", "dull"]
TARGETS = torch.tensor([1, 0, 1])


@pytest.fixture(scope="module")
def text_model():
    return load_text_model()


def shapley_values(model, tokenizer, text, target):
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    count = ids.shape[1] - 2
    worth = {}
    for kept in itertools.product([False, True], repeat=count):
        masked = ids.clone()
        masked[0, 1:-1][~torch.tensor(kept)] = tokenizer.mask_token_id
        with torch.no_grad():
            worth[kept] = model(masked).logits.softmax(-1)[0, target].item()
    values = np.zeros(count)
    for kept, value in worth.items():
        for player in range(count):
            if not kept[player]:
                joined = (*kept[:player], True, *kept[player + 1 :])
                values[player] += (worth[joined] - value) / (count * math.comb(count - 1, sum(kept)))
    return values


def test_exact_values_are_those_of_all_coalitions(text_model):
    model, tokenizer = text_model
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    found = ExactBaseline(MaskedModel(model, tokenizer, batch_size=64))(inputs, TARGETS)
    for row, text, target in zip(found, TEXTS, TARGETS.tolist(), strict=True):
        expected = shapley_values(model, tokenizer, text, target)
        np.testing.assert_allclose(row[1 : 1 + len(expected)], expected, atol=1e-5)
        assert not row[1 + len(expected) :].any()


def test_partition_values_add_up_and_are_shaps(text_model):
    model, tokenizer = text_model
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    masked = MaskedModel(model, tokenizer)
    found = PartitionBaseline(masked)(inputs, TARGETS)
    exact = ExactBaseline(masked)(inputs, TARGETS)
    torch.testing.assert_close(found.sum(-1), exact.sum(-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found[1:], exact[1:], rtol=1e-4, atol=1e-5
    )  # of two words or one, there is one hierarchy
    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    own = shap.Explainer(pipe)(["a gripping , funny film"], silent=True)
    np.testing.assert_allclose(found[0, 1:6], own.values[0][1:-1, 1], atol=0.05)


@pytest.mark.parametrize("text", ["unwatchable drivel", "unwatchable , but a gripping film ."])
def test_pieces_of_words_get_values_of_their_own_as_from_shap(text_model, text):
    model, tokenizer = text_model

    def probability(ids):
        with torch.no_grad():
            return model(torch.tensor(np.stack(ids).astype(int))).logits.softmax(-1)[:, 1].numpy()

    explainer = shap.PartitionExplainer(probability, shap.maskers.Text(tokenizer, output_type="token_ids"))
    expected = explainer([text], max_evals=500, silent=True).values[0]
    found = PartitionBaseline(MaskedModel(model, tokenizer))(tokenizer([text], return_tensors="pt"), torch.tensor([1]))
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    assert len({*found[0, 1:4].tolist()}) == 3  # "unw", "##atch", "##able"


@pytest.mark.parametrize("name", ["byte-level BPE", "SentencePiece"])
def test_pieces_of_words_stay_together(name):
    tokenizer = TOKENIZERS[name]()
    baseline = PartitionBaseline(MaskedModel(classifier(tokenizer), tokenizer, replacement=4))
    ids = tokenizer("unbelievable good!", add_special_tokens=False)["input_ids"]
    pieces = baseline._pieces(ids)
    assert len(pieces) == len(ids)
    assert not any(mark in piece for piece in pieces for mark in "Ġ▁")
    words = "".join(f" {piece}" if not piece.startswith("##") else piece[2:] for piece in pieces)
    assert words.split()[0] == "unbelievable"


def test_they_are_rows_of_an_evaluation(text_model):
    model, tokenizer = text_model
    partition = PartitionBaseline(MaskedModel(model, tokenizer), max_evals=30)
    methods = {"signed": partition, "absolute": lambda batch, targets: partition(batch, targets).abs()}
    state = np.random.get_state()[1].tolist()
    result = evaluate(model, TEXTS, methods, tokenizer=tokenizer, show_progress=False)
    assert np.random.get_state()[1].tolist() == state
    found = result.table(["comprehensiveness"]).query("ranking == 'scores'").set_index("method")["mean"]
    assert found["signed"] > found["random"]


def test_too_many_tokens_and_images_are_refused(text_model):
    model, tokenizer = text_model
    long = tokenizer(" ".join(["good"] * 16), return_tensors="pt")
    with pytest.raises(ValueError, match=r"16 tokens have 2\^16 coalitions: expected at most 15"):
        ExactBaseline(MaskedModel(model, tokenizer))(long, torch.tensor([1]))
    with pytest.raises(ValueError, match="expected a MaskedModel with a tokenizer"):
        PartitionBaseline(MaskedModel(load_image_model()))
    with pytest.raises(ValueError, match="expected at most 15"):
        ExactBaseline(MaskedModel(load_image_model()))({"pixel_values": digits()[2][:1]}, torch.tensor([1]))
