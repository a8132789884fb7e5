"""Which of Lightning's strategies a model can be explained under."""

from __future__ import annotations

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy


def check_strategy(trainer: Trainer, what: str, sharded: bool = False) -> None:
    """Raise ``MisconfigurationException`` where no single process can run the model.

    Args:
        trainer: whose strategy it is.
        what: wants to explain.
        sharded: whether FSDP2 will do, under which all processes run every forward pass together.
    """
    strategy = trainer.strategy
    pieces = isinstance(strategy, FSDPStrategy | DeepSpeedStrategy)
    if pieces or (isinstance(strategy, ModelParallelStrategy) and not (sharded and _shards_data_alone(strategy))):
        also = ", or ModelParallelStrategy with tensor_parallel_size=1 (FSDP2)" if sharded else ""
        raise MisconfigurationException(
            f"{what} does not work under {type(strategy).__name__}, which cuts weights into pieces, while models are "
            f"explained by each process on its own. Use strategy='ddp' or a single device{also}"
        )


def explains_together(trainer: Trainer) -> bool:
    """Whether all processes must run the same forward passes."""
    return isinstance(trainer.strategy, ModelParallelStrategy)


def _shards_data_alone(strategy: ModelParallelStrategy) -> bool:
    return strategy.device_mesh["tensor_parallel"].size() == 1
