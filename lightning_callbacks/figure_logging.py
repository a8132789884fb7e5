"""Figures to whatever logger is there."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def log_figures(trainer: Trainer, figures: Mapping[str, Figure], folder: Path) -> None:
    """Give figures to each logger that takes any; if none does, write PNG files.

    Args:
        trainer: whose loggers they are. Those with ``log_image`` (W&B) get pictures; those whose ``experiment`` has
            ``add_figure`` (TensorBoard) get figures.
        figures: by name, such as ``"tcav/map"``.
        folder: for files ``tcav_map_00000120.png``, with the step.
    """
    taken = False
    for logger in trainer.loggers:
        experiment: Any = getattr(logger, "experiment", None)
        for name, figure in figures.items():
            if hasattr(logger, "log_image"):
                logger.log_image(name, [_picture(figure)], step=trainer.global_step)
                taken = True
            elif hasattr(experiment, "add_figure"):
                experiment.add_figure(name, figure, trainer.global_step)
                taken = True
    for name, figure in () if taken else figures.items():
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name.replace('/', '_')}_{trainer.global_step:08d}.png")


def _picture(figure: Figure) -> Any:
    from PIL import Image

    content = BytesIO()
    figure.savefig(content, format="png")
    return Image.open(content)
