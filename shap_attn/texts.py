"""Texts as SHAP users give them: tokenized, and cut into the segments that an explanation shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from captum_attn import TokenAttributions
from captum_attn._moved import moved_names
from captum_attn.core import Grid, config_of, encode, length_limit, special_token_ids
from captum_attn.core.descriptions import described
from captum_attn.core.encoding import warn_of_cut
from captum_attn.core.models import text_config
from shap_attn.segments import Segments, joined, segment_starts

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Text:
    """A text, or a pair of texts, of N tokens and T segments.

    Attributes:
        encoding: what the model takes, without padding, each a list of length N.
        players: for each token, whether it plays: special tokens do not.
        segments: what is shown of it.
        cut: whether the model reads the beginning only.
    """

    encoding: Mapping[str, list[int]]
    players: list[bool]
    segments: Segments
    cut: bool

    def __len__(self) -> int:
        return len(self.players)

    @property
    def idle(self) -> bool:
        """Whether nobody plays."""
        return not any(self.players)

    def per_segment(self, values: Array) -> Array:
        """Sums (T, K) over the tokens (N, K) of each segment; zeros where nobody plays."""
        return self.segments.sums(np.zeros_like(values) if self.idle else values)


class TextReader:
    """Reads texts for one model.

    Args:
        tokenizer: a fast one, which knows where its tokens are in the text.
        model: its configuration limits the length.
        max_length: tokens per text, special tokens included; None for as many as the model takes.
        words: whether the pieces of a word make one segment.
        special_tokens: whether the special tokens that the tokenizer adds are shown.

    Raises:
        TypeError: a tokenizer without offsets.
        ValueError: a ``max_length`` that leaves no room for a token that plays.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: nn.Module,
        *,
        max_length: int | None = None,
        words: bool = False,
        special_tokens: bool = False,
    ) -> None:
        if not tokenizer.is_fast:
            raise TypeError(
                f"{type(tokenizer).__name__} has no offsets, so its tokens cannot be found in the text: expected a "
                "fast tokenizer, as AutoTokenizer loads where there is one. captum_attn.ShapleyGradAttention explains "
                "token ids of any tokenizer"
            )
        added = tokenizer.num_special_tokens_to_add(pair=False)
        if max_length is not None and max_length <= added:
            raise ValueError(f"max_length={max_length} leaves no token beside {added} special ones: expected more")
        self.tokenizer = tokenizer
        self.words, self.special_tokens = words, special_tokens
        self.limit = length_limit(tokenizer, model, max_length)
        self.pad_id = pad_id(tokenizer, model)
        self._special_ids = special_token_ids(tokenizer)

    @property
    def can_pad(self) -> bool:
        """Whether texts of different lengths can be explained together."""
        return self.pad_id is not None

    def read(self, texts: Any, pairs: Any = None) -> list[Text]:
        """Tokenize texts; a warning says how many were cut.

        Raises:
            TypeError, ValueError: something that is no text, or another number of second texts.
        """
        rows = [self._tokenized(text, pair) for text, pair in text_pairs(texts, pairs)]
        remark = "the rest, which the model does not read, is neither explained nor shown"
        warn_of_cut(sum(row.cut for row in rows), len(rows), self.limit, remark)
        return rows

    def collated(self, rows: Sequence[Text]) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs of the model, and its players, bool (B, N); in an idle text all tokens.

        Padding goes to the right, where it moves no token: many models count positions from the left.
        """
        fill = {"input_ids": self.pad_id or 0, "token_type_ids": self.tokenizer.pad_token_type_id}
        batch = {
            name: pad_sequence([torch.tensor(row.encoding[name]) for row in rows], True, fill.get(name, 0))
            for name in rows[0].encoding
        }
        players = [torch.tensor(row.players) | row.idle for row in rows]
        return batch, pad_sequence(players, True, False)

    def arranged(self, rows: Sequence[Text], results: Sequence[TokenAttributions]) -> list[Array]:
        """The values (T, K) of each text's segments, from the results for K targets."""
        values = torch.stack([result.values for result in results], -1).double().cpu().numpy()
        return [row.per_segment(each[: len(row)]) for row, each in zip(rows, values, strict=True)]

    def fields(self, rows: Sequence[Text], _: Sequence[Grid] = ()) -> dict[str, Any]:
        """``data`` and ``feature_names`` of an explanation; texts have no grids."""
        return {
            "data": tuple(np.array(row.segments.texts) for row in rows),
            "feature_names": [[segment.strip() for segment in row.segments.texts] for row in rows],
        }

    def _tokenized(self, text: str, pair: str | None) -> Text:
        whole, encoding = encode(
            self.tokenizer,
            [text],
            [pair] if pair else None,
            limit=self.limit,
            return_offsets_mapping=True,
            return_attention_mask=True,
        )
        inputs, sources = {name: column[0] for name, column in encoding.items()}, encoding.sequence_ids()
        offsets = inputs.pop("offset_mapping")
        cut = [whole.sequence_ids().count(source) > sources.count(source) for source in (0, 1)]
        segments = self._segmented((text, pair or ""), encoding, offsets, cut)
        players = [
            source is not None and token not in self._special_ids
            for source, token in zip(sources, inputs["input_ids"], strict=True)
        ]
        if not players:  # an empty text, to which the tokenizer adds nothing
            inputs, players = {name: [int(name == "attention_mask")] for name in inputs}, [False]
            segments = Segments(segments.texts, [-1])
        return Text(inputs, players, segments if segments.texts else Segments([""], segments.places), any(cut))

    def _segmented(
        self, texts: tuple[str, str], encoding: Any, offsets: Sequence[tuple[int, int]], cut: Sequence[bool]
    ) -> Segments:
        """Those of one or two texts, with the special tokens between them, and around them if these are shown."""
        names, sources = encoding.tokens(), encoding.sequence_ids()
        parts = []
        for source, run in groupby(range(len(sources)), key=sources.__getitem__):
            first, *others = run
            tokens = slice(first, first + 1 + len(others))
            if source is None:
                separate = 0 in sources[:first] and 1 in sources[first:]
                parts.append(_of_special(names[tokens], shown=self.special_tokens or separate))
            else:
                parts.append(self._of_text(texts[source], offsets[tokens], cut[source]))
        before, after = (_of_no_token("" if source in sources else text) for source, text in enumerate(texts))
        return joined([before, *parts, after])

    def _of_text(self, text: str, spans: Sequence[tuple[int, int]], cut: bool) -> Segments:
        """Those of one text, of which the model may read its beginning or its end only."""
        starts, places = segment_starts(text, spans, words=self.words)
        end = len(text)
        if cut and self.tokenizer.truncation_side == "left":
            starts[0] = spans[0][0]
        elif cut:
            end = max(stop for _, stop in spans)
        return Segments([text[start:stop] for start, stop in pairwise([*starts, end])], places)


def _of_special(names: Sequence[str], *, shown: bool) -> Segments:
    """Those of special tokens: their names, if they are shown."""
    return Segments([*names], [*range(len(names))]) if shown else Segments([], [-1] * len(names))


def _of_no_token(text: str) -> Segments:
    """A segment of white space that has no token; none of an empty text."""
    return Segments([text] if text else [], [])


def pad_id(tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> int | None:
    """The id of padding, if the tokenizer and the model, which may look for the last token, agree on it."""
    own: int | None = tokenizer.pad_token_id
    return own if own == getattr(text_config(config_of(model)), "pad_token_id", own) else None


def text_pairs(texts: Any, pairs: Any = None) -> list[tuple[str, str | None]]:
    """Texts in any form that SHAP's users have them, each with its second text or None.

    Args:
        texts: a str; a list, tuple, array or Series of str, of (text, second text), or of mappings with the keys
            ``text`` and ``text_pair``; or such a mapping (or a data set) with columns of these names.
        pairs: second texts, as many.

    Raises:
        TypeError: anything else.
        ValueError: no texts, or another number of second texts.

    Example:
        >>> text_pairs(["one", ("two", "three")])
        [('one', None), ('two', 'three')]
    """
    columns = _columns(texts)
    if columns is not None:
        if "text" not in columns:
            raise TypeError(
                f"got columns {list(columns)}, expected 'text' (and perhaps 'text_pair') among them; or give one "
                "column, table['sentence']"
            )
        pairs = texts["text_pair"] if "text_pair" in columns else pairs
        texts = texts["text"]
    rows = _listed(texts)
    if pairs is not None:
        second = _listed(pairs)
        if len(second) != len(rows):
            raise ValueError(f"{len(rows)} texts but {len(second)} second texts: expected one for each")
        rows = list(zip(rows, second, strict=True))
    if not rows:
        raise ValueError("there are no texts: expected at least one")
    return [_pair(place, row) for place, row in enumerate(rows)]


def _columns(texts: Any) -> Collection[str] | None:
    """The names of the columns of a mapping, a DataFrame or a data set."""
    if isinstance(texts, Mapping):
        return texts.keys()
    names: Collection[str] | None = getattr(texts, "column_names", getattr(texts, "columns", None))
    return names


def _listed(texts: Any) -> list[Any]:
    if isinstance(texts, str) or (isinstance(texts, np.ndarray) and texts.ndim == 0):
        return [str(texts)]
    if not hasattr(texts, "__iter__") or isinstance(texts, bytes | Set):
        raise TypeError(
            f"got {described(texts)}, expected texts: a str, a list, tuple, array or Series of them, or a mapping "
            "{'text': ...}"
        )
    return list(texts)


def _pair(place: int, given: Any) -> tuple[str, str | None]:
    row = (given.get("text"), given.get("text_pair")) if isinstance(given, Mapping) else given
    if isinstance(row, str):
        row = (row, None)
    if isinstance(row, list | tuple | np.ndarray) and len(row) == 2:
        text, pair = row
        if isinstance(text, str) and isinstance(pair, str | None):
            return str(text), pair if pair is None else str(pair)
    raise TypeError(
        f"text {place} is {described(given)}, expected a str, a (text, second text) pair or a mapping with 'text' and "
        "perhaps 'text_pair'; leave out or fill in what is missing"
    )


__getattr__ = moved_names(__name__, "shap_attn.segments", ["word_boundaries"])
