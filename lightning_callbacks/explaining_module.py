"""What ``trainer.predict`` explains with, whatever is explained."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Any

import pyarrow as pa
import torch
from lightning.pytorch import LightningModule
from torch import nn

from captum_attn.core import fingerprint, unwrapped
from lightning_callbacks.plain_settings import plain
from lightning_callbacks.strategies import check_strategy


class ExplainingModule(LightningModule):
    """A module whose ``predict_step`` returns a table, a row for each input, as :class:`AttributionWriter` writes it.

    Attributes:
        wanted: which inputs of the next batch are explained; None for all.
    """

    wanted: list[bool] | None = None

    def setup(self, stage: str) -> None:
        """Refuse strategies that spread a model's weights over devices."""
        check_strategy(self.trainer, type(self).__name__)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the explanations depend on, beside the inputs, as JSON has it."""

    def predict_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> pa.Table:
        """Explain a batch, gradients and all, wherever Lightning has switched them off.

        Args:
            batch: B inputs; see the class.
            batch_idx, dataloader_idx: of no effect.

        Returns:
            A table of B rows, or as many as are ``wanted``, without a graph and on the CPU.

        Raises:
            TypeError, ValueError: a batch of another form, or other inputs than the method explains.
        """
        wanted, self.wanted = self.wanted, None
        if wanted is not None and not any(wanted):
            return pa.table({})
        with torch.inference_mode(False), torch.enable_grad():
            return self.explained(batch, wanted)

    @abstractmethod
    def explained(self, batch: Any, wanted: list[bool] | None) -> pa.Table:
        """The table of a batch's inputs, or of those that are wanted, some of them."""


def explained_by(model: nn.Module, method: Any, left_out: Collection[str]) -> dict[str, Any]:
    """What of a model and a method tells explanations from others, as JSON has it: all of the method but some."""
    own = {name.lstrip("_"): value for name, value in vars(method).items() if name not in left_out}
    return {
        "model": {"class": plain(type(unwrapped(model))), "fingerprint": fingerprint(model)},
        "method": {"class": plain(type(method)), **plain(own)},
    }


def check_drawn(count: int, wanted: list[bool] | None) -> None:
    """Raise ``ValueError`` unless a batch holds an input for each of the data set's samples that were drawn for it."""
    if wanted is not None and count != len(wanted):
        raise ValueError(
            f"the batch holds {count} inputs, but {len(wanted)} samples of the data set were drawn for it, so which is "
            "which cannot be told: expected one input for each, from a collate_fn that neither leaves out nor splits "
            "samples"
        )
