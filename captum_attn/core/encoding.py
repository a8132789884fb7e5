"""Texts as a tokenizer encodes them: one call for all who tokenize, in turn, cut to what the model reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from captum_attn.core.models import config_of, text_config
from captum_attn.core.user_warnings import warn_user


class Encoded(NamedTuple):
    """Texts as a tokenizer's ``BatchEncoding``, without padding: each column a list for each text.

    Attributes:
        whole: all of their tokens.
        read: what is left of them under the limit; the same object where no text is longer.
    """

    whole: Any
    read: Any

    @property
    def cut(self) -> list[int]:
        """The texts that lost tokens."""
        lengths = [list(map(len, encoding["input_ids"])) for encoding in self]
        return [row for row, (whole, read) in enumerate(zip(*lengths, strict=True)) if whole > read]


def encode(
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    limit: int | None = None,
    **options: Any,
) -> Encoded:
    """Tokenize texts, or pairs of texts; several threads may do so with one tokenizer.

    Args:
        tokenizer: a Hugging Face tokenizer, fast or slow.
        texts: at least one.
        pairs: their second texts, as many.
        limit: the most tokens of a text, or of a pair, special tokens included; None for no limit.
        options: of the tokenizer's call, such as ``return_offsets_mapping=True``.

    Example:
        >>> whole, read = encode(tokenizer, ["a gripping film"], limit=4)
        >>> len(whole["input_ids"][0]), len(read["input_ids"][0])
        (5, 4)
    """
    columns = [list(texts)] if pairs is None else [list(texts), list(pairs)]
    with _turn_at(tokenizer):
        whole = tokenizer(*columns, verbose=False, **options)
        if limit is None or max(map(len, whole["input_ids"])) <= limit:
            return Encoded(whole, whole)
        return Encoded(whole, tokenizer(*columns, truncation=True, max_length=limit, verbose=False, **options))


def length_limit(tokenizer: Any, model: Callable[..., Any], asked: int | None) -> int | None:
    """How many tokens the model reads, special tokens included: the least that anything says; None if nothing does."""
    limits = [asked, tokenizer.model_max_length if tokenizer.model_max_length < _UNLIMITED else None]
    positions = getattr(text_config(config_of(model)), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - reserved_positions(model))
    return min((limit for limit in limits if limit is not None), default=None)


def reserved_positions(model: Callable[..., Any]) -> int:
    """How many positions are no token's: RoBERTa and its like count from the one of padding."""
    positions = getattr(text_config(config_of(model)), "max_position_embeddings", None)
    reserved = [
        module.padding_idx + 1
        for module in (model.modules() if isinstance(model, nn.Module) else ())
        if isinstance(module, nn.Embedding) and module.num_embeddings == positions and module.padding_idx is not None
    ]
    return max(reserved, default=0)


def warn_of_cut(cut: int, count: int, limit: int | None, remark: str, *, whose: str = "") -> None:
    """Warn that ``cut`` of ``count`` texts were longer than the limit, if any were.

    Args:
        remark: what follows from it, or how to go on.
        whose: the texts, where there may be others.
    """
    if cut:
        found = f"{whose and whose + ': '}{cut} of {count} texts are longer than {limit} tokens and were cut"
        warn_user(f"{found}: {remark}")


_UNLIMITED = 10**9  # transformers' model_max_length of tokenizers that know none is far more


@dataclass
class _Turn:
    lock: threading.RLock = field(default_factory=threading.RLock)
    users: int = 0


_turns: dict[int, _Turn] = {}
_registering = threading.Lock()


@contextmanager
def _turn_at(tokenizer: Any) -> Iterator[None]:
    """One thread at a time: a fast tokenizer keeps truncation in its backend, which threads, and shallow copies, share.

    A lock is kept for as long as somebody has or awaits it, beside the tokenizer, so that this can be pickled and
    copied as before. (Backends of tokenizers < 0.23 take no weak references.)
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    with _registering:
        turn = _turns.setdefault(id(backend), _Turn())
        turn.users += 1
    try:
        with turn.lock:
            yield
    finally:
        with _registering:
            turn.users -= 1
            if not turn.users:
                del _turns[id(backend)]
