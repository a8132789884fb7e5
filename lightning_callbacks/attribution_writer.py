"""Write what ``trainer.predict`` explains, batch by batch, and go on where a run was cut short."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import pyarrow as pa
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset

from lightning_callbacks.attribution_folder import AttributionFolder, Bools
from lightning_callbacks.explaining_module import ExplainingModule
from lightning_callbacks.neutrality import forget_module, without_trace
from lightning_callbacks.plain_settings import plain


class AttributionWriter(BasePredictionWriter):
    """Writes token scores to a folder of Parquet files, one for each process and batch, as they come.

    A file is there as a whole or not at all. The same ``trainer.predict`` on the same folder explains what is missing,
    be it with another batch size or number of processes; another model, method or target, or other data (by their
    number, and the first and the last sample) are refused. On several machines they must share the folder. Call
    ``trainer.predict`` with ``return_predictions=False``: it would keep all results in memory.

    Read the folder with :func:`read_attributions`, which merges and sorts, or with any Parquet reader:
    ``pandas.read_parquet(folder)``, ``datasets.load_dataset("parquet", data_dir=folder)``.

    Args:
        folder: a new or empty folder, or that of a run that was cut short.

    Raises:
        MisconfigurationException: when the run begins, for another module than an :class:`AttributionModule` or a
            :class:`GenerationModule`, data without sample indices, or a folder with other files or of other settings.

    Example:
        >>> AttributionWriter("explained").folder.path.name
        'explained'

    See :func:`read_attributions` for a whole run.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__("batch")
        self.folder = AttributionFolder(folder)
        self._run = ""
        self._done: list[Bools] = []
        self._current: tuple[int, list[int]] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what goes together; called by Lightning."""
        super().setup(trainer, pl_module, stage)
        self._run, self._current = "", None
        if stage == "predict":
            _explaining(pl_module)
            callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
            if sum(isinstance(callback, AttributionWriter) for callback in callbacks) > 1:
                raise MisconfigurationException("the trainer has several AttributionWriters: expected one, one folder")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the folder in the first process, and tell all what is done; called by Lightning."""
        if trainer.predict_loop.return_predictions:
            rank_zero_warn(
                "trainer.predict keeps all explanations in memory as well: pass return_predictions=False, and read "
                "them with read_attributions"
            )
        loaders = _loaders(trainer)
        samples = [len(loader.dataset) for loader in loaders]  # type: ignore[arg-type]
        with without_trace(pl_module, 0):  # so that random transforms give the same again
            data = [_content(loader.dataset) for loader in loaders]
        settings = {**_explaining(pl_module).settings(), "precision": trainer.precision, "data": data}
        opened: Any = self._opened(settings, samples) if trainer.is_global_zero else None
        opened = trainer.strategy.broadcast(opened)
        if isinstance(opened, str):  # in all processes, or some would wait for the others
            raise MisconfigurationException(opened)
        if not trainer.strategy.reduce_boolean_decision(self.folder.is_begun(settings, samples)):
            raise MisconfigurationException(
                f"not every process sees the same in {self.folder.path}: expected a folder that all machines share, "
                "and the same model everywhere (seed what is random about it)"
            )
        self._run, self._done = opened

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Tell the module which inputs of the batch are still to be explained; called by Lightning."""
        indices = _plain_indices(trainer.predict_loop.current_batch_indices)
        self._current = dataloader_idx, indices
        _explaining(pl_module).wanted = (~self._done[dataloader_idx][indices]).tolist()

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: pa.Table,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one batch; called by Lightning."""
        done = self._done[dataloader_idx]
        _, indices = self._current or (0, [])
        fresh = [index for index in indices if not done[index]]
        if fresh:
            columns = {"dataloader": pa.array([dataloader_idx] * len(fresh), pa.int64()), "index": pa.array(fresh)}
            table = pa.table({**columns, **{name: prediction[name] for name in prediction.column_names}})
            self.folder.write(
                table, run=self._run, rank=trainer.global_rank, dataloader=dataloader_idx, batch=batch_idx
            )
            done[fresh] = True
        self._current = None

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait until every process has written its last batch; called by Lightning."""
        trainer.strategy.barrier("attributions written")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say where it happened, and let go of the batch; called by Lightning."""
        if isinstance(pl_module, ExplainingModule):
            pl_module.wanted = None  # of the next batch, which will not come
        if self._current:
            dataloader, indices = self._current
            exception.add_note(
                f"While explaining the samples {indices} of data loader {dataloader}. What was explained before is in "
                f"{self.folder.path}, and the same trainer.predict goes on from there."
            )
        self._current = None
        forget_module(self)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the module, and say so if there was nothing to explain; called by Lightning."""
        if stage == "predict" and not self._run:
            rank_zero_warn(f"AttributionWriter: the data loader is empty, so nothing was written to {self.folder.path}")
        forget_module(self)

    def _opened(self, settings: dict[str, Any], samples: list[int]) -> tuple[str, list[Bools]] | str:
        """The run's name and what is done; or what is wrong with the folder."""
        try:
            return self.folder.begin(settings, samples), self.folder.done()
        except (ValueError, OSError) as error:
            return str(error)


def _explaining(module: LightningModule) -> ExplainingModule:
    if not isinstance(module, ExplainingModule):
        raise MisconfigurationException(
            f"AttributionWriter writes what an AttributionModule or a GenerationModule explains, got a "
            f"{type(module).__name__}: call trainer.predict(AttributionModule(model), loader)"
        )
    return module


def _loaders(trainer: Trainer) -> list[DataLoader[Any]]:
    """The data loaders, all of which have samples with indices."""
    loaders: list[DataLoader[Any]] = CombinedLoader(trainer.predict_dataloaders, "sequential").flattened
    for loader in loaders:
        if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
            raise MisconfigurationException(
                f"a data loader is a {type(loader).__name__} without batches of its own, which does not say which "
                "samples it draws: expected a torch DataLoader with a batch_size"
            )
        if isinstance(loader.dataset, IterableDataset):
            raise MisconfigurationException(
                f"{type(loader.dataset).__name__} is an iterable data set, whose samples have no indices, so what is "
                "done cannot be told from what is missing: expected a data set with __getitem__ and __len__, such as "
                "list(dataset)"
            )
    return loaders


def _content(dataset: Any) -> str:
    """What tells a data set from others of the same size: a hash of its first and last sample."""
    ends = [plain(dataset[place]) for place in (0, len(dataset) - 1)] if len(dataset) else []
    return sha256(json.dumps(ends).encode()).hexdigest()[:16]


def _plain_indices(indices: Sequence[Any]) -> list[int]:
    try:
        plain = list(map(operator.index, indices))
    except TypeError:
        plain = []
    if not plain:
        raise MisconfigurationException(
            f"Lightning does not know the samples of a batch, {indices!r:.80}: expected integer indices from the data "
            "loader's sampler"
        )
    return plain
