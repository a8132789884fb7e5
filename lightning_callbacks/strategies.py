"""Which of Lightning's strategies a model can be explained under."""

from __future__ import annotations

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy


def check_strategy(trainer: Trainer, what: str) -> None:
    """Raise ``MisconfigurationException`` where weights are cut into pieces that no single process can read."""
    strategy = trainer.strategy
    if isinstance(strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
        raise MisconfigurationException(
            f"{what} does not work under {type(strategy).__name__}, which cuts weights into pieces: explaining runs "
            "parts of the model on each process alone. Train with strategy='ddp' or on a single device"
        )
