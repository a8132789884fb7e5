"""Names in a configuration count only if there is one for each output, wherever classes are named."""

from __future__ import annotations

import pytest
import torch
from helpers.small_models import load_text_model
from own_heads import OWN_HEADS, own_head

from captum_attn import TTCAV, GradSAM, ShapleyGradAttention, compare
from captum_attn.core.labels import class_names, configured_names

WORDS = {"praise": ["a gem", "superb", "funny", "warm", "fine"], "blame": ["awful", "stale", "dull", "bad", "poor"]}
TEXTS = ["a gripping film", "not good at all"]


@pytest.mark.parametrize(
    ("names", "outputs", "expected"),
    [
        ({0: "no", 1: "yes"}, 2, ["no", "yes"]),
        ({1: "yes", 0: "no"}, 2, ["no", "yes"]),
        ({0: 7, 1: 9}, 2, ["7", "9"]),
        ({0: "no", 1: "yes"}, 3, None),
        ({0: "no", 1: "yes"}, 1, None),
        ({1: "no", 2: "yes"}, 2, None),
        ({}, 0, None),
        (None, 2, None),
    ],
)
def test_a_name_for_each_output(names, outputs, expected):
    model = load_text_model()[0]
    model.config.__dict__["id2label"] = names
    assert class_names(model, outputs) == expected


def test_a_model_without_a_configuration():
    assert configured_names(torch.nn.Linear(2, 2)) is None
    assert class_names(lambda ids: ids, 2) is None


@pytest.mark.parametrize("head", OWN_HEADS)
def test_a_comparison(head):
    model, tokenizer = head(), load_text_model()[1]
    methods = {"games": ShapleyGradAttention(model, tokenizer=tokenizer), "sam": GradSAM(model, tokenizer=tokenizer)}
    found = compare(model, TEXTS, methods, tokenizer=tokenizer, show_progress=False)
    for one in found.inputs:
        assert found.class_name(one.target) == str(one.target)
    assert "positive" not in found.page()
    assert "negative" not in found.page().replace("negative scores", "")


@pytest.mark.parametrize("head", OWN_HEADS)
@pytest.mark.parametrize("target", [1, 4])
def test_concepts(head, target):
    model, tokenizer = head(), load_text_model()[1]
    ttcav = TTCAV(model, processor=tokenizer, n_cavs=3, permutations=999)
    found = ttcav.interpret(TEXTS, WORDS, target, show_progress=False)
    assert found.target_names == [f"target {target}"] * 2
    maps = ttcav.sensitivity_maps(TEXTS, WORDS, target, show_progress=False)
    assert list(maps.target_names) == [f"target {target}"] * 2


def test_names_that_fit_are_used_for_a_head_of_ones_own():
    model, tokenizer = own_head(), load_text_model()[1]
    model.encoder.config.id2label = dict(enumerate("abcde"))
    ttcav = TTCAV(model, processor=tokenizer, n_cavs=3, permutations=999)
    assert ttcav.interpret(TEXTS, WORDS, 4, show_progress=False).target_names == ["e", "e"]
    methods = {"games": ShapleyGradAttention(model, tokenizer=tokenizer), "sam": GradSAM(model, tokenizer=tokenizer)}
    found = compare(model, TEXTS, methods, tokenizer=tokenizer, show_progress=False)
    assert [found.class_name(number) for number in range(5)] == list("abcde")
