"""Arguments that SHAP's explainers take and that an exact explanation has no use for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

import shap

from captum_attn.core import warn_user

_OF_SAMPLING = ("max_evals", "seed", "npermutations", "nsamples")
"""Nothing is sampled, unless an estimator was given, which has settings of its own."""

_NEUTRAL: dict[str, tuple[Any, str]] = {
    "link": (shap.links.identity, "the values are shares of attention-gradient influence on the logit"),
    "linearize_link": (True, "there is no link"),
    "algorithm": ("auto", "there is one algorithm, the exact one"),
    "main_effects": (False, "use captum_attn.ShapleyGradAttention(model, game='mutual').interactions"),
    "error_bounds": (False, "exact values have no error; error_std holds that of sampled games"),
    "fixed_context": (None, "there is no hierarchy"),
    "feature_names": (None, "the tokens or patches are the features"),
}
"""Values that ask for nothing, and why others have no effect."""

OF_SHAP = (*_NEUTRAL, *_OF_SAMPLING)
"""The names of all of these."""


def check_shap_arguments(
    given: Mapping[str, Any], *, sampled: bool, own: Collection[str], elsewhere: Collection[str] = ()
) -> None:
    """Pass over what makes no difference, and warn where somebody may expect one.

    Args:
        given: arguments that are not ours.
        sampled: whether values are sampled, so that SHAP's settings of sampling would mean something.
        own: arguments that are ours, for suggestions.
        elsewhere: arguments that the constructor takes, not this call.

    Raises:
        TypeError: an argument that no explainer takes.
    """
    for name, value in given.items():
        if name in _NEUTRAL:
            neutral, reason = _NEUTRAL[name]
            if value is not neutral and value is not None and not (isinstance(value, bool | str) and value == neutral):
                warn_user(f"{name}={value!r} has no effect: {reason}")
        elif name in _OF_SAMPLING:
            if sampled and value not in (None, "auto"):
                reason = "set it in the estimator, functools.partial(permutation_shapley, seed=1)"
                warn_user(f"{name}={value!r} has no effect: {reason}")
        elif name in elsewhere:
            raise TypeError(f"{name!r} is an argument of the constructor, AttentionExplainer(model, ..., {name}=...)")
        else:
            similar = get_close_matches(name, [*own, *elsewhere, *_NEUTRAL, *_OF_SAMPLING], 1)
            hint = f"did you mean {similar[0]!r}?" if similar else f"expected some of {', '.join(own)}"
            raise TypeError(f"unexpected keyword argument {name!r}: {hint}")
