"""The texts of tokens: joined they read as the input, whatever the tokenizer."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tokenizers_of_every_kind import CORPUS, TOKENIZERS

from captum_attn.core import token_texts, word_boundaries, word_groups

TEXTS = [*CORPUS, "  two  spaces\nand a line ", "<b>unwatchable</b>", "مرحبا film"]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_of_a_known_text_they_stand_in_it(kind, text):
    tokenizer = TOKENIZERS[kind]()
    ids = tokenizer(text)["input_ids"]
    pieces = token_texts(tokenizer, ids, text)
    assert len(pieces) == len(ids)
    marks = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    own = [piece for one, piece in zip(ids, pieces, strict=True) if one not in marks]
    assert "".join(own) == text[: len("".join(own))]
    assert not text[len("".join(own)) :].strip()
    assert [tokenizer.convert_ids_to_tokens(one) for one in ids if one in marks] == [
        piece for one, piece in zip(ids, pieces, strict=True) if one in marks
    ]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_of_ids_alone_they_read_as_what_is_decoded(kind):
    tokenizer = TOKENIZERS[kind]()
    text = "a gripping, funny film"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert "".join(token_texts(tokenizer, ids)).split() == decoded.split()


def test_a_text_that_makes_other_tokens_is_not_believed():
    tokenizer = TOKENIZERS["word piece"]()
    ids = tokenizer("not good")["input_ids"]
    assert token_texts(tokenizer, ids, "a funny film") == token_texts(tokenizer, ids)


def test_a_pair_and_a_text_that_was_cut():
    tokenizer = TOKENIZERS["byte-level BPE"]()
    ids = tokenizer("Not good", "A film")["input_ids"]
    joined = "".join(token_texts(tokenizer, ids, ("Not good", "A film")))
    assert joined.replace("[CLS]", "").split("[SEP]") == ["Not good", "A film", ""]
    cut = tokenizer("Not good at all", truncation=True, max_length=4)["input_ids"]
    assert "Not good at all".startswith("".join(token_texts(tokenizer, cut, "Not good at all")[1:-1]))


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_words_begin_where_unicode_says(kind, text):
    tokenizer = TOKENIZERS[kind]()
    ids = tokenizer(text)["input_ids"]
    pieces = token_texts(tokenizer, ids, text)
    marks = [one in {*tokenizer.all_special_ids} - {tokenizer.unk_token_id} for one in ids]
    groups = word_groups(pieces, marks)
    steps = [after - before for before, after in pairwise(groups)]
    assert groups[0] == 0
    assert {*steps} <= {0, 1}
    place, boundaries = 0, word_boundaries(text)
    own = [(group, piece) for group, piece, mark in zip(groups, pieces, marks, strict=True) if not mark]
    for (before, piece), (after, following) in pairwise(own):
        place += len(piece)
        if after > before:
            assert place in boundaries
        elif place in boundaries and following:
            assert not text[: place + len(following)].split() or not piece.strip()


def test_characters_of_several_tokens_are_shown_once():
    tokenizer = TOKENIZERS["byte-level BPE"]()
    text = "مرحبا 💚 film"
    pieces = token_texts(tokenizer, tokenizer(text)["input_ids"])
    assert "".join(pieces[1:-1]) == text


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", ["naïve café", "so 💚 good", "我喜欢这部电影", "مرحبا film", "don't go"])
@pytest.mark.parametrize("known", [True, False])
def test_words_hold_whole_characters_with_all_of_their_tokens(kind, text, known):
    tokenizer = TOKENIZERS[kind]()
    ids = tokenizer(text)["input_ids"]
    if tokenizer.unk_token_id in ids and not known:
        return
    pieces = token_texts(tokenizer, ids, text if known else None)
    marks = [one in {*tokenizer.all_special_ids} - {tokenizer.unk_token_id} for one in ids]
    groups = word_groups(pieces, marks)
    words = {}
    for group, piece, mark in zip(groups, pieces, marks, strict=True):
        if not mark:
            words[group] = words.get(group, "") + piece
    assert all(word.strip() for word in words.values())  # none of a part of a character
    if known and kind != "word piece":
        assert "".join(words.values()) == text


def test_a_token_of_white_space_is_not_shown_as_the_next_one():
    tokenizer = TOKENIZERS["SentencePiece"]()
    ids = tokenizer("我喜欢")["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    for token, piece in zip(tokens, token_texts(tokenizer, ids, "我喜欢"), strict=True):
        assert token.startswith("[") or piece == token.replace("▁", "")


def test_two_texts_without_a_token_between_them_are_two_words():
    tokenizer = TOKENIZERS["byte-level BPE"]()
    tokenizer.backend_tokenizer.post_processor = None
    ids = tokenizer("a film", "not good")["input_ids"]
    pieces = token_texts(tokenizer, ids, ("a film", "not good"))
    assert "".join(pieces) == "a film not good"
    ids = tokenizer("film", "good")["input_ids"]  # at the same places
    assert "".join(token_texts(tokenizer, ids, ("film", "good"))) == "film good"
