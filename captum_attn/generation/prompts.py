"""A prompt as a language model reads it, and where in it stands what people wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from captum_attn.core import special_token_ids

Span = tuple[int, int]
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Prompt:
    """A prompt, a chat template's words included.

    Attributes:
        text: all that the model reads.
        ids: of its tokens.
        offsets: where each token stands in the text, from and to; the same place twice for one that stands nowhere.
        contents: where what was given stands: the contents of messages, or the whole text.
        special_tokens: whether the tokenizer adds its own around the text; a chat template writes them itself.
    """

    text: str
    ids: tuple[int, ...]
    offsets: tuple[Span, ...]
    contents: tuple[Span, ...]
    special_tokens: bool

    @property
    def tokens(self) -> list[str]:
        """Each token, as it stands in the text."""
        return [self.text[start:end] for start, end in self.offsets]

    @property
    def given(self) -> list[bool]:
        """Whether each token stands in what was given, and is not the template's or a special one."""
        return [any(max(start, begin) < min(end, stop) for begin, stop in self.contents) for start, end in self.offsets]


def read_prompt(given: str | Messages, tokenizer: Any) -> Prompt:
    """A text as it is, or messages under the tokenizer's chat template, up to where the model's answer begins.

    Args:
        given: a text, with what else the model needs around it; or messages, mappings with ``role`` and ``content``.
        tokenizer: the model's, a fast one.

    Raises:
        TypeError: neither of these.
        ValueError: nothing to read; a tokenizer without offsets, or without a chat template; a template that does not
            keep the contents as they are.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} does not say where tokens stand in the text: it takes a fast tokenizer, as "
            "AutoTokenizer loads where there is one"
        )
    bos = str(tokenizer.bos_token or "")
    begun = bool(bos) and isinstance(given, str) and given.startswith(bos)  # as a template renders it
    if isinstance(given, str):
        text, contents = given, [(len(bos) if begun else 0, len(given))]
    else:
        text, contents = _rendered(given, tokenizer)
    special_tokens = isinstance(given, str) and not begun
    ids, offsets = encoded_prompt(text, tokenizer, special_tokens)
    if not text.strip() or not ids:
        raise ValueError("the prompt is empty: there is nothing to explain a response by")
    return Prompt(text, tuple(ids), tuple(offsets), tuple(contents), special_tokens)


def encoded_prompt(text: str, tokenizer: Any, special_tokens: bool) -> tuple[list[int], list[Span]]:
    """The ids of a prompt's tokens and where they stand, without a token that would close the text."""
    encoding = tokenizer(text, add_special_tokens=special_tokens, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], [(start, end) for start, end in encoding["offset_mapping"]]
    if special_tokens and ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        return ids[:-1], offsets[:-1]
    return ids, offsets


def encoded_response(text: str, tokenizer: Any) -> list[int]:
    """The ids of a text as a response."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def decoded(ids: Sequence[int], tokenizer: Any) -> str:
    """Tokens as a text, as they are: without spaces that some tokenizers clean up, so that parts make up the whole."""
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def without_end(ids: Sequence[int], tokenizer: Any) -> list[int]:
    """What was written, without the special tokens that close it."""
    found, special = list(ids), special_token_ids(tokenizer)
    while found and found[-1] in special:
        found.pop()
    return found


def _rendered(messages: Any, tokenizer: Any) -> tuple[str, list[Span]]:
    """Messages under the chat template, and where their contents stand."""
    if not isinstance(messages, Sequence) or not all(isinstance(one, Mapping) for one in messages):
        raise TypeError(
            "the prompt must be a text, or messages such as [{'role': 'user', 'content': '...'}], got "
            f"{type(messages).__name__}"
        )
    wrong = [one for one in messages if not isinstance(one.get("content"), str) or not isinstance(one.get("role"), str)]
    if wrong or not messages:
        raise TypeError(f"messages need a role and a content, two texts, got {wrong[0] if wrong else 'none'!r}")
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"{type(tokenizer).__name__} has no chat template, so that messages cannot be put together: give the "
            "prompt as a text"
        )
    text = _applied(tokenizer, [dict(message) for message in messages])
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    frame = _applied(tokenizer, [{**one, "content": mark} for one, mark in zip(messages, marks, strict=True)])
    contents: list[Span] = []
    place = 0
    for message, mark in zip(messages, marks, strict=True):
        before, found, frame = frame.partition(mark)
        written = [
            one for one in (message["content"], message["content"].strip()) if text.startswith(before + one, place)
        ]
        if not found or mark in frame or not written:
            raise ValueError(
                f"the chat template does not keep the message {message['content'][:40]!r} as it is, so nothing says "
                "where it stands: give the prompt as a text"
            )
        start = place + len(before)
        place = start + len(written[0])
        inner = written[0].strip()
        start += written[0].index(inner)
        contents.append((start, start + len(inner)))
    if text[place:] != frame:
        raise ValueError("the chat template changes with the messages' words: give the prompt as a text")
    return text, contents


def _applied(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        raise ValueError(f"the chat template refuses these messages: {error}") from error
