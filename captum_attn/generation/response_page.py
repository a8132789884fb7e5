"""An explained response as one web page: its tokens to click or drag over, the prompt's coloured, a bar a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from torch import Tensor

from captum_attn.generation.prompt_sources import Source
from captum_attn.generation.prompts import Prompt
from captum_attn.pages import page, rounded

SCORE_NAMES = {"log_odds": "log-odds", "log_prob": "log-probability", "logit": "logit"}
_HOW = (
    "Click or drag over the response to see what was behind {}: red raised its score, blue lowered it. Arrow keys "
    "move, with Shift they extend, Escape takes all. Values are {}; of the whole response, {:.0%} of their "
    "magnitude lies outside of the sources. Words of the response show what it took from its own. In the prompt, dots "
    "underline what is no source, such as the question; the template's words are grey, and do not count for the "
    "strength of colours."
)


class Content(NamedTuple):
    """What a page shows.

    Attributes:
        prompt: as the model read it.
        response_tokens: their texts (T,), with their ``scores`` and ``probabilities``.
        score: the name of these.
        what: values are, with a place for that name.
        values: (N,), of the prompt's and the response's tokens, for the whole response.
        parts: numbers of tokens, from and to, one after the other: each token of a short response, else some together.
        map: (S, N), for each of these.
        sources, groups: the sources, and the number of each token's, -1 for none.
        share_outside: how much of the values' magnitude is in no source.
        additive: whether values of several tokens are the sums of each one's.
        contrasts: by name, other values (N,) to switch to.
    """

    prompt: Prompt
    response_tokens: Sequence[str]
    scores: Tensor
    probabilities: Tensor
    score: str
    what: str
    values: Tensor
    parts: Sequence[tuple[int, int]]
    map: Tensor
    sources: Sequence[Source]
    groups: Tensor
    share_outside: float
    additive: bool
    contrasts: Mapping[str, Tensor]


def response_page(content: Content) -> str:
    """The page, as HTML.

    Raises:
        ValueError: contrasts of another length, or that are not finite.
    """
    for name, values in content.contrasts.items():
        if values.shape != content.values.shape or not values.isfinite().all():
            expected = f"must have shape {tuple(content.values.shape)} and be finite"
            raise ValueError(f"contrast {name!r} {expected}, got {tuple(values.shape)}")
    score = SCORE_NAMES.get(content.score, content.score)
    longest = max(end - start for start, end in content.parts)
    behind = "a part of it" if longest == 1 else f"{longest} tokens of it at a time"
    note = _HOW.format(behind, content.what.format(score), content.share_outside)
    note += "" if content.additive else " Of several tokens, the sums of their own are shown."
    body = (
        f"<h1>What made the model write this</h1>\n<p class='note'>{escape(note)}</p>\n<h2>Response</h2>\n"
        "<div id='response' class='response text' dir='auto' role='listbox' aria-multiselectable='true' "
        "aria-label='Tokens of the response'></div>\n<p id='said' class='note said' role='status'></p>\n"
        "<div id='tools' class='tools'></div>\n<h2>Sources</h2>\n<ol id='sources' class='sources'></ol>\n"
        "<h2>Prompt</h2>\n<div id='prompt' class='prompt text' dir='auto'></div>"
    )
    view = {
        "kind": "response",
        "score": score,
        "first": len(content.prompt.ids),
        "values": rounded(content.values),
        "parts": [list(part) for part in content.parts],
        "map": [rounded(row) for row in content.map],
        "prompt": _pieces(content),
        "response": [
            {"text": text, "score": number, "probability": probability}
            for text, number, probability in zip(
                content.response_tokens,
                rounded(content.scores),
                rounded(content.probabilities),
                strict=True,
            )
        ],
        "sources": [
            {"text": source.text, "tokens": (content.groups == number).nonzero().flatten().tolist()}
            for number, source in enumerate(content.sources)
        ],
        "contrasts": [{"name": name, "values": rounded(values)} for name, values in content.contrasts.items()],
    }
    return page(f"What made the model write “{''.join(content.response_tokens)[:60]}”", body, [view])


def _pieces(content: Content) -> list[list[Any]]:
    """The prompt's text in order: each piece, the numbers of its tokens, and what it is.

    Tokens that stand at one place, as those of one character, share a piece; what no token stands for has none.
    """
    text, groups, given = content.prompt.text, content.groups.tolist(), content.prompt.given
    pieces: list[list[Any]] = []
    reached = 0
    for number, (start, end) in enumerate(content.prompt.offsets):
        if end <= reached:
            if pieces:
                pieces[-1][1].append(number)
            continue
        if start > reached:
            between = text[reached:start]
            pieces.append([between, [], "template" if between.strip() or not pieces else pieces[-1][2]])
        what = "source" if groups[number] >= 0 else "no-source" if given[number] else "template"
        pieces.append([text[max(start, reached) : end], [number], what])
        reached = end
    return [*pieces, [text[reached:], [], "template"]]
