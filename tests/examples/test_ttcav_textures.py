"""The T-TCAV example finds what is known to be true."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import ttcav_textures
from helpers.small_models import load_texture_model
from helpers.textures import CLASSES, class_images, labelled_images
from pages import assert_self_contained, pictures_of
from scripts import run
from transformers import ViTConfig
from ttcav_textures import (
    TRUE,
    draw_tested,
    on_object,
    texture_concepts,
)

from captum_attn import TTCAV
from captum_attn.concepts import agreement

QUIET = {"show_progress": False}


@pytest.mark.parametrize("seed", range(2))
def test_the_true_concept_is_found_with_its_sign_and_the_random_one_is_not(seed):
    table = draw_tested(TTCAV(load_texture_model(), n_cavs=10, permutations=1999), seed, 80)
    for name, concept in TRUE.items():
        of_class = table[table.target == name]
        true = of_class[of_class.concept == concept]
        assert (true.significant & (true.effect > 0)).sum() >= 2
        assert not (true.significant & (true.effect < 0)).any()
        assert not of_class[of_class.concept == "random"].significant.any()


@pytest.mark.parametrize(("name", "concept"), TRUE.items())
def test_heat_maps_lie_on_the_object(name, concept):
    label = CLASSES.index(name)
    images, labels, masks = labelled_images(120, seed=3)
    images, masks = images[labels == label], masks[labels == label]
    ttcav = TTCAV(load_texture_model(), n_cavs=10)
    maps = ttcav.sensitivity_maps(images, texture_concepts(3, 30), label, masks=masks, **QUIET)
    found = on_object(maps, concept)
    assert [row[0] for row in found] == [0, 1, 2]  # patches of the last layer have no gradient
    for _, share, by_area, top in found:
        assert by_area >= 2
        assert share == pytest.approx(by_area * float(masks.float().mean()), rel=1e-5)
        assert top > 0.8


def test_the_script_shows_everything(tmp_path, monkeypatch, capsys):
    for name, fewer in {"EXAMPLES": 30, "INPUTS": 20}.items():
        monkeypatch.setattr(ttcav_textures, name, fewer)
    monkeypatch.setattr(ttcav_textures, "TTCAV", partial(TTCAV, n_cavs=5, permutations=999))
    monkeypatch.setattr(ttcav_textures, "labelled_images", lambda count, seed: labelled_images(min(count, 60), seed))
    monkeypatch.setattr("sys.argv", ["ttcav_textures.py", "--seeds", "1", "--out", str(tmp_path / "found")])
    ttcav_textures.main()
    printed = capsys.readouterr().out
    assert "zebra: + narrow stripes" in printed
    assert "ladybird: " in printed
    assert "default: readout, both tests" in printed
    page = (tmp_path / "found" / "index.html").read_text(encoding="utf-8")
    assert_self_contained(page)
    assert {"scores_zebra", "two_objects_zebra", "size_and_power"} <= {*pictures_of(page)}


def test_the_cost_benchmark(tmp_path, monkeypatch):
    small = partial(ViTConfig, hidden_size=96, num_attention_heads=3, intermediate_size=192)
    monkeypatch.setattr("transformers.ViTConfig", small)
    options = ["--concepts", "2", "--images", "5", "--inputs", "2", "--cavs", "2", "--fits", "1"]
    printed = run("benchmarks/ttcav_cost.py", *options, "--estimators", "discriminant,pattern", folder=tmp_path)
    assert "vectors and scores, discriminant" in printed
    assert "scikit-learn, 48 fits" in printed
    assert (tmp_path / "found" / "ttcav_cost.md").exists()


def test_images_of_a_class_are_of_their_class():
    model = load_texture_model()
    with torch.no_grad():
        right = model(class_images("ladybird", 60, seed=8)).logits.argmax(-1) == CLASSES.index("ladybird")
    assert right.double().mean() > 0.8


@pytest.mark.filterwarnings("ignore:concept 'random'")
def test_the_fast_estimator_gives_the_papers_scores_within_their_spread():
    ttcav, found = TTCAV(load_texture_model(), n_cavs=20, permutations=99), {}
    for ttcav.estimator in ("logistic", "discriminant"):
        zebras = class_images("zebra", 60, seed=2)
        found[str(ttcav.estimator)] = ttcav.interpret(zebras, texture_concepts(1, 80), 0, **QUIET)
    table = agreement(found)
    within = table.difference.abs() <= 2 * table.spread
    assert within[table.concept == "narrow stripes"].all()
    assert within.mean() > 0.8
