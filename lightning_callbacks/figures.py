"""Figures of a history: scores over time, and what became of single explanations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_attn.bench import RANDOM
from captum_attn.core.class_names import class_names
from captum_attn.core.inputs import ModelInputs
from captum_attn.functional import SIGNIFICANT
from captum_attn.visualization import as_written, diverging_colours, draw_patches, shown_pixels
from lightning_callbacks.probing import ExplainedExample

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BETTER = {"comprehensiveness": "higher", "sufficiency": "lower", "f1_macro": "higher"}
"""The metrics that are drawn, and which values of each are better."""

_WORDS = 24
_COLUMNS = 4
_BANDS = "bands: two standard errors"
_DOTS = "solid dots: the concept's effect is significant (Holm, 5 %)"


def trajectories(frame: pd.DataFrame, method: str = "method", output: str = "the output") -> Figure:
    """Scores over epochs: a panel for each metric of faithfulness; below, of each layer, T-TCAV scores and effects.

    Args:
        frame: of :meth:`lightning_callbacks.ExplanationMonitor.frame`.
        method: the name of the main method.
        output: what concepts have an effect on.

    Raises:
        ValueError: there are no scores in it.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, MaxNLocator

    metrics = [name for name in BETTER if f"faithfulness/{name}" in frame]
    layers = list(dict.fromkeys(name.split("/")[2] for name in frame if name.startswith("tcav/")))
    if frame.empty or not metrics + layers:
        raise ValueError("nothing was measured yet: expected at least one validation with scores")
    columns = min(_COLUMNS, max(len(metrics), len(layers)))
    groups = {"faithfulness": metrics, "tcav": layers, "tcav_effect": layers}
    lines = [
        (group, panels[start : start + columns])
        for group, panels in groups.items()
        for start in range(0, len(panels), columns)
    ]
    figure = Figure(figsize=(0.6 + 3.2 * columns, 0.5 + 2.6 * len(lines)), layout="constrained")
    concepts = None
    times = frame["epoch"] if frame["epoch"].is_unique else frame["step"]
    for (group, line), row in zip(lines, figure.subplots(len(lines), columns, squeeze=False), strict=True):
        for axes, panel in zip(row, line, strict=False):
            if group == "faithfulness":
                _draw_metric(axes, frame, times, panel, method)
            else:
                what = "T-TCAV score" if group == "tcav" else f"effect on {output}"
                _draw_layer(axes, frame, times, group, panel)
                axes.set_title(f"{what}, {panel.replace('_', ' ')}", fontsize=9)
            axes.set_xlabel(times.name)
            axes.xaxis.set_major_locator(FixedLocator(times) if len(times) < 4 else MaxNLocator(6, integer=True))
            axes.spines[["top", "right"]].set_visible(False)
        for axes in row[len(line) :]:
            axes.set_axis_off()
        if group == "faithfulness":
            row[0].legend(fontsize=7, frameon=False)
        concepts = row[0].get_legend_handles_labels() if group != "faithfulness" else None
    if concepts is not None:
        figure.legend(*concepts, loc="outside upper center", ncols=6, fontsize=8, frameon=False)
    figure.supxlabel("; ".join([_BANDS] * bool(metrics) + [_DOTS] * bool(layers)), fontsize=8)
    return as_written(figure)


def example_over_time(
    inputs: ModelInputs,
    explained: Sequence[tuple[int, ExplainedExample]],
    model: Callable[..., Any],
    processor: Any | None,
) -> Figure:
    """One example and its attributions at several validations.

    Args:
        inputs: the example.
        explained: training steps, and the attributions then.
        model: names the classes, if it has a name for each.
        processor: names tokens, if it is a tokenizer.
    """
    labels = []
    for step, one in explained:
        names = class_names(model, one.outputs)
        labels.append(f"step {step}: {one.target if names is None else names[one.target]} {one.probability:.2f}")
    each = [one for _, one in explained]
    if inputs.modality == "pixels":
        return patches_over_time(inputs.features[0], each, labels)
    ids = inputs.features[0].tolist()
    to_tokens = getattr(processor, "convert_ids_to_tokens", None)
    return tokens_over_time(to_tokens(ids) if to_tokens else list(map(str, ids)), each, labels)


def tokens_over_time(tokens: Sequence[str], explained: Sequence[ExplainedExample], labels: Sequence[str]) -> Figure:
    """One text, a row for each validation: its tokens, coloured by their attributions.

    Args:
        tokens: all tokens of the text.
        explained: at each validation.
        labels: of the rows.
    """
    from matplotlib.figure import Figure

    shown = explained[0].players[:_WORDS]
    values = np.array([one.values[:_WORDS] for one in explained])
    limits = np.abs(values).max(1, keepdims=True)
    figure = Figure(figsize=(2.4 + 0.42 * len(shown), 1.2 + 0.34 * len(explained)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(values / np.where(limits > 0, limits, 1), cmap=diverging_colours(), vmin=-1, vmax=1, aspect="auto")
    axes.set_yticks(range(len(labels)), list(labels), fontsize=8)
    axes.set_xticks(range(len(shown)), [tokens[place] for place in shown], rotation=60, ha="right")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.suptitle(fill(_COLOURS, 20 + 6 * len(shown)), fontsize=8)
    return as_written(figure)


def patches_over_time(image: Tensor, explained: Sequence[ExplainedExample], labels: Sequence[str]) -> Figure:
    """One image (C, h, w), and beside it the attributions of its patches at each validation.

    Of patches of which nothing says where they lie, there is a map without the image, and of tokens of which nothing
    says which patches they are, a line of them.
    """
    from matplotlib.figure import Figure

    picture = shown_pixels(image)
    grey = picture.mean(-1) if picture.ndim == 3 else picture
    figure = Figure(figsize=(1.9 * (1 + len(explained)), 2.4), layout="constrained")
    first, *others = list(figure.subplots(1, 1 + len(explained), squeeze=False).flat)
    whole = (0, image.shape[2], image.shape[1], 0)
    first.imshow(picture, cmap="gray", extent=whole)
    for axes, one, label in zip(others, explained, labels, strict=True):
        patches = torch.tensor(one.values, dtype=torch.float64).view(one.grid or (1, -1))
        limit = float(patches.abs().max()) or 1.0
        strength = 0.85 * (patches.abs() / limit).sqrt().numpy()
        colours: dict[str, Any] = {"cmap": diverging_colours(), "vmin": -limit, "vmax": limit, "alpha": strength}
        if one.extent is None:
            axes.imshow(patches.numpy(), aspect="equal" if one.grid else "auto", **colours)
        else:
            axes.imshow(grey, cmap="gray", extent=whole)
            draw_patches(axes, patches, image, one.extent, **colours)
        axes.set_title(label, fontsize=8)
    for axes in (first, *others):
        axes.set_axis_off()
    figure.suptitle(fill(_COLOURS, 28 * (1 + len(explained))), fontsize=8)
    return as_written(figure)


_COLOURS = "red raises the predicted class, blue lowers it; each validation in its own scale"


def _draw_metric(axes: Axes, frame: pd.DataFrame, times: pd.Series, metric: str, main: str) -> None:
    for name in [name for name in frame if name.startswith("faithfulness/") and name.endswith(f"/{metric}")]:
        method = name.split("/")[1] if name.count("/") == 2 else main
        colour: dict[str, Any] = {"color": "0.6"} if method == RANDOM else {}
        values = frame[name]
        (line,) = axes.plot(times, values, marker="o", markersize=3, label=method, **colour)
        error = frame.get(name.replace("faithfulness/", "faithfulness_error/", 1))
        if error is not None:
            axes.fill_between(
                times, values - 2 * error, values + 2 * error, color=line.get_color(), alpha=0.15, linewidth=0
            )
    axes.set_title(f"{metric.replace('_', ' ')} ({BETTER[metric]} is better)", fontsize=9)


def _draw_layer(axes: Axes, frame: pd.DataFrame, times: pd.Series, group: str, layer: str) -> None:
    for name in [name for name in frame if name.startswith(f"{group}/") and name.endswith(f"/{layer}")]:
        concept = name.split("/")[1]
        values, sure = frame[name], frame[f"tcav_p/{concept}/{layer}"] < SIGNIFICANT
        (line,) = axes.plot(times, values, linewidth=1.2, label=concept)
        colour = line.get_color()
        axes.scatter(times[sure], values[sure], s=18, color=colour, zorder=3)
        axes.scatter(times[~sure], values[~sure], s=18, facecolors="white", edgecolors=colour, zorder=3)
    scores = group == "tcav"
    axes.axhline(0.5 if scores else 0, color="0.8", linewidth=1, zorder=0)
    if scores:
        axes.set_ylim(-0.05, 1.05)
