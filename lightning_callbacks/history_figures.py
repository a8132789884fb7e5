"""Figures of a history: scores over time, and what became of single explanations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_attn.core import ModelInputs
from captum_attn.core.class_names import class_names
from captum_attn.drawing import as_written, diverging_colours, draw_patches, new_figure, shown_pixels
from captum_attn.functional import SIGNIFICANT
from lightning_callbacks.history import ExplainedExample

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WORDS = 24
_COLUMNS = 4
_BANDS = "bands: two standard errors"
_DOTS = f"solid dots: the concept's effect is significant (Holm, {100 * SIGNIFICANT:g} %)"


@dataclass(frozen=True)
class Panel:
    """Lines over the validations of a history.

    Attributes:
        title: what it shows.
        lines: columns of the history's frame, by label.
        errors: columns of standard errors, by label of their line, for bands.
        p_values: columns of p-values, by label of their line, for dots.
        grey: the label of a line that others are compared with.
        level: where a horizontal line is drawn; None for none.
        limits: of the values; None for theirs.
    """

    title: str
    lines: Mapping[str, str]
    errors: Mapping[str, str] = field(default_factory=dict)
    p_values: Mapping[str, str] = field(default_factory=dict)
    grey: str | None = None
    level: float | None = None
    limits: tuple[float, float] | None = None


def group_panels(names: Iterable[str]) -> list[list[Panel]]:
    """A panel for each group of names, in a row."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        group, _, label = name.partition("/")
        groups.setdefault(group, {})[label or group] = name
    return [[Panel(group.replace("_", " "), lines) for group, lines in groups.items()]]


def trajectories(frame: pd.DataFrame, rows: Sequence[Sequence[Panel]]) -> Figure:
    """Metrics over epochs.

    Args:
        frame: of :meth:`lightning_callbacks.ExplanationMonitor.frame`.
        rows: of panels; long ones are broken.

    Raises:
        ValueError: there are no scores in it.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator

    columns = min(_COLUMNS, max((len(row) for row in rows), default=0))
    if frame.empty or not columns:
        raise ValueError("nothing was measured yet: expected at least one validation with scores")
    lines = [row[start : start + columns] for row in rows for start in range(0, len(row), columns)]
    figure = new_figure(0.6 + 3.2 * columns, 0.5 + 2.6 * len(lines))
    above = None
    times = frame["epoch"] if frame["epoch"].is_unique else frame["step"]
    for line, row in zip(lines, figure.subplots(len(lines), columns, squeeze=False), strict=True):
        for axes, panel in zip(row, line, strict=False):
            _draw_panel(axes, frame, times, panel)
            axes.set_xlabel(times.name)
            axes.xaxis.set_major_locator(FixedLocator(times) if len(times) < 4 else MaxNLocator(6, integer=True))
            axes.spines[["top", "right"]].set_visible(False)
            if panel.p_values:
                above = axes.get_legend_handles_labels()
            elif panel is line[0] or panel.lines.keys() != line[0].lines.keys():
                axes.legend(fontsize=7, frameon=False)
        for axes in row[len(line) :]:
            axes.set_axis_off()
    if above is not None:
        figure.legend(*above, loc="outside upper center", ncols=6, fontsize=8, frameon=False)
    panels = [panel for line in lines for panel in line]
    notes = [_BANDS] * any(panel.errors for panel in panels) + [_DOTS] * any(panel.p_values for panel in panels)
    figure.supxlabel("; ".join(notes), fontsize=8)
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
    shown = explained[0].players[:_WORDS]
    values = np.array([one.values[:_WORDS] for one in explained])
    limits = np.abs(values).max(1, keepdims=True)
    figure = new_figure(2.4 + 0.42 * len(shown), 1.2 + 0.34 * len(explained))
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
    picture = shown_pixels(image)
    grey = picture.mean(-1) if picture.ndim == 3 else picture
    figure = new_figure(1.9 * (1 + len(explained)), 2.4)
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


def _draw_panel(axes: Axes, frame: pd.DataFrame, times: pd.Series, panel: Panel) -> None:
    for label, name in panel.lines.items():
        values = frame[name]
        style: dict[str, Any] = {"linewidth": 1.2} if label in panel.p_values else {"marker": "o", "markersize": 3}
        style |= {"color": "0.6"} if label == panel.grey else {}
        (line,) = axes.plot(times, values, label=label, **style)
        colour = line.get_color()
        if label in panel.errors:
            error = frame[panel.errors[label]]
            axes.fill_between(times, values - 2 * error, values + 2 * error, color=colour, alpha=0.15, linewidth=0)
        if label in panel.p_values:
            sure = frame[panel.p_values[label]] < SIGNIFICANT
            axes.scatter(times[sure], values[sure], s=18, color=colour, zorder=3)
            axes.scatter(times[~sure], values[~sure], s=18, facecolors="white", edgecolors=colour, zorder=3)
    if panel.level is not None:
        axes.axhline(panel.level, color="0.8", linewidth=1, zorder=0)
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
    axes.set_title(panel.title, fontsize=9)
