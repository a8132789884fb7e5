"""Train the small BERT in ``models/bert-sst2``: random initialisation, distilled from a larger teacher."""

from __future__ import annotations

import argparse
import random
import string
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.reviews import read_sentences
from helpers.small_models import TEXT_MODEL, load_text_model

BATCH_SIZE = 64
MAX_TOKENS = 128
VOCABULARY = 8000
EXTRA_SENTENCES = 40_000
WORD_SWAP = 0.15
WORD_DROPOUT = 0.1
LEARNING_RATE = 1e-3
LABELS = ("negative", "positive")


def varied_pairs(sentences: list[str], count: int) -> list[str]:
    """Join random pairs of sentences, swap some words for random ones and attach every "n't" to its verb.

    So the student meets rare words in new company, and both "is n't" (as in SST-2) and "isn't".
    """
    words = sorted({word for sentence in sentences for word in sentence.split()})

    def varied(pair: list[str]) -> str:
        old = " ".join(pair).split()
        new = [random.choice(words) if random.random() < WORD_SWAP else word for word in old]
        return " ".join(new).replace(" n't", "n't")

    return [varied(random.sample(sentences, 2)) for _ in range(count)]


def batches_by_length(lengths: list[int], shuffle: bool) -> list[list[int]]:
    """Group indices of similar length, so that a batch holds little padding."""
    order = list(range(len(lengths)))
    if shuffle:
        random.shuffle(order)
    order.sort(key=lengths.__getitem__)  # stable, so equal lengths stay shuffled
    batches = [order[i : i + BATCH_SIZE] for i in range(0, len(order), BATCH_SIZE)]
    if shuffle:
        random.shuffle(batches)
    return batches


@torch.no_grad()
def predict(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: list[str]) -> Tensor:
    """Return the logits of all sentences, float32 of shape (sentences, labels)."""
    logits = torch.empty(len(sentences), len(LABELS))
    for indices in tqdm(batches_by_length([len(s) for s in sentences], shuffle=False), desc="predict"):
        batch = tokenizer(
            [sentences[i] for i in indices],
            truncation=True,
            max_length=MAX_TOKENS,
            padding=True,
            return_tensors="pt",
        )
        logits[indices] = model(**batch).logits
    return logits


def train_tokenizer(teacher: PreTrainedTokenizerBase, sentences: list[str]) -> PreTrainedTokenizerBase:
    """Learn a small lower-case WordPiece vocabulary that splits text the way the teacher's tokenizer does."""
    alphabet = list(string.printable)
    tokenizer = teacher.train_new_from_iterator(sentences, VOCABULARY, initial_alphabet=alphabet)
    tokenizer.model_max_length = MAX_TOKENS
    return tokenizer


def random_student(tokenizer: PreTrainedTokenizerBase) -> BertForSequenceClassification:
    """Build the untrained classifier."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=MAX_TOKENS,
        initializer_range=0.06,  # BERT's 0.02 suits 768 hidden units, too flat for 128
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    return BertForSequenceClassification(config)


def drop_words(input_ids: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Hide random tokens, so that the student does not lean on single words."""
    special = torch.isin(input_ids, torch.tensor(tokenizer.all_special_ids))
    dropped = (torch.rand(input_ids.shape) < WORD_DROPOUT) & ~special
    return input_ids.masked_fill(dropped, tokenizer.mask_token_id)


def distil(
    student: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    sentences: list[str],
    targets: Tensor,
    epochs: int,
) -> None:
    """Fit the student's logits to the target logits of shape (sentences, labels)."""
    ids: list[list[int]] = tokenizer(sentences, truncation=True)["input_ids"]
    lengths = [len(tokens) for tokens in ids]
    steps = epochs * len(batches_by_length(lengths, shuffle=False))
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    student.train()
    for epoch in range(epochs):
        for indices in tqdm(batches_by_length(lengths, shuffle=True), desc=f"epoch {epoch + 1}/{epochs}"):
            batch = tokenizer.pad({"input_ids": [ids[i] for i in indices]}, return_tensors="pt")
            batch["input_ids"] = drop_words(batch["input_ids"], tokenizer)
            loss = mse_loss(student(**batch).logits, targets[indices])
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def main() -> None:
    """Train, save in float16, load again and print the accuracy on the development sentences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with SST-2 as train.tsv and dev.tsv")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of a classifier tuned on SST-2")
    parser.add_argument("--out", type=Path, default=TEXT_MODEL, help="folder to write the model to")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    set_seed(arguments.seed)
    sentences, _ = read_sentences(arguments.data / "train.tsv")
    teacher = AutoModelForSequenceClassification.from_pretrained(arguments.teacher, dtype=torch.float32)
    teacher_tokenizer = AutoTokenizer.from_pretrained(arguments.teacher)
    tokenizer = train_tokenizer(teacher_tokenizer, sentences)
    sentences += varied_pairs(sentences, EXTRA_SENTENCES)
    targets = predict(teacher, teacher_tokenizer, sentences)

    student = random_student(tokenizer)
    distil(student, tokenizer, sentences, targets, arguments.epochs)
    student.half().save_pretrained(arguments.out)  # half the size; it is loaded as float32 all the same
    student.config.dtype = torch.float32
    student.config.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)

    saved, saved_tokenizer = load_text_model(arguments.out)
    dev_sentences, dev_labels = read_sentences(arguments.data / "dev.tsv")
    correct = predict(saved, saved_tokenizer, dev_sentences).argmax(-1) == dev_labels
    print(f"dev accuracy of {arguments.out}: {correct.float().mean():.4f}")


if __name__ == "__main__":
    main()
