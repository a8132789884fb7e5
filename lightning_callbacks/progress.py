"""Progress in Lightning's own bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

DESCRIPTION = "Explaining"


@contextmanager
def shown_progress(trainer: Trainer, total: int) -> Iterator[Callable[[int], object]]:
    """A bar beside the trainer's, if it has one; yields a function that takes the number of examples just done."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, TQDMProgressBar) and bar.is_enabled:
        own = bar.init_validation_tqdm()
        own.leave = False
        own.set_description(DESCRIPTION)
        own.reset(total)
        try:
            yield own.update
        finally:
            own.close()
    elif isinstance(bar, RichProgressBar) and bar.is_enabled and bar.progress is not None:
        task = bar.progress.add_task(DESCRIPTION, total=total)
        try:
            yield lambda count: bar.progress.update(task, advance=count) if bar.progress is not None else None
        finally:
            bar.progress.remove_task(task)
    else:
        yield lambda _: None
