"""Explanations on Lightning's engine: follow them while a model is trained, and write those of whole data sets."""

from lightning_callbacks.attribution_folder import read_attributions
from lightning_callbacks.attribution_module import AttributionModule
from lightning_callbacks.attribution_writer import AttributionWriter
from lightning_callbacks.generation_module import GenerationModule
from lightning_callbacks.history import ExplainedExample, Group
from lightning_callbacks.history_figures import Panel
from lightning_callbacks.measurement import Measurement, SharedPass
from lightning_callbacks.monitor import ExplanationMonitor
from lightning_callbacks.probe_set import ProbeBatch, ProbeSet

__all__ = [
    "AttributionModule",
    "AttributionWriter",
    "ExplainedExample",
    "ExplanationMonitor",
    "GenerationModule",
    "Group",
    "Measurement",
    "Panel",
    "ProbeBatch",
    "ProbeSet",
    "SharedPass",
    "read_attributions",
]


def __dir__() -> list[str]:
    return __all__
