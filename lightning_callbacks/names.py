"""The names under which metrics are logged."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from captum_attn.bench import RANDOM

CONCEPT_COLUMNS = {"tcav": "score", "tcav_effect": "effect", "tcav_p": "p_holm"}
"""Groups of metrics on concepts, and the columns of :meth:`captum_attn.concepts.ConceptScores.table` that they hold."""

COSTS = ("explanations/seconds", "explanations/samples")
GROUPS = ("faithfulness/", "faithfulness_error/", *(f"{group}/" for group in CONCEPT_COLUMNS), "explanations/")


def plain_name(name: str) -> str:
    """A name without characters that would make it a path."""
    return re.sub(r"[\\/\s]+", "_", name)


def check_names(what: str, names: Iterable[str]) -> None:
    """Raise ``MisconfigurationException`` unless names can be told apart in a log."""
    given = list(names)
    count = Counter(map(plain_name, given))
    same = [name for name in given if count[plain_name(name)] > 1]
    if same or "" in count:
        raise MisconfigurationException(
            f"the names of {what} must differ in more than slashes and spaces, which are logged as '_', got "
            f"{same or given}: rename some"
        )
    if what == "methods" and RANDOM in count:
        raise MisconfigurationException(f"the name {RANDOM!r} is taken by random scores, which are always measured")


def check_waiting(callbacks: Iterable[Any], names: Iterable[str], prefix: str) -> None:
    """Raise ``MisconfigurationException`` if a callback waits for a metric that looks like ours and does not exist."""
    ours = [f"{prefix}{name}" for name in (*names, *COSTS)]
    groups = tuple(f"{prefix}{group}" for group in GROUPS)
    for callback in callbacks:
        wanted = getattr(callback, "monitor", None)
        if not isinstance(wanted, str) or not wanted.startswith(groups) or wanted in ours:
            continue
        similar = get_close_matches(wanted, ours, n=3, cutoff=0.7)
        if similar:  # else it may be someone else's
            raise MisconfigurationException(
                f"{type(callback).__name__}(monitor={wanted!r}): ExplanationMonitor logs no such metric; did you mean "
                f"{' or '.join(map(repr, similar))}? There are {len(ours)} in all, such as "
                f"{', '.join(ours[:: max(1, len(ours) // 8)])}"
            )


def faithfulness_names(rankings: Iterable[str], metrics: Iterable[str]) -> dict[tuple[str, str], str]:
    """The name of each metric of each ranking, of which the first one is the main one."""
    named = {}
    for place, ranking in enumerate(rankings):
        method = f"{plain_name(ranking)}/" if place else ""
        for metric in metrics:
            group = "faithfulness_error" if metric.endswith("_error") else "faithfulness"
            named[ranking, metric] = f"{group}/{method}{metric.removesuffix('_error')}"
    return named


def concept_name(group: str, concept: str, layer: str) -> str:
    """The name of a score of a concept in a layer, given its index or its module's name."""
    return f"{group}/{plain_name(concept)}/layer_{layer}"
