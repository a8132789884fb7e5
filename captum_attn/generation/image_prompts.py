"""A prompt with images in it, as a model's processor makes it ready."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

from captum_attn.core import config_of, parameter_names, picture_token
from captum_attn.generation.prompts import PATCH, Messages, Prompt, Span, encoded_prompt, written_prompt


def read_with_images(model: Any, given: str | Messages, processor: Any, images: Any) -> Prompt:
    """:func:`read_image_prompt` with what a model takes of it."""
    if not hasattr(processor, "image_processor"):
        raise TypeError("images are read by the model's processor: give it in the place of the tokenizer")
    read, taken = read_image_prompt(given, processor, images, picture_token(config_of(model))), parameter_names(model)
    return replace(read, images={name: value for name, value in read.images.items() if name in taken})


def read_image_prompt(given: str | Messages, processor: Any, images: Any, token: int | None) -> Prompt:
    """A text, or messages, with images: in its text, each token that is a part of one is a ``▪``.

    Args:
        given: a text in which the processor's ``image_token`` stands for each image, or messages whose contents are
            lists of parts, ``{"type": "image"}`` and ``{"type": "text", "text": ...}``.
        processor: the model's.
        images: one, or a list of them, in the order of their places; whatever the processor takes.
        token: the id of the tokens in whose places the model puts parts of images.

    Raises:
        TypeError, ValueError: a prompt that is none; a model without such places; other numbers of images and places; a
            processor that reads the text in another way than its tokenizer.
    """
    images = list(images) if isinstance(images, list | tuple) else [images]
    name, kind = str(getattr(processor, "image_token", "")), type(processor).__name__
    if token is None or not name:
        raise ValueError(f"nothing says which tokens are parts of images: {kind}.image_token, config.image_token_id")
    text, contents, special_tokens = written_prompt(given, processor.tokenizer, processor)
    segments = text.split(name)
    if len(segments) != len(images) + 1:
        raise ValueError(
            f"{len(images)} images for {len(segments) - 1} places in the prompt: each stands where the text has "
            f"{name!r}, or a message a part {{'type': 'image'}}"
        )
    read, whole = _processed(processor, text, images, special_tokens)
    ids, offsets = encoded_prompt(whole, processor.tokenizer, special_tokens)
    own = read.pop("input_ids")[0].tolist()
    if own[: len(ids)] != ids or len(own) > len(ids) + 1:
        raise ValueError(f"{kind} makes other tokens of the prompt than its tokenizer of the same text")
    patches = [place for number, place in zip(ids, offsets, strict=True) if number == token]
    if not patches:
        raise ValueError(f"{kind} puts no token {token} in the place of an image")
    shown, removed = _shown(whole, patches)
    ends = [end for _, end in patches]

    def moved(span: Span) -> Span:
        start, end = (place - removed[bisect_right(ends, place)] for place in span)
        return start, end

    places = _places_of(segments, whole, kind)
    of_images = [(first[1], second[0]) for first, second in pairwise(places)]
    of_texts = [part for content in contents for part in _moved_parts(content, segments, places, len(name))]
    return Prompt(
        shown,
        tuple(ids),
        tuple(map(moved, offsets)),
        tuple(sorted(map(moved, [*of_texts, *of_images]))),
        special_tokens,
        {name: value for name, value in read.items() if name not in ("attention_mask", "labels")},
    )


def _processed(processor: Any, text: str, images: Sequence[Any], special_tokens: bool) -> tuple[dict[str, Any], str]:
    """What a processor makes of a prompt, and the text that it gives its tokenizer."""
    own = copy.copy(processor)
    own.tokenizer = _Recording(processor.tokenizer)
    read = own(text=[text], images=list(images), add_special_tokens=special_tokens, return_tensors="pt")
    if len(own.tokenizer.texts) != 1:
        raise ValueError(f"{type(processor).__name__} does not give its tokenizer the prompt as one text")
    return dict(read), own.tokenizer.texts[0]


class _Recording:
    """A tokenizer that keeps the texts that it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.texts: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str | Sequence[str], *args: Any, **options: Any) -> Any:
        self.texts += [text] if isinstance(text, str) else list(text)
        return self._tokenizer(text, *args, **options)


def _shown(whole: str, patches: Sequence[Span]) -> tuple[str, list[int]]:
    """The text with a sign for each patch, and how much shorter it is behind each number of these."""
    edges = [0, *(place for patch in patches for place in patch), len(whole)]
    between = [whole[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    return PATCH.join(between), list(accumulate((end - start - len(PATCH) for start, end in patches), initial=0))


def _places_of(segments: Sequence[str], whole: str, kind: str) -> list[Span]:
    """Where the texts between images stand in what the tokenizer was given."""
    places: list[Span] = []
    at = 0
    for segment in segments:
        last = len(places) == len(segments) - 1
        at = whole.rfind(segment, at) if last else whole.find(segment, at)
        if at < 0:
            raise ValueError(f"{kind} does not keep the prompt's words {segment[:40]!r} as they are")
        places.append((at, at + len(segment)))
        at += len(segment)
    return places


def _moved_parts(content: Span, segments: Sequence[str], places: Sequence[Span], between: int) -> list[Span]:
    """The parts of a content that are no images, where they stand in what the tokenizer was given."""
    parts: list[Span] = []
    begin = 0
    for segment, (at, _) in zip(segments, places, strict=True):
        start, end = max(content[0], begin), min(content[1], begin + len(segment))
        if start < end:
            parts.append((at + start - begin, at + end - begin))
        begin += len(segment) + between
    return parts
