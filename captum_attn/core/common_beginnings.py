"""One response to many prompts: what these begin with in common is run once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise, takewhile
from typing import Any

from torch import Tensor

from captum_attn.core.models import device_of, unwrapped
from captum_attn.core.prompt_cache import keys_and_values, reads_cache
from captum_attn.core.responses import Responses, plain_response_logits

_FEWEST = 32  # tokens that are worth a pass of their own; one over fewer takes as long as reading the weights does


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
    longest = max(every, key=lambda one: one.ids.shape[1], default=None)
    reuse = longest is not None and longest.ids.shape[1] > _FEWEST and _repeats_cache(model, longest)
    ends = [(prompts[batch[0]], prompts[batch[-1]]) for batch in batches]
    shared = [_in_common(one[0], other[1]) if reuse else 0 for one, other in pairwise(ends)]
    known: list[tuple[int, Any]] = [(0, None)]  # ever longer beginnings of the next batch's prompts
    for batch, responses, (first, last), after in zip(batches, every, ends, [*shared, 0], strict=True):
        within = _in_common(first, last) if reuse and len(batch) > 1 else 0
        for length in (after, within):
            start, cache = known[-1]
            if length - start >= _FEWEST:
                one = Responses(responses.ids[:1], responses.real[:1], responses.count)
                known.append((length, keys_and_values(model, one, length, cache, start)))
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


def _repeats_cache(model: Any, responses: Responses) -> bool:
    """Whether the cache of any beginning can be read, and by several prompts."""
    if not reads_cache(model, responses, parts=True):
        return False
    layers = getattr(keys_and_values(model, responses, 1), "layers", ())
    return bool(layers) and all(hasattr(layer, "batch_repeat_interleave") for layer in layers)
