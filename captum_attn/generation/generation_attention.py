"""What made a language model write its response, from one pass over the response."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from captum_attn.core import (
    InfluenceObserver,
    ResponsePass,
    Responses,
    check_model,
    config_of,
    device_of,
    evaluation_mode,
    listed_indices,
    response_pass,
    same_random_state,
    unwrapped,
)
from captum_attn.core.observers import Per
from captum_attn.core.propagation import ATTNLRP, Propagation, propagation_named
from captum_attn.core.readout import KnownRows
from captum_attn.functional import RESPONSE_SCORES, ResponseScore, response_scores
from captum_attn.generation.explained_response import ExplainedResponse
from captum_attn.generation.head_weights import HeadWeights
from captum_attn.generation.prompt_sources import Sources, find_sources
from captum_attn.generation.prompts import Messages, Prompt, read_prompt


class GenerationAttention:
    """Explain what a causal language model wrote, by its attention from the response to what stands before.

    Each layer and head's attention of the tokens that predict the response, times its gradient of the response's score:
    the mean over layers and heads is how far a token before contributed. One pass over the response's own tokens does
    it, on the cached keys and values of the prompt. What the prompt's tokens read from each other is not followed.

    Args:
        model: a causal language model of ``transformers``, or one with its interface: ``input_ids``,
            ``attention_mask``, ``past_key_values``, logits.
        tokenizer: the model's, a fast one.
        score: what is explained: the sum over the response's tokens of ``"log_odds"``, ``"log_prob"`` or ``"logit"``.
        variant: ``"signed"``, attention times its gradient; ``"rectified"``, what of it raises the score; or
            ``"attention"`` alone, without gradients, whatever the score.
        propagation: how gradients go down; see :class:`captum_attn.AttentionAttribution`. LRP is claimed by patents in
            some countries; see :class:`captum_attn.AttnLRP`.
        layers, heads: which count, one index or several; negative ones count from the end. Default: all.
        head_weights: how much each head counts, of this variant, as :func:`captum_attn.generation.fit_head_weights`
            finds them. Default: alike.

    Raises:
        TypeError, ValueError: an argument that is none of the above.

    Example:
        >>> explainer = GenerationAttention(decoder, chat_tokenizer)
        >>> found = explainer.explain("the cat is old . the dog is young . how old is the cat ?", "old")
        >>> len(found.values) == len(found.tokens)
        True
        >>> found.source_frame().columns.tolist()
        ['source', 'value', 'share']
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        score: ResponseScore = "log_odds",
        variant: Literal["signed", "rectified", "attention"] = "signed",
        propagation: str | Propagation = ATTNLRP,
        layers: Sequence[int] | int | None = None,
        heads: Sequence[int] | int | None = None,
        head_weights: HeadWeights | None = None,
    ) -> None:
        check_model(model)
        if score not in RESPONSE_SCORES:
            raise ValueError(f"score must be {', '.join(map(repr, RESPONSE_SCORES))}, got {score!r}")
        if variant not in ("signed", "rectified", "attention"):
            raise ValueError(f"variant must be 'signed', 'rectified' or 'attention', got {variant!r}")
        rules = propagation_named(propagation).name
        if head_weights is not None and (head_weights.variant, head_weights.propagation) != (variant, rules):
            raise ValueError(
                f"these weights are for variant={head_weights.variant!r}, propagation={head_weights.propagation!r}, "
                f"not for {variant!r}, {rules!r}"
            )
        self.model: Any = unwrapped(model)
        self.tokenizer = tokenizer
        self.score, self.variant, self.propagation = score, variant, propagation_named(propagation)
        self.head_weights = head_weights
        self.layers, self.heads = listed_indices("layers", layers), listed_indices("heads", heads)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__})"

    def explain(
        self,
        prompt: str | Messages,
        response: str | None = None,
        *,
        sources: Sources = "sentences",
        question: str | None = None,
        **generate: Any,
    ) -> ExplainedResponse:
        """Explain a response to a prompt.

        Args:
            prompt: a text, as the model is to read it; or messages, mappings with ``role`` and ``content``, to which
                the tokenizer's chat template is applied.
            response: what the model wrote, or could have. Default: the model writes it.
            sources, question: parts of the prompt that are summed up, and what is asked, which is none of them; see
                :func:`captum_attn.generation.prompt_sources.find_sources`.
            generate: settings of ``model.generate``, such as ``max_new_tokens``; without a response only. Sampling
                leaves the random state as it was: another seed writes another text.

        Returns:
            Values of all tokens and sources, for the whole response; more on demand.

        Raises:
            TypeError, ValueError: a prompt or sources that are none; an empty response; a text that is longer than the
                model reads; a model whose cache or attention is not of this kind, with the way on.
        """
        read = read_prompt(prompt, self.tokenizer)
        found = find_sources(read, sources, question)
        if response is None:
            ids = self._written(read, generate)
        elif generate:
            raise ValueError(f"{', '.join(generate)} is for model.generate, but the response is given")
        else:
            ids = self.encode(response)
        if not ids:
            raise ValueError("the response is empty: there is nothing to explain")
        self._check_length(len(read.ids) + len(ids))
        responses = self._responses(read, ids)
        of_tokens = responses.predicted[0]
        with self.observed(responses) as run:
            scores = response_scores(run.logits[0], of_tokens, self.score)
            values = self.values_of(run, self._selected(scores.sum()), torch.ones(len(ids)))
            probabilities = response_scores(run.logits[0].detach(), of_tokens, "log_prob").exp()
        return ExplainedResponse(
            prompt=read,
            response=self.tokenizer.decode(ids),
            response_ids=tuple(ids),
            response_tokens=self._texts(ids),
            scores=scores.detach().cpu(),
            probabilities=probabilities.cpu(),
            score=self.score,
            values=values,
            sources=found,
            additive=self.variant != "rectified",
            solver=_Solver(self, responses),
        )

    def encode(self, response: str) -> list[int]:
        """The ids of a text as a response."""
        return list(self.tokenizer(response, add_special_tokens=False)["input_ids"])

    def observed(self, responses: Responses) -> AbstractContextManager[ResponsePass]:
        """The pass over responses."""
        gradients = self.variant != "attention"
        rules = {"propagation": self.propagation} if gradients else {}
        return response_pass(self.model, responses, gradients=gradients, **rules)

    def values_of(self, run: ResponsePass, scores: Tensor | None, rows: Tensor, last: bool = True) -> Tensor:
        """Values (N,) of all tokens, for a score; of attention alone, for rows (T,) of it."""
        if self.head_weights is None:
            return self._influence(run, scores, rows, None, last)
        return self.head_weights.combined(self._influence(run, scores, rows, "head", last))

    def influence_of_heads(self, explained: ExplainedResponse) -> Tensor:
        """(L, H, N): the influence of all tokens before a response on it, of each head alone."""
        responses = self._responses(explained.prompt, explained.response_ids)
        with self.observed(responses) as run:
            scores = response_scores(run.logits[0], responses.predicted[0], self.score)
            return self._influence(run, self._selected(scores.sum()), torch.ones(responses.count), "head", True)

    def _influence(self, run: ResponsePass, scores: Tensor | None, rows: Tensor, per: Per | None, last: bool) -> Tensor:
        observer = InfluenceObserver(run.watched(self.layers, self.heads), self.variant, KnownRows(rows[None]), per)
        run.show([observer], scores, retain_graph=not last)
        return observer.influence[0].cpu()

    def _responses(self, prompt: Prompt, ids: Sequence[int]) -> Responses:
        whole = torch.tensor([[*prompt.ids, *ids]], device=device_of(self.model))
        return Responses(whole, torch.ones_like(whole, dtype=torch.bool), len(ids))

    def _selected(self, score: Tensor) -> Tensor | None:
        """The score, unless attention alone is looked at."""
        return None if self.variant == "attention" else score

    def _written(self, prompt: Prompt, settings: dict[str, Any]) -> list[int]:
        """What the model writes, without the special tokens that close it."""
        if settings.get("num_return_sequences", 1) != 1 or settings.get("return_dict_in_generate"):
            raise ValueError("one response is explained at a time: leave out num_return_sequences and return_dict")
        ids = torch.tensor([prompt.ids], device=device_of(self.model))
        with evaluation_mode(self.model), torch.no_grad(), same_random_state(ids):
            written = self.model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        found: list[int] = written[0, ids.shape[1] :].tolist()
        special = set(self.tokenizer.all_special_ids)
        while found and found[-1] in special:
            found.pop()
        return found

    def _texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The texts of tokens, which joined are the response; a token that is part of a character has none."""
        ends = [len(self.tokenizer.decode(ids[: number + 1]).rstrip("\ufffd")) for number in range(len(ids))]
        text = self.tokenizer.decode(ids)
        return tuple(text[start:end] for start, end in zip([0, *ends], [*ends[:-1], len(text)], strict=False))

    def _check_length(self, length: int) -> None:
        longest = getattr(config_of(self.model), "max_position_embeddings", None)
        if isinstance(longest, int) and length > longest:
            raise ValueError(
                f"prompt and response have {length} tokens, but {type(self.model).__name__} reads {longest} at most"
            )


@dataclass(frozen=True)
class _Solver:
    """Further questions about responses, to an explainer."""

    explainer: GenerationAttention
    responses: Responses

    def of_parts(self, weights: Tensor) -> Tensor:
        with self.explainer.observed(self.responses) as run:
            scores = response_scores(run.logits[0], self.responses.predicted[0], self.explainer.score)
            found = []
            for number, part in enumerate(weights):
                if self.explainer.variant == "attention":
                    found.append(self.explainer.values_of(run, None, part))
                else:
                    last = number + 1 == len(weights)
                    found.append(self.explainer.values_of(run, scores @ part.to(scores), torch.ones(len(part)), last))
        return torch.stack(found)

    def of_contrast(self, place: int, own: int, other: int) -> Tensor:
        if self.explainer.variant == "attention":
            raise ValueError("attention alone does not depend on what is compared: take variant='signed'")
        with self.explainer.observed(self.responses) as run:
            logits = run.logits[0, place].float()
            return self.explainer.values_of(run, logits[own] - logits[other], torch.ones(self.responses.count))

    def encode(self, response: str) -> list[int]:
        return self.explainer.encode(response)
