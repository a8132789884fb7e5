"""T-TCAV on texts finds what is known to be true."""

from __future__ import annotations

import pytest
from helpers.small_models import ANSWER_MODEL, load_answering_model
from pages import pictures_of
from scripts import run
from ttcav_texts import with_reply


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    printed = run("ttcav_texts.py", "--model", str(ANSWER_MODEL), "--layers", "1", "3", folder=folder)
    return printed, {*pictures_of((folder / "found" / "index.html").read_text(encoding="utf-8"))}


def section(printed, title):
    """The verdict that is printed under a title."""
    return printed.split(f"{title}\n{'-' * len(title)}\n")[1].splitlines()[1]


def test_praise_raises_and_blame_lowers_what_the_sentiment_model_says(found):
    words = section(found[0], "Words")
    assert "+ praise" in words
    assert "- blame" in words
    assert "- praise" not in words
    assert "+ blame" not in words


def test_a_decoder_answers_what_is_asked_whatever_it_is_about(found):
    assert section(found[0], "Questions") == "+ asks for the colour in 4 of 4, - asks for the year in 4 of 4"


def test_a_chat_model_is_explained_and_everything_shown(found):
    printed, pictures = found
    assert "polite" in printed.split("Tone")[1]
    assert {"map_sentiment", *(f"scores_{name}" for name in ("sentiment", "questions", "tone"))} <= pictures


def test_a_reply_whose_tokens_depend_on_the_prompt_is_refused():
    _, tokenizer = load_answering_model()
    given = with_reply(tokenizer, ["The mill was", "It was"], " painted")
    assert given["attention_mask"][:, -1].all()
    with pytest.raises(SystemExit, match="has other tokens behind a prompt"):
        with_reply(tokenizer, ["The mill was pain"], "ted")
