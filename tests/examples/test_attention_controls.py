"""The controls as a user runs them, without a network."""

from __future__ import annotations

import sys

import attention_controls
import pandas as pd
import pytest
from helpers.small_models import TEXT_MODEL
from PIL import Image

TABLES = ["correlation", "permuted", "uniform", "counterfactual", "seeds"]


def run(monkeypatch, *given):
    monkeypatch.setattr(sys, "argv", ["attention_controls.py", *map(str, given)])
    attention_controls.main()


def test_without_arguments_it_tests_the_shipped_model(tmp_path, monkeypatch, capsys):
    few = ("--limit", 5, "--permutations", 1, "--steps", 5, "--train-steps", 1, "--by-layer")
    run(monkeypatch, *few, "--out", tmp_path / "found")
    printed, found = capsys.readouterr().out, tmp_path / "found"
    report = (found / "attention_controls.md").read_text()
    assert report in printed
    for title in (*TABLES, "counterfactual attention beside other seeds", "counterfactual attention in single layers"):
        assert f"# {title}\n" in report
    for name in TABLES:
        assert pd.read_csv(found / f"{name}.csv").example.nunique() == 5
        assert Image.open(found / f"{name}.png").size[0] > 400
    assert Image.open(found / "counterfactual-example.png").size[0] > 400


def test_seeds_are_trained_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["attention_controls.py", "--train-steps", "1", "--out", str(tmp_path)])
    options = attention_controls.arguments()
    tokenizer = attention_controls.AutoTokenizer.from_pretrained(TEXT_MODEL)
    folders = attention_controls.trained_seeds(options, tokenizer)
    one, other = map(attention_controls.load, folders)
    last = "bert.encoder.layer.3.attention.self.query.weight"
    first = "bert.encoder.layer.0.attention.self.query.weight"
    assert (one.state_dict()[last] - other.state_dict()[last]).abs().max() > 0.05
    assert (one.state_dict()[first] - other.state_dict()[first]).abs().max() < 0.001
    monkeypatch.setattr(attention_controls, "train", None)
    assert attention_controls.trained_seeds(options, tokenizer) == folders


def test_texts_and_seeds_from_files(tmp_path, monkeypatch, capsys):
    texts, out = tmp_path / "dev.tsv", tmp_path / "out"
    texts.write_text("sentence\tlabel\na good film\t1\nso dull\t0\n")
    (tmp_path / "other").symlink_to(TEXT_MODEL)
    seeds = ("--seeds", TEXT_MODEL, tmp_path / "other")
    run(monkeypatch, "--texts", texts, "--steps", 3, "--permutations", 1, *seeds, "--out", out)
    printed = capsys.readouterr().out
    assert "2 texts, 2 seeds" in printed
    assert f"{TEXT_MODEL}: accuracy 1.000" in printed
    assert pd.read_csv(out / "seeds.csv").divergence.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("given", "message"),
    [(("--model", "nowhere"), "there is no nowhere"), (("--train-seeds", "1"), "at least two seeds are needed")],
)
def test_bad_arguments_are_named(given, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["attention_controls.py", *given])
    with pytest.raises(SystemExit):
        attention_controls.arguments()
    assert message in capsys.readouterr().err
