"""Public paths that moved: the old ones keep working for a while, with a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "captum_attn.comparison.agreement": "captum_attn.functional",
    "captum_attn.comparison.figures": "captum_attn.comparison.comparison_figure",
    "captum_attn.comparison.inputs": "captum_attn.comparison.compared_inputs",
    "captum_attn.comparison.results": "captum_attn.comparison",
    "captum_attn.comparison.wording": "captum_attn.formatting",
    "captum_attn.comparison.words": "captum_attn.comparison.shared_words",
    "captum_attn.concepts.activations": "captum_attn.concepts captum_attn.concepts.concept_states",
    "captum_attn.concepts.figures": "captum_attn.concepts.concept_figures",
    "captum_attn.concepts.reading": "captum_attn.bench",
    "captum_attn.concepts.results": "captum_attn.concepts captum_attn.concepts.concept_scores",
    "captum_attn.concepts.significance": "captum_attn.functional",
    "captum_attn.controls.divergence": "captum_attn.functional",
    "captum_attn.controls.figures": "captum_attn.controls.control_figures",
    "captum_attn.controls.reading": "captum_attn.controls.observed_examples",
    "captum_attn.controls.results": "captum_attn.controls",
    "captum_attn.core.barrier_flow": "captum_attn.functional captum_attn.functional.flows",
    "captum_attn.core.estimators": "captum_attn.functional captum_attn.functional.estimators",
    "captum_attn.core.games": "captum_attn.functional captum_attn.functional.games",
    "captum_attn.core.norms": "captum_attn.core.observers",
    "captum_attn.core.outputs": "captum_attn.core.after_attention",
    "captum_attn.core.relevance": "captum_attn.core.observers",
    "captum_attn.metrics.baselines": "captum_attn.bench",
    "captum_attn.metrics.data": "captum_attn.bench captum_attn.bench.examples",
    "captum_attn.metrics.faithfulness": "captum_attn.metrics",
    "captum_attn.metrics.functional": "captum_attn.functional",
    "captum_attn.metrics.masked_model": "captum_attn.bench captum_attn.bench.masked_model",
    "captum_attn.metrics.means": "captum_attn.metrics.over_examples",
    "captum_attn.metrics.methods": "captum_attn.bench captum_attn.bench.method_scores",
    "captum_attn.metrics.perturbed_batch": "captum_attn.metrics.evaluated_batch",
    "captum_attn.metrics.perturbed_inputs": "captum_attn.bench captum_attn.functional",
    "captum_attn.metrics.plausibility": "captum_attn.metrics captum_attn.functional.plausibility",
    "captum_attn.metrics.rationales": "captum_attn.bench.rationales",
    "captum_attn.signal_plots": "captum_attn.visualization",
    "lightning_callbacks.agreement": "lightning_callbacks.consensus",
    "lightning_callbacks.figures": "lightning_callbacks.history_figures",
    "lightning_callbacks.methods": "lightning_callbacks.method_factories",
    "lightning_callbacks.names": "lightning_callbacks.logged_names",
    "lightning_callbacks.probe": "lightning_callbacks.probe_set",
    "lightning_callbacks.probing": "lightning_callbacks.history",
    "lightning_callbacks.settings": "lightning_callbacks.plain_settings",
    "shap_attn.baselines": "shap_attn shap_attn.shap_baselines",
    "shap_attn.outputs": "shap_attn.explained_outputs",
}
"""Modules that are no more, and where their names are now: first in a package's public ones, if they are there."""

RENAMED = {
    "captum_attn.comparison.agreement": {"METRICS": "RANKING_METRICS"},
    "captum_attn.controls.reading": {"Reader": "ObservedExamples", "Reading": "ObservedBatch"},
    "captum_attn.core.estimators": {"evaluate": "worths"},
    "captum_attn.core.outputs": {"AttentionOutput": "AfterAttention", "OutputCapture": "AfterAttentionCapture"},
    "lightning_callbacks.agreement": {"FailedTogetherError": "FailedSomewhereError", "together": "all_or_none"},
}
"""Their names that are others now."""

GONE = {
    "captum_attn.metrics.faithfulness": dict.fromkeys(
        ("AreaUnderCurve", "FaithfulnessMetric", "MeanDrop"), "derive from captum_attn.metrics.OverExamples"
    ),
    "captum_attn.metrics.findings": dict.fromkeys(
        ("AREAS", "F1", "METRICS", "PLAUSIBILITY", "SCALED"), "see captum_attn.metrics.CATALOGUE"
    ),
    "captum_attn.metrics.perturbed_batch": {"PerturbedBatch": "on_scores gets captum_attn.bench.WholeInputs"},
    "captum_attn.metrics.plausibility": {"PlausibilityMetric": "derive from captum_attn.metrics.OverExamples"},
    "lightning_callbacks.probing": {"Probing": "see lightning_callbacks.Measurement"},
}
"""Names that lead nowhere, and what there is instead."""


class _MovedModules(MetaPathFinder, Loader):
    """Finds modules by their old names, filled with what is public in the new ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        homes, renamed = MOVED[old].split(), RENAMED.get(old, {})
        notes = [f"{name} is now {new}" for name, new in renamed.items()]
        # also here: ``from old import name`` hides what an AttributeError says
        notes += [f"{name} is no more: {instead}" for name, instead in GONE.get(old, {}).items()]
        message = "; ".join([f"{old} moved: import from {' or '.join(homes)}", *notes])
        warnings.warn(message, FutureWarning, stacklevel=2)
        names: dict[str, Any] = {}
        for home in map(import_module, reversed(homes)):
            names |= {name: getattr(home, name) for name in _public(home)}
        names |= {name: names[new] for name, new in renamed.items()}

        def lost(name: str) -> Any:
            raise _no_attribute(old, name)

        vars(module).update(names, __all__=sorted(names), __getattr__=lost)


def find_moved_modules() -> None:
    """Let old names of modules be imported."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())


def moved_names(module: str, home: str, names: Iterable[str] | Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module some of whose names have moved to another one, or are others now.

    Args:
        module: its name.
        home: where they are.
        names: what they were called there; with what they are called now, if that is something else.
    """
    now = names if isinstance(names, Mapping) else {name: name for name in names}

    def moved(name: str) -> Any:
        if name not in now:
            raise _no_attribute(module, name)
        warnings.warn(f"{module}.{name} moved: import {now[name]} from {home}", FutureWarning, stacklevel=2)
        return getattr(import_module(home), now[name])

    return moved


def warn_of_old_name(old: str, new: str) -> None:
    """Warn who calls a method by its older name."""
    warnings.warn(f"{old} is now {new}: the older name will go", FutureWarning, stacklevel=3)


def _public(module: ModuleType) -> list[str]:
    """What ``from module import *`` would import."""
    return getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]


def _no_attribute(module: str, name: str) -> AttributeError:
    instead = GONE.get(module, {}).get(name)
    return AttributeError(f"module {module!r} has no attribute {name!r}" + (f" any more: {instead}" if instead else ""))
