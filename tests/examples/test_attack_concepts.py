"""Attacks on concepts, with few examples."""

from __future__ import annotations

import attack_concepts
import pandas as pd
import pytest
import torch
from scripts import run


@pytest.mark.filterwarnings("ignore")
def test_every_attack_has_its_rows_and_keeps_what_it_must(tmp_path):
    options = ("--examples", "12", "--inputs", "10", "--permutations", "199")
    printed = run("attack_concepts.py", *options, "--models", "1", "--training", "64", "1", folder=tmp_path)
    frame = pd.read_csv(tmp_path / "found" / "attack_concepts.csv")
    assert (tmp_path / "found" / "attack_concepts.png").stat().st_size > 5000
    assert len(printed.strip().splitlines()) == 2 + len(frame)
    assert frame.attack.nunique() == 10 + 4 + 1
    kept = frame[frame.attack.str.contains("less of|more of|score falls|as they are")]
    assert (kept["predictions changed"] == 0).all()
    assert frame.score.between(0, 1).all()


def test_steps_stay_near_and_raise_what_they_should():
    options = attack_concepts.argparse.Namespace(epsilon=4 / 255, examples=6, inputs=8, permutations=99)
    model = attack_concepts.load_texture_model()
    attacks = attack_concepts.Attacks.__new__(attack_concepts.Attacks)
    attacks.model, attacks.options = model, options
    images = attack_concepts.class_images("zebra", 8, seed=3)
    with torch.no_grad():
        before = attacks.margin(images)
    for keep in (True, False):
        moved = attacks.stepped(images, lambda given: -attacks.margin(given), keep=keep)
        assert (moved - images).abs().max() <= options.epsilon + 1e-6
        with torch.no_grad():
            assert (attacks.margin(moved) <= before + 1e-4).all()
        same = attack_concepts.predicted(model, moved) == attack_concepts.predicted(model, images)
        assert same.all() or not keep
    assert ((attacks.noisy(images) - images).abs() <= options.epsilon + 1e-6).all()
