"""Which explanation is the most faithful? Many methods, many examples, one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from captum_attn.bench import (
    INTERVENTIONS,
    RANDOM,
    Data,
    Examples,
    Intervention,
    MaskedModel,
    Method,
    Rationales,
    WholeInputs,
    batches,
    check_methods,
    checked_labels,
    checked_rationales,
    examples_of,
    rationale_fingerprint,
)
from captum_attn.core import Replacement, config_of, fingerprint, warn_user
from captum_attn.functional import PERCENTAGES
from captum_attn.metrics.catalogue import CATALOGUE, Metric, known_metrics
from captum_attn.metrics.evaluated_batch import EvaluatedBatch, read_batch
from captum_attn.metrics.findings import lack
from captum_attn.metrics.record import REMOVALS, EvaluationSettings, Record, kept_as, removals_for
from captum_attn.metrics.results import Evaluation

OnScores = Callable[[str, Tensor, Sequence[int], WholeInputs], None]


def evaluate(
    model: Callable[..., Any],
    data: Data,
    methods: Mapping[str, Method],
    *,
    tokenizer: Any | None = None,
    labels: Sequence[int] | Tensor | None = None,
    rationales: Rationales | None = None,
    metrics: Sequence[str | Metric] | None = None,
    percentages: Sequence[float] = PERCENTAGES["eraser"],
    interventions: Sequence[Intervention] = ("replacement",),
    replacement: Replacement | None = None,
    layers: Sequence[int] | int | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    seed: int = 0,
    file: str | Path | None = None,
    on_scores: OnScores | None = None,
    show_progress: bool = True,
) -> Evaluation:
    """Measure how faithful explanations of a classifier are, side by side.

    Each method explains the predicted class of every example. Then the tokens with its highest scores are taken away,
    or all others, and the model is asked again: each distinct input once, whichever methods want it. Random scores are
    always among the methods, and each method's ranking is evaluated in reverse, too (by the first intervention): a
    method that is no better than random explains nothing, and one whose reverse is no worse ranks nothing.

    Args:
        model: a classifier with logits (B, C): the Hugging Face model itself, any module, or a function.
        data: texts; texts as lists of words, which are joined by spaces; pairs (tuples) of either; pixels
            (N, C, h, w), waves (N, samples), videos (N, frames, C, h, w) or token ids (N, T); or the mapping of tensors
            that a tokenizer, or a processor of images, sounds or videos, returns.
        methods: names and attributions. An attribution is one of ours; one of captum's that takes token ids or pixels
            (it gets the predicted classes as ``target`` and, of ``attention_mask, token_type_ids, position_ids``, as
            many ``additional_forward_args`` as its function takes); or a function of a batch, a mapping of tensors, and
            its targets int64 (B,). It returns (B, N), (B, N, D) or the shape of what is cut into patches. In ``file``,
            methods and metrics are told apart by name.
        tokenizer: the model's; needed for texts.
        labels: the gold classes, for F1.
        rationales: what people chose, for plausibility, one for each example. Of texts, a list of character spans
            (start, end), or an array (K, 2) of them; of a pair, those of the first text. Of lists of words (ERASER,
            HateXplain), a mask with 0 or 1 for each word; of a pair of them (e-SNLI), two such masks. In all these,
            [] is none. Of tensors, bool (N, T) for tokens, (N, h, w) for pixels, (N, samples) or (N, frames, h, w): a
            patch is chosen if half of it is. Warnings say how many were cut with their texts, lie outside of them, or
            choose no token.
        metrics: what to measure: names of the catalogue (see :meth:`~captum_attn.metrics.Evaluation.table`), or
            :class:`~captum_attn.metrics.Metric` records of your own. Tokens are taken away only as these need it.
            Default: all that the other arguments allow.
        percentages: of tokens that are taken or kept, between 0 and 100. With 0 and 100 among them, such as
            ``range(0, 101, 10)``, deletion and insertion are measured.
        interventions: how tokens are taken: ``"replacement"`` in the input, ``"knockout"`` from attention, or both.
        replacement: a token id, by default the mask token's; for images ``"mean"`` (default) or ``"zeros"``.
        layers: those in which a knockout blocks attention; default: all.
        batch_size: how many inputs methods and model see at a time.
        max_length: the most tokens of a text, special tokens included; default: as many as the model reads.
        seed: of the random scores.
        file: where results are kept as they come (JSON lines). A run that was interrupted goes on from there, and one
            with further methods adds them. A file of other settings, data or another model is refused.
        on_scores: called with a method's name, its checked scores (B, N) of a batch, the numbers of its examples, and
            these as the model sees them (:class:`~captum_attn.bench.WholeInputs`), for each that is explained now.
        show_progress: show a progress bar.

    Returns:
        The :class:`~captum_attn.metrics.Evaluation`, with tables and plots.

    Raises:
        TypeError, ValueError: arguments that are none of the above or do not fit each other; a model without logits
            (B, C) or observable attention; a tokenizer without a token that could replace others; a method that
            returns another shape or NaN. What was measured before is in ``file``.

    Example:
        >>> from captum_attn import ShapleyAttention, ShapleyGradAttention
        >>> methods = {
        ...     "gradients": ShapleyGradAttention(model, tokenizer=tokenizer),
        ...     "attention": ShapleyAttention(model, tokenizer=tokenizer),
        ... }
        >>> texts = ["a gripping film", "not good at all"]
        >>> result = evaluate(model, texts, methods, tokenizer=tokenizer, show_progress=False)
        >>> list(result.table(["comprehensiveness"]).method.unique())
        ['gradients', 'attention', 'random']

    Source: DeYoung et al. 2020 (ERASER) for the metrics; arXiv 2508.08966, section 4, for the comparison.
    """
    check_methods(methods)
    shares, interventions = _checked_percentages(percentages), _checked_interventions(interventions)
    wanted = None if metrics is None else known_metrics(metrics)
    if wanted == []:
        raise ValueError("metrics is empty: expected names or Metric records, or None for all that can be measured")
    masked = MaskedModel(model, tokenizer, replacement=replacement, layers=layers, batch_size=batch_size)
    examples = examples_of(data, tokenizer, masked.model, max_length)
    gold = checked_labels(labels, len(examples), config_of(masked.model))
    people = None if rationales is None else checked_rationales(rationales, examples)
    at_once = [metric for metric in wanted or CATALOGUE.values() if metric.at_once]
    at_once = [metric for metric in at_once if people is not None or "rationales" not in metric.needs]
    settings = EvaluationSettings(
        percentages=shares,
        interventions=interventions,
        replacement=None if replacement is None else str(replacement),
        layers=None if masked.layers is None else tuple(masked.layers),
        seed=seed,
        data=examples.fingerprint(),
        model=fingerprint(masked.model),
        labels=None if gold is None else sha256(repr(gold).encode()).hexdigest(),
        count=len(examples),
        rationales=None if people is None else rationale_fingerprint(people),
        removals=REMOVALS if wanted is None else removals_for(wanted),
        kept={metric.name: kept_as(metric) for metric in at_once},
        wanted=None if wanted is None else tuple(metric.name for metric in wanted),
    )
    for metric in wanted or ():
        if missing := lack(metric, settings, None):
            raise ValueError(f"{metric.name} cannot be evaluated without {missing}")
    record = Record.open(None if file is None else Path(file), settings)
    scored: dict[str, Any] = {**methods, RANDOM: None}
    in_vain: set[int] = set()
    pending = sum(len(record.missing(name, range(len(examples)))) for name in scored)
    with tqdm(total=pending, desc="Faithfulness", unit="explanation", disable=not show_progress) as bar:
        for rows in batches(examples, batch_size):
            missing_of = {name: record.missing(name, rows) for name in scored}
            asked = tuple(row for row in rows if any(row in missing for missing in missing_of.values()))
            if not asked:
                continue
            batch = read_batch(masked, examples, asked, gold, people, settings, at_once)
            in_vain.update(_in_vain(batch, examples, people))
            for name, method in scored.items():
                if not missing_of[name]:
                    continue
                bar.set_postfix_str(name)
                part = batch.part(missing_of[name])
                scores, seconds = part.explain(name, method)
                if on_scores is not None:
                    on_scores(name, scores.clone(), part.rows, part.whole)
                record.add(part.described, part.measure(name, scores, seconds))
                bar.update(len(part.rows))
    if in_vain:
        warn_user(
            f"the rationales of {len(in_vain)} of {len(examples)} examples choose no token that plays (the first: "
            f"example {min(in_vain)}): they do not count for plausibility"
        )
    return Evaluation(record, wanted)


def _in_vain(batch: EvaluatedBatch, examples: Examples, rationales: Any | None) -> list[int]:
    """The examples in which people chose something, but no token that plays."""
    if batch.chosen is None:
        return []
    lost = (~batch.chosen.any(-1)).tolist()
    return [
        row
        for row, nothing in zip(batch.rows, lost, strict=True)
        if nothing and examples.has_rationale(rationales, row)
    ]


def _checked_percentages(percentages: Sequence[float]) -> tuple[float, ...]:
    try:
        shares = tuple(sorted({float(share) for share in percentages}))
    except TypeError:
        raise TypeError(f"percentages must be numbers between 0 and 100, got {percentages!r}") from None
    if shares and 0 < shares[-1] <= 1 and any(share % 1 for share in shares):
        raise ValueError(f"percentages are in percent, got {list(percentages)}, which look like fractions")
    if not shares or not 0 <= shares[0] <= shares[-1] <= 100:
        raise ValueError(f"percentages must be numbers between 0 and 100, got {list(percentages)}")
    return shares


def _checked_interventions(interventions: Sequence[Intervention]) -> tuple[Intervention, ...]:
    given = (interventions,) if isinstance(interventions, str) else tuple(interventions)
    if not given or not set(given) <= set(INTERVENTIONS):
        expected = " or ".join(map(repr, INTERVENTIONS))
        raise ValueError(f"interventions must be {expected}, or both, got {interventions!r}")
    return tuple(kind for kind in INTERVENTIONS if kind in given)
