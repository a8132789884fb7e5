"""Data sets with the classifiers that were trained for them.

``python examples/benchmarks/paper_table.py --help`` says how they lie on a disk.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from helpers.reviews import made_up_reviews
from helpers.small_models import TEXT_MODEL, digits, load_image_model

TEXT_SETS = {
    "sst2-short": ("sst2/dev.tsv", "minilm-sst2"),
    "sst2": ("sst2/dev.tsv", "minilm-sst2"),
    "ag_news": ("ag_news/test.jsonl", "minilm-ag-news"),
    "imdb": ("imdb/test.jsonl", "minilm-imdb"),
}
IMAGE_SETS = {"zebras": ("photos/targets/zebra", "dinov2-zebra")}
SHORT = 15
MAX_LENGTH = 256


class Data(NamedTuple):
    """A data set, and a classifier that was trained for it; one of images has no tokenizer."""

    name: str
    inputs: list[str] | Tensor
    labels: list[int] | Tensor
    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase | None


def read(name: str, options: argparse.Namespace, split: str = "test") -> Data:
    """A data set as far as it is asked for, and its model; of SST-2's training set, sentences of 14 to 30 words."""
    if name == "digits":
        train_images, train_numbers, images, numbers = digits()
        if split == "train":
            images, numbers = train_images, train_numbers
        return Data(name, images[: options.limit], numbers[: options.limit], load_image_model(), None)
    if name in IMAGE_SETS:
        return photographs(name, options)
    file, folder = TEXT_SETS.get(name, ("", ""))
    path = options.models / folder if folder else TEXT_MODEL
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    if not folder:
        texts = made_up_reviews()[: options.limit or 100]
        with torch.no_grad():  # nobody labelled these: the model's own predictions stand in
            labels = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.argmax(-1).tolist()
        return Data(name, texts, labels, model, tokenizer)
    if split == "train":
        file = str(Path(file).with_stem("train"))
    lines = (options.data / file).read_text(encoding="utf-8").splitlines()
    if file.endswith(".tsv"):
        rows = [line.rstrip("\n").split("\t") for line in lines[1:]]
        examples = [(sentence.strip(), int(label)) for sentence, label in rows]
    else:
        rows_read = map(json.loads, lines)
        examples = [(row["text"].replace("<br />", " "), int(row["label"])) for row in rows_read]
    if name == "sst2-short":
        examples = [(text, label) for text, label in examples if len(tokenizer(text)["input_ids"]) - 2 <= SHORT]
    if split == "train" and name == "sst2":
        examples = [(text, label) for text, label in examples if 14 <= len(text.split()) <= 30]
    texts, labels = map(list, zip(*examples[: options.limit], strict=True))
    return Data(name, texts, labels, model, tokenizer)


def photographs(name: str, options: argparse.Namespace) -> Data:
    """Photographs, as a vision transformer reads them."""
    folder, model_folder = IMAGE_SETS[name]
    model = AutoModelForImageClassification.from_pretrained(options.models / model_folder, dtype=torch.float32)
    processor = AutoImageProcessor.from_pretrained(options.models / model_folder)
    files = sorted((options.data / folder).glob("*.jpg"))[: options.limit]
    images = [Image.open(file).convert("RGB") for file in files]
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    return Data(name, pixels, [int(model.config.label2id[Path(folder).name])] * len(files), model.eval(), None)
