"""How far a method agrees with itself: under another seed, and on a paraphrase."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_attn.bench import RANDOM, MaskedModel, Method, batches, examples_of, random_scores, token_scores
from captum_attn.comparison.compared_inputs import ComparedInput, described
from captum_attn.comparison.shared_words import Words, shared, words_of
from captum_attn.core import length_limit
from captum_attn.functional import RANKING_METRICS, Agreement, agreement, mean_over_pairs


def agreement_of_reruns(copies: Tensor, top_k: int | float) -> Agreement:
    """How far R ≥ 2 copies of a method agree on one input: the mean over pairs of their scores (R, n).

    Returns:
        The RANKING_METRICS, (4,), and what chance expects; NaN where undefined.
    """
    found = agreement(copies, top_k)
    return Agreement(mean_over_pairs(found.values), found.expected_by_chance)


@dataclass(frozen=True)
class Paraphrased:
    """How far methods agree with themselves on one input and its paraphrase.

    Attributes:
        same_prediction: whether the predicted class is the same. Where it is not, explanations are of two answers, and
            agreement is NaN.
        shared_words: how many words both share, in order.
        agreement: by method, of the scores of these words: the RANKING_METRICS (4,), and what chance expects.
    """

    same_prediction: bool
    shared_words: int
    agreement: dict[str, Agreement]


def explain_paraphrases(
    model: Callable[..., Any],
    texts: Sequence[str],
    paraphrases: Sequence[str],
    inputs: Sequence[ComparedInput],
    methods: Mapping[str, Method],
    *,
    tokenizer: Any,
    top_k: int | float,
    batch_size: int,
    max_length: int | None,
    seed: int,
    show_progress: bool,
) -> list[Paraphrased]:
    """Explain paraphrases, and compare with what was said of the texts.

    Args:
        texts, paraphrases: E of each.
        inputs: the texts with their scores, those of random scores included.
        methods: without random scores.
        model, tokenizer, top_k, batch_size, max_length, seed, show_progress: as in
            :func:`~captum_attn.comparison.compare`.

    Raises:
        ValueError: a slow tokenizer; else as :func:`~captum_attn.metrics.evaluate`.
    """
    masked = MaskedModel(model, tokenizer, batch_size=batch_size)
    examples = examples_of(paraphrases, tokenizer, masked.model, max_length)
    limit = length_limit(tokenizer, masked.model, max_length)
    found: dict[int, Paraphrased] = {}
    with tqdm(total=len(paraphrases), desc="Paraphrases", unit="text", disable=not show_progress) as bar:
        for rows in batches(examples, batch_size):
            batch = examples.batch(rows)
            whole = masked.read(batch)
            scores = {name: token_scores(name, method, batch, whole) for name, method in methods.items()}
            scores[RANDOM] = random_scores(rows, whole.players, seed + 1)
            for place, row in enumerate(rows):
                players, paraphrase = whole.players[place], described(whole, place, tokenizer)
                paraphrase.scores = {name: of_all[place, players].cpu().double() for name, of_all in scores.items()}
                words = words_of(texts[row], tokenizer, limit), words_of(paraphrases[row], tokenizer, limit)
                found[row] = on_shared_words((inputs[row], paraphrase), words, top_k)
            bar.update(len(rows))
    return [found[row] for row in sorted(found)]


def on_shared_words(
    inputs: tuple[ComparedInput, ComparedInput], words: tuple[Words, Words], top_k: int | float
) -> Paraphrased:
    """How far methods agree on the words that two texts share."""
    same, places = inputs[0].target == inputs[1].target, shared(words[0].words, words[1].words)
    agreements = {}
    for method in inputs[0].scores:
        scores = [
            own.add_up(one.scores[method][None])[0, kept] for one, own, kept in zip(inputs, words, places, strict=True)
        ]
        agreements[method] = agreement_of_reruns(torch.stack(scores), top_k) if same else UNDEFINED
    return Paraphrased(same, len(places[0]), agreements)


UNDEFINED = Agreement(torch.full((len(RANKING_METRICS),), torch.nan, dtype=torch.double), math.nan)
