"""The tokens of a response: written by the model, or given; and their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import torch

from captum_attn.core import config_of, device_of, evaluation_mode, is_index, picture_token, same_random_state
from captum_attn.core.models import text_config
from captum_attn.generation.prompts import Prompt, decoded, encoded_response, without_end

_OF_THE_PROMPT = ("attention_mask", "input_ids", "inputs", "inputs_embeds")


def response_ids(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    response: str | Sequence[int] | None,
    generate: Mapping[str, Any] | None = None,
) -> list[int]:
    """The ids of a response's tokens, at least one.

    Args:
        model, tokenizer, prompt: what answers to what.
        response: a text, ids, or None if the model writes it.
        generate: settings of ``model.generate``.

    Raises:
        TypeError, ValueError: no response, or one that the model cannot read after the prompt; settings that do not go
            with it.
    """
    if response is None:
        ids = _written(model, tokenizer, prompt, generate or {})
    elif generate:
        hint = "; did you mean sources?" if get_close_matches("sources", generate) else ""
        raise ValueError(f"{', '.join(generate)} is for model.generate, but the response is given{hint}")
    elif isinstance(response, str):
        ids = encoded_response(response, tokenizer)
        _check_known(response, ids, tokenizer)
    else:
        ids = _checked(response, len(tokenizer))
    if not ids:
        what = "the response is empty" if response is not None else "the model wrote nothing but special tokens"
        raise ValueError(f"{what}: there is nothing to explain. (Chat models answer messages, not bare texts)")
    _check_length(model, len(prompt.ids) + len(ids))
    if picture_token(config_of(model)) in ids:
        raise ValueError("the response has a token that stands for a part of an image: models write none")
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    size, largest = getattr(embeddings, "num_embeddings", None), max(*prompt.ids, *ids)
    if isinstance(size, int) and largest >= size:
        raise ValueError(
            f"the tokenizer has the token {largest}, but {type(model).__name__} knows {size}: "
            "model.resize_token_embeddings(len(tokenizer)), or the model's own tokenizer"
        )
    return ids


def token_texts(ids: Sequence[int], tokenizer: Any) -> tuple[str, ...]:
    """The texts of tokens, which joined are the response; a token that is part of a character has none."""
    text, ends = decoded(ids, tokenizer), [0]
    for number in range(1, len(ids)):
        beginning = decoded(ids[:number], tokenizer).rstrip("\ufffd")
        ends.append(max(ends[-1], len(beginning)) if text.startswith(beginning) else ends[-1])
    return tuple(text[start:end] for start, end in pairwise([*ends, len(text)]))


def _written(model: Any, tokenizer: Any, prompt: Prompt, settings: Mapping[str, Any]) -> list[int]:
    """What the model writes, without the special tokens that close it."""
    if not hasattr(model, "generate"):
        raise ValueError(f"{type(model).__name__} writes no responses, as it has no generate(): give the response")
    own = [name for name in _OF_THE_PROMPT if name in settings]
    if own:
        raise ValueError(f"{', '.join(own)} come from the prompt: leave them out")
    config = settings.get("generation_config", getattr(model, "generation_config", None))

    def asked(name: str) -> Any:
        return settings.get(name, getattr(config, name, None))

    if (asked("num_return_sequences") or 1) != 1 or asked("return_dict_in_generate"):
        raise ValueError(
            "one response is explained at a time, from its ids: leave out num_return_sequences and "
            "return_dict_in_generate"
        )
    _check_length(model, len(prompt.ids) + (settings.get("max_new_tokens") or 1))
    ids = torch.tensor([prompt.ids], device=device_of(model))
    with evaluation_mode(model), torch.no_grad(), same_random_state(ids):
        beside = {name: value.to(ids.device) for name, value in prompt.model_kwargs.items()}
        written = model.generate(ids, attention_mask=torch.ones_like(ids), **beside, **settings)
    return without_end(written[0, ids.shape[1] :].tolist(), tokenizer)


def _check_known(response: str, ids: Sequence[int], tokenizer: Any) -> None:
    """Raise ``ValueError`` where tokens do not say which words they stand for."""
    unknown, read = tokenizer.unk_token_id, decoded(ids, tokenizer)
    if unknown is not None and unknown in ids and str(tokenizer.unk_token) not in response:
        raise ValueError(
            f"the tokenizer does not know all of {response!r}, but reads it as {read!r}, as it does other words: which "
            "of them is explained, nothing says"
        )


def _checked(given: Any, size: int) -> list[int]:
    given = given.tolist() if isinstance(given, torch.Tensor) else given
    if not isinstance(given, Sequence):
        raise TypeError(f"a response is a text, or a list of ids, got {type(given).__name__}")
    wrong = [one for one in given if not is_index(one) or not 0 <= one < size]
    if wrong:
        raise ValueError(f"a response is a text, or ids from 0 to {size - 1}, got {wrong[0]!r} in it")
    return [int(one) for one in given]


def _check_length(model: Any, length: int) -> None:
    longest = getattr(text_config(config_of(model)), "max_position_embeddings", None)
    if isinstance(longest, int) and length > longest:
        raise ValueError(
            f"prompt and response have {length} tokens, but {type(model).__name__} reads {longest} at most"
        )
