"""What a comparison found: tables, words of caution, a figure, a page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from captum_attn._moved import warn_of_old_name
from captum_attn.bench import RANDOM
from captum_attn.comparison.cautions import Evidence, words_of_caution
from captum_attn.comparison.compared_inputs import ComparedInput
from captum_attn.comparison.comparison_figure import comparison_figure
from captum_attn.comparison.page import Content, comparison_page
from captum_attn.comparison.stability import Paraphrased, agreement_of_reruns
from captum_attn.functional import RANKING_METRICS, Agreement, agreement, mean_over_inputs, mean_over_pairs
from captum_attn.metrics import UNTOUCHED, Evaluation, Metric
from captum_attn.pages import Shown, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

USUAL = ("comprehensiveness", "sufficiency", "seconds", "f1_macro")
"""Metrics of an evaluation that are in the table, as far as they were evaluated."""


class Comparison(Shown):
    """What :func:`~captum_attn.comparison.compare` found.

    Attributes:
        evaluation: the methods' faithfulness and cost, a :class:`~captum_attn.metrics.Evaluation`.
        inputs: what was explained, with each method's scores.
        methods: their names, random scores included.
        top_k: how many tokens, or which share of them, count as the top.

    Example:
        >>> from captum_attn import ShapleyAttention, ShapleyGradAttention
        >>> from captum_attn.comparison import compare
        >>> methods = {
        ...     "gradients": ShapleyGradAttention(model, tokenizer=tokenizer),
        ...     "attention": ShapleyAttention(model, tokenizer=tokenizer),
        ... }
        >>> texts = ["a gripping , funny film", "not good at all"]
        >>> comparison = compare(model, texts, methods, tokenizer=tokenizer, show_progress=False)
        >>> comparison.matrix().shape
        (3, 3)
        >>> comparison.inputs[0].tokens[:2], comparison.scores("gradients")[0].shape
        (['a', 'gripping'], torch.Size([5]))
        >>> comparison.plot().savefig("comparison.png")
    """

    def __init__(
        self,
        evaluation: Evaluation,
        inputs: Sequence[ComparedInput],
        top_k: int | float,
        paraphrased: Sequence[Paraphrased] | None,
        class_names: Sequence[str] | None,
        further: Sequence[Metric] = (),
    ) -> None:
        known = {metric.name: metric for metric in evaluation.metrics}
        self._metrics = [*(known[name] for name in USUAL if name in known), *further]
        self.evaluation, self.inputs, self.top_k = evaluation, inputs, top_k
        self.methods = evaluation.methods
        self._paraphrased, self._class_names = paraphrased, class_names
        of_each = [agreement(one.stacked(self.methods), top_k) for one in inputs]
        self._values = torch.stack([one.values for one in of_each])  # (E, metrics, M, M)
        self._expected = torch.tensor([one.expected_by_chance for one in of_each]).double()

    def __repr__(self) -> str:
        return f"Comparison({len(self.inputs)} inputs, methods: {', '.join(self.methods)})"

    page_height = 800

    def scores(self, method: str) -> list[Tensor]:
        """A method's scores of each input's players, float64 (n,); ``inputs[i].tokens`` names them.

        Raises:
            ValueError: an unknown method.
        """
        self._check_method(method)
        return [one.scores[method] for one in self.inputs]

    def class_name(self, number: int) -> str:
        """A class as the model's configuration names it; its number if there is not one name for each output."""
        return str(number) if self._class_names is None else self._class_names[number]

    def agreement(self) -> pd.DataFrame:
        """How far each two methods agree: one row for each pair, random scores included.

        Returns:
            Columns ``method``, ``other``; ``kendall_tau``, the mean of τ-b over inputs, and its ``standard_error``;
            ``kendall_tau_of_magnitudes``, of absolute scores; ``top_k_overlap``, the share of the top tokens that are
            the same, and ``expected_by_chance``; ``same_top``, the share of inputs with the same token on top; ``n``,
            the number of inputs; ``left_out``, that of inputs on which a method has no ranking: fewer than two tokens,
            or the same score for all.
        """
        return self._agreement.copy()

    @cached_property
    def _agreement(self) -> pd.DataFrame:
        rows = []
        for first, second in combinations(range(len(self.methods)), 2):
            found = _means(self._values[:, :, first, second], self._expected)
            rows.append({"method": self.methods[first], "other": self.methods[second], **found})
        return pd.DataFrame(rows)

    def matrix(self, metric: str = "kendall_tau") -> pd.DataFrame:
        """The mean agreement of each two methods as a square table, with 1 on its diagonal.

        Args:
            metric: ``kendall_tau``, ``kendall_tau_of_magnitudes``, ``top_k_overlap`` or ``same_top``, as in
                :meth:`agreement`.

        Raises:
            ValueError: another metric.
        """
        if metric not in RANKING_METRICS:
            raise ValueError(f"unknown metric {metric!r}: expected {', '.join(map(repr, RANKING_METRICS))}")
        means = mean_over_inputs(self._values[:, RANKING_METRICS.index(metric)]).mean.fill_diagonal_(1)
        return pd.DataFrame(means.numpy(), index=self.methods, columns=self.methods)

    def stability(self) -> pd.DataFrame:
        """How far each method agrees with itself: a row for its reruns and one for paraphrases.

        Returns:
            Columns ``method``; ``under``, "reruns" or "paraphrases"; ``kendall_tau``, ``standard_error``,
            ``kendall_tau_of_magnitudes``, ``top_k_overlap``, ``expected_by_chance``, ``same_top``, ``n``, ``left_out``
            as in :meth:`agreement`, between copies of a method, or between a text and its paraphrase on the words that
            both share; ``same_prediction``, the share of paraphrases with the same predicted class, to which ``n`` is
            limited; ``shared_words``, their mean number in these; ``note``, why there are no numbers.
        """
        return self._stability.copy()

    @cached_property
    def _stability(self) -> pd.DataFrame:
        rows = []
        for method in self.methods:
            for under, found, note in (
                ("reruns", *self._under_reruns(method)),
                ("paraphrases", *self._under_paraphrases(method)),
            ):
                values = (
                    torch.stack([one.values for one in found])
                    if found
                    else torch.empty(0, len(RANKING_METRICS)).double()
                )
                expected = torch.tensor([one.expected_by_chance for one in found]).double()
                means = _means(values, expected)
                if found and not means["n"]:
                    note = "no input on which two rankings can be compared"
                rows.append({"method": method, "under": under, **means, **self._kept(under), "note": note})
        return pd.DataFrame(rows)

    def table(self) -> pd.DataFrame:
        """One row for each method, the most faithful first.

        Returns:
            Columns ``method``; ``signed``, whether any score is negative; ``comprehensiveness``, ``sufficiency`` and,
            where there are labels, ``f1_macro``, and further metrics that were asked for, with ``…_error``, the
            standard error; ``comprehensiveness_reversed``,
            of the reversed ranking; the same with ``…_knockout`` where that is the second intervention; ``seconds`` for
            one input; ``agreement``, the mean τ with the other methods but random scores, and ``top_k_agreement``, the
            mean overlap; ``under_reruns`` and ``under_paraphrases``, τ with itself, NaN where it was not measured
            (:meth:`stability` says why).
        """
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        pairs, stability = self._agreement, self._stability.set_index(["under", "method"])
        faithful = self._faithfulness()
        rows = []
        for method in self.methods:
            own = pairs[(pairs.method == method) | (pairs.other == method)]
            own = own[own.method.ne(RANDOM) & own.other.ne(RANDOM)] if method != RANDOM else own
            rows.append(
                {
                    "method": method,
                    "signed": any(bool((one.scores[method] < 0).any()) for one in self.inputs),
                    **faithful[method],
                    "agreement": own.kendall_tau.mean(),
                    "top_k_agreement": own.top_k_overlap.mean(),
                    "under_reruns": stability.kendall_tau["reruns", method],
                    "under_paraphrases": stability.kendall_tau["paraphrases", method],
                }
            )
        return pd.DataFrame(rows).sort_values("comprehensiveness", ascending=False, kind="stable", ignore_index=True)

    def cautions(self) -> list[str]:
        """What to keep in mind about this comparison: sentences that follow from its numbers, and say them."""
        return words_of_caution(self._evidence)

    @cached_property
    def _evidence(self) -> Evidence:
        return Evidence(
            table=self._table,
            agreement=self._agreement,
            stability=self._stability,
            faithfulness=self.evaluation.scores(["comprehensiveness"]),
            probabilities=[one.probability for one in self.inputs],
        )

    def plot(self, example: int | None = None) -> Figure:
        """The agreement of methods as a heat map, their faithfulness as bars, and one input as each of them sees it.

        Methods that agree stand together (average linkage of 1 - τ).

        Args:
            example: which of the inputs is shown. Default: the one on which methods agree as much as on most, the
                median of :meth:`by_agreement`.

        Returns:
            A matplotlib figure that belongs to no window.

        Raises:
            IndexError: no such input.
        """
        order = self._shown_inputs
        example = order[len(order) // 2] if example is None else example
        if not -len(self.inputs) <= example < len(self.inputs):
            raise IndexError(f"example {example} is out of range: there are {len(self.inputs)} inputs")
        example %= len(self.inputs)
        return comparison_figure(self.matrix(), self._table, self.inputs[example], self._title(example))

    def by_agreement(self) -> list[int]:
        """The numbers of the inputs on which methods can be compared, by their mean τ there: from the least up."""
        own = [place for place, method in enumerate(self.methods) if method != RANDOM]
        tau = self._values[:, RANKING_METRICS.index("kendall_tau")][:, own][:, :, own]
        of_each = mean_over_pairs(tau)
        return [row for row in of_each.argsort(stable=True).tolist() if of_each[row].isfinite()]

    def frame(self) -> pd.DataFrame:
        """:meth:`table`, a row for each method."""
        return self.table()

    def top(self, k: int = 5) -> pd.DataFrame:
        """The rows of :meth:`table` of the k most faithful methods, random scores among them."""
        return self.table().head(k)

    def page(self, examples: int = 3) -> str:
        """The comparison as one page that needs nothing else. All names and tokens in it are escaped.

        Args:
            examples: how many inputs are shown token by token, from the least to the most agreement.

        Raises:
            ValueError: a negative number.
        """
        if examples < 0:
            raise ValueError(f"examples must be at least 0, got {examples}")
        order = self._shown_inputs
        count = min(examples, len(order))
        places = sorted({round(place) for place in np.linspace(0, len(order) - 1, count)}) if count else []
        settings = self.evaluation.settings
        return comparison_page(
            Content(
                evidence=self._evidence,
                matrices={metric: self.matrix(metric) for metric in RANKING_METRICS},
                inputs={self._title(order[place]): self.inputs[order[place]] for place in places},
                metrics=self._metrics,
                top_k=self.top_k,
                interventions=settings.interventions,
                percentages=settings.percentages,
                seed=settings.seed,
            )
        )

    def to_html(self, path: str | Path, examples: int = 3) -> Path:
        """Write :meth:`page` into a file, and return its path; folders are made."""
        return write_page(self.page(examples), path)

    def save(self, path: str | Path, examples: int = 3) -> None:
        """The older name of :meth:`to_html`."""
        warn_of_old_name("Comparison.save", "to_html")
        self.to_html(path, examples)

    def _title(self, example: int) -> str:
        one = self.inputs[example]
        return f"Input {example}, predicted: {self.class_name(one.target)} (probability {one.probability:.3f})"

    @property
    def _shown_inputs(self) -> list[int]:
        """Those of :meth:`by_agreement`; all of them if there are none."""
        return self.by_agreement() or list(range(len(self.inputs)))

    def _check_method(self, method: str) -> None:
        if method not in self.methods:
            raise ValueError(f"unknown method {method!r}: expected one of {', '.join(map(repr, self.methods))}")

    def _under_reruns(self, method: str) -> tuple[list[Agreement], str]:
        if not self.inputs[0].reruns[method]:
            return [], "no copies with other seeds were given (reruns=)"
        copies = [torch.stack([one.scores[method], *one.reruns[method]]) for one in self.inputs]
        return [agreement_of_reruns(scores, self.top_k) for scores in copies], ""

    def _under_paraphrases(self, method: str) -> tuple[list[Agreement], str]:
        if self._paraphrased is None:
            return [], "no paraphrases were given (paraphrases=, of texts)"
        if not any(one.same_prediction for one in self._paraphrased):
            return [], "every paraphrase changes the predicted class"
        return [one.agreement[method] for one in self._paraphrased if one.same_prediction], ""

    def _kept(self, under: str) -> dict[str, float]:
        """What paraphrases keep: the prediction, and words."""
        if under == "reruns" or self._paraphrased is None:
            return {"same_prediction": np.nan, "shared_words": np.nan}
        same = [one for one in self._paraphrased if one.same_prediction]
        return {
            "same_prediction": len(same) / len(self._paraphrased),
            "shared_words": float(np.mean([one.shared_words for one in same])) if same else np.nan,
        }

    def _faithfulness(self) -> dict[str, dict[str, float]]:
        """What the evaluation says of each method, by name of the column."""
        settings = self.evaluation.settings
        found: dict[str, dict[str, float]] = {method: {} for method in self.methods}
        for row in self.evaluation.table(self._metrics).itertuples():
            other = "" if row.intervention in (settings.interventions[0], UNTOUCHED) else f"_{row.intervention}"
            column = f"{row.metric}{'' if row.ranking == 'scores' else '_reversed'}{other}"
            found[row.method][column] = row.mean
            if row.metric != "seconds":
                found[row.method][f"{column}_error"] = row.standard_error
        return found


def _means(values: Tensor, expected: Tensor) -> dict[str, Any]:
    """The columns that tables of agreement share, of metrics (E, 4) and of what chance expects of each input, (E,)."""
    found = mean_over_inputs(values)
    means = dict(zip(RANKING_METRICS, found.mean.tolist(), strict=True))
    tau, count = RANKING_METRICS.index("kendall_tau"), int(found.n[RANKING_METRICS.index("kendall_tau")])
    return {
        "kendall_tau": means["kendall_tau"],
        "standard_error": float(found.standard_error[tau]),
        "kendall_tau_of_magnitudes": means["kendall_tau_of_magnitudes"],
        "top_k_overlap": means["top_k_overlap"],
        "expected_by_chance": float(expected[values[:, tau].isfinite()].mean()) if count else np.nan,
        "same_top": means["same_top"],
        "n": count,
        "left_out": len(values) - count,
    }
