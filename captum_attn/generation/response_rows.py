"""Values of the tokens before a response: by a pass over the response's own rows, or over the whole sequence."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from captum_attn.core import (
    InfluenceObserver,
    ResponsePass,
    Responses,
    keys_and_values,
    padded_types,
    plain_response_logits,
    response_pass,
)
from captum_attn.core.observers import Per
from captum_attn.core.propagation import ATTNLRP, Propagation
from captum_attn.core.readout import KnownRows
from captum_attn.functional import ADDITIVE_GAMES, ResponseScore, ScoreFunction, response_scores
from captum_attn.generation.head_weights import HeadWeights
from captum_attn.generation.scored_response import ScoredResponse
from captum_attn.methods import AttentionAttribution, AttentionShapley
from captum_attn.token_attributions import TokenAttributions

RowVariant = Literal["signed", "rectified", "attention"]
Method = Callable[..., AttentionAttribution]


@dataclass(frozen=True, eq=False)
class ResponseRows:
    """By the attention of what predicted the response, on the cached keys and values of the prompt.

    Attributes:
        model, responses: one, in a batch of one; several for :meth:`of_each` alone.
        score, variant, propagation, layers, heads, head_weights: as of :class:`captum_attn.GenerationAttention`.
        explained_scores: (T,), of the response's tokens when it was explained, which they must still have.
        cache: keys and values of all but the prompt's last token. Default: the model is asked.

    Raises:
        ValueError: by its methods, of a model that has changed since.
    """

    model: Any
    responses: Responses
    score: ResponseScore | ScoreFunction = "log_odds"
    variant: RowVariant = "signed"
    propagation: Propagation = ATTNLRP
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None
    head_weights: HeadWeights | None = None
    explained_scores: Tensor | None = None
    cache: Any = None

    @property
    def additive(self) -> bool:
        """Whether values for several tokens of the response are the sums of those for each."""
        return self.variant != "rectified"

    @property
    def what(self) -> str:
        """What values are, with a place, {}, for the name of the score."""
        if self.head_weights is not None:
            return "predicted share of what the {} loses without a source, by learned weights of heads"
        if self.variant == "attention":
            return "shares of attention, whatever the {}"
        return "shares of attention, weighted by its gradient of the {}"

    def of_response(self) -> tuple[Tensor, Tensor]:
        """What predicted the response, logits (T, V), and values (N,)."""
        with self._observed() as (run, scores):
            return run.logits[0].detach(), self._values(run, scores.sum())[0]

    def of_each(self, signs: Tensor) -> Tensor:
        """Values (B, N) of several responses, of scores with signs (B,); 0 for padding."""
        with self._observed() as (run, scores):
            return self._values(run, (signs.to(scores) @ scores).sum())

    def of_parts(self, weights: Tensor) -> Tensor:
        """Values (S, N) for parts of the response, weights (S, T) of its tokens' scores; of attention, of its rows."""
        found = []
        with self._observed() as (run, scores):
            for number, part in enumerate(weights, 1):
                rows = part[None] if self.variant == "attention" else None
                found.append(self._values(run, (scores @ part.to(scores)).sum(), rows, last=number == len(weights)))
        return torch.cat(found)

    def of_contrast(self, place: int, own: int, other: int) -> Tensor:
        """Values (N,) for the difference of two tokens' logits in a place of the response."""
        self._check_depends_on_score()
        with self._observed() as (run, _):
            logits = run.logits[0, place].float()
            return self._values(run, logits[own] - logits[other])[0]

    def of_heads(self) -> Tensor:
        """(L, H, N): the influence of all tokens on the response, of each head alone."""
        with self._observed() as (run, scores):
            return self._influence(run, scores.sum(), None, "head")[0]

    def of_other(self, responses: Responses) -> Tensor:
        """Values (N',) for another response to the same prompt, whose keys and values both are run on."""
        self._check_depends_on_score()
        end = responses.ids.shape[1] - responses.count - 1
        cache = keys_and_values(self.model, responses, end) if end else None
        logits = plain_response_logits(self.model, self.responses, copy.deepcopy(cache), end)
        self._check_unchanged(self._scored(logits), logits.dtype)
        return replace(self, responses=responses, explained_scores=None, cache=cache).of_response()[1]

    def _check_depends_on_score(self) -> None:
        if self.variant == "attention":
            raise ValueError("attention alone does not depend on what is compared: take variant='signed'")

    @contextmanager
    def _observed(self) -> Iterator[tuple[ResponsePass, Tensor]]:
        """A pass, and its scores (B, T), 0 for padding."""
        gradients = self.variant != "attention"
        rules = {"propagation": self.propagation} if gradients else {}
        with response_pass(self.model, self.responses, gradients=gradients, cache=self.cache, **rules) as run:
            scores = self._scored(run.logits)
            self._check_unchanged(scores, run.logits.dtype)
            yield run, scores

    @property
    def _real(self) -> Tensor:
        """bool (B, T)."""
        return self.responses.real[:, -self.responses.count :]

    def _scored(self, logits: Tensor) -> Tensor:
        return response_scores(logits, self.responses.predicted, self.score).masked_fill(~self._real, 0)

    def _check_unchanged(self, scores: Tensor, dtype: torch.dtype) -> None:
        if self.explained_scores is not None:
            check_unchanged(self.model, self.explained_scores, scores[0], dtype)

    def _values(self, run: ResponsePass, score: Tensor, rows: Tensor | None = None, last: bool = True) -> Tensor:
        """(B, N), for the sum of all rows, or for some weights (B, T) of them."""
        if self.head_weights is None:
            return self._influence(run, score, rows, None, last)
        return self.head_weights.combined(self._influence(run, score, rows, "head", last))

    def _influence(
        self, run: ResponsePass, score: Tensor, rows: Tensor | None, per: Per | None, last: bool = True
    ) -> Tensor:
        if not score.isfinite():
            raise ValueError(
                f"{type(self.model).__name__} cannot write this: its score is {float(score)}, so that nothing made it "
                "write this"
            )
        weights = KnownRows(self._real.double() if rows is None else rows)
        observer = InfluenceObserver(run.watched(self.layers, self.heads), self.variant, weights, per)
        run.show([observer], None if self.variant == "attention" else score, retain_graph=not last)
        return observer.influence.cpu()


@dataclass(frozen=True, eq=False)
class WholeSequence:
    """By another method, in a pass over prompt and response.

    Attributes:
        model, tokenizer, responses: the response, in a batch of one.
        score: of its tokens.
        method: makes an attribution of a model; it is given ``tokenizer``, too.
        explained_scores: as of :class:`ResponseRows`.
    """

    model: Any
    tokenizer: Any
    responses: Responses
    score: ResponseScore | ScoreFunction
    method: Method
    explained_scores: Tensor | None = None
    additive = False  # as nobody can tell
    what = "values of the {} by another method, in a pass over the whole sequence"

    def of_response(self) -> tuple[Tensor, Tensor]:
        """As of :class:`ResponseRows`."""
        values = self.of_parts(torch.ones(1, self.responses.count))[0]
        return plain_response_logits(self.model, self.responses)[0], values

    def of_parts(self, weights: Tensor) -> Tensor:
        """As of :class:`ResponseRows`."""
        results = self._results(self.score, weights)
        if self.explained_scores is not None:
            scores = torch.stack([result.scores[0] for result in results])
            check_unchanged(self.model, weights.to(self.explained_scores) @ self.explained_scores, scores, self._dtype)
        return torch.cat([result.values for result in results]).cpu()

    def of_contrast(self, place: int, own: int, other: int) -> Tensor:
        """As of :class:`ResponseRows`."""
        self._check_depends_on_score()

        def difference(logits: Tensor, _: Tensor) -> Tensor:
            return logits[..., own] - logits[..., other]

        self._check_unchanged()
        return self._results(difference, torch.eye(self.responses.count)[place, None])[0].values[0].cpu()

    def of_other(self, responses: Responses) -> Tensor:
        """As of :class:`ResponseRows`."""
        self._check_depends_on_score()
        self._check_unchanged()
        return replace(self, responses=responses, explained_scores=None).of_parts(torch.ones(1, responses.count))[0]

    def _check_depends_on_score(self) -> None:
        explainer = self._explainer(self.score, torch.ones(1, self.responses.count))
        if not explainer.needs_gradients:
            raise ValueError(f"{type(explainer).__name__} does not depend on what is compared: take another method")

    def _check_unchanged(self) -> None:
        """By a pass of its own, where what is explained is no part of the score."""
        if self.explained_scores is not None:
            logits = plain_response_logits(self.model, self.responses)
            scores = response_scores(logits, self.responses.predicted, self.score)[0]
            check_unchanged(self.model, self.explained_scores, scores, logits.dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return next((one.dtype for one in self.model.parameters() if one.is_floating_point()), torch.float32)

    def _results(self, score: ResponseScore | ScoreFunction, parts: Tensor) -> list[TokenAttributions]:
        explainer = self._explainer(score, parts)
        return explainer.attribute_targets(all_playing(self.responses), list(range(len(parts))))

    def _explainer(self, score: ResponseScore | ScoreFunction, parts: Tensor) -> AttentionAttribution:
        scored = ScoredResponse(self.model, self.responses.count, score, parts)
        explainer = self.method(scored, tokenizer=self.tokenizer)
        if not isinstance(explainer, AttentionAttribution):
            made = type(explainer).__name__
            raise TypeError(f"method must make an attribution of a model, such as AttnLRP, but it made {made}")
        if isinstance(explainer, AttentionShapley) and explainer.game not in ("auto", *ADDITIVE_GAMES):
            raise ValueError(
                f"in the game {explainer.game!r} the values of sources are not the sums of their tokens': ask "
                "GenerationAttention.source_game for sources that play it"
            )
        if not explainer.needs_gradients and isinstance(explainer, AttentionShapley) and explainer.game == "incoming":
            raise ValueError(f"{type(explainer).__name__} says the same of every response: take game='cls'")
        return explainer


def check_unchanged(model: Any, explained: Tensor, found: Tensor, dtype: torch.dtype) -> None:
    """Raise ``ValueError`` where scores, of logits in a dtype, are others than when a response was explained.

    By more than 1e-4, or a tenth in half precision. Unlike weights' versions, scores tell of adapters and
    hooks, too, and say nothing of a model that was moved.
    """
    tolerance = 1e-4 if dtype in (torch.float32, torch.float64) else 0.1
    found = found.detach().to(explained)
    changed = ~torch.isclose(found, explained, rtol=tolerance, atol=tolerance, equal_nan=True)
    if changed.any():
        place = int(changed.nonzero()[0])
        raise ValueError(
            f"{type(model).__name__} is no longer what it was when this response was explained: its score {place} was "
            f"{float(explained[place]):.4f}, and is {float(found[place]):.4f}. Values of both do not go together: "
            "explain it again"
        )


def all_playing(responses: Responses) -> dict[str, Tensor]:
    """The sequences as a model's inputs, every token of which plays, whatever it is."""
    mask, length = responses.real.long(), responses.ids.shape[1]
    beside = {name: padded_types(name, one, length) for name, one in responses.model_kwargs.items()}
    return {"input_ids": responses.ids, "attention_mask": mask, "players": mask, **beside}
