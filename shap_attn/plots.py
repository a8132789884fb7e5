"""SHAP's plots, with labels that say what the values are: shares of v(N), the worth of all players.

``bar``, ``beeswarm``, ``decision``, ``force``, ``heatmap``, ``image``, ``text``, ``violin`` and ``waterfall`` take an
explanation and the options of their namesakes in ``shap.plots``. Those work as well, but they speak of f(x), E[f(X)]
and "SHAP value (impact on model output)", and print two decimals, which is nothing of a small value. Here, ``bar``,
``force`` and ``waterfall`` print in thousandths or millionths where these are needed, and say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import shap
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

_VALUE = "Shapley value in the attention game"
_LABELS = (
    (r"SHAP value \(impact on model output\)", _VALUE),
    (r" \(average impact on model output magnitude\)", ""),
    (r"SHAP value", "attention-game value"),
    (r"\$E\[f\([xX]\)\]\$|base value", r"$v(\\varnothing)$"),
    (r"\$f\(x\)\$|\bf\(x\)", "$v(N)$"),
    (r"Model output value", "sum of attention-game values"),
)
_UNITS = {1: "", 1e-3: " (× 0.001)", 1e-6: " (× 0.000001)"}


def relabel(figure: Figure | None = None, *, unit: float = 1) -> Figure:
    """Make the labels of one of SHAP's figures say what the values are.

    Args:
        figure: drawn by ``shap.plots`` with ``show=False``. Default: the current one.
        unit: of the drawn values: 1, 1e-3 or 1e-6.

    Returns:
        The same figure.

    Example:
        >>> explanation = AttentionExplainer(model, tokenizer)("a gripping film")
        >>> axes = shap.plots.bar(explanation[0, :, "positive"], show=False)
        >>> relabel(axes.figure).axes[0].get_xlabel()
        'attention-game value'
    """

    def honest(label: str) -> str:
        for claimed, meant in _LABELS:
            label, found = re.subn(claimed, meant, label)
            label += _UNITS[unit] if found and "alue" in meant else ""
        return label

    figure = plt.gcf() if figure is None else figure
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        formatter = axis.get_major_formatter()
        if isinstance(formatter, FuncFormatter):  # of tick labels that were set by hand
            axis.set_major_formatter(FuncFormatter(lambda *tick, given=formatter: honest(given(*tick))))
    for label in figure.findobj(Text):
        label.set_text(honest(label.get_text()))
    return figure


def text(shap_values: shap.Explanation, *args: Any, display: bool = True, **kwargs: Any) -> str | None:
    """``shap.plots.text``, with honest labels, in colour under NumPy 2, each text relative to its own strongest token.

    Args:
        shap_values, args, kwargs: as of ``shap.plots.text``.
        display: show it in the notebook; else return the HTML.

    Raises:
        ImportError: no IPython to show it with.

    Example:
        >>> html = text(AttentionExplainer(model, tokenizer)(["a gripping film"]), display=False)
    """
    if shap_values.data is not None and not isinstance(shap_values.data[0], str):
        html = "<hr>".join(str(text(each, *args, display=False, **kwargs)) for each in shap_values)
    else:
        with np.printoptions(legacy="1.25"):  # shap 0.51 writes colours with repr: "np.float64(1.0)" in NumPy 2
            html = shap.plots.text(shap_values, *args, display=False, **kwargs)
    html = re.sub(r">f<tspan[^>]*>([^<]*)</tspan>\(inputs\)<", r">v(N) \1<", html.replace("base value", "v(∅)"))
    if not display:
        return html
    from IPython.display import HTML
    from IPython.display import display as show

    show(HTML(html))
    return None


def decision(shap_values: shap.Explanation, *, show: bool = True, **kwargs: Any) -> Any:
    """``shap.plots.decision`` of one output."""
    names = kwargs.pop("feature_names", shap_values.feature_names)
    base = float(np.mean(shap_values.base_values))
    result = shap.plots.decision(base, shap_values.values, feature_names=names, show=False, **kwargs)
    return _finished(result, show)


def force(shap_values: shap.Explanation, *, show: bool = True, **kwargs: Any) -> Any:
    """``shap.plots.force`` of one input and output, drawn by matplotlib: the labels of its JavaScript are fixed."""
    unit, drawn = _in_units(shap_values)
    labels = {"out_names": f"$v(N)${_UNITS[unit]}"}
    return _finished(shap.plots.force(drawn, **{**labels, **kwargs}, matplotlib=True, show=False), show)


def waterfall(shap_values: shap.Explanation, *, show: bool = True, **kwargs: Any) -> Any:
    """``shap.plots.waterfall`` of one input and output."""
    unit, drawn = _in_units(shap_values)
    result = shap.plots.waterfall(drawn, show=False, **kwargs)
    plt.gcf().axes[0].set_xlabel(_VALUE + _UNITS[unit], labelpad=24)
    return _finished(result, show)


def bar(shap_values: shap.Explanation | shap.Cohorts, *, show: bool = True, **kwargs: Any) -> Any:
    """``shap.plots.bar`` of one input, of a mean over inputs, or of cohorts."""
    unit, drawn = _in_units(shap_values)
    return _finished(shap.plots.bar(drawn, show=False, **kwargs), show, unit)


def image(shap_values: shap.Explanation, *, show: bool = True, **kwargs: Any) -> Any:
    """``shap.plots.image``, with the faint copy of each image where its patches are."""
    result = shap.plots.image(shap_values, show=False, **kwargs)
    for axes in plt.gcf().axes:
        if len(axes.images) == 2:  # shap.plots.image reaches half a patch beyond them
            copy, patches = axes.images
            copy.set_extent(patches.get_extent())
    return _finished(result, show)


def _relabelled(name: str, **defaults: Any) -> Callable[..., Any]:
    plot = getattr(shap.plots, name)

    @wraps(plot)
    def with_labels(*args: Any, show: bool = True, **kwargs: Any) -> Any:
        return _finished(plot(*args, **{**defaults, **kwargs}, show=False), show)

    return with_labels


def _finished(result: Any, show: bool, unit: float = 1) -> Any:
    relabel(unit=unit)
    if show:
        plt.show()
    return result


def _in_units(shap_values: shap.Explanation | shap.Cohorts) -> tuple[float, Any]:
    """The unit in which two decimals are enough, and the explanation in it; words appear once, as names."""
    cohorts = shap_values.cohorts if isinstance(shap_values, shap.Cohorts) else {"": shap_values}
    peak = max(np.abs(each.values).max() for each in cohorts.values())
    unit = next((unit for unit in _UNITS if peak >= unit), 1)
    drawn = {name: _divided(each, unit) for name, each in cohorts.items()}
    return unit, shap.Cohorts(**drawn) if isinstance(shap_values, shap.Cohorts) else drawn[""]


def _divided(explanation: shap.Explanation, unit: float) -> shap.Explanation:
    words = explanation.data is not None and np.asarray(explanation.data).dtype.kind not in "biuf"
    divided = shap.Explanation(
        explanation.values / unit,
        base_values=None if explanation.base_values is None else explanation.base_values / unit,
        data=None if words else explanation.data,
        feature_names=explanation.feature_names,
    )
    divided.op_history = explanation.op_history  # tells that values are means of magnitudes
    return divided


beeswarm = _relabelled("beeswarm", color_bar_label="occurrences in the text")
heatmap = _relabelled("heatmap")
violin = _relabelled("violin", color_bar_label="occurrences in the text")
