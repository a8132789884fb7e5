"""The comparison of methods as a user makes it, without a network."""

from __future__ import annotations

import argparse
import sys

import compare_methods
import pandas as pd
import pytest
from helpers.data_sets import read
from helpers.reviews import made_up_reviews
from helpers.small_models import TEXT_MODEL
from PIL import Image


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Call the script with arguments; what it prints."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare_methods.py", *arguments, "--out", str(tmp_path / "found")])
        compare_methods.main()
        return capsys.readouterr().out

    return call


def test_it_compares_methods_on_texts_and_images(run, tmp_path):
    printed = run("--rows", "attention", "--limit", "3")
    assert "text: 3 inputs, 13 methods" in printed
    assert "digits: 3 inputs, 13 methods" in printed
    assert printed.count("- There are only 3 inputs") == 2
    for name in ("text", "digits"):
        folder = tmp_path / "found" / name
        page = (folder / "index.html").read_text(encoding="utf-8")
        table = pd.read_csv(folder / "table.csv")
        assert {"RawAttention", "AttentionFlow", "MaskTunnel", "random"} <= set(table.method)
        assert all(method in page for method in table.method)
        assert table.set_index("method").under_reruns.dropna().index.tolist() in (
            ["MaskTunnel", "random"],
            ["random", "MaskTunnel"],
        )
        assert table.under_paraphrases.notna().all() == (name == "text")
        count = len(table)
        assert len(pd.read_csv(folder / "agreement.csv")) == count * (count - 1) / 2
        assert len(pd.read_csv(folder / "stability.csv")) == 2 * count
        assert Image.open(folder / "comparison.png").size[0] > 700


@pytest.mark.parametrize(("name", "count"), [("text", 22), ("digits", 21)])  # SHAP's hierarchy is one of text
def test_all_rows_are_captums_and_shaps_too(name, count):
    data = read(name, argparse.Namespace(limit=1, models=None))
    methods, reruns = compare_methods.rows(data, "all")
    assert len(methods) == count
    assert {"IntegratedGradients", "KernelShap", "GenericRelevance"} <= set(methods)
    assert ("SHAP Partition" in methods) == (name == "text")
    assert {copy.seed for copy in reruns["MaskTunnel"]}.isdisjoint({methods["MaskTunnel"].seed})


def test_a_data_set_from_a_file(run, tmp_path):
    data, models = tmp_path / "data", tmp_path / "models"
    (data / "sst2").mkdir(parents=True)
    models.mkdir()
    (models / "minilm-sst2").symlink_to(TEXT_MODEL)
    (data / "sst2" / "dev.tsv").write_text("sentence\tlabel\na good , warm film\t1\nso very dull\t0\n")
    printed = run("--data", str(data), "--models", str(models), "--sets", "sst2", "--rows", "attention")
    assert "sst2: 2 inputs, 13 methods" in printed
    page = (tmp_path / "found" / "sst2" / "index.html").read_text(encoding="utf-8")
    assert "no paraphrases were given" in page
    assert '" warm"' in page  # a token, as the page's script shows it


def test_data_without_models_is_refused(run, capsys):
    with pytest.raises(SystemExit):
        run("--sets", "sst2")
    assert "need --data and --models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("review", "expected"),
    [
        ("the plot is thin .", "i think that the plot is thin ."),
        ("the plot is not thin .", "i think that the plot is not thin ."),
        ("the plot is thin , and the cast is dull .", "the cast is dull , and the plot is thin ."),
        ("the plot is thin , but the cast is funny .", "although the plot is thin , the cast is funny ."),
        ("i thought the plot was thin !", "to me , the plot was thin !"),
    ],
)
def test_reviews_are_reworded(review, expected):
    assert compare_methods.reworded(review) == expected


def test_only_a_review_that_says_the_same_twice_stays_as_it_is():
    unchanged = [review for review in made_up_reviews() if compare_methods.reworded(review) == review]
    halves = [review.removesuffix(" .").split(" , and ") for review in unchanged]
    assert len(unchanged) < 5
    assert all(first == second for first, second in halves)
