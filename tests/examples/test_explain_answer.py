"""The script that explains an answer, on a small random decoder, and on the one that comes with the project."""

from __future__ import annotations

import sys

import explain_answer
import pytest
from chat_models import chat_model
from helpers.small_models import TEXT_MODEL


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    model, tokenizer = chat_model()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    def running(*arguments):
        monkeypatch.setattr(sys, "argv", ["explain_answer.py", "--out", str(tmp_path / "out"), *map(str, arguments)])
        explain_answer.main()
        return capsys.readouterr().out, (tmp_path / "out" / "index.html").read_text(encoding="utf-8")

    return running


def test_documents_are_explained(run, decoder, tmp_path):
    first, second = tmp_path / "one.txt", tmp_path / "two.txt"
    first.write_text("the cat is old .\n\nit is a cat .\n", encoding="utf-8")
    second.write_text("the dog is young .", encoding="utf-8")
    asked = ("--model", decoder, "--documents", first, second, "--question", "how old is the dog ?")
    for sources, count in (("sentences", 3), ("paragraphs", 3), ("documents", 2)):
        shown, page = run(*asked, "--sources", sources, "--response", "the dog is young .")
        assert "the dog is young" in shown
        assert page.count('"text":"') >= count
        assert sum("%" in line and "." in line for line in shown.splitlines()) >= count
    shown, _ = run(*asked, "--tokens", 3)
    assert "is in no source" in shown


def test_what_cannot_be_explained_is_named(run, decoder, tmp_path, capsys):
    for arguments, message in (
        (("--model", TEXT_MODEL), "is no causal language model"),
        (("--model", tmp_path), "--model"),
        (("--model", decoder, "--response", " "), "the response is empty"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(*arguments)
    for arguments in (("--documents", tmp_path / "none.txt", "--question", "why ?"), ("--documents", __file__)):
        with pytest.raises(SystemExit):
            run(*arguments)
        assert "--documents" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tokens", "place", "word"), [((" Dun", "more", " is"), 1, "Dunmore"), (("It", " is", "."), 2, "is.")]
)
def test_words_are_whole(tokens, place, word):
    assert explain_answer.word_of(tokens, place) == word
