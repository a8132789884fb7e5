"""The names of a model's classes: what the configuration calls its outputs, and where a name becomes a number."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from captum_attn.core.models import config_of

_SHOWN = 10


def class_number(name: str, config: Any | None, classes: int | None = None) -> int:
    """The number of the class of this name.

    Args:
        name: as in the configuration's ``id2label`` or ``label2id``; in another case if that names one class only.
        config: the model's configuration.
        classes: how many the output has; None if that is not known.

    Raises:
        ValueError: the configuration names no classes, as many as another output has, or not this one.

    Example:
        >>> class_number("positive", model.config, classes=2)
        1
        >>> class_number("Positive", model.config)
        1
        >>> class_number("postive", model.config)
        Traceback (most recent call last):
        ValueError: 'postive' is no class of the model's configuration: did you mean 'positive'? There are 'negative'...
    """
    known = [(str(label), int(number)) for number, label in (getattr(config, "id2label", None) or {}).items()]
    if not known:
        raise ValueError(
            f"target {name!r} is the name of a class, but the model has no configuration that names its classes: give "
            "the number"
        )
    if classes is not None and len(known) != classes:
        raise ValueError(
            f"target {name!r} is the name of a class, but the model's configuration names {len(known)} classes and "
            f"the output has {classes}, so the names are not the output's: give the number"
        )
    numbers = {number for _, number in known}
    aliases = [(str(label), int(number)) for label, number in (getattr(config, "label2id", None) or {}).items()]
    known += [(label, number) for label, number in aliases if number in numbers]  # others name no output
    exact = {number for label, number in known if label == name}
    found = exact or {number for label, number in known if label.casefold() == name.casefold()}
    if len(found) == 1:
        (number,) = found
        if 0 <= number < (classes or number + 1):
            return number
        raise ValueError(
            f"{name!r} names the class {number} of the model's configuration, which is no output"
            f"{f': there are {classes}, counted from 0' if classes else ': they count from 0'}; give the number"
        )
    names = list(dict.fromkeys(label for label, _ in known))
    if found:
        raise ValueError(f"{name!r} names the classes {sorted(found)} of the model's configuration: give the number")
    folded = {label.casefold(): label for label in names}
    close = [repr(folded[match]) for match in difflib.get_close_matches(name.casefold(), folded)]
    hint = f": did you mean {' or '.join(close)}?" if close else "."
    listed = ", ".join(map(repr, names[:_SHOWN])) + (f", ... ({len(names)} in all)" if len(names) > _SHOWN else "")
    raise ValueError(f"{name!r} is no class of the model's configuration{hint} There are {listed}")


def configured_names(model: Callable[..., Any]) -> list[str] | None:
    """The names in the configuration, ``id2label``, of classes 0, 1, …; None without one.

    They may be of other outputs than the model's: see :func:`class_names`.
    """
    labels = getattr(config_of(model), "id2label", None) or {}
    counted = range(len(labels))
    return [str(labels[index]) for index in counted] if labels and labels.keys() == set(counted) else None


def class_names(model: Callable[..., Any], outputs: int) -> list[str] | None:
    """The configuration's names, if there is one for each of so many outputs; else None.

    The configuration of an encoder with a head of one's own has names, too, but of classes that are not the head's.

    Example:
        >>> class_names(model, 2), class_names(model, 5)
        (['negative', 'positive'], None)
    """
    names = configured_names(model)
    return names if names is not None and len(names) == outputs else None
