"""What made a language model write its response, from one pass over the response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from captum_attn.core import (
    Responses,
    check_model,
    code_fingerprint,
    device_of,
    listed_indices,
    reads_cache,
    unwrapped,
)
from captum_attn.core.propagation import ATTNLRP, Propagation, propagation_named
from captum_attn.functional import (
    GAMES,
    Game,
    ResponseScore,
    ScoreFunction,
    check_response_score,
    group_shapley_values,
    response_scores,
)
from captum_attn.generation.explained_response import ExplainedResponse
from captum_attn.generation.head_weights import HeadWeights, mark_of
from captum_attn.generation.image_prompts import prompt_of, tokenizer_of
from captum_attn.generation.prompt_sources import Sources, find_sources
from captum_attn.generation.prompts import Messages, Prompt, decoded
from captum_attn.generation.response_ids import response_ids, token_texts
from captum_attn.generation.response_rows import Method, ResponseRows, RowVariant, WholeSequence, all_playing
from captum_attn.generation.scored_response import ScoredResponse, scored_places
from captum_attn.methods import AttentionShapley, ShapleyAttention, ShapleyGradAttention


class GenerationAttention:
    """Explain what a causal language model wrote, by its attention from the response to what stands before.

    Each layer and head's attention of the tokens that predict the response, times its gradient of the response's score:
    the mean over layers and heads is how far a token before contributed. One pass over the response's own tokens does
    it, on the cached keys and values of the prompt. What the prompt's tokens read from each other is not followed;
    other methods of this library follow it, by a pass over the whole sequence.

    Args:
        model: a causal language model of ``transformers``, or one with its interface: ``input_ids``,
            ``attention_mask``, ``past_key_values``, logits.
        tokenizer: the model's, a fast one; of a model that reads images among words, its processor.
        score: what is explained: the sum over the response's tokens of ``"log_odds"``, ``"log_prob"``, ``"logit"``, or
            of a function of logits (..., V) and tokens (...).
        variant: ``"signed"``, attention times its gradient; ``"rectified"``, what of it raises the score; or
            ``"attention"`` alone, without gradients, whatever the score.
        propagation: how gradients go down; see :class:`captum_attn.AttentionAttribution`. LRP is claimed by patents in
            some countries; see :class:`captum_attn.AttnLRP`.
        layers, heads: which count, one index or several; negative ones count from the end. Default: all.
        head_weights: how much each head counts, of this variant, as :func:`captum_attn.generation.fit_head_weights`
            finds them. Default: alike.
        method: explains by a pass over the whole sequence instead, such as ``AttnLRP``, by relevance of the input
            itself, or ``partial(ShapleyGradAttention, game="incoming", propagation="attnlrp")``, for what prompt's
            tokens read, too. It is called with a :class:`captum_attn.generation.ScoredResponse` and ``tokenizer``;
            those above, but the score, are not for it.

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
        score: ResponseScore | ScoreFunction = "log_odds",
        variant: RowVariant = "signed",
        propagation: str | Propagation = ATTNLRP,
        layers: Sequence[int] | int | None = None,
        heads: Sequence[int] | int | None = None,
        head_weights: HeadWeights | None = None,
        method: Method | None = None,
    ) -> None:
        check_model(model)
        check_response_score(score)
        if not callable(tokenizer):
            raise TypeError(f"the tokenizer must be the model's, got {type(tokenizer).__name__}")
        if method is not None and not callable(method):
            raise TypeError(f"method must be a class or function, such as captum_attn.AttnLRP, got {method!r}")
        if variant not in get_args(RowVariant):
            raise ValueError(f"variant must be 'signed', 'rectified' or 'attention', got {variant!r}")
        self.propagation = propagation_named(propagation)
        own = (variant, self.propagation.name, layers, heads, head_weights)
        if method is not None and own != ("signed", ATTNLRP.name, None, None, None):
            raise ValueError(
                "variant, propagation, layers, heads and head_weights are for the response's rows, which method= does "
                "not read: give them to the method, by functools.partial"
            )
        self.model: Any = unwrapped(model)
        self.reader, self.tokenizer = tokenizer, tokenizer_of(tokenizer)
        self.score, self.variant = score, variant
        self.head_weights, self.method = head_weights, method
        self.layers, self.heads = listed_indices("layers", layers), listed_indices("heads", heads)
        if head_weights is not None and (head_weights.explains, layers, heads) != (self.explains, None, None):
            raise ValueError(
                f"these weights are for all layers and heads, and {head_weights.explains}, not for {self.explains}: "
                "fit them anew"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__})"

    @property
    def explains(self) -> dict[str, str]:
        """What weights of heads depend on: the model, by its class and some weights' signs, and what is explained."""
        score = code_fingerprint(self.score) if callable(self.score) else self.score
        rules = self.propagation.name
        return {"model": mark_of(self.model), "score": score, "variant": self.variant, "propagation": rules}

    @torch.inference_mode(False)
    def explain(
        self,
        prompt: str | Messages,
        response: str | Sequence[int] | None = None,
        *,
        images: Any = None,
        sources: Sources = "sentences",
        question: str | None = None,
        **generate: Any,
    ) -> ExplainedResponse:
        """Explain a response to a prompt.

        Args:
            prompt: a text, as the model is to read it; or messages, mappings with ``role`` and ``content``, to which
                the tokenizer's chat template is applied. Images stand where a text has the processor's ``image_token``,
                or messages have parts, ``{"type": "image"}``.
            response: what the model wrote, or could have: a text, or ids of its tokens. Default: the model writes it.
                Of words that it would hardly write (see ``probabilities``), values agree less with ablations.
            images: one, or a list of them in their order, whatever the processor takes. Each is a source. Default:
                those that messages' parts have, ``{"type": "image", "image": ...}``.
            sources, question: parts of the prompt that are summed up, and what is asked, which is none of them; see
                :func:`captum_attn.generation.prompt_sources.find_sources`.
            generate: settings of ``model.generate``, such as ``max_new_tokens``; without a response only. Sampling
                leaves the random state as it was: another seed writes another text.

        Returns:
            Values of all tokens and sources, for the whole response; more on demand.

        Raises:
            TypeError, ValueError: a prompt or sources that are none; an empty response, or one that the model cannot
                write; a text that is longer than the model reads; a model whose cache or attention is not of this kind,
                with the way on; images without places, or places without images.
        """
        read = prompt_of(self.model, prompt, self.reader, images)
        found = find_sources(read, sources, question)
        ids = response_ids(self.model, self.tokenizer, read, response, generate)
        responses = self._responses(read, ids)
        solver = self._solver(responses)
        logits, values = solver.of_response()
        scores, log_probs = (
            response_scores(logits[None], responses.predicted, one)[0] for one in (self.score, "log_prob")
        )
        return ExplainedResponse(
            prompt=read,
            response=decoded(ids, self.tokenizer),
            response_ids=tuple(ids),
            response_tokens=token_texts(ids, self.tokenizer),
            scores=scores.cpu(),
            probabilities=log_probs.exp().cpu(),
            score=self.score if isinstance(self.score, str) else getattr(self.score, "__name__", "score"),
            values=values,
            sources=found,
            solver=replace(solver, explained_scores=scores.cpu()),
            encode=partial(response_ids, self.model, self.tokenizer, read),
        )

    @torch.inference_mode(False)
    def of_batch(self, batch: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """Values (B, N) of a batch of a :class:`captum_attn.generation.ResponseClassifier`: a method for ``evaluate``.

        Args:
            batch: as :func:`captum_attn.generation.response_inputs` makes it.
            targets: int64 (B,), 0 where the response is explained, 1 where it is that the model writes something else.

        Raises:
            ValueError: other targets; a row without a response, or in which the response is not what stands at the end;
                images.

        Example:
            >>> from captum_attn.generation import response_inputs
            >>> inputs = response_inputs(["a film .", "the cat is old ."], ["fine", "it is"], chat_tokenizer)
            >>> explainer = GenerationAttention(decoder, chat_tokenizer)
            >>> explainer.of_batch(inputs, torch.tensor([0, 0])).shape == inputs["input_ids"].shape
            True
        """
        if "pixel_values" in batch:
            raise ValueError("of prompts with images, one response is explained at a time: explain(prompt, images=...)")
        ids, mask, response = (batch[name].cpu() for name in ("input_ids", "attention_mask", "response_ids"))
        real = mask.bool()
        counts = scored_places(response).sum(-1).tolist()
        texts = [row[kept].tolist() for row, kept in zip(ids, real, strict=True)]
        if not set(targets.tolist()) <= {0, 1}:
            raise ValueError(f"targets must be 0, the response, or 1, something else, got {targets.tolist()}")
        for text, row, kept, count in zip(texts, response, real, counts, strict=True):
            if row[kept][-count:].tolist() != text[-count:]:
                raise ValueError(
                    "response_ids must be the last of a row's tokens, all of one piece, and the same as its input_ids, "
                    "as response_inputs makes them: other tokens would be explained than are scored"
                )
        pairs = [(text[:-count], text[-count:]) for text, count in zip(texts, counts, strict=True)]
        signs = 1.0 - 2.0 * targets.cpu()
        found = self._values_of_each(pairs, signs)
        values = found[0].new_zeros(ids.shape)
        for row, (kept, of_row) in enumerate(zip(real, found, strict=True)):
            values[row, kept] = of_row
        return values

    def _values_of_each(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], signs: Tensor) -> list[Tensor]:
        """Values (N,) for prompts and responses, of tokens without padding, of scores with signs (B,)."""
        device = device_of(self.model)
        if self.method is not None:
            solvers = [self._solver(Responses.of([pair], device=device)) for pair in pairs]
            parts = (sign * torch.ones(1, len(ids)) for sign, (_, ids) in zip(signs, pairs, strict=True))
            return [solver.of_parts(part)[0] for solver, part in zip(solvers, parts, strict=True)]
        responses = Responses.of(pairs, device=device)
        if len(pairs) > 1 and not reads_cache(self.model, responses):
            singly = zip(pairs, signs.split(1), strict=True)
            return [self._values_of_each([pair], sign)[0] for pair, sign in singly]
        rows = self._rows(responses)
        return [row[kept] for row, kept in zip(rows.of_each(signs), rows.responses.real.cpu(), strict=True)]

    @torch.inference_mode(False)
    def influence_of_heads(self, explained: ExplainedResponse) -> Tensor:
        """(L, H, N): the influence of all tokens before a response on it, of each head alone."""
        if self.method is not None:
            raise ValueError("heads are told apart in the response's rows, which method= does not read: leave it out")
        return self._rows(self._responses(explained.prompt, explained.response_ids)).of_heads()

    @torch.inference_mode(False)
    def source_game(self, explained: ExplainedResponse, game: Game = "mutual") -> Tensor:
        """Exact Shapley values (K,) of sources that play a game of attention over the whole sequence.

        Prompts' own rows count, in which sources read each other; tokens of no source do not play.

        Args:
            explained: a response of this explainer's.
            game: see :class:`captum_attn.AttentionShapley`; additive ones give a source the sum over its tokens.

        Raises:
            ValueError: an explainer by another method, or by weights of heads; another game.

        Example:
            >>> explainer = GenerationAttention(decoder, chat_tokenizer)
            >>> text = "the cat is old . the dog is young . how old is the cat ?"
            >>> explainer.source_game(explainer.explain(text, "it is old")).shape
            torch.Size([2])
        """
        if self.method is not None or self.head_weights is not None:
            raise ValueError("sources play on attention of which all heads count alike: leave out method, head_weights")
        if game not in GAMES:
            raise ValueError(f"game must be one of {', '.join(map(repr, GAMES))}, got {game!r}")
        responses = self._responses(explained.prompt, explained.response_ids)
        scored: Any = ScoredResponse(self.model, responses.count, self.score)
        common: Any = {"layers": self.layers, "heads": self.heads}
        player: AttentionShapley
        if self.variant == "attention":
            player = ShapleyAttention(scored, **common)
        else:
            player = ShapleyGradAttention(scored, sign=self.variant, propagation=self.propagation, **common)
        influence = player.influence(all_playing(responses), target=0).cpu()
        rows = torch.zeros(1, influence.shape[1])
        rows[:, -responses.count - 1 : -1] = 1
        return group_shapley_values(influence, explained.groups[None], game, readout=rows)[0]

    def _solver(self, responses: Responses) -> ResponseRows | WholeSequence:
        if self.method is not None:
            return WholeSequence(self.model, self.tokenizer, responses, self.score, self.method)
        return self._rows(responses)

    def _rows(self, responses: Responses) -> ResponseRows:
        return ResponseRows(
            self.model,
            responses,
            score=self.score,
            variant=self.variant,
            propagation=self.propagation,
            layers=self.layers,
            heads=self.heads,
            head_weights=self.head_weights,
        )

    def _responses(self, prompt: Prompt, ids: Sequence[int]) -> Responses:
        return Responses.of([(prompt.ids, ids)], device_of(self.model), prompt.model_kwargs)
