"""Attacks on concepts, with few examples."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from attack_concepts import margin, noisy, predicted, stepped
from helpers.small_models import load_texture_model
from helpers.textures import class_images
from scripts import run

EPSILON = 4 / 255


@pytest.mark.filterwarnings("ignore")
def test_every_attack_has_its_rows_and_moves_what_it_should(tmp_path):
    options = ("--examples", "12", "--inputs", "10", "--permutations", "199")
    printed = run("benchmarks/attack_concepts.py", *options, "--models", "1", "--training", "64", "1", folder=tmp_path)
    frame = pd.read_csv(tmp_path / "found" / "attack_concepts.csv")
    assert (tmp_path / "found" / "attack_concepts.png").stat().st_size > 5000
    assert len(printed.strip().splitlines()) == 2 + len(frame)
    assert frame.attack.nunique() == 10 + 4 + 1
    of_stripes, of_zigzag = (
        frame[frame.concept == concept].set_index("attack") for concept in ("narrow stripes", "zigzag")
    )
    before = of_stripes.loc["as they are"]
    for attack in ("examples: less of the true one", "inputs: the score falls"):
        row = of_stripes.loc[attack]
        assert row["predictions changed"] == 0
        assert row.effect < before.effect - 0.1 * abs(before.effect)
        assert row.score < before.score
    more = of_zigzag.loc["examples: more of the other one"]
    assert more["predictions changed"] == 0
    assert more.effect > of_zigzag.effect["as they are"]
    noise = of_stripes.loc["examples: noise"]
    assert 0 < abs(noise.effect - before.effect) < 0.2 * abs(before.effect)


def test_steps_stay_near_and_raise_what_they_should():
    model, images = load_texture_model(), class_images("zebra", 24, seed=3)
    with torch.no_grad():
        before = margin(model, images)
        for keep in (True, False):
            with torch.enable_grad():
                moved = stepped(model, images, lambda given: -margin(model, given), EPSILON, keep)
            assert (moved - images).abs().max() <= EPSILON + 1e-6
            assert moved.min() >= 0
            assert moved.max() <= 1
            fallen = before - margin(model, moved)
            assert fallen.mean() > 0.5
            same = predicted(model, moved) == predicted(model, images)
            assert bool(same.all()) == keep
    assert (fallen > 0).all()


def test_noise_is_small_and_of_its_own_for_each_name():
    images = class_images("zebra", 4, seed=3)
    first, other = noisy(images, EPSILON, "first"), noisy(images, EPSILON, "other")
    for one in (first, other):
        distance = (one - images).abs()
        assert distance.max() <= EPSILON + 1e-6
        assert distance.mean() > 0.9 * EPSILON
    assert not torch.equal(first, other)
    assert torch.equal(first, noisy(images, EPSILON, "first"))
