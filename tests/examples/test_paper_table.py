"""The paper's table as a user makes it, without a network."""

from __future__ import annotations

import json

import pandas as pd
import paper_table
import pytest
import torch
from helpers.small_models import TEXT_MODEL
from PIL import Image
from scripts import run

from captum_attn.metrics import Evaluation


def test_without_arguments_it_explains_made_up_reviews_by_every_method(tmp_path):
    printed = run("benchmarks/paper_table.py", "--limit", "6", folder=tmp_path)
    assert "# made-up, 6 examples" in printed
    assert "# digits, 6 examples" in printed
    found = tmp_path / "found"
    files = {f"{name}{kind}" for name in ("made-up", "digits") for kind in ("-6.jsonl", ".md", ".csv", ".png")}
    assert {path.name for path in found.iterdir()} == {
        *files,
        "made-up-estimators.md",
        "made-up-estimators.csv",
        "paper_table.md",
    }
    frame = pd.read_csv(found / "made-up.csv")
    rows = set(frame.method)
    assert {
        "random",
        "Att-CLS",
        "Grad-SAM",
        "Grad-Att-Max-Mutual",
        "IntegratedGradients",
        "SHAP Partition, 500",
    } <= rows
    assert set(frame.intervention) == {"replacement", "knockout", "none"}
    assert set(frame.scale.dropna()) == {"paper"}
    assert frame["mean"].notna().all()
    assert Image.open(found / "made-up.png").size[0] > 700


def test_data_sets_from_files_and_a_run_that_goes_on(tmp_path):
    data, models = tmp_path / "data", tmp_path / "models"
    (data / "sst2").mkdir(parents=True)
    (data / "imdb").mkdir()
    models.mkdir()
    for name in ("minilm-sst2", "minilm-imdb"):
        (models / name).symlink_to(TEXT_MODEL)
    lines = ["sentence\tlabel", "a good film \t1", "so dull \t0", " ".join(["long"] * 20) + "\t0"]
    (data / "sst2" / "dev.tsv").write_text("\n".join(lines) + "\n")
    (data / "imdb" / "test.jsonl").write_text(json.dumps({"text": "a dull<br />film", "label": 0}) + "\n")
    options = ("--data", str(data), "--models", str(models), "--rows", "attention")
    printed = run("benchmarks/paper_table.py", *options, "--sets", "sst2-short", "sst2", "imdb", folder=tmp_path)
    assert "# sst2-short, 2 examples" in printed
    assert "# sst2, 3 examples" in printed
    assert "# imdb, 1 examples" in printed
    before = Evaluation.load(tmp_path / "found" / "sst2.jsonl")
    assert "IntegratedGradients" not in before.methods
    run("benchmarks/paper_table.py", *options[:-1], "all", "--sets", "sst2", folder=tmp_path)
    after = Evaluation.load(tmp_path / "found" / "sst2.jsonl")
    assert set(before.methods) < set(after.methods)
    assert after.settings == before.settings


def test_a_method_is_asked_once_about_a_batch():
    asked = []
    method = paper_table.once(lambda batch, targets: asked.append(batch) or torch.zeros(1, 2))
    one, other = {"input_ids": torch.zeros(1, 2)}, {"input_ids": torch.ones(1, 2)}
    for batch in (one, one, other):
        method(batch, torch.tensor([0]))
    assert len(asked) == 2


@pytest.mark.parametrize("estimator", [paper_table.approximate, paper_table.kernel])
@pytest.mark.parametrize("players", [3, 30, 60])
def test_the_papers_estimators_take_a_hundred_coalitions_or_what_they_need(estimator, players):
    asked = []

    def worth(coalitions):
        asked.append(len(coalitions))
        return coalitions.double().sum(-1)

    torch.testing.assert_close(estimator(worth, players, "cpu").values, torch.ones(players).double())
    assert sum(asked) <= max(102, 4 * (players + 1))
