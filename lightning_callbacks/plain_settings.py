"""Settings in plain words: what tells one attribution from another, for JSON."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from hashlib import sha256
from importlib import import_module
from itertools import accumulate
from pkgutil import resolve_name
from typing import Any

import numpy as np
from torch import nn

from captum_attn.core import add_to_hash, code_fingerprint, fingerprint
from captum_attn.formatting import shorten

_OURS = re.compile(r"captum_attn(\.[A-Za-z_]\w*)+")


def plain(value: Any) -> Any:
    """The value as JSON has it: functions and classes by name, models and tensors by hash, sets in order.

    Those of ``captum_attn`` have the name by which they are public, which stays when they move from file to file. Data
    classes are what their fields are; of an object of another kind only the class remains.

    Example:
        >>> plain({"layers": (1, 2), "estimator": plain, "ids": {3, 1}})
        {'layers': [1, 2], 'estimator': 'lightning_callbacks.plain_settings.plain', 'ids': [1, 3]}
    """
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {name if isinstance(name, str) else str(plain(name)): plain(part) for name, part in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value), key=repr)
    if isinstance(value, list | tuple):
        return list(map(plain, value))
    if isinstance(value, partial):
        return {"function": plain(value.func), "arguments": plain(value.args), **plain(value.keywords)}
    if isinstance(value, nn.Module):
        return fingerprint(value)
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):  # the latter: PIL's images
        digest = sha256()
        add_to_hash(digest, value if hasattr(value, "__array__") else np.asarray(value))
        return digest.hexdigest()
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return {"class": _public_name(type(value)), **plain(parts)}
    code = getattr(value, "__code__", None)
    if code is not None and "<" in value.__qualname__:  # a lambda, or a function within one: no name says which
        return f"{value.__module__}.{value.__qualname__} {code_fingerprint(value)}"
    if hasattr(value, "to_diff_dict"):  # transformers' configurations
        return {"class": _public_name(type(value)), **plain(value.to_diff_dict())}
    if callable(value) and not hasattr(value, "__qualname__") and not hasattr(value, "all_special_ids"):
        return f"{_public_name(type(value))} {code_fingerprint(value)}"
    return _public_name(value if hasattr(value, "__qualname__") else type(value))


def with_present_names(there: Any) -> Any:
    """A plain value as it was recorded once, with the names that functions and classes of ``captum_attn`` have now.

    Example:
        >>> with_present_names({"estimator": "captum_attn.core.estimators.kernel_shapley"})
        {'estimator': 'captum_attn.functional.kernel_shapley'}
    """
    if isinstance(there, dict):
        return {name: with_present_names(part) for name, part in there.items()}
    if isinstance(there, list):
        return list(map(with_present_names, there))
    if not isinstance(there, str) or not _OURS.fullmatch(there):
        return there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # no one can change what was recorded
            named = resolve_name(there)
    except (ImportError, AttributeError):
        return there
    return _public_name(named) if hasattr(named, "__qualname__") else there


def differences(there: Any, here: Any, name: str = "") -> list[str]:
    """Where two plain values differ, in words.

    Example:
        >>> differences({"game": "cls", "target": None}, {"game": "mutual", "target": None})
        ["game: 'cls' there, 'mutual' here"]
    """
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            line
            for key in sorted({*there, *here})
            for line in differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if there == here else [f"{name}: {shorten(repr(there), 90)} there, {shorten(repr(here), 90)} here"]


def _public_name(named: Any) -> str:
    """The dotted name of a function or class; of one of ours, on the first face above it that has it."""
    module, name = getattr(named, "__module__", None) or "builtins", named.__qualname__  # methods in C have no module
    if _OURS.fullmatch(f"{module}.{name}"):
        for package in accumulate(module.split("."), "{}.{}".format):
            face = import_module(package)
            if name in getattr(face, "__all__", ()) and getattr(face, name) is named:
                return f"{package}.{name}"
    return f"{module}.{name}"
