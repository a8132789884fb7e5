"""A metric of explanations that were just made: what it needs is found where it is not known yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from captum_attn.bench import Intervention, PerturbedInputs
from captum_attn.functional import Scale, top_and_rest
from captum_attn.metrics.catalogue import Metric, Need


def value_at_once(
    metric: Metric,
    perturbed: PerturbedInputs,
    scores: Tensor,
    intervention: Intervention,
    percentages: Sequence[float],
    *,
    scale: Scale = "eraser",
    labels: Tensor | None = None,
    rationales: Tensor | None = None,
) -> Tensor:
    """A metric of each example of a batch.

    Args:
        metric: which.
        perturbed: asks the model, which knows B inputs as they are; each distinct input is asked once.
        scores: (B, N), of the tokens.
        intervention: how tokens are taken away.
        percentages: of tokens, where the metric does not say which.
        scale: for metrics that need it.
        labels: int64 (B,), gold classes.
        rationales: bool (B, N), what people chose.

    Returns:
        float64 (B,).

    Raises:
        ValueError: the metric returns something else.
    """
    known = needed_at_once(metric, perturbed, scores, intervention, percentages, scale, labels, rationales)
    found = metric.of(known)
    if not isinstance(found, Tensor) or found.shape != scores.shape[:1]:
        given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"metric {metric.name!r} returned {given}, expected one number for each of the {len(scores)} examples, a "
            "tensor (B,)"
        )
    return found.double().cpu()


def needed_at_once(
    metric: Metric,
    perturbed: PerturbedInputs,
    scores: Tensor,
    intervention: Intervention,
    percentages: Sequence[float],
    scale: Scale = "eraser",
    labels: Tensor | None = None,
    rationales: Tensor | None = None,
) -> dict[Need, Any]:
    """What a metric needs, by name; arguments as of :func:`value_at_once`."""
    whole, shares = perturbed.whole, metric.shares(percentages, scale)

    def answers(place: int) -> tuple[Tensor, Tensor]:
        """(B, K) without the top, or with the top alone."""
        taken = top_and_rest(scores, whole.players, shares)[place]
        probabilities, predictions = perturbed.answers(intervention, taken)
        return probabilities.mT.to(whole.confidence.dtype), predictions.mT

    found: dict[Need, Callable[[], Any]] = {
        "whole": whole.confidence.cpu,
        "without_top": lambda: answers(0)[0],
        "top_alone": lambda: answers(1)[0],
        "predictions": lambda: answers(1)[1],
        "percentages": lambda: shares,
        "scale": lambda: scale,
        "labels": lambda: labels,
        "scores": lambda: scores,
        "players": lambda: whole.players,
        "rationales": lambda: rationales,
        "ask": lambda: lambda taken: perturbed.answers(intervention, taken)[0],
    }
    return {need: found[need]() for need in metric.needs}
