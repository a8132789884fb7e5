"""A language model as a scorer or a classifier of responses, for every method and every metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from captum_attn.core import Responses, check_causal, code_fingerprint, config_of, padded_types, parameter_names
from captum_attn.functional import ResponseScore, ScoreFunction, check_response_score, response_scores
from captum_attn.generation.image_prompts import prompt_of, tokenizer_of
from captum_attn.generation.prompts import Messages, Prompt, encoded_response

_UNSCORED = -100
"""In the place of a token that is none of the response's, as in transformers' labels."""


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
        ValueError: a model that is no causal language model, another score, no tokens, or parts of other shapes; when
            called, padding where the response should stand, or without a mask.

    Example:
        >>> from captum_attn import AttnLRP
        >>> scored = ScoredResponse(decoder, count=2)
        >>> prompt_and_response = torch.tensor([[5, 6, 7, 8]])
        >>> scored(prompt_and_response).shape
        torch.Size([1, 1])
        >>> AttnLRP(scored).attribute(prompt_and_response, target=0).shape
        torch.Size([1, 4])
    """

    parts: Tensor

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
        self.register_buffer("parts", torch.ones(1, count) if parts is None else parts, persistent=False)
        self.config: Any = copy(config_of(model))
        if self.config is not None:
            self.config.problem_type = "regression"  # scores, no classes

    def extra_repr(self) -> str:
        """What tells it from other scorers of the same model."""
        score = code_fingerprint(self.score) if callable(self.score) else self.score
        return f"count={self.count}, score={score}"

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **images: Tensor) -> Tensor:
        """Scores (B, S) of the ids (B, N), shorter ones padded on the left; with what the model is given of images."""
        if attention_mask is not None and not attention_mask[:, -self.count - 1 :].all():
            raise ValueError(
                f"the last {self.count} tokens are the response, but in some rows they are padding: pad on the left, "
                "tokenizer.padding_side = 'left'"
            )
        given = _given(self.model, input_ids, attention_mask, images, logits_to_keep=self.count + 1)
        logits = self.model(**given).logits
        scores = response_scores(logits[:, -self.count - 1 : -1], input_ids[:, -self.count :], self.score)
        return scores @ self.parts.to(scores).mT


class ResponseClassifier(nn.Module):
    """A causal language model as a classifier of two classes: it writes a response, or something else.

    The logits are s/2 and −s/2, with s the mean of the log-odds of the response's tokens, so that the probability of
    the first class is the logistic function of s. So :func:`captum_attn.metrics.evaluate`,
    :func:`captum_attn.comparison.compare` and whatever takes classifiers measures explanations of responses:
    prompts' tokens are replaced, and the model is asked how sure it is of the same response. Inputs are those of
    :func:`response_inputs`.

    Args:
        model: takes ``input_ids`` and ``attention_mask``, and returns logits.

    Raises:
        ValueError: a model that is no causal language model; when called, a row without a response.

    Example:
        >>> from captum_attn import AttnLRP, ShapleyGradAttention
        >>> from captum_attn.metrics import evaluate
        >>> classifier = ResponseClassifier(decoder)
        >>> prompts, responses = ["the cat is old . is it ?", "the dog is young ."], ["it is old", "fine"]
        >>> methods = {"AttnLRP": AttnLRP(classifier), "game": ShapleyGradAttention(classifier, game="cls")}
        >>> inputs = response_inputs(prompts, responses, chat_tokenizer)
        >>> found = evaluate(classifier, inputs, methods, tokenizer=chat_tokenizer, show_progress=False)
        >>> list(found.table(["comprehensiveness"]).method.unique())
        ['AttnLRP', 'game', 'random']
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        check_causal(model)
        self.model, self.config = model, config_of(model)

    def forward(
        self,
        input_ids: Tensor,
        response_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **images: Tensor,
    ) -> Tensor:
        """Logits (B, 2) of ids (B, N), of which ``response_ids`` int64 (B, N) has the response's, else −100."""
        if response_ids is None:
            raise ValueError(
                "nothing says which response is meant: inputs are those of captum_attn.generation.response_inputs("
                "prompts, responses, tokenizer)"
            )
        logits = self.model(**_given(self.model, input_ids, attention_mask, images)).logits[:, :-1]
        scored = scored_places(response_ids[:, 1:])
        scores = response_scores(logits, response_ids[:, 1:].clamp(min=0)).masked_fill(~scored, 0)
        mean = scores.sum(-1) / scored.sum(-1)
        return torch.stack([mean, -mean], -1) / 2


def scored_places(response_ids: Tensor) -> Tensor:
    """bool (B, N), the places of a response's tokens; ``ValueError`` for a row without any."""
    scored = response_ids != _UNSCORED
    if not scored.any(-1).all():
        raise ValueError("a row has no response: response_ids are -100 for all of its tokens")
    return scored


def _given(
    model: nn.Module, ids: Tensor, mask: Tensor | None, images: Mapping[str, Tensor], **optional: Any
) -> dict[str, Any]:
    """The model's arguments, positions counted without padding."""
    if mask is None:
        _check_unpadded(config_of(model), ids)
    if unknown := [name for name in images if name not in parameter_names(model)]:
        raise TypeError(f"{type(model).__name__} takes no {', '.join(unknown)}")
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    if not real[:, 0].all() and "position_ids" not in parameter_names(model):
        raise ValueError(
            f"{type(model).__name__} takes no position_ids, so that padding on the left may count: give texts of one "
            "length together, or one at a time"
        )
    return Responses(ids, real, 1, images).given_to(model, slice(0, ids.shape[1]), **optional)


def _check_unpadded(config: Any, ids: Tensor) -> None:
    """Raise ``ValueError`` if some rows look padded, with a token that begins or ends no text."""
    begins, ends, pad = (getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad"))
    others = [begins, *(ends if isinstance(ends, list) else [ends])]
    if pad is not None and pad not in others and ((ids[:, 0] == pad) | (ids[:, -1] == pad)).any():
        raise ValueError(f"some rows begin or end with padding (token {pad}): give attention_mask=, too")


def response_inputs(
    prompts: Sequence[str | Messages],
    responses: Sequence[str],
    tokenizer: Any,
    device: torch.device | None = None,
    *,
    images: Sequence[Any] | None = None,
    model: nn.Module | None = None,
) -> dict[str, Tensor]:
    """Prompts and responses as one batch of a :class:`ResponseClassifier`, padded on the right.

    What was written in the prompt plays: a chat template's words, special tokens and the response do not.

    Args:
        prompts: texts, or messages under the tokenizer's chat template.
        responses: a text for each.
        tokenizer: the model's, a fast one; its processor, of prompts with images.
        device: of the model.
        images: one for each prompt, as in :meth:`captum_attn.GenerationAttention.explain`.
        model: which reads them; its configuration says which tokens are parts of images.

    Returns:
        ``input_ids``, ``attention_mask``, ``response_ids`` and ``players``, int64 (B, N), and what the model is given
        of images, such as ``pixel_values``.

    Raises:
        TypeError, ValueError: prompts that are none, empty responses, or another number of them.

    Example:
        >>> inputs = response_inputs(["a film .", "the cat is old ."], ["fine", "it is"], chat_tokenizer)
        >>> inputs["response_ids"].gt(0).sum(-1)
        tensor([1, 2])
    """
    if len(prompts) != len(responses) or not prompts:
        raise ValueError(f"{len(prompts)} prompts and {len(responses)} responses: expected one for each, at least one")
    if images is not None and len(images) != len(prompts):
        raise ValueError(f"images for {len(images)} prompts, but there are {len(prompts)}: expected some for each")
    if images is not None and model is None:
        raise ValueError("of prompts with images, model= says which tokens are parts of these: give it, too")
    words = tokenizer_of(tokenizer)
    of_each = images or [None] * len(prompts)
    read = [prompt_of(model, prompt, tokenizer, own) for prompt, own in zip(prompts, of_each, strict=True)]
    if any(len(one.image_spans) != len(read[0].image_spans) or len(one.image_spans) > 1 for one in read):
        raise ValueError("a batch has one image in each prompt, or in none: others are to be explained one by one")
    rows = [_row(one, response, words) for one, response in zip(read, responses, strict=True)]
    fill = {"input_ids": words.pad_token_id or 0, "response_ids": _UNSCORED}
    found = {
        name: pad_sequence([torch.tensor(row[name]) for row in rows], True, fill.get(name, 0)).to(device)
        for name in rows[0]
    }
    length = found["input_ids"].shape[1]
    for name in read[0].model_kwargs:
        found[name] = torch.cat([padded_types(name, one.model_kwargs[name], length) for one in read]).to(device)
    return found


def _row(read: Prompt, response: str, tokenizer: Any) -> dict[str, list[int]]:
    ids = encoded_response(response, tokenizer)
    if not ids:
        raise ValueError("a response is empty: there is nothing to explain")
    return {
        "input_ids": [*read.ids, *ids],
        "attention_mask": [1] * (len(read.ids) + len(ids)),
        "response_ids": [*[_UNSCORED] * len(read.ids), *ids],
        "players": [*map(int, read.given), *[0] * len(ids)],
    }
