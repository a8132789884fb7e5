"""Public paths that moved: the old ones keep working for a while, with a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "captum_attn.comparison.agreement": "captum_attn.functional",
    "captum_attn.comparison.results": "captum_attn.comparison",
    "captum_attn.concepts.activations": "captum_attn.concepts",
    "captum_attn.concepts.reading": "captum_attn.bench",
    "captum_attn.concepts.results": "captum_attn.concepts",
    "captum_attn.concepts.significance": "captum_attn.functional",
    "captum_attn.controls.divergence": "captum_attn.functional",
    "captum_attn.controls.results": "captum_attn.controls",
    "captum_attn.core.barrier_flow": "captum_attn.functional",
    "captum_attn.core.estimators": "captum_attn.functional",
    "captum_attn.core.games": "captum_attn.functional",
    "captum_attn.core.norms": "captum_attn.core.observers",
    "captum_attn.core.outputs": "captum_attn.core.after_attention",
    "captum_attn.core.relevance": "captum_attn.core.observers",
    "captum_attn.metrics.baselines": "captum_attn.bench",
    "captum_attn.metrics.data": "captum_attn.bench",
    "captum_attn.metrics.faithfulness": "captum_attn.metrics",
    "captum_attn.metrics.functional": "captum_attn.functional",
    "captum_attn.metrics.masked_model": "captum_attn.bench",
    "captum_attn.metrics.methods": "captum_attn.bench",
    "captum_attn.metrics.perturbed_inputs": "captum_attn.bench",
    "captum_attn.metrics.plausibility": "captum_attn.functional",
    "captum_attn.metrics.rationales": "captum_attn.bench",
    "shap_attn.baselines": "shap_attn",
}
"""Modules that are no more, and where their names are now."""


class _MovedModules(MetaPathFinder, Loader):
    """Finds modules by their old names, empty but for a way to the new ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, MOVED[module.__name__]
        warnings.warn(f"{old} moved: import from {new}", FutureWarning, stacklevel=2)
        home = import_module(new)

        def moved(name: str) -> Any:
            if name not in home.__all__:
                raise AttributeError(f"module {old!r} moved to {new!r}, which has no public name {name!r}")
            return getattr(home, name)

        vars(module)["__getattr__"] = moved


def find_moved_modules() -> None:
    """Let old names of modules be imported."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())


def moved_names(module: str, home: str, names: Collection[str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module some of whose names have moved to another one."""

    def moved(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} moved: import it from {home}", FutureWarning, stacklevel=2)
        return getattr(import_module(home), name)

    return moved
