"""Warnings that name the line of the user's code which led to them, however many of our functions lie between."""

from __future__ import annotations

import inspect
import warnings

_BETWEEN = {"captum_attn", "shap_attn", "lightning_callbacks", "captum", "shap", "lightning", "torch", "contextlib"}
"""Packages that call each other on the way: ours, those that they are plugins of, and what these run."""


def warn_user(message: str) -> None:
    """Warn of something in what the user did, at the innermost line that is none of the house's or its hosts'.

    There it can be found, and Python's filters show it once for each such line, as they do for all warnings. Where
    no line is the user's, such as in a command of ours, the outermost one is named.
    """
    warnings.warn(message, stacklevel=_level_of_the_user() - 1)


def _level_of_the_user() -> int:
    """Counted as ``warnings.warn`` does, 1 for this function."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        if frame.f_back is None:
            break
        frame, level = frame.f_back, level + 1
    return level
