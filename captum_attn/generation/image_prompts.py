"""A prompt, perhaps with images in it, as a model's tokenizer or processor makes it ready."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

from captum_attn.core import config_of, parameter_names, picture_token
from captum_attn.generation.prompts import PATCH, Messages, Prompt, Span, encoded_prompt, read_prompt, written_prompt


def prompt_of(model: Any, given: str | Messages, reader: Any, images: Any = None) -> Prompt:
    """A prompt as :func:`~captum_attn.generation.prompts.read_prompt` reads it, or one with images.

    Args:
        model: whose configuration says which tokens are parts of images.
        given: a text in which the processor's ``image_token`` stands for each image, or messages whose contents are
            lists of parts, ``{"type": "image"}`` and ``{"type": "text", "text": ...}``.
        reader: the model's tokenizer, or its processor.
        images: one, or a list of them, in the order of their places; whatever the processor takes. Default: those that
            the messages' parts have, ``{"type": "image", "image": ...}``.

    Raises:
        TypeError, ValueError: a prompt that is none; other numbers of images and places; a processor that reads the
            text in another way than its tokenizer.
    """
    processor, token = (reader if hasattr(reader, "image_processor") else None), picture_token(config_of(model))
    images = _images_of(given) if images is None else images
    if images is None or (isinstance(images, list | tuple) and not images):
        found = read_prompt(given, tokenizer_of(reader), processor)
        if token in found.ids:
            raise ValueError("the prompt has places for an image: give images=, and the processor as the tokenizer")
        return found
    if processor is None:
        raise TypeError("images are read by the model's processor: give it in the place of the tokenizer")
    found, taken = _with_images(given, processor, images, token), parameter_names(model)
    return replace(found, model_kwargs={name: one for name, one in found.model_kwargs.items() if name in taken})


def tokenizer_of(reader: Any) -> Any:
    """A tokenizer, or that of a processor."""
    return reader.tokenizer if hasattr(reader, "image_processor") else reader


def _images_of(given: Any) -> list[Any] | None:
    """The images within messages; None if there is none."""
    messages = [one for one in given if isinstance(one, Mapping)] if isinstance(given, list | tuple) else []
    contents = (one.get("content") for one in messages)
    parts = [part for content in contents if isinstance(content, list | tuple) for part in content]
    held = (part.get("image") for part in parts if isinstance(part, Mapping) and part.get("type") == "image")
    return [image for image in held if image is not None] or None


def _with_images(given: str | Messages, processor: Any, images: Any, token: int | None) -> Prompt:
    """A text, or messages, with images: in its text, each token that is a part of one is a ``▪``."""
    images = list(images) if isinstance(images, list | tuple) else [images]
    kind, names = type(processor).__name__, [getattr(processor, one, None) for one in ("image_token", "boi_token")]
    if token is None or not names[0]:
        raise ValueError(f"nothing says which tokens are parts of images: {kind}.image_token, config.image_token_id")
    text, contents, special_tokens = written_prompt(given, processor.tokenizer, processor)
    # Gemma-3's processor looks for the sign that begins an image, which some versions do not call its image token.
    name = next((str(one) for one in names if one and text.count(str(one)) == len(images)), str(names[0]))
    segments = text.split(name)
    if len(segments) != len(images) + 1:
        raise ValueError(
            f"{len(images)} images for {len(segments) - 1} places in the prompt: each stands where the text has "
            f"{name!r}, or a message a part {{'type': 'image'}}"
        )
    beside, whole = _processed(processor, text, images, special_tokens)
    ids, offsets = encoded_prompt(whole, processor.tokenizer, special_tokens)
    own = beside.pop("input_ids")[0].tolist()
    if own[: len(ids)] != ids or len(own) > len(ids) + 1:  # one that would close the text
        raise ValueError(f"{kind} makes other tokens of the prompt than its tokenizer of the same text")
    patches = [place for number, place in zip(ids, offsets, strict=True) if number == token]
    shown, removed = _shown(whole, patches)
    ends = [end for _, end in patches]

    def moved(span: Span) -> Span:
        start, end = (place - removed[bisect_right(ends, place)] for place in span)
        return start, end

    marks = name.join(map(_MARK.format, range(len(segments))))
    marked = _processed(processor, marks, images, special_tokens)[1]
    places = _places_of(segments, whole, marked, kind)
    of_images = [moved((first[1], second[0])) for first, second in pairwise(places)]
    outside = [one for one in map(moved, patches) if not any(a <= one[0] < b for a, b in of_images)]
    if outside or not patches:
        raise ValueError(f"the prompt has tokens {token}, which are parts of images, where no image stands")
    if ids[-1] == token:
        raise ValueError(
            "the prompt ends with an image, whose last part would predict the response: put words behind it"
        )
    of_texts = [part for content in contents for part in _moved_parts(content, segments, places, len(name))]
    return Prompt(
        shown,
        tuple(ids),
        tuple(map(moved, offsets)),
        tuple(sorted([*map(moved, of_texts), *of_images])),
        special_tokens,
        {name: value for name, value in beside.items() if name not in ("attention_mask", "labels")},
        tuple(of_images),
    )


def _processed(processor: Any, text: str, images: Sequence[Any], special_tokens: bool) -> tuple[dict[str, Any], str]:
    """What a processor makes of a prompt, and the text that it gives its tokenizer."""
    own = copy.copy(processor)
    own.tokenizer = _Recording(processor.tokenizer)
    read = own(text=[text], images=list(images), add_special_tokens=special_tokens, return_tensors="pt")
    if len(own.tokenizer.texts) != 1:
        raise ValueError(f"{type(processor).__name__} does not give its tokenizer the prompt as one text")
    return dict(read), own.tokenizer.texts[0]


_MARK = "\ue000{}\ue001"


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


def _places_of(segments: Sequence[str], whole: str, marked: str, kind: str) -> list[Span]:
    """Where the texts between images stand in what the tokenizer was given.

    Args:
        segments: the texts.
        whole: what the tokenizer was given.
        marked: what it is given with a mark in the place of each text.
        kind: of the processor.
    """
    places: list[Span] = []
    seen, rest = "", marked
    for number, segment in enumerate(segments):
        before, found, rest = rest.partition(_MARK.format(number))
        seen += before
        if not found or not whole.startswith(seen + segment):
            raise ValueError(f"{kind} does not keep the prompt's words {segment[:40]!r} as they are")
        places.append((len(seen), len(seen) + len(segment)))
        seen += segment
    if whole != seen + rest:
        raise ValueError(f"{kind} does not put images into texts of these words as into others")
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
