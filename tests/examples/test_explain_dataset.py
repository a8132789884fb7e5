"""The example that explains a data set, as a user runs it, without a network."""

from __future__ import annotations

import explain_dataset
import pytest
from scripts import run

from lightning_callbacks.attribution_folder import read_attributions


def test_it_explains_prints_and_draws(tmp_path):
    printed = run("explain_dataset.py", folder=tmp_path)
    assert f"Explained {len(explain_dataset.made_up_rows())} texts" in printed
    assert "Predicting" in printed
    negative, positive = printed.split("Words behind")[1:]
    assert "dull" in negative
    assert "moving" in positive
    assert {path.name for path in (tmp_path / "found").iterdir()} == {
        "attributions",
        "words_negative.png",
        "words_positive.png",
    }
    assert read_attributions(tmp_path / "found" / "attributions")["label"].isna().all()


@pytest.mark.parametrize(
    ("name", "content", "labels"),
    [
        ("a.tsv", 'sentence\tlabel\na " film\t1\nso dull\t0\n', ["1", "0"]),
        ("a.jsonl", '{"text": "a \\" film", "label": 1}\n{"text": "so dull", "label": 0}\n', [1, 0]),
        ("a.txt", 'a " film\n\nso dull\n', [None, None]),
    ],
)
def test_kinds_of_files(tmp_path, name, content, labels):
    (tmp_path / name).write_text(content)
    rows = explain_dataset.read_rows(tmp_path / name)
    assert rows == [{"text": text, "label": label} for text, label in zip(['a " film', "so dull"], labels, strict=True)]


def test_a_table_without_texts(tmp_path):
    (tmp_path / "a.tsv").write_text("words\na film\n")
    with pytest.raises(SystemExit, match="expected a column 'text' or 'sentence'"):
        explain_dataset.read_rows(tmp_path / "a.tsv")
