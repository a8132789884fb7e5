"""Explanations on Lightning's engine: follow them while a model is trained, and write those of whole data sets."""

from lightning_callbacks.attribution_folder import read_attributions
from lightning_callbacks.attribution_module import AttributionModule
from lightning_callbacks.attribution_writer import AttributionWriter
from lightning_callbacks.measurement import Measurement
from lightning_callbacks.monitor import ExplanationMonitor

__all__ = ["AttributionModule", "AttributionWriter", "ExplanationMonitor", "Measurement", "read_attributions"]


def __dir__() -> list[str]:
    return __all__
