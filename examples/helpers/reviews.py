"""Reviews of films: made-up ones, and those of a file."""

from __future__ import annotations

import csv
from pathlib import Path
from random import Random

import torch
from torch import Tensor

SUBJECTS = ("the film", "this movie", "the story", "the plot", "the cast", "the ending", "the humour", "every scene")
PRAISE = ("moving", "funny", "beautiful", "a delight", "gripping", "fresh and smart", "one of the best of the year")
BLAME = ("dull", "a mess", "too long", "tired", "unwatchable", "painfully slow", "a waste of time")
LINKS = (
    "{} is {} .",
    "{} is {} , and {} is {} .",
    "{} is {} , but {} is {} .",
    "{} is not {} .",
    "i thought {} was {} !",
)


def made_up_reviews(count: int = 300) -> list[str]:
    """Short reviews, always the same ones."""
    random = Random(0)
    reviews = []
    for _ in range(count):
        form = random.choice(LINKS)
        words = [random.choice(part) for part in (SUBJECTS, PRAISE + BLAME) * (form.count("{}") // 2)]
        reviews.append(form.format(*words))
    return reviews


def read_texts(path: Path) -> list[str]:
    """The texts of a file, one in each line, up to a tab; a first line ``text`` or ``sentence`` is a header."""
    lines = [line.split("\t")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [text for text in lines[lines[0] in ("text", "sentence") :] if text]


def read_sentences(path: Path) -> tuple[list[str], Tensor]:
    """Read a ``sentence<TAB>label`` file into sentences and int64 labels of shape (sentences,)."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["sentence"].strip() for row in rows], torch.tensor([int(row["label"]) for row in rows])
