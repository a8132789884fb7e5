"""Words of a text and of its paraphrase."""

from __future__ import annotations

import pytest
import torch
from helpers.small_models import load_text_model
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_of_every_kind import CORPUS, TOKENIZERS

from captum_attn.comparison.shared_words import shared, words_of


@pytest.fixture(scope="module")
def tokenizer():
    return load_text_model()[1]


def test_the_pieces_of_a_word_add_up(tokenizer):
    text = "Unbelievably gripping, isn't it?"
    tokens = tokenizer.tokenize(text)
    words = words_of(text, tokenizer, None)
    assert list(words.words) == ["unbelievably", "gripping", ",", "isn't", "it", "?"]
    scores = torch.arange(1.0, len(tokens) + 1)[None].double()
    expected = dict.fromkeys(words.words, 0.0)
    for word, piece in zip(spelled(tokens, words.words), scores[0].tolist(), strict=True):
        expected[word] += piece
    assert words.add_up(scores)[0].tolist() == list(expected.values())
    assert words.add_up(scores).sum() == scores.sum()


def spelled(tokens, words):
    """The word that each token is a piece of, found by spelling the words out."""
    left, found = list(words), []
    rest = ""
    for token in tokens:
        piece = token.removeprefix("##")
        if not rest:
            word = rest = left.pop(0)
        assert rest.startswith(piece)
        rest = rest.removeprefix(piece)
        found.append(word)
    return found


def test_what_the_model_does_not_read_is_no_word(tokenizer):
    words = words_of("a long and winding film", tokenizer, limit=5)
    assert list(words.words) == ["a", "long", "and"]
    assert len(words.owners) == 3


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", CORPUS)
def test_tokens_of_every_kind_belong_to_words_of_the_text(kind, text):
    tokenizer = TOKENIZERS[kind]()
    words = words_of(text, tokenizer, None)
    assert len(words.owners) == len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert set(words.owners.tolist()) == set(range(len(words.words)))
    places = [text.lower().find(word) for word in words.words]
    assert min(places) >= 0


def test_a_text_of_signs_alone_has_words(tokenizer):
    assert list(words_of("!!!", tokenizer, None).words) == ["!", "!", "!"]


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="paraphrases need a fast tokenizer"):
        words_of("a film", Slow(), None)


def test_shared_words_by_hand():
    first, second = ["the", "cast", "is", "a", "delight"], ["a", "delight", ",", "the", "whole", "cast"]
    mine, theirs = shared(first, second)
    assert [first[place] for place in mine] == [second[place] for place in theirs] == ["a", "delight"]


WORDS = st.lists(st.sampled_from("abcde"), max_size=8)


@settings(max_examples=60)
@given(WORDS, WORDS)
def test_shared_words_are_the_same_words_in_the_order_of_both_texts(first, second):
    mine, theirs = shared(first, second)
    assert [first[place] for place in mine] == [second[place] for place in theirs]
    assert mine == sorted(set(mine))
    assert theirs == sorted(set(theirs))


@settings(max_examples=30)
@given(WORDS, st.lists(st.sampled_from("xyz"), max_size=4))
def test_all_words_are_shared_with_a_text_that_only_adds_some(first, added):
    assert shared(first, first + added)[0] == list(range(len(first)))
