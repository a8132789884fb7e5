"""Figures of a history: scores over time, and what became of single explanations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_attn.core import ModelInputs, class_names
from captum_attn.drawing import (
    ShownFigure,
    as_written,
    diverging_colours,
    draw_patches,
    height_of,
    name_columns,
    names_height,
    new_figure,
    panel_size,
    short_name,
    shown_pixels,
    width_of,
    wrapped,
)
from captum_attn.functional import SIGNIFICANT
from lightning_callbacks.history import ExplainedExample

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_WORDS = 24
_COLUMNS = 4
_PANEL = 3.2  # inches
_LONGEST = 30  # characters of a name in a key
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


def trajectories(frame: pd.DataFrame, rows: Sequence[Sequence[Panel]]) -> ShownFigure:
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
    panels = [panel for line in lines for panel in line]
    notes = [_BANDS] * any(panel.errors for panel in panels) + [_DOTS] * any(panel.p_values for panel in panels)
    shared = [_shared_names(line) for line in lines]
    keys = [[] if place and key == shared[place - 1] else key for place, key in enumerate(shared)]
    across = max(_PANEL * columns, 4)
    in_a_row = [max(1, int(across / (0.6 + width_of(key, 8)))) for key in keys]
    heights = [
        2.3 + max(height_of(_title(panel), 9) for panel in line) + 0.18 * -(-len(key) // count)
        for line, key, count in zip(lines, keys, in_a_row, strict=True)
    ]
    figure = new_figure(0.4 + across, sum(heights), note="; ".join(notes))
    parts = figure.subfigures(len(lines), 1, height_ratios=heights, squeeze=False)[:, 0]
    times = frame["epoch"] if frame["epoch"].is_unique else frame["step"]
    for part, line, names, key, count in zip(parts, lines, shared, keys, in_a_row, strict=True):
        row = part.subplots(1, columns, squeeze=False)[0]
        for axes, panel in zip(row, line, strict=False):
            _draw_panel(axes, frame, times, panel)
            axes.set_xlabel(times.name)
            axes.xaxis.set_major_locator(FixedLocator(times) if len(times) < 4 else MaxNLocator(6, integer=True))
            axes.spines[["top", "right"]].set_visible(False)
            if not names:
                axes.legend(fontsize=7, frameon=False)
        for axes in row[len(line) :]:
            axes.set_axis_off()
        if key:
            handles = row[0].get_legend_handles_labels()
            part.legend(*handles, loc="outside upper left", ncols=count, fontsize=8, frameon=False)
    return as_written(figure)


def _shared_names(line: Sequence[Panel]) -> list[str]:
    """What all panels of a line have the same lines of; nothing if one has others."""
    same = all(panel.lines.keys() == line[0].lines.keys() for panel in line)
    return [short_name(name, _LONGEST) for name in line[0].lines] if same else []


def _title(panel: Panel) -> str:
    return wrapped(panel.title, _PANEL - 0.4, 9)


def example_over_time(
    inputs: ModelInputs,
    explained: Sequence[tuple[int, ExplainedExample]],
    model: Callable[..., Any],
    processor: Any | None,
) -> ShownFigure:
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


def tokens_over_time(
    tokens: Sequence[str], explained: Sequence[ExplainedExample], labels: Sequence[str]
) -> ShownFigure:
    """One text, a row for each validation: its tokens, coloured by their attributions.

    Args:
        tokens: all tokens of the text.
        explained: at each validation.
        labels: of the rows.
    """
    shown = explained[0].players[:_WORDS]
    values = np.array([one.values[:_WORDS] for one in explained])
    limits = np.abs(values).max(1, keepdims=True)
    names, rows = [tokens[place] for place in shown], [short_name(label, 44) for label in labels]
    size = (0.3 + width_of(rows, 8) + max(0.4 * len(shown), 2), 0.2 + 0.34 * len(explained) + names_height(names))
    figure = new_figure(*size, note=_COLOURS)
    axes = figure.add_subplot()
    axes.imshow(values / np.where(limits > 0, limits, 1), cmap=diverging_colours(), vmin=-1, vmax=1, aspect="auto")
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    name_columns(axes, names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return as_written(figure)


def patches_over_time(image: Tensor, explained: Sequence[ExplainedExample], labels: Sequence[str]) -> ShownFigure:
    """One image (C, h, w), and beside it the attributions of its patches at each validation.

    Of patches of which nothing says where they lie, there is a map without the image, and of tokens of which nothing
    says which patches they are, a line of them.
    """
    picture = shown_pixels(image)
    grey = picture.mean(-1) if picture.ndim == 3 else picture
    across, along = panel_size(image.shape, side=1.8)
    above = [wrapped(short_name(label, 60), across, 8) for label in labels]
    width = max((across + 0.25) * (1 + len(explained)), 4)
    figure = new_figure(width, along + 0.3 + max(height_of(label, 8) for label in above), note=_COLOURS)
    first, *others = list(figure.subplots(1, 1 + len(explained), squeeze=False).flat)
    whole = (0, image.shape[2], image.shape[1], 0)
    first.imshow(picture, cmap="gray", extent=whole)
    for axes, one, label in zip(others, explained, above, strict=True):
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
    return as_written(figure)


_COLOURS = "red raises the predicted class, blue lowers it; each validation in its own scale"


def _draw_panel(axes: Axes, frame: pd.DataFrame, times: pd.Series, panel: Panel) -> None:
    for label, name in panel.lines.items():
        values = frame[name]
        style: dict[str, Any] = {"linewidth": 1.2} if label in panel.p_values else {"marker": "o", "markersize": 3}
        style |= {"color": "0.6"} if label == panel.grey else {}
        (line,) = axes.plot(times, values, label=short_name(label, _LONGEST), **style)
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
    axes.set_title(_title(panel), fontsize=9)
