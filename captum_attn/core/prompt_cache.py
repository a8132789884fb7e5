"""Keys and values of prompts, computed once for all that follows them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.models import (
    config_of,
    evaluation_mode,
    same_random_state,
    takes_keyword,
    text_config,
)
from captum_attn.core.responses import Responses, check_causal, plain_response_logits
from captum_attn.core.tried_models import TriedModels, predicts_alike

_WHOLE_PASS = "captum_attn.GenerationAttention(model, tokenizer, method=captum_attn.AttnLRP)"
_tried = TriedModels()


def keys_and_values(model: Any, responses: Responses, end: int, cache: Any = None, start: int = 0) -> Any:
    """The keys and values of the places before ``end``, added to a copy of those of the places before ``start``.

    Raises:
        ValueError: the model returns none.
    """
    given = responses.given_to(model, slice(start, end), logits_to_keep=1, return_dict=True)
    with evaluation_mode(model), torch.inference_mode(False), torch.no_grad(), same_random_state(given["input_ids"]):
        before = copy.deepcopy(cache)
        returned = model(**given, past_key_values=before, use_cache=True)
    found = getattr(returned, "past_key_values", None)
    if found is None or not hasattr(found, "get_seq_length") or found.get_seq_length() != end:
        raise ValueError(f"{type(model).__name__} returns no cache of the prompt's keys and values (past_key_values)")
    return found


def cached_lengths(cache: Any) -> set[int]:
    """How many keys a cache of ``transformers`` keeps, in one layer or another."""
    keys = (getattr(layer, "keys", None) for layer in getattr(cache, "layers", ()))
    return {one.shape[-2] for one in keys if isinstance(one, Tensor) and one.dim() > 2}


def check_cache(model: Any, responses: Responses, parts: bool = False) -> None:
    """Raise ``ValueError`` unless responses can be run on the cached keys and values of their prompts.

    With ``parts``, on those of the first tokens of their prompts, however few.

    What the configuration does not tell is tried, again for longer sequences: it must predict the same as in a whole
    pass.
    """
    _check_by_configuration(model, responses, parts)
    length = responses.ids.shape[1]
    first = length - responses.count - 1
    padded, one = not responses.real[:, 0].all(), responses.count == 1  # of one token, models may go another way
    what = f"{padded=}, {one=}"
    if not first or responses.model_kwargs:
        check_causal(model)
    if not first or _tried.knows(model, what, length):
        return
    cache = keys_and_values(model, responses, first)
    try:
        logits = plain_response_logits(model, responses, cache, first)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        if not responses.model_kwargs:
            raise
        raise ValueError(
            f"{type(model).__name__} cannot read a response after its cached prompt ({error}). Explain it by a pass "
            f"over the whole sequence, such as {_WHOLE_PASS}"
        ) from error
    row = int(responses.real.sum(-1).argmin())
    alone = responses.alone(row)
    if not predicts_alike(logits[row, : alone.count], plain_response_logits(model, alone)[0]):
        padding = "padding counts, or " if padded else ""
        raise ValueError(
            f"{type(model).__name__} predicts a response otherwise from its cache than in a pass over the whole "
            f"sequence alone: {padding}what it keeps of the prompt, such as recurrent states, is not read by several "
            f"tokens at once. Explain {'one prompt at a time, or ' if padding else 'it '}by a pass over the whole "
            f"sequence, such as {_WHOLE_PASS}"
        )
    _tried.add(model, what, length)


def reads_cache(model: Any, responses: Responses, parts: bool = False) -> bool:
    """Whether the model reads a response after its cached prompt; of several lengths, their padding included."""
    try:
        check_cache(model, responses, parts)
    except ValueError:
        return False
    return True


def _check_by_configuration(model: Any, responses: Responses, parts: bool) -> None:
    config, name = config_of(model), type(model).__name__
    if getattr(config, "is_encoder_decoder", False) or not takes_keyword(model, "past_key_values"):
        raise ValueError(f"{name} is no causal language model with a cache of keys and values (past_key_values)")
    rotary: dict[str, Any] = getattr(text_config(config), "rope_parameters", None) or {}
    longest: int = getattr(text_config(config), "max_position_embeddings", 0)
    after = responses.ids.shape[1] - 1
    before = 0 if parts else after - responses.count
    for kind in (rotary, *(part for part in rotary.values() if isinstance(part, dict))):
        switch = kind.get("original_max_position_embeddings", longest)
        changes = {"longrope": before <= switch < after, "dynamic": switch < after}
        if changes.get(kind.get("rope_type", "")):
            raise ValueError(
                f"the rotary embeddings of {name} change with the length of a text, from {switch} tokens on "
                f"({kind['rope_type']}), so that keys which are cached without the response are not those of a pass "
                "over the whole sequence: explain the response by such a pass, as "
                "captum_attn.GenerationAttention(model, tokenizer, method=captum_attn.AttnLRP) does"
            )
