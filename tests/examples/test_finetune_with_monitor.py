"""The example as a user runs it, on next to no data."""

from __future__ import annotations

import csv

import pytest
from scripts import run

SENTENCES = ["a gripping film", "not good at all", "so slow that i fell asleep", "warm and funny", "a mess", "a gem"]


@pytest.fixture
def data(tmp_path):
    """A folder with a few labelled sentences."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train.tsv", "dev.tsv"):
        rows = [f"{text}\t{label}" for text, label in zip(SENTENCES, (1, 0, 0, 1, 0, 1), strict=True)]
        (folder / name).write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return folder


def test_a_text_model_is_fine_tuned_and_followed(tmp_path, data):
    printed = run("finetune_with_monitor.py", "--data", str(data), "--epochs", "1", "--checks", "1", folder=tmp_path)
    assert "2 of 2 validations explained" in printed
    assert "the most accurate: " in printed
    with (tmp_path / "found" / "monitor.csv").open() as file:
        before, after = csv.DictReader(file)
    assert (before["step"], after["step"]) == ("0", "1")
    for name in ("faithfulness/comprehensiveness", "faithfulness/attention/sufficiency", "tcav/praise/layer_3"):
        assert float(after[name]) == float(after[name])  # not NaN
    files = {path.name for path in (tmp_path / "found").iterdir()}
    assert {"index.html", "monitor.png", "monitor.csv", "csv", "tensorboard", "checkpoints"} <= files
    assert list((tmp_path / "found" / "tensorboard").glob("events*"))


def test_a_vision_transformer_learns_and_is_followed(tmp_path):
    printed = run("finetune_with_monitor.py", "--examples", "64", "--epochs", "1", "--checks", "1", folder=tmp_path)
    assert "tcav_effect/narrow_stripes/layer_3" in printed
    assert (tmp_path / "found" / "monitor.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--model", "x"), "--data is needed"), (("--data", "nowhere"), "there is no train.tsv")],
)
def test_mistakes_are_explained(arguments, message, monkeypatch, capsys):
    import finetune_with_monitor

    monkeypatch.setattr("sys.argv", ["finetune_with_monitor.py", *arguments])
    with pytest.raises(SystemExit):
        finetune_with_monitor.main()
    assert message in capsys.readouterr().err
