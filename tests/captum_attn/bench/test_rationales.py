"""Rationales in the forms in which people have them, and warnings of what of them is lost."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from helpers.small_models import load_text_model, load_texture_model
from tokenizers import processors
from tokenizers_of_every_kind import TOKENIZERS, classifier

from captum_attn.bench import checked_rationales, examples_of
from captum_attn.metrics import evaluate

WORDS = ["a", "gripping", "film", ",", "unbelievably", "dull"]
TEXT = " ".join(WORDS)
PLACE = TEXT.index("unbelievably")
SPAN = (PLACE, PLACE + len("unbelievably"))
MASK = [0, 0, 0, 0, 1, 0]
_MARKS = str.maketrans("", "", "#▁Ġ")


@pytest.fixture(scope="module")
def text_model():
    return load_text_model()


def run(text_model, data, rationales, **options):
    """An evaluation of scores that rise from left to right, and what it warned of."""
    model, tokenizer = text_model

    def rising(batch, targets):
        return torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"]).float()

    options = {"tokenizer": tokenizer, "percentages": [0], "show_progress": False, **options}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        result = evaluate(model, data, {"rising": rising}, rationales=rationales, **options)
    return result, [str(warning.message) for warning in heard if "rationales" in str(warning.message)]


def found(result):
    return result.table(["token_auprc", "token_f1", "token_iou"]).query("method == 'rising'")["mean"].tolist()


def chosen(text_model, data, rationales, padded=0, **options):
    """The tokens that are chosen, by text."""
    model, tokenizer = text_model
    examples = examples_of(data, tokenizer, model, options.get("max_length"))
    read, rows = checked_rationales(rationales, examples), range(len(examples))
    tokens = examples.batch(rows)["input_ids"]
    mask = examples.chosen(read, rows, tuple(tokens.shape), None)
    return [tokenizer.convert_ids_to_tokens(row[kept].tolist()) for row, kept in zip(tokens, mask, strict=True)]


@pytest.mark.parametrize(
    "given",
    [
        [[SPAN], []],
        ([list(SPAN)], ()),
        [np.array([SPAN]), np.empty((0, 2), dtype=int)],
        [[(np.int64(SPAN[0]), np.int32(SPAN[1]))], np.array([])],
        [torch.tensor([SPAN]), torch.empty(0, 2)],
    ],
)
def test_spans_in_any_form_are_the_same(text_model, given, tmp_path):
    expected, _ = run(text_model, [TEXT, "dull"], [[SPAN], []], file=tmp_path / "kept.jsonl")
    result, heard = run(text_model, [TEXT, "dull"], given, file=tmp_path / "kept.jsonl")
    assert found(result) == found(expected)
    assert result.settings == expected.settings
    assert heard == []


def test_arrays_of_several_texts_are_told_apart_to_the_last_number(text_model):
    long = np.stack([np.arange(0, 2400, 2), np.arange(1, 2401, 2)], -1)
    other = long.copy()
    other[600, 1] += 1
    one, two = (run(text_model, ["good " * 480], [spans], max_length=8)[0] for spans in (long, other))
    assert one.settings.rationales != two.settings.rationales


@pytest.mark.parametrize(
    "mask",
    [MASK, [bool(chosen) for chosen in MASK], np.array(MASK), np.array(MASK) > 0, torch.tensor(MASK), tuple(MASK)],
)
@pytest.mark.parametrize("words", [WORDS, np.array(WORDS)])
def test_masks_of_words_are_the_spans_of_these_words(text_model, words, mask):
    expected, _ = run(text_model, [TEXT], [[SPAN]])
    result, heard = run(text_model, [words], [mask])
    assert found(result) == found(expected)
    assert result.settings.data == expected.settings.data
    assert heard == []


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_words_are_found_by_every_kind_of_tokenizer(kind):
    tokenizer = TOKENIZERS[kind]()
    words = ["not", "good", "café", ",", "at", "all"]
    for place, word in enumerate(words):
        mask = [int(place == other) for other in range(len(words))]
        (tokens,) = chosen((classifier(tokenizer), tokenizer), [words], [mask])
        own = tokenizer.convert_ids_to_tokens(tokenizer(word, add_special_tokens=False)["input_ids"])
        spelled, expected = ("".join(pieces).translate(_MARKS) for pieces in (tokens, own))
        # without a pre-tokenizer, tokens may go over the end of a word
        assert spelled == expected or (kind == "byte fallback" and expected in spelled)


def with_spaces_in_offsets(kind):
    """A tokenizer whose offsets hold the space before a word, as those of Qwen and Llama 3 do."""
    tokenizer = TOKENIZERS[kind]()
    if kind == "byte-level BPE":
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_spaces_at_the_ends_of_spans_choose_no_other_word(kind):
    tokenizer = with_spaces_in_offsets(kind)
    given, text = (classifier(tokenizer), tokenizer), "a funny  film"
    exact = chosen(given, [text], [[(2, 7)]])
    assert exact[0]
    for span in ((1, 7), (2, 8), (1, 9), (2, 9)):
        assert chosen(given, [text], [[span]]) == exact
    assert chosen(given, [(text, "so dull")], [[(2, 9)]]) == exact
    assert chosen(given, [text], [[(7, 9)]]) == [[]]
    whole = chosen(given, [text], [[(2, 13)]])[0]
    assert whole[: len(exact[0])] == exact[0]
    assert len(whole) > len(exact[0])


@pytest.mark.parametrize("kind", ["word piece", "SentencePiece"])
def test_words_are_read_as_the_tokenizer_reads_words(kind):
    tokenizer = TOKENIZERS[kind]()
    examples = examples_of([WORDS], tokenizer, classifier(tokenizer), None)
    expected = tokenizer([WORDS], is_split_into_words=True, return_tensors="pt")["input_ids"]
    assert torch.equal(examples.batch([0])["input_ids"], expected)


def test_words_of_pairs_have_two_masks_or_that_of_the_first(text_model):
    pairs = [(WORDS, ["a", "dull", "film"])]
    assert chosen(text_model, pairs, [(MASK, [0, 1, 1])])[0][-2:] == ["dull", "film"]
    first = chosen(text_model, [WORDS], [MASK])
    assert chosen(text_model, pairs, [MASK]) == first
    assert chosen(text_model, pairs, [([], [0, 1, 0])]) == [["dull"]]
    assert chosen(text_model, pairs, [[]]) == [[]]
    assert chosen(text_model, [(("good"), ("dull"))], [[(0, 4)]]) == [["good"]]
    assert chosen(text_model, [(["so", "dull"], ["it", "is"])], [[0, 1]]) == [["dull"]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("spans", "lost", "wholly"), [([(0, 4), (20, 24)], "1 of 2", 0), (None, "1 of 2", 1)], ids=["in part", "wholly"]
)
def test_rationales_that_are_cut_with_their_texts_are_counted(text_model, side, spans, lost, wholly):
    tokenizer = text_model[1]
    text = "good film so dull a mess"
    spans = spans or [(20, 24) if side == "right" else (0, 4)]
    before, tokenizer.truncation_side = tokenizer.truncation_side, side
    try:
        result, heard = run(text_model, [text, "good"], [spans, [(0, 4)]], max_length=5)
    finally:
        tokenizer.truncation_side = before
    assert f"rationales of {lost} texts were cut with their texts at 5 tokens, {wholly} of them wholly" in heard[0]
    assert len(heard) == 1 + wholly
    assert not wholly or "1 of 2 examples choose no token that plays (the first: example 0)" in heard[1]
    assert result.table(["token_f1"]).query("method == 'rising'").n.item() == 2 - wholly


def test_masks_of_words_that_are_cut_are_counted_too(text_model):
    _, heard = run(text_model, [WORDS, WORDS], [MASK, [1, 0, 0, 0, 0, 0]], max_length=4)
    assert "rationales of 1 of 2 texts were cut" in heard[0]


def test_what_is_not_chosen_may_be_cut(text_model):
    _, heard = run(text_model, [TEXT, "dull"], [[(0, 1)], [(0, 4)]], max_length=4)
    assert heard == []


@pytest.mark.parametrize("span", [(2, 400), (500, 510), (-3, 2)])
def test_rationales_outside_the_text_are_counted(text_model, span):
    _, heard = run(text_model, [TEXT, "dull", "good"], [[(0, 1), span], [(0, 4)], []])
    assert len(heard) == 1
    assert f"rationales of 1 of 3 texts lie outside of them, wholly or in part ({span} in the" in heard[0]


def test_spans_between_tokens_are_counted(text_model):
    result, heard = run(text_model, [TEXT, "dull"], [[(1, 2)], [(0, 4)]])
    assert heard == [
        "the rationales of 1 of 2 examples choose no token that plays (the first: example 0): they do not count for "
        "plausibility"
    ]
    assert result.table(["token_f1"]).query("method == 'rising'").n.item() == 1


def test_masks_of_special_tokens_padding_and_corners_of_patches_are_counted(text_model):
    batch = text_model[1](["good film", "dull"], padding=True, return_tensors="pt")
    on_special = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
    on_special[0, 0] = on_special[1, -1] = True
    _, heard = run(text_model, dict(batch), on_special.numpy())
    assert "rationales of 2 of 2 examples choose no token" in heard[0]
    images = torch.rand(2, 3, 48, 48)
    pixels = torch.zeros(2, 48, 48, dtype=torch.bool)
    pixels[0, 0, 0] = pixels[1, :16, :16] = True
    options = {"rationales": pixels, "percentages": [0], "show_progress": False}
    with pytest.warns(UserWarning, match="rationales of 1 of 2 examples choose no token"):
        evaluate(load_texture_model(), images, {"zeros": lambda b, _: torch.zeros_like(b["pixel_values"])}, **options)


@pytest.mark.parametrize(
    ("data", "rationales", "error", "message"),
    [
        ([TEXT], [MASK], TypeError, "a mask of words needs texts that are lists of words"),
        ([TEXT], [SPAN], TypeError, r"character spans \[\(start, end\), ...\].*text 0"),
        ([TEXT], [[(0.0, 3.0)]], TypeError, "character spans"),
        ([TEXT], [[(False, True)]], TypeError, "character spans"),
        ([TEXT], [np.array([[True, False]])], TypeError, "character spans"),
        ([TEXT], [None], TypeError, r"character spans .* \[\] for none"),
        ([TEXT, "dull"], [[SPAN], [(3, 3)]], TypeError, "text 1"),
        ([WORDS], [[SPAN]], TypeError, "masks with 0 or 1 for each word"),
        ([WORDS], [[MASK, MASK, MASK]], TypeError, "masks with 0 or 1"),
        ([WORDS], [[0.0, 0.0, 0.3, 0.0, 1.0, 0.0]], TypeError, "masks with 0 or 1"),
        ([WORDS], [[0, 2, 0, 0, 0, 0]], TypeError, "masks with 0 or 1"),
        ([WORDS], [[0, 1]], ValueError, "rationale of text 0 marks 2 words, but the text has 6"),
        ([["a gripping film", "it is dull"]], [[1, 0]], ValueError, "a pair of texts as a tuple"),
        ([WORDS, TEXT], [MASK, [SPAN]], TypeError, "expected texts, lists of words, pairs of either"),
        ([[1, 2]], [[1, 0]], TypeError, r"got a list of \['list'\]"),
        ({"input_ids": torch.ones(1, 3).long()}, [[(0, 1)]], TypeError, "bool tensor or array"),
        ({"input_ids": torch.ones(1, 3).long()}, np.ones((1, 3)), ValueError, r"must be bool \(1, 3\)"),
    ],
)
def test_other_forms_are_refused(text_model, data, rationales, error, message):
    with pytest.raises(error, match=message):
        run(text_model, data, rationales)
