"""What tokens are called: as they stand in the text, with the white space before them; and where words begin."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import accumulate, groupby
from typing import Any

from captum_attn.core.encoding import encode
from captum_attn.core.tokens import special_token_ids

_ANCHOR = "a"
_PART = "\N{REPLACEMENT CHARACTER}"
_LONGEST = 8  # tokens of one character


def token_texts(tokenizer: Any, ids: Sequence[int], text: str | tuple[str, str] | None = None) -> list[str]:
    """The text of each token, with the white space before it, so that joined they read as the input does.

    Special tokens have their names. Of a text that is known, and a tokenizer with offsets, tokens are what stands
    there; else what the tokenizer makes of each after another word, in lower case where it keeps no other.

    Args:
        tokenizer: a Hugging Face tokenizer, fast or slow.
        ids: of a text's N tokens, without padding.
        text: what they were made of, or the pair of texts.

    Example:
        >>> token_texts(tokenizer, batch["input_ids"][1].tolist(), "Not good at all")
        ['[CLS]', 'Not', ' good', ' at', ' all', '[SEP]']
        >>> token_texts(tokenizer, batch["input_ids"][1].tolist())
        ['[CLS]', ' not', ' good', ' at', ' all', '[SEP]']
    """
    special = special_token_ids(tokenizer)
    if text is not None and getattr(tokenizer, "is_fast", False):
        found = _from_offsets(tokenizer, ids, text, special)
        if found is not None:
            return found
    anchor = tokenizer(_ANCHOR, add_special_tokens=False, verbose=False)["input_ids"][-1:]
    before = len(_decoded(tokenizer, anchor))
    known = {one: _decoded(tokenizer, [*anchor, one])[before:] for one in set(ids) - special}
    known |= {one: str(tokenizer.convert_ids_to_tokens(one)) for one in special.intersection(ids)}
    pieces = [known[one] for one in ids]
    for place, piece in enumerate(pieces):
        if _PART in piece:  # of a character, which is whole with some of the tokens after it
            for end in range(place + 2, min(place + _LONGEST, len(ids)) + 1):
                together = _decoded(tokenizer, [*anchor, *ids[place:end]])[before:]
                if _PART not in together:
                    pieces[place:end] = [*[""] * (end - place - 1), together]
                    break
    return pieces


def word_groups(pieces: Sequence[str], alone: Sequence[bool]) -> list[int]:
    """The number of the word that each token is a piece of, from 0 on.

    Args:
        pieces: the tokens' texts (N,), joined the text that they stand in.
        alone: bool (N,), which of them are no piece of any word, such as special tokens.

    Example:
        >>> word_groups(["[CLS]", "so", " un", "like", "ly", "!"], [True, False, False, False, False, False])
        [0, 1, 2, 2, 2, 3]
    """
    groups: list[int] = []
    for apart, run in groupby(zip(pieces, alone, strict=True), key=lambda one: one[1]):
        texts = [piece for piece, _ in run]
        ends = list(accumulate(map(len, texts)))
        spans = [(end - len(piece), end) for piece, end in zip(texts, ends, strict=True)]
        places = [*range(len(texts))] if apart else segment_starts("".join(texts), spans, words=True)[1]
        for place in reversed(range(len(texts) - 1)):
            if not texts[place] and not apart:  # a part of the character that comes with the next token
                places[place] = places[place + 1]
        first = groups[-1] + 1 if groups else 0
        groups += [first + place for place in places]
    return groups


def segment_starts(text: str, spans: Sequence[tuple[int, int]], *, words: bool = False) -> tuple[list[int], list[int]]:
    """Cut a text into segments, one for each token, or for all tokens that share a character or a word.

    Args:
        text: the text.
        spans: where each token starts and ends in it.
        words: whether the tokens of a word share a segment. A word is what Unicode's text segmentation takes for one.

    Returns:
        Where each segment starts (the first one at 0), and for each token the number of its segment.

    Example:
        >>> segment_starts("so unlikely !", [(0, 2), (3, 5), (5, 11), (12, 13)])
        ([0, 3, 5, 12], [0, 1, 2, 3])
        >>> segment_starts("so unlikely !", [(0, 2), (3, 5), (5, 11), (12, 13)], words=True)
        ([0, 3, 12], [0, 1, 1, 2])
    """
    starts, covered = [0], 0
    places: list[int] = []
    boundaries = word_boundaries(text) if words else None
    for start, end in spans:
        fresh = covered <= start < end and bool(places)
        if boundaries is not None:  # white space alone is no word, it goes with the next one
            fresh = fresh and start in boundaries and bool(text[starts[-1] : start].strip())
        if fresh:
            starts.append(start)
        places.append(len(starts) - 1)
        covered = max(covered, end)
    return starts, places


def word_boundaries(text: str) -> set[int]:
    """Where words start and end in a text, by Unicode's text segmentation (UAX 29).

    Example:
        >>> sorted(word_boundaries("don't go"))
        [0, 5, 6, 8]
    """
    import regex

    return {match.start() for match in regex.finditer(r"(?w)\b", text)}


def _from_offsets(
    tokenizer: Any, ids: Sequence[int], text: str | tuple[str, str], special: Collection[int]
) -> list[str] | None:
    """Texts of tokens as they stand there; None if the tokenizer makes other tokens of the text."""
    texts = (text,) if isinstance(text, str) else text
    read = encode(tokenizer, *([one] for one in texts), limit=len(ids), return_offsets_mapping=True).read
    if list(read["input_ids"][0]) != list(ids):
        return None
    found: list[str] = []
    reached, last = [0] * len(texts), None
    spans, sources = [*read["offset_mapping"][0]], read.sequence_ids(0)
    places = [*zip(sources, spans, strict=True), None]
    for one, span, after, source in zip(ids, spans, places[1:], sources, strict=True):
        if source is None or one in special:
            found.append(str(tokenizer.convert_ids_to_tokens(one)))
            last = None
            continue
        if (
            source,
            span,
        ) == after:  # of tokens at one place, as of one character, the last one stands for it
            found.append("")
            continue
        gap = texts[source][reached[source] : span[0]]
        beside = " " if last not in (None, source) else ""  # another text, without a token between them
        found.append(beside + ("" if gap.strip() else gap) + texts[source][max(span[0], reached[source]) : span[1]])
        reached[source], last = max(span[1], reached[source]), source
    return found


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
