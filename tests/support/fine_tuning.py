"""A tiny fine-tuning run, in which randomness counts: dropout, shuffled batches, accumulated gradients."""

from __future__ import annotations

from typing import Any

import tokenizers
import torch
from families import CLS, FAMILIES, SEP, VOCABULARY
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import disable_possible_user_warnings
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from captum_attn import ShapleyGradAttention

CONCEPTS = ("first", "second", "control")


class FineTuned(LightningModule):
    """A BERT with dropout, in training mode."""

    def __init__(self, family: str = "bert", rate: float = 0.01) -> None:
        super().__init__()
        self.model, self.rate = FAMILIES[family].build().train(), rate

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        loss: Tensor = self.model(**batch).loss
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        self.log("loss", self.model(**batch).loss, batch_size=len(batch["labels"]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), self.rate)


class Texts(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Random texts of 8 tokens, labelled by the first one."""

    def __init__(self, count: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(4, VOCABULARY, (count, 8), generator=generator)
        self.labels = ids[:, 1] % 3
        ids[:, 0], ids[:, -1] = CLS, SEP
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[row], "labels": self.labels[row]}


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 60 words, with the ids of special tokens that the models have."""
    words = ["[MASK]", "[PAD]", "[CLS]", "[SEP]", *(f"w{index}" for index in range(4, VOCABULARY))]
    vocabulary = {word: index for index, word in enumerate(words)}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[MASK]")),
        mask_token="[MASK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def concepts(examples: int = 8) -> dict[str, dict[str, Tensor]]:
    """Three sets of random texts; the first two differ in their tokens."""
    found = {}
    for place, name in enumerate(CONCEPTS):
        ids = Texts(examples, seed=10 + place).ids
        if name != "control":
            ids[:, 1:-1] = 4 + ids[:, 1:-1] % 20 + 25 * place
        found[name] = {"input_ids": ids}
    return found


QUICK = {"n_cavs": 3, "permutations": 99}


def monitored(**arguments: Any) -> dict[str, Any]:
    """Arguments of a monitor of concepts and faithfulness that takes no time."""
    usual = {"concepts": concepts(), "target": 1, "processor": tokenizer(), "concept_options": QUICK, "figures": False}
    return {**usual, **arguments}


class Failing(ShapleyGradAttention):
    """An attribution that fails on more than one example, on one process or on all."""

    rank: int | None = None

    def solve(self, explained: Any, observer: Any) -> Any:
        if len(explained.players) > 1 and (self.rank is None or torch.distributed.get_rank() == self.rank):
            raise RuntimeError("no luck")
        return super().solve(explained, observer)


class FailingOnSecond(Failing):
    rank = 1


def fit(callbacks: list[Callback], module: FineTuned | None = None, count: int = 24, **options: Any) -> FineTuned:
    """Train, always with the same seed."""
    trainer = trainer_of(callbacks, **options)
    torch.manual_seed(5)
    module = module or FineTuned()
    train = DataLoader(Texts(count), 4, shuffle=True, generator=None)
    trainer.fit(module, train, DataLoader(Texts(11, seed=1), 4))
    return module


def trainer_of(callbacks: list[Callback], **options: Any) -> Trainer:
    disable_possible_user_warnings()
    usual = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": callbacks,
    }
    return Trainer(**{**usual, **options})
