"""Keys and values of prompts, computed once for all that follows them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise, takewhile
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from captum_attn.core.models import (
    config_of,
    device_of,
    evaluation_mode,
    same_random_state,
    takes_keyword,
    text_config,
    unwrapped,
)
from captum_attn.core.responses import Responses, plain_response_logits, predicts_alike

_WORTH = 32  # tokens; a pass over fewer takes as long as reading the weights does
_known_caches: WeakSet[Callable[..., Any]] = WeakSet()


def cached(model: Any, responses: Responses, end: int, cache: Any = None, start: int = 0) -> Any:
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


def check_cache(model: Any, responses: Responses) -> None:
    """Raise ``ValueError`` unless responses can be run on the cached keys and values of their prompts.

    What the configuration does not tell is tried, once for each model: it must predict the same as in a whole pass.
    """
    _check_by_configuration(model, responses)
    first = responses.ids.shape[1] - responses.count - 1
    if not first or model in _known_caches:
        return
    whole, real = plain_response_logits(model, responses), responses.real[:, -responses.count :]
    logits = plain_response_logits(model, responses, cached(model, responses, first), first)
    if not predicts_alike(logits[real], whole[real]):
        raise ValueError(
            f"{type(model).__name__} predicts the response otherwise from its cache than in a pass over the whole "
            "sequence: what it keeps of the prompt, such as recurrent states, is not "
            "read by several tokens at once. Explain the response by a pass over the whole sequence, such as "
            "captum_attn.ShapleyGradAttention's"
        )
    _known_caches.add(model)


def _check_by_configuration(model: Any, responses: Responses) -> None:
    config, name = config_of(model), type(model).__name__
    if getattr(config, "is_encoder_decoder", False) or not takes_keyword(model, "past_key_values"):
        raise ValueError(f"{name} is no causal language model with a cache of keys and values (past_key_values)")
    rotary: dict[str, Any] = getattr(text_config(config), "rope_parameters", None) or {}
    longest: int = getattr(text_config(config), "max_position_embeddings", 0)
    before, after = responses.ids.shape[1] - responses.count - 1, responses.ids.shape[1] - 1
    for kind in (rotary, *(part for part in rotary.values() if isinstance(part, dict))):
        switch = kind.get("original_max_position_embeddings", longest)
        changes = {"longrope": before <= switch < after, "dynamic": switch < after}
        if changes.get(kind.get("rope_type", "")):
            raise ValueError(
                f"the rotary embeddings of {name} change with the length of a text, from {switch} tokens on "
                f"({kind['rope_type']}), so that keys which are cached without the response are not those of a pass "
                "over the whole sequence: explain the response by such a pass"
            )


def response_logits_of_each(
    model: Callable[..., Any], prompts: Sequence[Sequence[int]], response: Sequence[int], batch_size: int = 8
) -> Iterator[tuple[list[int], Tensor]]:
    """How a model predicts one response to several prompts, without gradients.

    Prompts of one length run together, and what prompts begin with in common is run once, where the model's cache
    allows it.

    Args:
        model: a causal language model, left as it was.
        prompts: ids of tokens, at least one each.
        response: ids of T tokens.
        batch_size: the most prompts at a time.

    Yields:
        Numbers of prompts, and the logits (b, T, V) of what predicted the response to these.

    Example:
        >>> parts = response_logits_of_each(decoder, [[3, 4, 5], [3, 4], [3, 9, 5]], [7, 8])
        >>> sorted((numbers, tuple(logits.shape[:2])) for numbers, logits in parts)
        [([0, 2], (2, 2)), ([1], (1, 2))]
    """
    model, device = unwrapped(model), device_of(model)
    batches = list(_batches(prompts, batch_size))
    every = [Responses.of([(prompts[number], response) for number in batch], device) for batch in batches]
    reuse = max((len(one) for one in prompts), default=0) > _WORTH and all(_reads_cache(model, one) for one in every)
    ends = [(prompts[batch[0]], prompts[batch[-1]]) for batch in batches]
    shared = [_in_common(one[0], other[1]) if reuse else 0 for one, other in pairwise(ends)]
    known: list[tuple[int, Any]] = [(0, None)]  # ever longer beginnings of the next batch's prompts
    for batch, responses, (first, last), after in zip(batches, every, ends, [*shared, 0], strict=True):
        within = _in_common(first, last) if reuse and len(batch) > 1 else 0
        for length in (after, within):
            start, cache = known[-1]
            if length - start >= _WORTH:
                one = Responses(responses.ids[:1], responses.real[:1], responses.count)
                known.append((length, cached(model, one, length, cache, start)))
        start, cache = known[-1]
        own = copy.deepcopy(cache)
        if own is not None and len(batch) > 1:
            own.batch_repeat_interleave(len(batch))
        yield batch, plain_response_logits(model, responses, own, start)
        while known[-1][0] > after:
            known.pop()


def _batches(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """The numbers of prompts of one length that begin alike, in order."""
    order = sorted(range(len(prompts)), key=lambda number: list(prompts[number]))
    for _, group in groupby(order, key=lambda number: len(prompts[number])):
        alike = list(group)
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


def _in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with in common; the last of each is not among them: it predicts."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(one[:-1], other[:-1], strict=False))
    return sum(1 for _ in alike)


def _reads_cache(model: Any, responses: Responses) -> bool:
    try:
        check_cache(model, responses)
    except ValueError:
        return False
    return True
