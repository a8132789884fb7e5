"""A prompt as a language model reads it, and where in it stands what people wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError
from torch import Tensor

from captum_attn.core import special_token_ids

Span = tuple[int, int]
Messages = Sequence[Mapping[str, Any]]
PATCH = "▪"
"""What stands in a prompt's text for a token that is a part of an image."""


@dataclass(frozen=True)
class Prompt:
    """A prompt, a chat template's words included.

    Attributes:
        text: all that the model reads.
        ids: of its tokens.
        offsets: where each token stands in the text, from and to; the same place twice for one that stands nowhere.
        contents: where what was given stands: the contents of messages, or their texts and images, where they have
            parts; or the whole text, around images.
        special_tokens: whether the tokenizer adds its own around the text; a chat template writes them itself.
        model_kwargs: what the model is given beside the ids, where the prompt has images, such as ``pixel_values``.
        image_spans: where each image stands, a ``▪`` for each token that is a part of it.
    """

    text: str
    ids: tuple[int, ...]
    offsets: tuple[Span, ...]
    contents: tuple[Span, ...]
    special_tokens: bool
    model_kwargs: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    image_spans: tuple[Span, ...] = ()

    @property
    def tokens(self) -> list[str]:
        """Each token, as it stands in the text."""
        return [self.text[start:end] for start, end in self.offsets]

    @property
    def patches(self) -> list[int]:
        """The numbers of the tokens that are parts of images."""
        return [
            number
            for number, (start, end) in enumerate(self.offsets)
            if self.text[start:end] == PATCH and any(begin <= start < stop for begin, stop in self.image_spans)
        ]

    @property
    def given(self) -> list[bool]:
        """Whether each token stands in what was given, and is not the template's or a special one."""
        return [any(max(start, begin) < min(end, stop) for begin, stop in self.contents) for start, end in self.offsets]


def read_prompt(given: str | Messages, tokenizer: Any, template: Any | None = None) -> Prompt:
    """A text as it is, or messages under the tokenizer's chat template, up to where the model's answer begins.

    Args:
        given: a text, with what else the model needs around it; or messages, mappings with ``role`` and ``content``, a
            text or a list of parts, ``{"type": "text", "text": ...}``.
        tokenizer: the model's, a fast one.
        template: a processor whose chat template puts messages together. Default: the tokenizer.

    Raises:
        TypeError: neither of these.
        ValueError: nothing to read; a tokenizer without offsets, or without a chat template; a template that does not
            keep the contents as they are.
    """
    if isinstance(given, Sequence) and not isinstance(given, str) and any(map(_holds_others, given)):
        raise ValueError("a message has parts that are no text: give images=, and the processor as the tokenizer")
    text, contents, special_tokens = written_prompt(given, tokenizer, template or tokenizer)
    ids, offsets = encoded_prompt(text, tokenizer, special_tokens)
    if not text.strip() or not ids:
        raise ValueError("the prompt is empty: there is nothing to explain a response by")
    return Prompt(text, tuple(ids), tuple(offsets), tuple(contents), special_tokens)


def written_prompt(given: str | Messages, tokenizer: Any, template: Any) -> tuple[str, list[Span], bool]:
    """A prompt's text, where in it stands what was given, and whether the tokenizer adds special tokens.

    Args:
        given: a text or messages.
        tokenizer: the model's.
        template: a tokenizer or processor whose chat template puts messages together.
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
        text, contents = _rendered(given, template)
    return text, contents, isinstance(given, str) and not begun


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
    wrong = [one for one in messages if not _is_content(one.get("content")) or not isinstance(one.get("role"), str)]
    if wrong or not messages:
        raise TypeError(
            "messages need a role and a content, two texts (or, of content, a list of parts with a type), got "
            f"{wrong[0] if wrong else 'none'!r}"
        )
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"{type(tokenizer).__name__} has no chat template, so that messages cannot be put together: give the "
            "prompt as a text"
        )
    text = _applied(tokenizer, [dict(message) for message in messages])
    given = [said for message in messages for said in _texts_of(message["content"])]
    marks = [f"\ue000{number}\ue001" for number in range(len(given))]
    left = iter(marks)
    frame = _applied(tokenizer, [{**one, "content": _with_texts(one["content"], left)} for one in messages])
    contents: list[Span] = []
    place = 0
    for said, mark in zip(given, marks, strict=True):
        before, found, frame = frame.partition(mark)
        written = [one for one in (said, said.strip()) if text.startswith(before + one, place)]
        if not found or mark in frame or not written:
            raise ValueError(
                f"the chat template does not keep the message {said[:40]!r} as it is, so nothing says where it stands: "
                "give the prompt as a text"
            )
        start = place + len(before)
        place = start + len(written[0])
        inner = written[0].strip()
        start += written[0].index(inner)
        contents.append((start, start + len(inner)))
    if text[place:] != frame:
        raise ValueError("the chat template changes with the messages' words: give the prompt as a text")
    return text, contents


def _is_content(given: Any) -> bool:
    """Whether it is a text, or a list of parts, of which those of the type text have one."""
    if isinstance(given, str):
        return True
    return isinstance(given, list | tuple) and all(
        isinstance(one, Mapping) and (one.get("type") != "text" or isinstance(one.get("text"), str)) for one in given
    )


def _holds_others(message: Any) -> bool:
    """Whether some of a message's parts are no text."""
    content = message.get("content") if isinstance(message, Mapping) else None
    return isinstance(content, list | tuple) and _is_content(content) and len(_texts_of(content)) < len(content)


def _texts_of(content: str | Sequence[Mapping[str, Any]]) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content if part.get("type") == "text"]


def _with_texts(content: Any, texts: Iterator[str]) -> Any:
    """A content with other texts."""
    if isinstance(content, str):
        return next(texts)
    return [{**part, "text": next(texts)} if part.get("type") == "text" else dict(part) for part in content]


def _applied(tokenizer: Any, messages: list[dict[str, Any]]) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        raise ValueError(f"the chat template refuses these messages: {error}") from error
