"""What each of SHAP's plots can show, and how to get there from something else."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import shap


def check_explanation(plot: str, given: Any) -> shap.Explanation:
    """The explanation that was given.

    Raises:
        TypeError: something else.
    """
    if not isinstance(given, shap.Explanation):
        several = "; of a list, give one" if isinstance(given, list | tuple) else ""
        raise TypeError(
            f"plots.{plot} takes a shap.Explanation, as AttentionExplainer and shap_attn.pool return it, got "
            f"{type(given).__name__}{several}"
        )
    return given


def check_one(plot: str, given: Any) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless it is one input with one output."""
    explanation = _of_features(plot, given)
    if len(explanation.shape) != 1:
        raise ValueError(
            f"a {plot} shows one input and one output, got values of shape {explanation.shape}: slice them, e.g. "
            f"{_slice_of(explanation)}"
        )


def check_same_features(plot: str, given: Any, dimensions: tuple[int, ...] = (2,)) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless it is one output, of inputs that share their features.

    Args:
        plot: for the message.
        given: what was given.
        dimensions: 2 if many inputs will do, 1 if one will.
    """
    explanation = _of_features(plot, given)
    if of_many_texts(explanation):
        raise ValueError(
            f"{plot} needs the same features in each input: {plot}({_slice_of(explanation, 'pool(explanation)', ':')})"
        )
    _check_single_output(plot, explanation)
    if len(explanation.shape) not in dimensions:
        raise ValueError(
            f"a {plot} shows one output of many inputs (N, features), got values of shape {explanation.shape}: slice "
            "with explanation[:1] to keep one input, or see plots.bar and plots.waterfall"
        )


def check_bars(given: Any) -> shap.Explanation:
    """The explanation, of one output; ``TypeError`` or ``ValueError`` for something else."""
    explanation = _of_features("bar", given)
    _check_single_output("bar", explanation)
    return explanation


def check_images(given: Any, pixels: Any | None) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless it is of images that can be shown under its values.

    Args:
        given: what was given.
        pixels: pictures (N, h, w, C) or (h, w, C) to be shown instead of its own.
    """
    explanation = check_explanation("image", given)
    if not _of_images(explanation):
        raise ValueError(f"plots.image shows images, got values of shape {explanation.shape}: see the other plots")
    if pixels is not None:
        _check_pixels(explanation, np.shape(pixels))
    elif explanation.data is None:
        raise ValueError(
            "the explanation has no pictures: give pixel_values=, or make it by explanation_from_frame(frame, images)"
        )


def _check_pixels(explanation: shap.Explanation, shape: tuple[int, ...]) -> None:
    """Raise ``ValueError``, or warn, unless pictures are sure to show what the values stretched over them belong to."""
    size, first = shape[-3:-1], len(shape) - 3
    if explanation.values.shape[first : first + 2] == size:  # values of pixels
        return
    if explanation.data is None:
        warnings.warn(
            "pixel_values are stretched over the patches, so they must show what these cover and nothing else, which "
            "cannot be checked: explanation_from_frame(frame, images) cuts images so",
            stacklevel=4,
        )
    elif np.shape(explanation.data)[-3:-1] != size:
        raise ValueError(
            f"the explanation's data show what its patches cover, {np.shape(explanation.data)}, and pixel_values of "
            f"shape {shape} something else: leave pixel_values out"
        )


def of_many_texts(explanation: shap.Explanation) -> bool:
    """Whether each input has features of its own."""
    return isinstance(explanation.data, tuple | list)


def _of_features(plot: str, given: Any) -> shap.Explanation:
    explanation = check_explanation(plot, given)
    if _of_images(explanation):
        raise ValueError(
            f"a {plot} shows values of named features, got those of images, of shape {explanation.shape}: plots.image "
            "shows them"
        )
    return explanation


def _of_images(explanation: shap.Explanation) -> bool:
    dimensions = len(explanation.shape)
    return dimensions > 3 or (
        dimensions == 3 and isinstance(explanation.data, np.ndarray) and explanation.data.ndim > 2
    )


def _check_single_output(plot: str, explanation: shap.Explanation) -> None:
    if _has_outputs(explanation):
        first = [":"] * (len(explanation.shape) - 2)
        raise ValueError(
            f"a {plot} shows one output, got values of shape {explanation.shape}, of several: slice one out, e.g. "
            f"{_slice_of(explanation, 'explanation', *first)}"
        )


def _has_outputs(explanation: shap.Explanation) -> bool:
    """Whether the last axis of the values is one of outputs."""
    values = explanation.values
    if values.dtype == object:
        return np.ndim(values[0]) > 1
    if explanation.data is None:
        return bool(values.ndim > 1 and np.ndim(explanation.output_names) == 1)
    return bool(values.ndim > 1 and np.ndim(explanation.data) < values.ndim)


def _slice_of(explanation: shap.Explanation, name: str = "explanation", *first: str) -> str:
    """How to slice one output out of it, and one input unless ``first`` says what to take instead."""
    outputs = _has_outputs(explanation)
    if not first and len(explanation.shape) - outputs > 1:
        first = ("0",)
    names = explanation.output_names
    output = [repr(str(names[-1])) if np.ndim(names) == 1 else "0"] if outputs else []
    places = [*first, ":", *output] if output else first
    return f"{name}[{', '.join(places)}]" if places else name
