"""A small tokenizer of every kind, trained on the spot, and a tiny classifier for any of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial

import torch
import transformers as hf
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

CORPUS = [
    "a gripping, funny film",
    "not good at all — I didn't like it!",
    "unwatchable drivel... 3.14 out of 10",
    "Ça c'est un café très agréable",
    "I 💚 this 👍🏽 movie 😀",
    "我喜欢这部电影",
]
_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


@cache
def word_piece() -> str:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _trained(tokenizer, trainers.WordPieceTrainer)


@cache
def byte_level() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, trainers.BpeTrainer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


@cache
def sentence_piece() -> str:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return _trained(tokenizer, trainers.UnigramTrainer, unk_token="[UNK]")


@cache
def byte_fallback() -> str:
    """Llama's kind: no pre-tokenizer, spaces as ▁, unknown characters as bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = json.loads(_trained(tokenizer, trainers.BpeTrainer, extra=alphabet, limit_alphabet=40))
    trained["added_tokens"] = [token for token in trained["added_tokens"] if token["content"] not in alphabet]
    return json.dumps(trained)  # bytes are words of the vocabulary, and no special tokens


@cache
def characters() -> str:
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return _trained(tokenizer, trainers.WordLevelTrainer)


def _fast(trained: Callable[[], str]) -> hf.PreTrainedTokenizerFast:
    """A new tokenizer each time, but always the same: training may break ties in another way."""
    return hf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(trained()), **_SPECIAL)


TOKENIZERS: dict[str, Callable[[], hf.PreTrainedTokenizerFast]] = {
    "word piece": partial(_fast, word_piece),
    "byte-level BPE": partial(_fast, byte_level),
    "SentencePiece": partial(_fast, sentence_piece),
    "byte fallback": partial(_fast, byte_fallback),
    "characters": partial(_fast, characters),
}


def classifier(tokenizer: hf.PreTrainedTokenizerBase, classes: int = 3, positions: int = 64) -> nn.Module:
    """A tiny random BERT for this tokenizer."""
    torch.manual_seed(0)
    config = hf.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=positions,
        num_labels=classes,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    return hf.BertForSequenceClassification(config).eval()


def _trained(
    tokenizer: Tokenizer, trainer: Callable[..., object], extra: list[str] | None = None, **options: object
) -> str:
    special = list(_SPECIAL.values())
    tokenizer.train_from_iterator(
        CORPUS, trainer(vocab_size=600, special_tokens=special + (extra or []), show_progress=False, **options)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer.to_str()
