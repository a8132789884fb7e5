"""A language model as a scorer of a response, which every method explains."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from captum_attn.core import check_causal, config_of, takes_keyword
from captum_attn.functional import ResponseScore, ScoreFunction, check_response_score, response_scores


class ScoredResponse(nn.Module):
    """A causal language model that returns the scores of a response, and so is explained as classifiers are.

    Its inputs are a prompt and a response, one after the other. What it returns are numbers for each example, its
    classes: every attribution of this library, of Captum and of SHAP takes it as it is.

    Args:
        model: takes ``input_ids`` and ``attention_mask``, and returns logits.
        count: T, the number of the response's tokens, which stand at the end.
        score: of each of them; see :func:`captum_attn.functional.response_scores`.
        parts: (S, T), weights of the tokens' scores in each number that is returned. Default: their sum is the only
            one.

    Raises:
        ValueError: a model that is no causal language model, another score, no tokens, or parts of other shapes.

    Example:
        >>> from captum_attn import AttnLRP
        >>> scored = ScoredResponse(decoder, count=2)
        >>> scored(ids).shape == (len(ids), 1)
        True
        >>> AttnLRP(scored).attribute(ids, target=0).shape == ids.shape
        True
    """

    def __init__(
        self,
        model: nn.Module,
        count: int,
        score: ResponseScore | ScoreFunction = "log_odds",
        parts: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_response_score(score)
        check_causal(model)
        if count < 1:
            raise ValueError(f"a response has one token or more, got count={count!r}")
        if parts is not None and (parts.dim() != 2 or parts.shape[1] != count):
            raise ValueError(f"parts must have shape (S, {count}), got {tuple(parts.shape)}")
        self.model, self.count, self.score = model, count, score
        self.parts = torch.ones(1, count) if parts is None else parts
        self.config = config_of(model)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Scores (B, S) of the ids (B, N)."""
        kept = {"logits_to_keep": self.count + 1} if takes_keyword(self.model, "logits_to_keep") else {}
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask, **kept).logits
        scores = response_scores(logits[:, -self.count - 1 : -1], input_ids[:, -self.count :], self.score)
        return scores @ self.parts.to(scores).mT
