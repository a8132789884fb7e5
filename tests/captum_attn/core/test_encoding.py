"""Texts are tokenized in turn, in whole and cut to what the model reads."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from families import FAMILIES
from nested_configs import nested_configs
from tokenizers_of_every_kind import TOKENIZERS, classifier
from transformers import BertConfig, CanineTokenizer, EncoderDecoderConfig

from captum_attn.bench import Reader
from captum_attn.comparison.shared_words import words_of
from captum_attn.controls.observed_examples import ObservedExamples
from captum_attn.core.encoding import encode, length_limit
from captum_attn.core.models import text_config
from captum_attn.core.padded_texts import padded
from captum_attn.metrics import evaluate
from shap_attn.texts import TextReader

LONG, SHORT = "good film " * 40, "a gripping film"


def no_model(input_ids, **_):
    """Says nothing of texts, padded or not."""
    return torch.zeros(len(input_ids), 2)


def test_the_length_limit_is_the_least_that_anything_says():
    tokenizer = TOKENIZERS["word piece"]()
    assert length_limit(tokenizer, classifier(tokenizer, positions=64), None) == 64
    assert length_limit(tokenizer, classifier(tokenizer, positions=64), 12) == 12
    tokenizer.model_max_length = 20
    assert length_limit(tokenizer, classifier(tokenizer, positions=64), None) == 20
    tokenizer.model_max_length = 10**30
    roberta = FAMILIES["roberta"].build()
    positions = roberta.config.max_position_embeddings - roberta.config.pad_token_id - 1
    assert length_limit(tokenizer, roberta, None) == positions
    assert length_limit(tokenizer, FAMILIES["t5"].build(), None) is None


@pytest.mark.parametrize("config", nested_configs(max_position_embeddings=48), ids=lambda config: config.model_type)
def test_the_limit_of_a_nested_configuration(config):
    tokenizer, model = TOKENIZERS["word piece"](), torch.nn.Module()
    model.config = config
    assert length_limit(tokenizer, model, None) == 48


def test_of_two_models_of_text_the_one_that_reads_has_the_limit():
    tokenizer, model = TOKENIZERS["word piece"](), torch.nn.Module()
    reads, writes = BertConfig(max_position_embeddings=48), BertConfig(max_position_embeddings=20)
    model.config = EncoderDecoderConfig.from_encoder_decoder_configs(reads, writes)
    assert length_limit(tokenizer, model, None) == 48
    assert text_config(model.config, decoder=True).max_position_embeddings == 20


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("pairs", [None, ["it is dull", "", LONG]])
@pytest.mark.parametrize("limit", [None, 6, 64])
def test_texts_are_encoded_and_padded_as_the_tokenizer_alone_does_it(kind, pairs, limit):
    tokenizer = TOKENIZERS[kind]()
    texts = [SHORT, "good", LONG]
    encoded = encode(tokenizer, texts, pairs, limit=limit)
    assert dict(encoded.whole) == dict(TOKENIZERS[kind]()(texts, pairs))
    expected = TOKENIZERS[kind]()(texts, pairs, truncation=limit is not None, max_length=limit)
    assert dict(encoded.read) == dict(expected)
    lengths = list(map(len, encoded.whole["input_ids"]))
    assert encoded.cut == [row for row, length in enumerate(lengths) if limit is not None and length > limit]
    tensors = TOKENIZERS[kind]()(
        texts, pairs, truncation=limit is not None, max_length=limit, padding=True, return_tensors="pt"
    )
    found = padded(tokenizer, encoded.read, no_model)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in found)


def test_a_slow_tokenizer_is_called_in_the_same_way():
    tokenizer = CanineTokenizer()
    assert not tokenizer.is_fast
    encoded = encode(tokenizer, ["good", SHORT], limit=8)
    assert dict(encoded.read) == dict(tokenizer(["good", SHORT], truncation=True, max_length=8))
    assert encoded.cut == [1]
    expected = tokenizer(["good", SHORT], truncation=True, max_length=8, padding=True, return_tensors="pt")
    assert torch.equal(padded(tokenizer, encoded.read, no_model)["input_ids"], expected["input_ids"])


@pytest.fixture
def switching():
    """Threads take turns far more often than usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def lengths_by_room(tokenizer, model, limit):
    """In each room that tokenizes, a function that says how many tokens it reads of both texts."""
    other = classifier(tokenizer, positions=limit)

    def measured():
        seen = []

        def method(batch, targets):
            seen.append(batch["input_ids"].shape[1])
            return torch.zeros(batch["input_ids"].shape)

        options = {"tokenizer": tokenizer, "percentages": [0], "show_progress": False, "batch_size": 1}
        evaluate(model, [LONG, SHORT], {"lengths": method}, max_length=limit, **options)
        return sorted(seen)

    return {
        "metrics": measured,
        "shap": lambda: [len(text) for text in TextReader(tokenizer, model, max_length=limit).read([SHORT, LONG])],
        "concepts": lambda: [b.features.shape[1] for b in Reader(other, tokenizer, 1).read([SHORT, LONG], "texts")],
        "controls": lambda: (
            ObservedExamples(model, [SHORT, LONG], tokenizer, batch_size=1, max_length=limit).data.lengths
        ),
        "comparison": lambda: [len(words_of(text, tokenizer, limit).owners) + 2 for text in (SHORT, LONG)],
    }


@pytest.mark.filterwarnings("ignore:.*were cut")
def test_threads_read_what_they_asked_for_in_all_rooms_at_once(switching):
    tokenizer = TOKENIZERS["word piece"]()
    model = classifier(tokenizer, positions=128)
    shared_backend = copy.copy(tokenizer)
    rooms = [
        room
        for reads, limit in ((tokenizer, 8), (tokenizer, 20), (shared_backend, 30))
        for room in lengths_by_room(reads, model, limit).values()
    ]
    alone = [room() for room in rooms]
    assert alone[0][1] == 8
    assert alone[-1][1] == 30
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda room: room(), rooms * 8)) == alone * 8


def test_other_tokenizers_and_models_do_not_wait(monkeypatch):
    tokenizer, other = TOKENIZERS["word piece"](), TOKENIZERS["characters"]()
    model, inside, go_on = classifier(tokenizer), threading.Event(), threading.Event()
    kind, encoded_texts = type(tokenizer), []
    call = kind.__call__

    def waits_for_the_first(self, *args, **kwargs):
        if self is tokenizer and not encoded_texts:
            inside.set()
            assert go_on.wait(10)
        encoded_texts.append(args)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(kind, "__call__", waits_for_the_first)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(encode, tokenizer, [SHORT])
        assert inside.wait(10)
        assert encode(other, [SHORT]).cut == []
        assert not first.done()
        go_on.set()
        first.result(10)

    def model_asks_another_thread(batch, targets):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(encode, tokenizer, [SHORT]).result(10)
        return torch.zeros(batch["input_ids"].shape)

    options = {"tokenizer": tokenizer, "percentages": [0], "show_progress": False}
    evaluate(model, [SHORT], {"asks": model_asks_another_thread}, **options)


def test_tokenizers_are_left_as_they_were():
    tokenizer = TOKENIZERS["byte-level BPE"]()
    before, attributes = pickle.dumps(tokenizer), set(vars(tokenizer))
    expected = encode(tokenizer, [SHORT]).read["input_ids"]
    assert set(vars(tokenizer)) == attributes
    assert pickle.dumps(tokenizer) == before
    for twin in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer), copy.copy(tokenizer)):
        assert encode(twin, [SHORT]).read["input_ids"] == expected


@pytest.mark.parametrize("kind", ["byte fallback", "byte-level BPE"])
def test_texts_of_fewer_characters_than_tokens_are_not_cut_in_silence(kind):
    tokenizer = TOKENIZERS[kind]()
    model, text = classifier(tokenizer, positions=16), "\N{PILE OF POO}" * 8
    with pytest.warns(UserWarning, match="texts: 1 of 1 texts are longer than 16 tokens"):
        (batch,) = Reader(model, tokenizer, 1).read([text], "texts")
    assert batch.features.shape == (1, 16)
