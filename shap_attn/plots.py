"""SHAP's plots, with labels that say what the values are: shares of v(N), the worth of all players.

``bar``, ``beeswarm``, ``decision``, ``force``, ``heatmap``, ``image``, ``text``, ``violin`` and ``waterfall`` take an
explanation and the options of their namesakes in ``shap.plots``. Those work as well, but they speak of f(x), E[f(X)]
and "SHAP value (impact on model output)", and print two decimals, which is nothing of a small value. Here, ``bar``,
``force`` and ``waterfall`` print in thousandths or millionths where these are needed, and say so.

Explanations whose base values are not 0 are SHAP's own, and keep SHAP's labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import shap
from matplotlib.axes import Axes
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


def relabel(figure: Figure | None = None) -> Figure:
    """Make the labels of one of SHAP's figures say what the values are.

    Args:
        figure: drawn by ``shap.plots`` with ``show=False``. Default: the current one.

    Returns:
        The same figure.

    Example:
        >>> explanation = AttentionExplainer(model, tokenizer)("a gripping film")
        >>> axes = shap.plots.bar(explanation[0, :, "positive"], show=False)
        >>> relabel(axes.figure).axes[0].get_xlabel()
        'attention-game value'
    """
    figure = plt.gcf() if figure is None else figure
    _relabel(figure.axes)
    return figure


def _relabel(every: Sequence[Axes], unit: float = 1) -> None:
    def honest(label: str) -> str:
        for claimed, meant in _LABELS:
            label, found = re.subn(claimed, meant, label)
            label += _UNITS[unit] if found and "alue" in meant else ""
        return label

    for axes in every:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            if isinstance(formatter, FuncFormatter):  # of tick labels that were set by hand
                axis.set_major_formatter(FuncFormatter(lambda *tick, given=formatter: honest(given(*tick))))
        for label in axes.findobj(Text):
            label.set_text(honest(label.get_text()))


def text(shap_values: shap.Explanation, *args: Any, display: bool = True, **kwargs: Any) -> str | None:
    """``shap.plots.text``, with honest labels, and in colour under NumPy 2.

    Of several texts, each is relative to its own strongest token. The names of classes are not coloured by v(N), which
    is no prediction.

    Args:
        shap_values, args, kwargs: as of ``shap.plots.text``.
        display: show it in the notebook; else return the HTML.

    Raises:
        ImportError: no IPython to show it with.
        ValueError: pooled values, which are no text any more.

    Example:
        >>> html = text(AttentionExplainer(model, tokenizer)(["a gripping film"]), display=False)
    """
    html: str
    data: Any = shap_values.data
    if isinstance(data[0], str):
        with np.printoptions(legacy="1.25"):  # shap 0.51 writes colours with repr: "np.float64(1.0)" in NumPy 2
            html = shap.plots.text(shap_values, *args, display=False, **kwargs)
        html = _honest_html(html) if _is_ours(shap_values) else html
    elif np.ndim(data[0]) == 1 and all(isinstance(segment, str) for segment in data[0]):
        parts = (text(each, *args, display=False, **kwargs) for each in shap_values)
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
    """``shap.plots.bar`` of one input, of a mean over inputs, of cohorts, or of many inputs (whose mean it takes)."""
    unit, drawn = _in_units(_means(shap_values))
    return _finished(shap.plots.bar(drawn, show=False, **kwargs), shap_values, show, unit, kwargs.get("ax"))


def decision(shap_values: shap.Explanation, *, show: bool = True, **kwargs: Any) -> Any:
    """``shap.plots.decision`` of one output: base values, values and names are those of the explanation."""
    names = kwargs.pop("feature_names", shap_values.feature_names)
    base = float(np.mean(shap_values.base_values))
    result = shap.plots.decision(base, shap_values.values, feature_names=names, show=False, **kwargs)
    return _finished(result, shap_values, show)


def force(shap_values: shap.Explanation, *, show: bool = True, **kwargs: Any) -> Any:
    """``shap.plots.force`` of one input and output, always drawn by matplotlib: its JavaScript has fixed labels."""
    unit, drawn = _in_units(shap_values)
    labels = {"out_names": f"$v(N)${_UNITS[unit]}"} if _is_ours(shap_values) else {}
    result = shap.plots.force(drawn, **{**labels, **kwargs, "matplotlib": True, "show": False})
    return _finished(result, shap_values, show)


def image(shap_values: shap.Explanation, *, show: bool = True, **kwargs: Any) -> Any:
    """``shap.plots.image``, with the faint copy of each image where its patches are."""
    result = shap.plots.image(shap_values, show=False, **kwargs)
    for axes in plt.gcf().axes:
        if len(axes.images) == 2:  # shap.plots.image reaches half a patch beyond them
            copy, patches = axes.images
            copy.set_extent(patches.get_extent())
    return _finished(result, shap_values, show)


def waterfall(shap_values: shap.Explanation, *, show: bool = True, **kwargs: Any) -> Any:
    """``shap.plots.waterfall`` of one input and output."""
    if np.ndim(shap_values.values) != 1 or shap_values.values.dtype == object:
        raise ValueError(
            f"a waterfall shows one input and one output, got values of shape {shap_values.shape}: slice them, e.g. "
            "explanation[0, :, 'positive']"
        )
    unit, drawn = _in_units(shap_values)
    result = shap.plots.waterfall(drawn, show=False, **kwargs)
    if _is_ours(shap_values):
        plt.gcf().axes[0].set_xlabel(_VALUE + _UNITS[unit], labelpad=24, fontsize=13)
    return _finished(result, shap_values, show)


def _dense(name: str, **defaults: Any) -> Callable[..., Any]:
    """A plot that takes one column for each feature."""
    plot = getattr(shap.plots, name)

    @wraps(plot)
    def with_labels(shap_values: shap.Explanation, *args: Any, show: bool = True, **kwargs: Any) -> Any:
        if isinstance(shap_values, shap.Explanation) and isinstance(shap_values.data, tuple | list):
            raise ValueError(
                f"{name} needs the same features in each input: {name}(pool(explanation)[:, :, 'positive'])"
            )
        result = plot(shap_values, *args, **{**defaults, **kwargs}, show=False)
        return _finished(result, shap_values, show, axes=kwargs.get("ax"))

    return with_labels


def _finished(result: Any, shap_values: Any, show: bool, unit: float = 1, axes: Axes | None = None) -> Any:
    if _is_ours(shap_values):
        _relabel(plt.gcf().axes if axes is None else [axes], unit)
    if show:
        plt.show()
    return result


def _is_ours(shap_values: Any) -> bool:
    """Whether v(∅) = 0 everywhere."""
    every = _cohorts(shap_values).values()
    return all(each.base_values is None or not np.any(each.base_values) for each in every)


def _cohorts(shap_values: Any) -> dict[str, shap.Explanation]:
    if isinstance(shap_values, shap.Cohorts):
        return dict(shap_values.cohorts)
    return shap_values if isinstance(shap_values, dict) else {"": shap_values}


def _means(shap_values: Any) -> Any:
    """Mean magnitudes of many texts, by name; anything else as it is."""
    if isinstance(shap_values, shap.Explanation) and isinstance(shap_values.data, tuple | list):
        return shap_values.abs.mean(0)
    return shap_values


def _in_units(shap_values: Any) -> tuple[float, Any]:
    """The unit in which two decimals are enough, and the explanation in it; words appear once, as names."""
    cohorts = _cohorts(shap_values)
    peak = max(np.abs(each.values).max() for each in cohorts.values())
    unit = next((unit for unit in _UNITS if peak >= unit), 1) if _is_ours(shap_values) else 1
    drawn = {name: _divided(each, unit) for name, each in cohorts.items()}
    return unit, drawn[""] if isinstance(shap_values, shap.Explanation) else shap.Cohorts(**drawn)


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


def _honest_html(html: str) -> str:
    html = re.sub(r">f<tspan[^>]*>([^<]*)</tspan>\(inputs\)<", r">v(N) \1<", html.replace("base value", "v(∅)"))
    # The colours of the classes' names, which are by v(N).
    return re.sub(
        r'background: rgba\([^)]*\)(; border-radius: 3px; padding: 0px" id="_tp_)', r"background: none\1", html
    )


beeswarm = _dense("beeswarm", color_bar_label="occurrences in the text")
heatmap = _dense("heatmap")
violin = _dense("violin", color_bar_label="occurrences in the text")
