"""Texts as SHAP users give them: tokenized, and cut into the segments that an explanation shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import regex
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from captum_attn import TokenAttributions
from captum_attn.core.descriptions import described
from captum_attn.core.encoding import encode, length_limit, warn_of_cut
from captum_attn.core.models import config_of, text_config
from captum_attn.core.patches import Grid
from captum_attn.core.tokens import special_token_ids

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Text:
    """A text, or a pair of texts, of N tokens and T segments.

    Attributes:
        encoding: what the model takes, without padding, each a list of length N.
        players: for each token, whether it plays: special tokens do not.
        segments: T strings.
        segment_of: for each token, the segment that shows it; -1 if none does.
        cut: whether the model reads the beginning only.
    """

    encoding: Mapping[str, list[int]]
    players: list[bool]
    segments: list[str]
    segment_of: list[int]
    cut: bool

    def __len__(self) -> int:
        return len(self.players)

    @property
    def idle(self) -> bool:
        """Whether nobody plays."""
        return not any(self.players)

    def per_segment(self, values: Array) -> Array:
        """Sums (T, K) over the tokens (N, K) of each segment; zeros where nobody plays."""
        place = np.array(self.segment_of)
        sums = np.zeros((len(self.segments), values.shape[1]))
        if not self.idle:
            np.add.at(sums, place[place >= 0], values[place >= 0])
        return sums


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
            "data": tuple(np.array(row.segments) for row in rows),
            "feature_names": [[segment.strip() for segment in row.segments] for row in rows],
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
        segments, segment_of = self._segmented((text, pair or ""), encoding, offsets, cut)
        players = [
            source is not None and token not in self._special_ids
            for source, token in zip(sources, inputs["input_ids"], strict=True)
        ]
        if not players:  # an empty text, to which the tokenizer adds nothing
            inputs, players = {name: [int(name == "attention_mask")] for name in inputs}, [False]
            segment_of = [-1]
        return Text(inputs, players, segments or [""], segment_of, any(cut))

    def _segmented(
        self, texts: tuple[str, str], encoding: Any, offsets: Sequence[tuple[int, int]], cut: Sequence[bool]
    ) -> tuple[list[str], list[int]]:
        """The segments, and the segment of each token."""
        segments: list[str] = []
        segment_of: list[int] = []
        names, sources = encoding.tokens(), encoding.sequence_ids()
        for source, run in groupby(range(len(sources)), key=sources.__getitem__):
            tokens = list(run)
            first = len(segments)
            if source is None:
                separates = 0 in sources[: tokens[0]] and 1 in sources[tokens[-1] :]
                shown = self.special_tokens or separates
                segments += [names[token] for token in tokens if shown]
                segment_of += [first + place if shown else -1 for place in range(len(tokens))]
                continue
            spans, text = [offsets[token] for token in tokens], texts[source]
            starts, places = segment_starts(text, spans, words=self.words)
            end = max(stop for _, stop in spans) if cut[source] else len(text)
            if cut[source] and self.tokenizer.truncation_side == "left":
                starts[0], end = spans[0][0], len(text)
            segments += [text[start:stop] for start, stop in pairwise([*starts, end])]
            segment_of += [first + place for place in places]
        if texts[0] and 0 not in sources:  # white space without a token
            segments, segment_of = [texts[0], *segments], [place + (place >= 0) for place in segment_of]
        if texts[1] and 1 not in sources:
            segments.append(texts[1])
        return segments, segment_of


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
    return {match.start() for match in regex.finditer(r"(?w)\b", text)}


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
