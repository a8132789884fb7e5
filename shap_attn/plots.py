"""SHAP's plots, with labels that say what the values are: attributed values, which begin at 0, and their sum.

``bar``, ``beeswarm``, ``decision``, ``force``, ``heatmap``, ``image``, ``text``, ``violin`` and ``waterfall`` take an
explanation and the options of their namesakes in ``shap.plots``. Those work as well, but they speak of f(x), E[f(X)]
and "SHAP value (impact on model output)", and print two decimals, which is nothing of a small value. Here, ``bar``,
``force`` and ``waterfall`` print in thousandths or millionths where these are needed, and say so.

Explanations whose base values are not 0 are SHAP's own, and keep SHAP's labels. Tokens, names and titles are shown as
they are written, ``$`` and all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import shap
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from shap_attn.marked_names import marked, rewrite, unmarked
from shap_attn.plottable import (
    check_bars,
    check_explanation,
    check_images,
    check_one,
    check_same_features,
    of_many_texts,
)

_VALUE = "attributed value"
_LABELS = (
    (r"SHAP value \(impact on model output\)", _VALUE),
    (r" \(average impact on model output magnitude\)", ""),
    (r"SHAP value", "attributed value"),
    (r"\$E\[f\([xX]\)\]\$|base value", "base"),
    (r"\$f\(x\)\$|\bf\(x\)", "sum"),
    (r"Model output value", "sum of attributed values"),
)
_NAMES = ("feature_names", "labels", "legend_labels", "out_names", "title", "true_labels")
"""Options of SHAP's plots that are somebody's names."""

_NO_MATHEMATICS = "mathjax_ignore tex2jax_ignore"
"""Notebooks read ``$`` in HTML as mathematics, but not in what is of these classes."""

_WIDER = 10
"""Points."""

_UNITS = {1: "", 1e-3: " (× 0.001)", 1e-6: " (× 0.000001)"}


def relabel(figure: Figure | None = None) -> Figure:
    """Make the labels of one of SHAP's figures say what the values are.

    Args:
        figure: drawn by ``shap.plots`` with ``show=False``. Default: the current one.

    Returns:
        The same figure.

    Raises:
        TypeError: no figure.

    Example:
        >>> explanation = AttentionExplainer(model, tokenizer)("a gripping film")
        >>> axes = shap.plots.bar(explanation[0, :, "positive"], show=False)
        >>> relabel(axes.figure).axes[0].get_xlabel()
        'attributed value'
    """
    figure = plt.gcf() if figure is None else figure
    if not isinstance(figure, Figure):
        raise TypeError(f"relabel takes a matplotlib Figure, got {type(figure).__name__}: of axes, give axes.figure")
    rewrite(figure.axes, _honest())
    return figure


def _honest(unit: float = 1) -> Callable[[str], str]:
    """A function that makes a label say what is meant, and in which unit."""

    def honest(label: str) -> str:
        for claimed, meant in _LABELS:
            label, found = re.subn(claimed, meant, label)
            label += _UNITS[unit] if found and "alue" in meant else ""
        return label

    return honest


def text(shap_values: shap.Explanation, *args: Any, display: bool = True, **kwargs: Any) -> str | None:
    """``shap.plots.text``, with honest labels, and in colour under NumPy 2.

    Of several texts, each is relative to its own strongest token. The names of classes are not coloured by the
    sum, which is no prediction.

    Args:
        shap_values, args, kwargs: as of ``shap.plots.text``.
        display: show it in the notebook; else return the HTML.

    Raises:
        ImportError: no IPython to show it with.
        TypeError: no explanation.
        ValueError: pooled values, which are no text any more.

    Example:
        >>> html = text(AttentionExplainer(model, tokenizer)(["a gripping film"]), display=False)
    """
    explanation = check_explanation("text", shap_values)
    rows: Any = [] if explanation.data is None else explanation.data
    if len(rows) and isinstance(rows[0], str):
        with np.printoptions(legacy="1.25"):  # shap 0.51 writes colours with repr: "np.float64(1.0)" in NumPy 2
            html: str = shap.plots.text(explanation, *args, display=False, **kwargs)
        html = _honest_html(html) if _is_ours(explanation) else html
        html = f'<div class="{_NO_MATHEMATICS}">{html}</div>'
    elif len(rows) and np.ndim(rows[0]) == 1 and all(isinstance(segment, str) for segment in rows[0]):
        parts = (text(each, *args, display=False, **kwargs) for each in explanation)
        html = "".join(f"<hr><small>[{row}]</small>{part}" for row, part in enumerate(parts))
    else:
        raise ValueError("expected an explanation of texts, got one of other data (pooled?): see the other plots")
    if not display:
        return html
    from IPython.display import HTML
    from IPython.display import display as show

    show(HTML(html))
    return None


def bar(shap_values: Any, *, show: bool = True, **kwargs: Any) -> Any:
    """``shap.plots.bar`` of one input, of a mean over inputs, of cohorts, or of many inputs (whose mean it takes).

    Raises:
        TypeError: no explanation, nor cohorts of explanations.
        ValueError: several outputs; cohorts of different features, which SHAP would take for the same.
    """
    cohorts = {name: _mean(check_bars(each)) for name, each in _cohorts(shap_values).items()}
    features = [np.ravel(each.feature_names).tolist() for each in cohorts.values()]
    if any(names != features[0] for names in features):
        raise ValueError("cohorts in one plot need the same features: take them from pool(explanation)")
    unit = _unit(cohorts)
    drawn = {marked(name): _shown(each, unit) for name, each in cohorts.items()}
    alone = isinstance(shap_values, shap.Explanation)
    result = _drawn("bar", drawn[marked("")] if alone else shap.Cohorts(**drawn), **kwargs)
    return _finished(result, shap_values, show, unit, kwargs.get("ax"))


def decision(shap_values: shap.Explanation, *, show: bool = True, **kwargs: Any) -> Any:
    """``shap.plots.decision`` of one output: base values, values and names are those of the explanation.

    Raises:
        TypeError: no explanation.
        ValueError: several outputs, or inputs of different features.
    """
    check_same_features("decision", shap_values, (1, 2))
    given = {"feature_names": shap_values.feature_names, **kwargs}
    base = 0.0 if shap_values.base_values is None else float(np.mean(shap_values.base_values))
    result = _drawn("decision", base, shap_values.values, **given)
    if result is not None:
        result.feature_names = [unmarked(name) for name in result.feature_names]
    return _finished(result, shap_values, show)


def force(shap_values: shap.Explanation, *, show: bool = True, **kwargs: Any) -> Any:
    """``shap.plots.force`` of one input and output, always drawn by matplotlib: its JavaScript has fixed labels.

    Raises:
        TypeError: no explanation.
        ValueError: several inputs or outputs.
    """
    check_one("force", shap_values)
    unit = _unit({"": shap_values})
    formulas = {"out_names": f"sum{_UNITS[unit]}"} if _is_ours(shap_values) else {}
    result = _drawn("force", _shown(shap_values, unit), formulas=formulas, **{**kwargs, "matplotlib": True})
    return _finished(result, shap_values, show)


def image(shap_values: shap.Explanation, *, show: bool = True, **kwargs: Any) -> Any:
    """``shap.plots.image``, with the faint copy of each image where its patches are.

    Raises:
        TypeError: no explanation.
        ValueError: one of no images, without pictures to show, or with ``pixel_values`` of another size than ``data``,
            which is cut to what the patches cover.
    """
    check_images(shap_values, kwargs.get("pixel_values"))
    shown = _with_classes(shap_values)
    result = _drawn("image", shown, **{"labels": shown.output_names, **kwargs})
    for axes in plt.gcf().axes:
        if len(axes.images) == 2:  # shap.plots.image reaches half a patch beyond them
            faint, patches = axes.images
            faint.set_extent(patches.get_extent())
    return _finished(result, shap_values, show)


def waterfall(shap_values: shap.Explanation, *, show: bool = True, **kwargs: Any) -> Any:
    """``shap.plots.waterfall`` of one input and output.

    Raises:
        TypeError: no explanation.
        ValueError: several inputs or outputs.
    """
    check_one("waterfall", shap_values)
    unit = _unit({"": shap_values})
    result = _drawn("waterfall", _shown(shap_values, unit), **kwargs)
    if _is_ours(shap_values):
        figure = plt.gcf()
        below, _, above = figure.axes
        below.set_xlabel(_VALUE + _UNITS[unit], labelpad=24, fontsize=13)
        total = above.get_xticklabels()[0]  # "sum" is wider than "f(x)", to whose right its number stands
        total.set_transform(total.get_transform() + ScaledTranslation(-_WIDER / 72, 0, figure.dpi_scale_trans))
    return _finished(result, shap_values, show)


def _dense(name: str, **defaults: Any) -> Callable[..., Any]:
    """A plot that takes one column for each feature."""

    @wraps(getattr(shap.plots, name))
    def with_labels(shap_values: shap.Explanation, *args: Any, show: bool = True, **kwargs: Any) -> Any:
        check_same_features(name, shap_values)
        shown = _shown(shap_values, display_data=shap_values.display_data, clustering=shap_values.clustering)
        result = _drawn(name, shown, *args, **{**defaults, **kwargs})
        return _finished(result, shap_values, show, axes=kwargs.get("ax"))

    return with_labels


def _drawn(plot: str, shown: Any, *args: Any, formulas: Mapping[str, str] | None = None, **kwargs: Any) -> Any:
    """One of SHAP's plots, with marks on the names and titles among its options; ``formulas`` are options, too."""
    given = {name: marked(value) if name in _NAMES else value for name, value in kwargs.items()}
    return getattr(shap.plots, plot)(shown, *args, **{**(formulas or {}), **given, "show": False})


def _with_classes(images: shap.Explanation) -> shap.Explanation:
    """With the axis of classes that shap.plots.image wants, if one class was sliced out."""
    if not isinstance(images.output_names, str):
        return images
    return shap.Explanation(images.values[..., None], data=images.data, output_names=[images.output_names])


def _finished(result: Any, shap_values: Any, show: bool, unit: float = 1, axes: Axes | None = None) -> Any:
    rewrite(plt.gcf().axes if axes is None else [axes], _honest(unit) if _is_ours(shap_values) else str)
    if not show:
        return result
    plt.show()
    return None if isinstance(result, Axes | Figure) else result  # as SHAP: nothing that a notebook would print


def _is_ours(shap_values: Any) -> bool:
    """Whether base values are 0 everywhere."""
    every = _cohorts(shap_values).values()
    return all(each.base_values is None or not np.any(each.base_values) for each in every)


def _cohorts(shap_values: Any) -> dict[str, shap.Explanation]:
    if isinstance(shap_values, shap.Cohorts):
        return dict(shap_values.cohorts)
    return dict(shap_values) if isinstance(shap_values, dict) else {"": shap_values}


def _mean(explanation: shap.Explanation) -> shap.Explanation:
    """Mean magnitudes of many texts, by name; anything else as it is."""
    return explanation.abs.mean(0) if of_many_texts(explanation) else explanation


def _unit(cohorts: Mapping[str, shap.Explanation]) -> float:
    """The unit in which two decimals are enough."""
    peak = max(np.abs(each.values).max() for each in cohorts.values())
    return next((unit for unit in _UNITS if peak >= unit), 1) if _is_ours(cohorts) else 1


def _shown(explanation: shap.Explanation, unit: float = 1, **more: Any) -> shap.Explanation:
    """What SHAP is to draw: values in a unit, and marked names; words appear once, as names."""
    words = explanation.data is not None and np.asarray(explanation.data).dtype.kind not in "biuf"
    base = np.zeros(explanation.shape[:-1]) if explanation.base_values is None else explanation.base_values
    shown = shap.Explanation(
        explanation.values / unit,
        base_values=base / unit,
        data=None if words else explanation.data,
        feature_names=marked(explanation.feature_names),
        **more,
    )
    shown.op_history = explanation.op_history  # tells that values are means of magnitudes
    return shown


def _honest_html(html: str) -> str:
    html = re.sub(r">f<tspan[^>]*>([^<]*)</tspan>\(inputs\)<", r">sum \1<", html.replace(">base value<", ">base<"))
    # The colours of the classes' names, which are by the sum.
    return re.sub(
        r'background: rgba\([^)]*\)(; border-radius: 3px; padding: 0px" id="_tp_)', r"background: none\1", html
    )


beeswarm = _dense("beeswarm", color_bar_label="occurrences in the text")
heatmap = _dense("heatmap")
violin = _dense("violin", color_bar_label="occurrences in the text")
