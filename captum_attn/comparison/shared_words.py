"""The words of a text and of its paraphrase: which ones both share, and what their tokens add up to."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor

from captum_attn.core import encode, special_token_ids

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Words:
    """The words of a text, in lower case.

    Attributes:
        words: those that tokens belong to.
        owners: int64 (n,), the word that each of the n players belongs to.
    """

    words: Sequence[str]
    owners: Tensor

    def add_up(self, scores: Tensor) -> Tensor:
        """Scores (M, n) of the players, as sums over the tokens of each word."""
        return scores.new_zeros(len(scores), len(self.words)).index_add(1, self.owners.to(scores.device), scores)


def words_of(text: str, tokenizer: Any, limit: int | None) -> Words:
    """The words that the model reads: runs of letters and digits (an apostrophe may stand inside), and single signs.

    Args:
        text: one text.
        tokenizer: a fast one, which knows where in the text its tokens stand.
        limit: the most tokens that the model reads, special ones included; None for no limit.

    Raises:
        ValueError: a slow tokenizer.

    Example:
        >>> words_of("Unwatchable: don't!", tokenizer, None).words
        ['unwatchable', ':', "don't", '!']
    """
    if not tokenizer.is_fast:
        raise ValueError("paraphrases need a fast tokenizer, which knows where in the text its tokens stand")
    encoded = encode(tokenizer, [text], limit=limit, return_offsets_mapping=True).read
    found = list(_WORD.finditer(text))
    ends, special = [word.end() for word in found], special_token_ids(tokenizer)
    owners = [
        min(bisect_right(ends, start), max(len(found) - 1, 0))  # what is no part of a word belongs to the next one
        for token, (start, _) in zip(encoded["input_ids"][0], encoded["offset_mapping"][0], strict=True)
        if token not in special
    ]
    read = sorted(set(owners))
    names = [found[owner].group().lower() if found else text.strip().lower() for owner in read]
    return Words(names, torch.tensor([read.index(owner) for owner in owners], dtype=torch.long))


def shared(first: Sequence[str], second: Sequence[str]) -> tuple[list[int], list[int]]:
    """The places of the words that two texts share, in order: in the first text, and in the second.

    Example:
        >>> shared("the film is not good".split(), "this film is really not that good".split())
        ([1, 2, 3, 4], [1, 2, 4, 6])
    """
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    pairs = [(block.a + step, block.b + step) for block in blocks for step in range(block.size)]
    return [place for place, _ in pairs], [place for _, place in pairs]
