"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import shap
import torch
from chat_models import chat_model
from helpers.small_models import load_text_model

import captum_attn
import lightning_callbacks
import shap_attn

MODULES = [
    name
    for package in (captum_attn, lightning_callbacks, shap_attn)
    for name in (
        package.__name__,
        *(module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")),
    )
]


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in MODULES:
        for test in finder.find(importlib.import_module(name)):
            if test.examples:
                yield pytest.param(test, id=test.name)


@pytest.fixture(scope="module")
def names():
    model, tokenizer = load_text_model()
    decoder, chat_tokenizer = chat_model()
    batch = tokenizer(["a gripping film", "not good at all"], padding=True, return_tensors="pt")
    return {
        "torch": torch,
        "shap": shap,
        "AttentionExplainer": shap_attn.AttentionExplainer,
        "model": model,
        "tokenizer": tokenizer,
        "batch": batch,
        "input_ids": batch["input_ids"],
        "decoder": decoder,
        "chat_tokenizer": chat_tokenizer,
        "ids": batch["input_ids"],
    }


@pytest.mark.parametrize("test", examples())
def test_examples_run(test, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test.globs.update(names)
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
    assert results.attempted
    assert not results.failed
