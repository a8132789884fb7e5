"""The names under which metrics are logged."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_callbacks.history import FRAME_COLUMNS, group_of

COSTS = ("explanations/seconds", "explanations/samples")


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


def check_metric_names(names: Iterable[str]) -> None:
    """Raise ``MisconfigurationException`` unless each metric has a name of its own, no column's of a frame."""
    count = Counter((*names, *COSTS, *FRAME_COLUMNS))
    same = [name for name, times in count.items() if times > 1]
    if same:
        raise MisconfigurationException(f"several metrics would be logged as {', '.join(map(repr, same))}: rename some")


def check_waiting(callbacks: Iterable[Any], names: Iterable[str], prefix: str) -> None:
    """Raise ``MisconfigurationException`` if a callback waits for a metric that looks like ours and does not exist."""
    given = (*names, *COSTS)
    ours = [f"{prefix}{name}" for name in given]
    groups = tuple({f"{prefix}{group_of(name)}/" for name in given})
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
