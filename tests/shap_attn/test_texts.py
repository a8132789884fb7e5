"""Texts in every form, and segments that give them back."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_of_every_kind import CORPUS, TOKENIZERS, classifier

from shap_attn.segments import Segments, joined, segment_starts, word_boundaries
from shap_attn.texts import TextReader, text_pairs

KINDS = pytest.mark.parametrize("kind", TOKENIZERS)
HARD = [
    *CORPUS,
    "",
    " ",
    "   two  leading,\ttabs\nand trailing  ",
    "éé\u0301 ﬁ Å ß İ",  # what normalization changes
    "👩‍👩‍👧‍👦🏳️‍🌈👍🏽",
    "[MASK] typed [SEP] by [CLS] hand",
    "a[SEP]b",
    "\u200b\u00a0​x\u3000y",
    "no-break and 数字 123",
    "שלום עולם مرحبا",
]
READERS: dict = {}


def reader(kind: str, **options) -> TextReader:
    key = (kind, *options.items())
    if key not in READERS:
        tokenizer = TOKENIZERS[kind]()
        READERS[key] = TextReader(tokenizer, classifier(tokenizer, positions=4096), **options)
    return READERS[key]


@KINDS
@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("text", HARD)
def test_segments_joined_give_back_the_text(kind, words, text):
    (row,) = reader(kind, words=words).read(text)
    assert "".join(row.segments.texts) == text
    assert len(row.segments.texts) >= 1
    assert all(row.segments.texts) or text == ""


@KINDS
@settings(max_examples=60)
@given(text=st.text(max_size=40), words=st.booleans())
def test_any_text_comes_back(kind, text, words):
    (row,) = reader(kind, words=words).read(text)
    assert "".join(row.segments.texts) == text
    values = np.random.default_rng(0).normal(size=(len(row), 2)) * np.array(row.players)[:, None]
    np.testing.assert_allclose(row.per_segment(values).sum(0), values.sum(0), atol=1e-12)


@KINDS
def test_every_token_that_plays_is_shown(kind):
    for row in reader(kind).read(HARD):
        assert all(place >= 0 for place, plays in zip(row.segments.places, row.players, strict=True) if plays)


@KINDS
def test_special_tokens_are_shown_on_demand_and_never_play(kind):
    text = "a funny [MASK] film"
    (hidden,), (shown,) = reader(kind).read(text), reader(kind, special_tokens=True).read(text)
    assert shown.segments.texts == ["[CLS]", *hidden.segments.texts, "[SEP]"]
    for row in (hidden, shown):
        special = [token in (2, 3, 4) for token in row.encoding["input_ids"]]
        assert [not plays for plays in row.players] == special


@KINDS
def test_pairs_are_joined_by_their_separator(kind):
    (row,) = reader(kind).read([("a funny film", "not good")])
    assert "".join(row.segments.texts) == "a funny film[SEP]not good"
    (shown,) = reader(kind, special_tokens=True).read([("a funny film", "not good")])
    assert "".join(shown.segments.texts) == "[CLS]a funny film[SEP]not good[SEP]"


def test_pieces_of_an_emoji_share_its_segment():
    (row,) = reader("byte-level BPE").read("x🦜y")
    assert row.segments.texts == ["x", "🦜", "y"]
    assert len(row) > 5  # special tokens included


def test_words_are_what_unicode_says():
    text = "I didn't pay 3.14, 我喜欢!"
    edges = sorted(word_boundaries(text))
    words = [text[start:end] for start, end in pairwise(edges)]
    assert [word for word in words if word.strip()] == ["I", "didn't", "pay", "3.14", ",", "我", "喜", "欢", "!"]
    (row,) = reader("characters", words=True).read(text)
    assert row.segments.texts == ["I", " didn't", " pay", " 3.14", ",", " 我", "喜", "欢", "!"]


def test_segments_by_hand():
    # "un" and "likely" are pieces of one word; the second "é" comes as two bytes with the same place
    spans = [(0, 2), (2, 8), (9, 10), (9, 10), (12, 12), (12, 13)]
    assert segment_starts("unlikely é  !", spans) == ([0, 2, 9, 12], [0, 1, 2, 2, 2, 3])
    assert segment_starts("unlikely é  !", spans, words=True) == ([0, 9, 12], [0, 0, 1, 1, 1, 2])


def test_sums_of_joined_parts_by_hand():
    whole = joined(
        [Segments([" "], []), Segments([], [-1]), Segments(["un", " film"], [0, 0, 1]), Segments(["[SEP]"], [0])]
    )
    assert whole == Segments([" ", "un", " film", "[SEP]"], [-1, 1, 1, 2, 3])
    values = np.arange(10.0).reshape(5, 2)
    np.testing.assert_array_equal(whole.sums(values), [[0, 0], values[1] + values[2], values[3], values[4]])
    assert Segments([""], []).sums(np.zeros((0, 2))).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    "texts",
    [
        ["one", "two"],
        ("one", "two"),
        np.array(["one", "two"]),
        np.array(["one", "two"], dtype=object),
        {"text": ["one", "two"]},
        {"text": ("one", "two"), "label": [0, 1]},
        [{"text": "one"}, {"text": "two", "text_pair": None}],
        (text for text in ["one", "two"]),
    ],
)
def test_forms_of_texts(texts):
    assert text_pairs(texts) == [("one", None), ("two", None)]


def test_pandas_forms():
    pandas = pytest.importorskip("pandas")
    assert text_pairs(pandas.Series(["one", "two"], index=[7, 3])) == [("one", None), ("two", None)]
    assert text_pairs(pandas.DataFrame({"text": ["one"], "label": [1]})) == [("one", None)]
    with pytest.raises(TypeError, match=r"got columns \['sentence'\], expected 'text'"):
        text_pairs(pandas.DataFrame({"sentence": ["one"]}))


@pytest.mark.parametrize(
    ("texts", "pairs"),
    [
        ([("one", "two"), ["three", "four"]], None),
        (np.array([["one", "two"], ["three", "four"]]), None),
        (["one", "three"], ["two", "four"]),
        ({"text": ["one", "three"], "text_pair": ["two", "four"]}, None),
        ([{"text": "one", "text_pair": "two"}, {"text": "three", "text_pair": "four"}], None),
    ],
)
def test_forms_of_pairs(texts, pairs):
    assert text_pairs(texts, pairs) == [("one", "two"), ("three", "four")]


def test_a_string_is_one_text():
    assert text_pairs("one") == text_pairs(np.array("one")) == [("one", None)]
    assert text_pairs({"text": "one", "text_pair": "two"}) == [("one", "two")]


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (None, TypeError, "got None"),
        (3, TypeError, r"got 3 \(int\)"),
        (b"bytes", TypeError, "got b'bytes'"),
        ({"sentence": ["one"]}, TypeError, r"got columns \['sentence'\], expected 'text'"),
        ({"one", "two"}, TypeError, "set"),
        (["one", None], TypeError, "text 1 is None"),
        (["one", float("nan")], TypeError, r"text 1 is nan \(float\)"),
        ([["one", "two", "three"]], TypeError, "text 0 is"),
        ([("one", 2)], TypeError, "text 0 is"),
        ([], ValueError, "no texts"),
    ],
)
def test_what_is_no_text(texts, error, message):
    with pytest.raises(error, match=message):
        text_pairs(texts)


def test_second_texts_must_be_as_many():
    with pytest.raises(ValueError, match="2 texts but 1 second texts"):
        text_pairs(["one", "two"], ["three"])


def test_long_texts_are_cut_with_a_warning():
    tokenizer = TOKENIZERS["word piece"]()
    read = TextReader(tokenizer, classifier(tokenizer, positions=6)).read
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than 6 tokens"):
        short, long = read(["funny film", "funny film " * 9])
    assert not short.cut
    assert long.cut
    assert len(long) == 6
    assert "".join(long.segments.texts) == "funny film funny film"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read("funny film")


@pytest.mark.parametrize(("side", "seen"), [("right", "a b c "), ("left", "drivel in   it")])
def test_texts_are_cut_on_the_tokenizers_side(side, seen):
    tokenizer = TOKENIZERS["word piece"]()
    tokenizer.truncation_side = side
    count = len(tokenizer(seen)["input_ids"])
    read = TextReader(tokenizer, classifier(tokenizer), max_length=count).read
    with pytest.warns(UserWarning, match="were cut"):
        (row,) = read("a b c good unwatchable drivel in   it")
    assert "".join(row.segments.texts).strip() == seen.strip()


def test_only_the_text_of_a_pair_that_is_too_long_is_cut():
    tokenizer = TOKENIZERS["word piece"]()
    with pytest.warns(UserWarning, match="were cut"):
        (row,) = TextReader(tokenizer, classifier(tokenizer), max_length=12).read([("a  film   ", "good " * 30)])
    first, second = "".join(row.segments.texts).split("[SEP]")
    assert first == "a  film   "
    assert set(second.split()) == {"good"}
    assert len(row) == 12


@KINDS
@pytest.mark.parametrize("pair", [("   ", "b"), ("a", " "), ("", "b"), ("a", ""), (" ", " ")])
def test_blank_sides_of_a_pair_are_kept(kind, pair):
    (row,) = reader(kind).read([pair])
    assert "".join(row.segments.texts).replace("[SEP]", "") == "".join(pair)


@pytest.mark.parametrize("length", [-3, 0, 1, 2])
def test_a_length_without_room_for_a_token_is_refused(length):
    tokenizer = TOKENIZERS["word piece"]()
    with pytest.raises(ValueError, match=f"max_length={length} leaves no token beside 2 special ones"):
        TextReader(tokenizer, classifier(tokenizer), max_length=length)


def test_tokenizers_without_offsets_are_refused():
    transformers = pytest.importorskip("transformers")
    slow = transformers.CanineTokenizer()
    with pytest.raises(TypeError, match="CanineTokenizer has no offsets"):
        TextReader(slow, classifier(TOKENIZERS["word piece"]()))
