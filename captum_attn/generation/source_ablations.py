"""What a response's score is without some sources: the truth by which explanations by sources are measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from scipy.stats import spearmanr
from torch import Tensor
from tqdm.auto import tqdm

from captum_attn.core import device_of, response_logits_of_each
from captum_attn.functional import response_scores
from captum_attn.generation.explained_response import ExplainedResponse
from captum_attn.generation.generation_attention import GenerationAttention
from captum_attn.generation.head_weights import HeadWeights
from captum_attn.generation.prompts import Span, encoded_prompt


def scores_without(
    explainer: GenerationAttention,
    explained: ExplainedResponse,
    absent: Tensor,
    *,
    batch_size: int = 8,
    show_progress: bool = False,
) -> Tensor:
    """The score of the same response to prompts that lack some of the sources.

    Args:
        explainer: whose model is asked, without gradients, and whose score is taken.
        explained: a response, and the sources of its prompt.
        absent: bool (S, K), the sources that are cut out of the prompt's text.
        batch_size: the most prompts at a time; what they begin with in common is run once.
        show_progress: show a progress bar.

    Returns:
        (S, T), the score of each of the response's tokens; ``.sum(-1)`` is the response's.

    Raises:
        ValueError: other shapes; prompts of which nothing is left, or with images.

    Example:
        >>> explainer = GenerationAttention(decoder, chat_tokenizer)
        >>> explained = explainer.explain("the cat is old . the dog is young . how old is the cat ?", "it is old")
        >>> scores_without(explainer, explained, torch.eye(len(explained.sources), dtype=torch.bool)).shape
        torch.Size([2, 3])
    """
    if absent.dtype != torch.bool or absent.dim() != 2 or absent.shape[1] != len(explained.sources):
        raise ValueError(f"absent must be bool (S, {len(explained.sources)}), got {absent.dtype} {tuple(absent.shape)}")
    if explained.prompt.image_spans:
        raise ValueError(
            "prompts with images cannot be asked again without some of their sources: replace words and patches, "
            "evaluate(ResponseClassifier(model), response_inputs(..., images=, model=), ...)"
        )
    prompts = [_without(explainer, explained, row) for row in absent]
    if not all(prompts):
        raise ValueError("a prompt without these sources has no tokens left, so that nothing predicts the response")
    response, found = explained.response_ids, torch.zeros(len(absent), len(explained.response_ids))
    tokens = torch.tensor(response, device=device_of(explainer.model))
    with tqdm(total=len(absent), desc="Ablations", unit="prompt", disable=not show_progress) as bar:
        for numbers, logits in response_logits_of_each(explainer.model, prompts, response, batch_size):
            found[numbers] = response_scores(logits, tokens.expand(len(numbers), -1), explainer.score).to(found)
            bar.update(len(numbers))
    return found


def leave_one_out(
    explainer: GenerationAttention, explained: ExplainedResponse, batch_size: int = 8, *, show_progress: bool = False
) -> Tensor:
    """(K,): by how much the response's score is lower without each of the sources, as :func:`scores_without` says."""
    absent = torch.cat([torch.zeros(1, len(explained.sources)), torch.eye(len(explained.sources))]).bool()
    scores = scores_without(explainer, explained, absent, batch_size=batch_size, show_progress=show_progress).sum(-1)
    return scores[0] - scores[1:]


def top_k_drop(explainer: GenerationAttention, explained: ExplainedResponse, values: Tensor, k: int = 1) -> float:
    """By how much the response's score is lower without the ``k`` sources whose values (K,) are largest.

    Raises:
        ValueError: other values; more sources than there are.

    Source: Cohen-Wang et al. 2024, *ContextCite*, 2409.00729.
    """
    count = len(explained.sources)
    if values.shape != (count,) or not 0 < k <= count:
        raise ValueError(f"expected values ({count},) and k from 1 to {count}, got {tuple(values.shape)} and {k}")
    absent = torch.zeros(2, count, dtype=torch.bool)
    absent[1, values.topk(k).indices] = True
    whole, without = scores_without(explainer, explained, absent).sum(-1).tolist()
    return float(whole - without)


def fit_head_weights(
    explainer: GenerationAttention, explained: Sequence[ExplainedResponse], *, show_progress: bool = False
) -> HeadWeights:
    """How much each head of a model counts, fitted to what responses lose without each of their sources.

    Args:
        explainer: of all layers and heads, without such weights.
        explained: some of its responses, with sources; four will do.
        show_progress: show a progress bar over these.

    Raises:
        ValueError: nothing to fit to, or an explainer of some layers, heads, or weights, or by another method.

    Example:
        >>> explainer = GenerationAttention(decoder, chat_tokenizer, variant="attention")
        >>> text = "the cat is old . the dog is young . how old is the cat ?"
        >>> weights = fit_head_weights(explainer, [explainer.explain(text, "it is old")])
        >>> learned = GenerationAttention(decoder, chat_tokenizer, variant="attention", head_weights=weights)
        >>> len(learned.explain(text, "it is old").source_values)
        2

    Source: as :class:`HeadWeights`.
    """
    if explainer.head_weights is not None or (explainer.layers, explainer.heads) != (None, None):
        raise ValueError("weights are fitted by an explainer of all layers and heads, without weights")
    influence, lost = [], []
    for one in tqdm(explained, desc="Head weights", unit="response", disable=not show_progress):
        influence.append(one.by_source(explainer.influence_of_heads(one)))
        lost.append(leave_one_out(explainer, one))
    return HeadWeights.fit(influence, lost, explainer.explains)


def random_absences(sources: int, count: int, share: float = 0.5, seed: int = 0) -> Tensor:
    """bool (count, sources): each source is absent from each prompt with that probability."""
    return torch.rand(count, sources, generator=torch.Generator().manual_seed(seed)) < share


def linear_datamodeling_score(values: Tensor, absent: Tensor, scores: Tensor) -> float:
    """The rank correlation of scores without some sources with the sums of the values of those that are left.

    Args:
        values: (K,), of the sources.
        absent: bool (S, K).
        scores: (S,), sums over what :func:`scores_without` finds.

    Returns:
        Spearman's ρ; NaN if either is constant.

    Raises:
        ValueError: other shapes.

    Example:
        >>> values, absent = torch.tensor([2.0, 1.0]), torch.tensor([[True, False], [False, True], [False, False]])
        >>> round(linear_datamodeling_score(values, absent, torch.tensor([0.5, 3.0, 4.0])), 6)
        1.0

    Source: Park et al. 2023, *TRAK*, 2303.14186; for contexts, Cohen-Wang et al. 2024, *ContextCite*, 2409.00729.
    """
    if absent.dim() != 2 or values.shape != absent.shape[1:] or scores.shape != absent.shape[:1]:
        raise ValueError(
            f"expected values (K,), absent (S, K) and scores (S,), got {tuple(values.shape)}, {tuple(absent.shape)} "
            f"and {tuple(scores.shape)}"
        )
    predicted = (~absent).to(values) @ values
    return float(spearmanr(predicted.double().numpy(), scores.double().numpy()).statistic)


def _without(explainer: GenerationAttention, explained: ExplainedResponse, absent: Tensor) -> list[int]:
    """The ids of the prompt without some of its sources; special tokens and the template's words stay."""
    prompt = explained.prompt
    cut = sorted(source.span for source, gone in zip(explained.sources, absent.tolist(), strict=True) if gone)
    edges = [0, *(place for content in prompt.contents for place in content), len(prompt.text)]
    text = "".join(_left(prompt.text, start, end, cut) for start, end in pairwise(edges))
    return encoded_prompt(text, explainer.tokenizer, prompt.special_tokens)[0]


def _left(text: str, start: int, end: int, cut: list[Span]) -> str:
    """A piece of a text without some parts. Of the spaces around each, those stay that part more, by line breaks."""
    kept = text[start:end]
    for first, last in reversed([(max(first, start), min(last, end)) for first, last in cut]):
        if first >= last:
            continue
        before, after = kept[: first - start], kept[last - start :]
        head, tail = before.rstrip(), after.lstrip()
        around = (before[len(head) :], after[: len(after) - len(tail)])
        between = "" if not (head and tail and around[1]) else max(around[::-1], key=lambda space: space.count("\n"))
        kept = head + between + tail if around[1] or not tail else before + after
    return kept
