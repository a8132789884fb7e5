"""A comparison as one web page: every name and token escaped, inputs to hover over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from captum_attn.bench import RANDOM
from captum_attn.comparison.cautions import Evidence, words_of_caution
from captum_attn.comparison.compared_inputs import ComparedInput
from captum_attn.comparison.comparison_figure import clustered
from captum_attn.drawing import shown_pixels
from captum_attn.formatting import number, percent, short, with_error
from captum_attn.functional import RANKING_METRICS
from captum_attn.metrics import Metric
from captum_attn.pages import PatchedPicture, Scored, input_view, page


@dataclass(frozen=True)
class Content:
    """What a page shows.

    Attributes:
        evidence: the tables, from which words of caution follow.
        matrices: of each of the RANKING_METRICS, the mean agreement of each two methods.
        inputs: some, each by what is said of it.
        metrics: those of the evaluation that are shown.
        top_k: how many tokens, or which share of them, count as the top.
        interventions, percentages, seed: as :func:`~captum_attn.metrics.evaluate` was given them.
    """

    evidence: Evidence
    matrices: Mapping[str, pd.DataFrame]
    inputs: Mapping[str, ComparedInput]
    metrics: Sequence[Metric]
    top_k: int | float
    interventions: Sequence[str]
    percentages: Sequence[float]
    seed: int


def comparison_page(content: Content) -> str:
    """The page, with some inputs token by token."""
    evidence, order = content.evidence, clustered(content.matrices["kendall_tau"])
    count = len(evidence.probabilities)
    sections, views = _inputs(content.inputs, list(evidence.table.method))
    parts = [
        f"<h1>{len(evidence.methods)} explanations of {count} prediction{'s' * (count > 1)}</h1>",
        _cautions(words_of_caution(evidence)),
        _agreement(content, order),
        _faithfulness(evidence.table, content.metrics, content.interventions),
        _stability(evidence.stability),
        *sections,
        _method(content),
    ]
    return page("Comparison of explanations", "\n".join(parts), views, wide=True)


def _cautions(sentences: Sequence[str]) -> str:
    items = "\n".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<h2>What to keep in mind</h2>\n<ul class='cautions'>\n{items}\n</ul>"


def _agreement(content: Content, order: Sequence[str]) -> str:
    metrics = ("kendall_tau", "kendall_tau_of_magnitudes", "top_k_overlap")
    matrix, magnitudes, overlap = (content.matrices[metric] for metric in metrics)
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in order)
    rows = []
    for name in order:
        cells = []
        for other in order:
            tau = matrix.loc[name, other]
            more = f"of magnitudes {number(magnitudes.loc[name, other])}, overlap {number(overlap.loc[name, other])}"
            hover = f"{name}, {other}: τ {number(tau)}, {more}"
            shade = "" if tau != tau else f" data-shade='{tau:.3f}' data-palette='agreement'"
            cells.append(f"<td{shade} title='{escape(hover)}'>{short(tau)}</td>")
        rows.append(f"<tr><th scope='row'>{escape(name)}</th>{''.join(cells)}</tr>")
    chance = content.evidence.agreement.expected_by_chance.mean()
    return (
        "<h2>Who agrees with whom</h2>\n<p class='note'>Kendall's τ between the rankings of each input's tokens, mean "
        "over inputs: 1 for the same order, 0 for chance, −1 for the reverse. Methods that agree stand together. Hover "
        f"for τ of absolute scores, and the overlap of the top tokens (by chance {number(chance)}).</p>\n"
        f"<div class='scroll'><table class='heat'><thead><tr><td></td>{head}</tr></thead>\n<tbody>"
        + "\n".join(rows)
        + "</tbody></table></div>"
    )


def _faithfulness(table: pd.DataFrame, metrics: Sequence[Metric], interventions: Sequence[str]) -> str:
    """A row for each method, the most faithful first; other interventions than the first in a table of their own."""
    first, *others = interventions
    headings = {metric.name: f"{_HEADINGS.get(metric.name, metric.title)}\u00a0{metric.arrow}" for metric in metrics}
    headings["seconds"] = _HEADINGS["seconds"]
    faithful = [name for name in headings if name != "seconds"]
    own = ["seconds", "agreement", "top_k_agreement", "under_reruns", "under_paraphrases"]
    parts = [
        "<h2>Who is faithful, and at what cost</h2>\n<p class='note'>Mean ± standard error. Comprehensiveness: how far "
        f"the predicted class's probability falls without the top tokens (by {escape(first)}); reversed: without the "
        "lowest ones. Sufficiency: how far it falls with them alone. Agreement: mean τ, and mean top-k overlap, with "
        "the other methods. τ with itself: under other seeds, and on paraphrases.</p>",
        _rows(table, ["method", "signed", faithful[0], f"{faithful[0]}_reversed", *faithful[1:], *own], headings),
    ]
    for other in others:
        under = {f"{column}_{other}": headings[column] for column in faithful}
        parts.append(f"<h3>By {escape(other)}</h3>\n{_rows(table, ['method', *under], under)}")
    return "\n".join(parts)


def _stability(frame: pd.DataFrame) -> str:
    """Each method's agreement with itself; methods that were not asked are named with the reason."""
    parts = ["<h2>Who agrees with itself</h2>"]
    for under, title in (("reruns", "Under another seed"), ("paraphrases", "On paraphrases")):
        own = frame[frame.under == under]
        measured, others = own[own.note == ""], own[(own.note != "") & (own.method != RANDOM)]
        parts.append(f"<h3>{title}</h3>")
        same = own.same_prediction.iloc[0]
        if same == same:
            parts.append(
                f"<p class='note'>The predicted class stays the same in {percent(same)} of the texts. On average, "
                f"{number(own.shared_words.iloc[0], 1)} words of these are in the paraphrase, too, and are ranked.</p>"
            )
        if measured.method.ne(RANDOM).any():
            parts.append(_rows(measured, ["method", *RANKING_METRICS, "expected_by_chance", "n"]))
        for note, of_note in others.groupby("note", sort=False):
            names = ", ".join(of_note.method) if len(of_note) < len(own) - 1 else "any method"
            parts.append(f"<p class='note'>Not measured for {escape(names)}: {escape(note)}.</p>")
    return "\n".join(parts)


def _rows(table: pd.DataFrame, columns: Sequence[str], headings: Mapping[str, str] | None = None) -> str:
    """Some columns of a table, those without any number left out; comprehensiveness as a bar, too."""
    headings = {**_HEADINGS, **(headings or {})}
    shown = [column for column in columns if column in table and table[column].notna().any()]
    head = "".join(f"<th scope='col'>{escape(headings.get(column, column))}</th>" for column in shown)
    rows = []
    for _, row in table.iterrows():
        cells = [f"<th scope='row'>{escape(row.method)}</th>"]
        for column in shown[1:]:
            full = (
                table[column].max() if column.startswith("comprehensiveness") and not column.endswith("reversed") else 0
            )
            share = max(row[column], 0) / full if full > 0 else 0
            bar = f" class='meter' data-share='{share:.0%}'" if share else ""
            cells.append(f"<td{bar}>{_cell(row, column)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(rows)
    return (
        f"<div class='scroll'><table class='rows'><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _cell(row: pd.Series, column: str) -> str:
    value, error = row[column], row.get(f"{column}_error", float("nan"))
    if column == "signed":
        return "yes" if value else "no"
    if column == "seconds":
        return f"{1e3 * value:,.0f}" if value >= 0.1 else f"{1e3 * value:.3g}"
    digits = 0 if column == "n" else 2 if error != error else 3
    return with_error(value, error, digits)


def _inputs(inputs: Mapping[str, ComparedInput], order: Sequence[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """The section of inputs, and what the script shows in it."""
    if not inputs:
        return [], []
    parts = [
        "<h2>Some inputs, as each method sees them</h2>\n<p class='note'>From the one on which methods agree least to "
        "the one on which they agree most. Red speaks for the predicted class, blue against it, relative to each "
        "method's strongest token; methods without negative scores say how much, not which way. The most faithful "
        "method is first; hover for values, click a method to look at it.</p>"
    ]
    views = []
    for place, (title, one) in enumerate(inputs.items()):
        parts.append(f"<h3>{escape(title)}</h3><div id='input-{place}'></div>")
        views.append(_view(f"input-{place}", one, order))
    return parts, views


def _view(element: str, one: ComparedInput, order: Sequence[str]) -> dict[str, Any]:
    if one.picture is None:
        pieces, picture, shown = one.pieces, None, one.scores
    else:
        patches = one.picture.grid.rows * one.picture.grid.columns
        pieces = [f" {patch}" for patch in range(patches)]
        shown = {method: one.picture.patches(scores).flatten() for method, scores in one.scores.items()}
        grid, pixels = one.picture.grid, shown_pixels(one.picture.pixels)
        picture = PatchedPicture(pixels, (grid.rows, grid.columns), grid.extent, range(patches))
    methods = {name: Scored(shown[name].nan_to_num()[None], "", bool((shown[name] < 0).any())) for name in order}
    return input_view(element, pieces, [False] * len(pieces), ["the predicted class"], 0, methods, picture)


def _method(content: Content) -> str:
    top = f"{content.top_k}" if isinstance(content.top_k, int) else f"{100 * content.top_k:g} % of the"
    shares = ", ".join(f"{share:g}" for share in content.percentages)
    count, left_out = len(content.evidence.probabilities), int(content.evidence.agreement.left_out.max())
    return (
        "<h2>How this was measured</h2>\n<p class='note'>Every method explained the predicted class of each of "
        f"{count} inputs, once. τ is Kendall's τ-b, which knows ties; for each two methods it is the "
        f"mean over the inputs on which both have a ranking ({left_out} or fewer are left out). Top-k: the highest "
        f"{top} tokens, of ties each with the same chance. Tokens were taken away by "
        f"{escape(' and by '.join(content.interventions))}, at {shares} % of each input's tokens. Random scores have "
        f"the seed {content.seed}. Methods are ordered by clustering (average linkage of 1 − τ).</p>"
    )


_HEADINGS = {
    "comprehensiveness_reversed": "reversed",
    "f1_macro": "F1 on top 20\u00a0%",
    "seconds": "ms an input",
    "top_k_agreement": "top-k overlap",
    "under_reruns": "τ, other seeds",
    "under_paraphrases": "τ, paraphrases",
    "kendall_tau": "τ",
    "kendall_tau_of_magnitudes": "τ of magnitudes",
    "top_k_overlap": "top-k overlap",
    "expected_by_chance": "overlap by chance",
    "same_top": "same token on top",
    "n": "inputs",
}
