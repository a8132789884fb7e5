"""Texts of one batch are read as each is by itself, on whichever side they are padded."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from families import FAMILIES, PAD, text_batch
from tokenizers_of_every_kind import TOKENIZERS

from captum_attn.bench import Reader
from captum_attn.core.encoding import encode
from captum_attn.core.padded_texts import padded

BATCH = text_batch()
IDS = [ids[real].tolist() for ids, real in zip(BATCH["input_ids"], BATCH["attention_mask"].bool(), strict=True)]
SMALL = {"vocab_size": 60, "pad_token_id": PAD, "num_labels": 3, "hidden_size": 32, "num_attention_heads": 4}
OTHERS = {
    "opt": lambda: hf.OPTForSequenceClassification(hf.OPTConfig(**SMALL, num_hidden_layers=2, ffn_dim=48)),
    "bloom": lambda: hf.BloomForSequenceClassification(
        hf.BloomConfig(vocab_size=60, hidden_size=32, n_layer=2, n_head=4, pad_token_id=PAD, num_labels=3)
    ),
    "xlnet": lambda: hf.XLNetForSequenceClassification(
        hf.XLNetConfig(vocab_size=60, d_model=32, n_layer=2, n_head=4, d_inner=48, pad_token_id=PAD, num_labels=3)
    ),
    "gpt-neo": lambda: hf.GPTNeoForSequenceClassification(
        hf.GPTNeoConfig(**SMALL, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=4)
    ),
}
TEXT = [name for name, family in FAMILIES.items() if not family.vision]


def build(name):
    torch.manual_seed(0)
    return FAMILIES[name].build() if name in FAMILIES else OTHERS[name]().eval()


def tokenizer_of(side):
    tokenizer = TOKENIZERS["word piece"]()
    tokenizer.pad_token = "[UNK]"  # whose id is the models' PAD
    assert tokenizer.pad_token_id == PAD
    tokenizer.padding_side = side
    return tokenizer


def columns():
    return {"input_ids": IDS, "attention_mask": [[1] * len(ids) for ids in IDS]}


def outputs(model, **given):
    with torch.no_grad():
        return model(**given).logits


KEEPS_LEFT = ["gpt2", "llama", "qwen2", "gemma2", "opt", "bloom", "xlnet", "gpt-neo"]
CASES = [(name, "left") for name in KEEPS_LEFT] + [(name, "right") for name in [*TEXT, *OTHERS] if name != "xlnet"]


@pytest.mark.parametrize(("name", "side"), CASES)
def test_a_padded_text_says_what_it_says_alone(name, side):
    model = build(name)
    found = outputs(model, **padded(tokenizer_of(side), columns(), model))
    alone = torch.cat([outputs(model, input_ids=torch.tensor([ids])) for ids in IDS])
    assert torch.allclose(found, alone, atol=2e-6)


@pytest.mark.parametrize("name", [name for name in TEXT if name not in KEEPS_LEFT])
def test_padding_that_counts_is_refused(name):
    with pytest.raises(ValueError, match=r"padding on the left counts: .*a text of 4 tokens changes by.*batch_size"):
        padded(tokenizer_of("left"), columns(), build(name))


def test_a_model_that_takes_padding_for_the_last_token_is_refused():
    model = build("gpt2")
    padded(tokenizer_of("right"), columns(), model)
    model.config.pad_token_id = 0
    with pytest.raises(ValueError, match=r"padding on the right counts: .*does config\.pad_token_id equal"):
        padded(tokenizer_of("right"), columns(), model)


def test_texts_of_one_length_are_not_padded_and_others_need_a_token_for_it():
    tokenizer = TOKENIZERS["word piece"]()
    tokenizer.pad_token = None
    alike, unlike = (encode(tokenizer, texts).read for texts in (["good", "good"], ["good", "a good film"]))
    assert padded(tokenizer, alike, build("bert"))["input_ids"].shape[0] == 2
    with pytest.raises(ValueError, match="no pad token"):
        padded(tokenizer, unlike, build("bert"))


@pytest.mark.parametrize(("name", "batches"), {"bart": [1, 1, 1], "gpt2": [3]}.items())
def test_a_reader_gives_texts_one_by_one_where_padding_counts(name, batches):
    tokenizer = tokenizer_of("left")
    model = build(name)
    model.resize_token_embeddings(len(tokenizer))
    read = Reader(model, tokenizer, 8).read(["good", "a good film", "film"], "texts")
    assert [len(batch) for batch in read] == batches
