"""How sure a language model was of each token of a response."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

ResponseScore = Literal["log_odds", "log_prob", "logit"]
"""The names of scores of a response's tokens; :func:`response_scores` defines them."""

RESPONSE_SCORES: tuple[ResponseScore, ...] = get_args(ResponseScore)
"""All of them."""

ScoreFunction = Callable[[Tensor, Tensor], Tensor]
"""A score of your own: logits (..., V) and tokens int64 (...), to scores (...)."""


def check_response_score(score: Any) -> None:
    """Raise ``ValueError`` unless it is the name of a score, or a function."""
    if score not in RESPONSE_SCORES and not callable(score):
        raise ValueError(f"score must be {', '.join(map(repr, RESPONSE_SCORES))}, or a function, got {score!r}")


def response_scores(logits: Tensor, tokens: Tensor, score: ResponseScore | ScoreFunction = "log_odds") -> Tensor:
    """What speaks for each token, against all others.

    Log-odds are a token's logit less the logarithm of the sum of the others' exponentials, log p − log(1 − p), computed
    without 1 − p: where a model is sure, log p and its gradient vanish, and these do not.

    Args:
        logits: (..., V), of any floating dtype; the scores are of float32, or float64.
        tokens: int64 (...), the tokens that were written.
        score: ``"log_odds"``, ``"log_prob"``, ``"logit"``, or a function of the logits and tokens.

    Returns:
        (...), differentiable.

    Raises:
        ValueError: another score, or shapes that do not fit, a function's included.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
        >>> response_scores(logits, torch.tensor([0, 0]))
        tensor([0., 2.])
        >>> response_scores(torch.tensor([200.0, 0.0]), torch.tensor(0))  # where log p is 0 to the last bit
        tensor(200.)
    """
    check_response_score(score)
    if logits.shape[:-1] != tokens.shape:
        raise ValueError(
            f"tokens must have shape {tuple(logits.shape[:-1])}, that of their logits, got {tuple(tokens.shape)}"
        )
    wide = logits if logits.dtype == torch.float64 else logits.float()
    if callable(score):
        found = score(wide, tokens)
        if found.shape != tokens.shape:
            raise ValueError(f"a score is a number for each token, {tuple(tokens.shape)}, got {tuple(found.shape)}")
        return found
    of_token = wide.gather(-1, tokens[..., None])
    if score == "log_prob":
        return (of_token - wide.logsumexp(-1, keepdim=True)).squeeze(-1)
    if score == "log_odds":
        return (of_token - wide.scatter(-1, tokens[..., None], -torch.inf).logsumexp(-1, keepdim=True)).squeeze(-1)
    return of_token.squeeze(-1)
