"""Arguments that SHAP's explainers take and that an exact explanation has no use for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import shap

_WITHOUT_EFFECT = ("max_evals", "seed", "npermutations", "nsamples", "linearize_link", "feature_names")
"""Nothing is sampled and no link is applied; names of features are the tokens themselves."""

_NEUTRAL: dict[str, tuple[Any, str]] = {
    "link": (shap.links.identity, "the values are shares of attention-gradient influence on the logit"),
    "algorithm": ("auto", "there is one algorithm, the exact one"),
    "main_effects": (False, "use captum_attn.ShapleyGradAttention.interactions"),
    "error_bounds": (False, "exact values have no error; error_std holds that of sampled games"),
    "fixed_context": (None, "there is no hierarchy"),
}
"""Values that ask for nothing, and why others have no effect."""


def check_shap_arguments(given: Mapping[str, Any], stacklevel: int) -> None:
    """Pass over what makes no difference, and warn where somebody may expect one.

    Raises:
        TypeError: an argument that no explainer of SHAP takes.
    """
    for name, value in given.items():
        if name in _NEUTRAL:
            neutral, reason = _NEUTRAL[name]
            if value is not neutral and value != neutral and value is not None:
                warnings.warn(f"{name}={value!r} has no effect: {reason}", stacklevel=stacklevel + 1)
        elif name not in _WITHOUT_EFFECT:
            known = ", ".join(sorted([*_WITHOUT_EFFECT, *_NEUTRAL]))
            raise TypeError(
                f"unexpected keyword argument {name!r}; of SHAP's own arguments, these are accepted: {known}"
            )
