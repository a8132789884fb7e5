"""Lightning's predict loop, quiet and on the CPU, and what the tests feed it."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lightning_callbacks.attribution_writer import AttributionWriter

TEXTS = ["a gripping , funny film", "not good at all", "so dull", "i loved every minute", "a mess !", "it is fine ."]


def text_loader(tokenizer: Any, texts: list[str], batch_size: int = 4, **options: Any) -> DataLoader[Any]:
    return DataLoader(texts, batch_size, collate_fn=partial(tokenizer, padding=True, return_tensors="pt", **options))


def predict(module: Any, loaders: Any, folder: Any = None, **options: Any) -> Any:
    """What ``trainer.predict`` returns, or nothing where it writes to a folder."""
    callbacks = [] if folder is None else [AttributionWriter(folder)]
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        callbacks=callbacks,
        **options,
    )
    return trainer.predict(module, loaders, return_predictions=folder is None)
