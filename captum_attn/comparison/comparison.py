"""Do explanations of the same predictions agree? Many methods, many examples, one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from captum_attn.bench import INTERVENTIONS, Data, Intervention, Method, check_methods
from captum_attn.comparison.compared_inputs import Collected
from captum_attn.comparison.comparison_result import USUAL, Comparison
from captum_attn.comparison.stability import Paraphrased, explain_paraphrases
from captum_attn.core import Replacement, class_names
from captum_attn.functional import PERCENTAGES, check_top_k
from captum_attn.metrics import F1_PERCENTAGE, Metric, evaluate, known_metrics


def compare(
    model: Callable[..., Any],
    inputs: Data,
    methods: Mapping[str, Method],
    *,
    tokenizer: Any | None = None,
    labels: Sequence[int] | Tensor | None = None,
    metrics: Sequence[str | Metric] = (),
    top_k: int | float = 0.2,
    reruns: Mapping[str, Sequence[Method]] | None = None,
    paraphrases: Sequence[str] | None = None,
    percentages: Sequence[float] = PERCENTAGES["eraser"],
    interventions: Sequence[Intervention] = ("replacement",),
    replacement: Replacement | None = None,
    layers: Sequence[int] | int | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    seed: int = 0,
    show_progress: bool = True,
) -> Comparison:
    """Explain predictions by several methods, and say how far these agree, how faithful they are, what they cost.

    Methods that disagree cannot all be right about what mattered; methods that agree may all be wrong. So agreement
    stands beside faithfulness, which asks the model, and beside a method's agreement with itself: under another seed,
    and on a paraphrase. Random scores are always among the methods: the level of chance.

    Each method explains the predicted class of every input, once. Agreement is that of the rankings of one input's
    tokens, as the mean over inputs: Kendall's τ-b, and the overlap of the ``top_k`` highest tokens. Signed methods rank
    what speaks for the class above what speaks against it; attention and norms only say how much. Two such methods
    differ in kind, so τ of absolute scores is there, too: high where both find the same tokens important and differ
    about the side these are on.

    Args:
        model, tokenizer, labels, percentages, interventions: as in :func:`captum_attn.metrics.evaluate`.
        replacement, layers, batch_size, max_length, show_progress: as there.
        inputs: its data: texts, pairs of texts, pixels, ids, or a mapping of tensors.
        methods: as there: names, and attributions or functions of a batch and its targets; at least two.
        metrics: what else is measured and shown: names or records, as there. Comprehensiveness, sufficiency and time
            always are, F1 with ``labels``.
        top_k: a number of tokens, or a share of them, rounded up. An input counts at least one token as the top, and at
            most all but one.
        reruns: by name, copies of a method that differ from it in nothing but the seed.
        paraphrases: of texts, another text for each that says the same. The words that both share, in order, are
            ranked by both explanations; where the predicted class is another one, the two are not compared.
        seed: of the random scores.

    Returns:
        The :class:`Comparison`, with tables, words of caution, a figure and a page.

    Raises:
        TypeError, ValueError: fewer than two methods, reruns of a method that is not there, paraphrases that are not
            one for each text, ``top_k`` out of range; else as :func:`captum_attn.metrics.evaluate`.

    Example:
        >>> from captum_attn import MaskTunnel, ShapleyAttention, ShapleyGradAttention
        >>> gradients = ShapleyGradAttention(model, tokenizer=tokenizer)
        >>> methods = {
        ...     "gradients": gradients,
        ...     "attention": ShapleyAttention(model, tokenizer=tokenizer),
        ...     "MaskTunnel": MaskTunnel(gradients, tokenizer),
        ... }
        >>> comparison = compare(
        ...     model,
        ...     ["a gripping film", "not good at all"],
        ...     methods,
        ...     tokenizer=tokenizer,
        ...     reruns={"MaskTunnel": [MaskTunnel(gradients, tokenizer, seed=1)]},
        ...     paraphrases=["a truly gripping film", "it is not good at all"],
        ...     show_progress=False,
        ... )
        >>> comparison
        Comparison(2 inputs, methods: gradients, attention, MaskTunnel, random)
        >>> path = comparison.to_html("comparison.html")

    Source: Neely et al. 2021, Order in the Court, and Krishna et al. 2022, The Disagreement Problem, for τ and top-k
    overlap between explanations; DeYoung et al. 2020 (ERASER) for faithfulness.
    """
    check_methods(methods)
    if len(methods) < 2:
        raise ValueError(
            f"a comparison takes at least two methods, got {list(methods)}; captum_attn.metrics.evaluate measures one"
        )
    check_top_k(top_k)
    further = [metric for metric in known_metrics(metrics) if metric.name not in USUAL]
    _check_columns(further)
    copies = _checked_reruns(reruns, methods)
    texts = None if paraphrases is None else _checked_paraphrases(paraphrases, inputs)
    collected = Collected(tokenizer, copies, seed)
    usual = [name for name in USUAL if name != "f1_macro" or (labels is not None and F1_PERCENTAGE in percentages)]
    evaluation = evaluate(
        model,
        inputs,
        methods,
        tokenizer=tokenizer,
        labels=labels,
        metrics=[*usual, *metrics] if metrics else None,
        percentages=percentages,
        interventions=interventions,
        replacement=replacement,
        layers=layers,
        batch_size=batch_size,
        max_length=max_length,
        seed=seed,
        on_scores=collected,
        show_progress=show_progress,
    )
    explained = list(collected.in_order())
    paraphrased: list[Paraphrased] | None = None
    if texts is not None and paraphrases is not None:
        paraphrased = explain_paraphrases(
            model,
            texts,
            paraphrases,
            explained,
            methods,
            tokenizer=tokenizer,
            top_k=top_k,
            batch_size=batch_size,
            max_length=max_length,
            seed=seed,
            show_progress=show_progress,
        )
    return Comparison(evaluation, explained, top_k, paraphrased, class_names(model, collected.outputs), further)


def _check_columns(metrics: Sequence[Metric]) -> None:
    """Raise ``ValueError`` for metrics whose names are, or end like, those of other columns of the table."""
    own = ("method", "signed", "agreement", "top_k_agreement", "under_reruns", "under_paraphrases")
    endings = ("_error", "_reversed", *(f"_{intervention}" for intervention in INTERVENTIONS))
    taken = [metric.name for metric in metrics if metric.name in own or metric.name.endswith(endings)]
    if taken:
        raise ValueError(
            f"the metrics {taken} have names of other columns of the table, or endings of these: rename them"
        )


def _checked_reruns(
    reruns: Mapping[str, Sequence[Method]] | None, methods: Mapping[str, Method]
) -> dict[str, list[Method]]:
    if reruns is None:
        return {}
    if not isinstance(reruns, Mapping):
        raise TypeError(f"reruns must map names of methods to lists of copies, got {type(reruns).__name__}")
    unknown = [name for name in reruns if name not in methods]
    if unknown:
        raise ValueError(f"reruns of {unknown}, which are no methods: expected some of {list(methods)}")
    for name, copies in reruns.items():
        if not isinstance(copies, list | tuple) or not copies:
            raise TypeError(f"reruns of {name!r} must be a list of at least one copy with another seed, got {copies!r}")
        check_methods({f"{name}, rerun {number}": copy for number, copy in enumerate(copies, start=1)})
        if any(copy is methods[name] for copy in copies):
            raise ValueError(f"a rerun of {name!r} is the method itself: expected a copy with another seed")
    return {name: list(copies) for name, copies in reruns.items()}


def _checked_paraphrases(paraphrases: Any, inputs: Any) -> list[str]:
    """The texts that were paraphrased."""
    texts = [inputs] if isinstance(inputs, str) else list(inputs) if not isinstance(inputs, Mapping | Tensor) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("paraphrases are of texts, expected inputs that are a list of strings (no pairs, no tensors)")
    if isinstance(paraphrases, str) or not all(isinstance(text, str) for text in paraphrases):
        raise TypeError(f"paraphrases must be a list of texts, got {paraphrases!r}")
    if len(paraphrases) != len(texts):
        raise ValueError(f"{len(paraphrases)} paraphrases for {len(texts)} texts: give one for each")
    return texts
