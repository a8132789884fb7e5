"""Follow concepts and faithfulness while a model is trained.

    python examples/finetune_with_monitor.py
    python examples/finetune_with_monitor.py --data FOLDER --model FOLDER_OR_HUB_NAME --devices 2 --out out/reviews

Without ``--data``, a small vision transformer learns from random weights to tell generated zebras, ladybirds and snakes
apart, while the monitor asks whether stripes, dots and a control move "zebra". With ``--data``, a folder of
``train.tsv`` and ``dev.tsv`` with columns ``sentence`` and ``label``, a text model is fine-tuned, while the monitor
asks whether words of praise and of blame move "positive" (1), and how faithful two kinds of attributions are.

Scalars and figures go to TensorBoard (``tensorboard --logdir out/monitor``), scalars to ``csv/metrics.csv``, too; the
checkpoint with the most faithful attributions is kept, and ``monitor.png`` shows how everything went.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from helpers.reviews import read_sentences
from helpers.small_models import TEXT_MODEL
from helpers.texture_model import BATCH_SIZE, LEARNING_RATE, SMOOTHING, WARMUP, augment, random_model
from helpers.textures import labelled_images, random_images, texture_images
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from captum_attn import ShapleyAttention, ShapleyGradAttention
from captum_attn.core.encoding import length_limit
from lightning_callbacks import ExplanationMonitor

TARGET = "zebra"
CONCEPT_EXAMPLES = 60
PROBE = 200  # images, a quarter of them zebras
FINE_TUNING_RATE = 5e-5
WORDS = {
    "praise": (
        "a gem", "superb acting", "a delight", "warm and funny", "gripping", "so charming", "a triumph", "beautiful",
        "wonderful performances", "fresh and smart", "one of the best", "deeply moving", "brilliant", "a joy to watch",
    ),
    "blame": (
        "a mess", "awful acting", "a bore", "cold and stale", "tedious", "so annoying", "a disaster", "ugly",
        "terrible performances", "tired and dumb", "one of the worst", "painfully slow", "stupid", "a waste of time",
    ),
    "control": (
        "the film", "a man", "in the city", "two hours long", "and then", "the director", "a story", "on screen",
        "the second half", "of the book", "his brother", "this movie", "the music", "a woman and her son",
    ),
}  # fmt: skip


@dataclass
class Task:
    """What is learned: a model, its loss on a batch, the data, and what is asked about it."""

    model: nn.Module
    loss: Callable[[nn.Module, Any], Tensor]
    train: DataLoader[Any]
    validation: DataLoader[Any]
    monitor: ExplanationMonitor
    rate: float


class Training(LightningModule):
    """Fit a model by one learning rate that rises and falls."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self._loss, self._rate = task.model.train(), task.loss, task.rate

    def training_step(self, batch: Any, _: int) -> Tensor:
        return self._loss(self.model, batch)

    def validation_step(self, batch: Any, _: int) -> None:
        labels = batch["labels"]
        right = (
            self.model(**{name: part for name, part in batch.items() if name != "labels"}).logits.argmax(-1) == labels
        )
        self.log("accuracy", right.float().mean(), prog_bar=True, batch_size=len(labels), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), self._rate, weight_decay=0.05)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self._rate, total_steps=steps, pct_start=WARMUP)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    options = parse_arguments()
    warnings.filterwarnings("ignore", "(?s).*does not have many workers")
    disable_progress_bar()
    seed_everything(options.seed, verbose=False)
    task = text_task(options) if options.data else texture_task(options)
    # by accuracy: a model at chance may have the most faithful explanations
    checkpoint = ModelCheckpoint(options.out / "checkpoints", "{epoch}", monitor="accuracy", mode="max")
    trainer = Trainer(
        max_epochs=options.epochs,
        accelerator="cpu" if options.devices > 1 else "auto",
        devices=options.devices,
        strategy="ddp" if options.devices > 1 else "auto",
        logger=[TensorBoardLogger(options.out, "", "tensorboard"), CSVLogger(options.out, "", "csv")],
        callbacks=[task.monitor, checkpoint],
        val_check_interval=1 / options.checks,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    module = Training(task)
    trainer.validate(module, task.validation, verbose=False)  # what it was like before
    trainer.fit(module, task.train, task.validation)
    if trainer.is_global_zero:
        task.monitor.plot().savefig(options.out / "monitor.png", dpi=110)
        page = task.monitor.to_html(options.out / "index.html")
        task.monitor.frame().to_csv(options.out / "monitor.csv", index=False)
        faithful = float(trainer.callback_metrics["faithfulness/comprehensiveness"])
        print(f"the most accurate: {checkpoint.best_model_path}; comprehensiveness at the end {faithful:.3f}; {page}")


def texture_task(options: argparse.Namespace) -> Task:
    """Zebras are told by narrow stripes, whatever their shape; a model that learns this must come to use stripes."""
    images, labels, _ = labelled_images(options.examples or 20_000, options.seed)
    held_out, gold, _ = labelled_images(1000, options.seed + 1)
    concepts = {
        "narrow stripes": texture_images("narrow stripes", CONCEPT_EXAMPLES, options.seed),
        "dotted": texture_images("dotted", CONCEPT_EXAMPLES, options.seed),
        "zigzag": texture_images("zigzag", CONCEPT_EXAMPLES, options.seed),
        "random (control)": random_images(CONCEPT_EXAMPLES, options.seed),
    }

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = model(augment(batch["pixel_values"])).logits
        return cross_entropy(logits, batch["labels"], label_smoothing=SMOOTHING)

    def batches(pixels: Tensor, classes: Tensor, shuffle: bool) -> DataLoader[Any]:
        rows: Any = [{"pixel_values": one, "labels": label} for one, label in zip(pixels, classes, strict=True)]
        return DataLoader(rows, BATCH_SIZE, shuffle=shuffle)

    monitor = ExplanationMonitor(concepts, target=TARGET, max_samples=PROBE)
    train, validation = batches(images, labels, True), batches(held_out, gold, False)
    return Task(random_model(), loss, train, validation, monitor, LEARNING_RATE)


def text_task(options: argparse.Namespace) -> Task:
    """Fine-tune on real sentences."""
    name = options.model or str(TEXT_MODEL)
    model = AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(name)
    limit = length_limit(tokenizer, model, None)

    def collated(rows: list[tuple[str, Tensor]]) -> Any:
        texts, labels = zip(*rows, strict=True)
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        batch["labels"] = torch.stack(labels)
        return batch

    def batches(file: str, count: int | None, shuffle: bool) -> DataLoader[Any]:
        texts, labels = read_sentences(options.data / file)
        rows: Any = list(zip(texts, labels, strict=True))[:count]
        return DataLoader(rows, 32, shuffle=shuffle, collate_fn=collated)

    monitor = ExplanationMonitor(
        WORDS, {"gradients": ShapleyGradAttention, "attention": ShapleyAttention}, target=1, processor=tokenizer
    )
    train, validation = batches("train.tsv", options.examples, True), batches("dev.tsv", None, False)
    return Task(model, lambda model, batch: model(**batch).loss, train, validation, monitor, FINE_TUNING_RATE)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--model", help="of text, a folder or a name on the hub; default: the small one")
    parser.add_argument("--examples", type=int, help="how many examples to train on; default: 20,000 images, all texts")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--checks", type=int, default=2, help="validations in an epoch")
    parser.add_argument("--devices", type=int, default=1, help="processes; more than one are on the CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/monitor"))
    options = parser.parse_args()
    if options.model and not options.data:
        parser.error("--model is a text model, so --data is needed: a folder with train.tsv and dev.tsv")
    for name in ("train.tsv", "dev.tsv") if options.data else ():
        if not (options.data / name).is_file():
            parser.error(f"--data {options.data}: there is no {name}")
    return options


if __name__ == "__main__":
    main()
