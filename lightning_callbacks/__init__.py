"""Explanations on Lightning's engine: follow them while a model is trained, and write those of whole data sets.

Each validation logs how strongly concepts move the model and how faithful its explanations are::

    >>> from lightning.pytorch.callbacks import ModelCheckpoint
    >>> from lightning_callbacks import ExplanationMonitor
    >>> concepts = {"praise": ["superb", "funny", "warm", "fine"], "blame": ["awful", "stale", "dull", "boring"]}
    >>> monitor = ExplanationMonitor(concepts, target="positive", processor=tokenizer)
    >>> best = ModelCheckpoint(monitor="val_accuracy", mode="max")  # a model at chance can be explained faithfully
    >>> callbacks = [monitor, best]  # Trainer(callbacks=callbacks); then monitor.frame(), monitor.plot()

``val_accuracy`` is what your module logs. The monitor's names are ``faithfulness/comprehensiveness``,
``tcav/praise/layer_3`` and so on.

- ``ExplanationMonitor``: the callback;
- ``Measurement``: something of your own to follow in the same passes. It is given a ``ProbeSet``, and sees
  each ``ProbeBatch`` of it in a ``SharedPass``; ``Group`` and ``Panel`` say how its numbers are shown;
- ``ExplainedExample``: one of the examples that the monitor's figures show;
- ``AttributionModule``, ``GenerationModule``: ``Trainer.predict`` explains a data set, of a classifier or of a language
  model, on as many devices as you have;
- ``AttributionWriter``, ``read_attributions``: write these explanations as they come, and read them as one table.
"""

from captum_attn._extras import brought_by

with brought_by("lightning"):
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
