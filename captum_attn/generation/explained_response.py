"""What a response was made of: values of the tokens before it, and of sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from captum.attr import LLMAttributionResult
from torch import Tensor

from captum_attn._moved import warn_of_old_name
from captum_attn.core import Grid, Responses, is_index, padded_types, patch_values, picture_grid
from captum_attn.drawing import ShownFigure, plot_tokens
from captum_attn.generation.prompt_sources import Source, source_of_each
from captum_attn.generation.prompts import Prompt
from captum_attn.generation.response_page import SCORE_NAMES, Content, response_page
from captum_attn.generation.response_rows import ResponseRows, WholeSequence
from captum_attn.pages import Shown, show_page, write_page

if TYPE_CHECKING:
    import pandas as pd

_MAP_ENTRIES = 500_000
_LONGEST_SOURCE = 48  # letters of a source beside its bar


@dataclass(frozen=True, eq=False)
class ExplainedResponse(Shown):
    """A response of a language model, and what each token before it contributed.

    Further questions (:attr:`map`, :meth:`of`, :meth:`against`) that ask the model again need it as it was:
    ``ValueError`` where its scores of the response differ by more than 1e-4 (a tenth in half precision).

    Attributes:
        prompt: as the model read it.
        response: the text that is explained.
        response_ids: of its T tokens.
        response_tokens: their texts, which joined are the response.
        scores: (T,), of each token, as ``score`` says.
        probabilities: (T,), of each token.
        score: the name of the score.
        values: (N,), of the prompt's and the response's tokens, for the scores' sum: shares of attention, weighted by
            its gradient, under the rules that were asked for; shares of what would be lost, by weights of heads; or
            what another method says. The response's last token,
            which nothing read, has 0.
        sources: parts of the prompt.
        solver: answers further questions.
        encode: makes the ids of a text as a response.
    """

    prompt: Prompt
    response: str
    response_ids: tuple[int, ...]
    response_tokens: tuple[str, ...]
    scores: Tensor
    probabilities: Tensor
    score: str
    values: Tensor
    sources: Sequence[Source]
    solver: ResponseRows | WholeSequence
    encode: Callable[[str], Sequence[int]]

    page_height = 960

    def __repr__(self) -> str:
        count = len(self.prompt.ids)
        return f"{type(self).__name__}({self.response[:40]!r}, {count} tokens before it, {len(self.sources)} sources)"

    @property
    def tokens(self) -> list[str]:
        """The prompt's tokens, as they stand in the text, and the response's."""
        return [*self.prompt.tokens, *self.response_tokens]

    @cached_property
    def groups(self) -> Tensor:
        """int64 (N,), the number of each token's source; -1 for none. ``ValueError`` for a source without a token."""
        of_prompt = source_of_each(self.prompt, self.sources)
        without = [one.text for number, one in enumerate(self.sources) if number not in of_prompt]
        if without:
            raise ValueError(
                f"the source {without[0]!r} has no token of its own, as more of each stands in another one or in none: "
                "take longer sources"
            )
        return torch.tensor([*of_prompt, *[-1] * len(self.response_ids)])

    @property
    def source_values(self) -> Tensor:
        """(K,), the exact Shapley values of the sources as players: the sums over their tokens."""
        return self.by_source(self.values)

    def by_source(self, values: Tensor) -> Tensor:
        """Sums (..., K) over each source's tokens of values (..., N); ``ValueError`` of another number of these."""
        if values.shape[-1] != len(self.groups):
            raise ValueError(f"values must be of {len(self.groups)} tokens, got {tuple(values.shape)}")
        inside = self.groups >= 0
        sums = values.new_zeros(*values.shape[:-1], len(self.sources))
        return sums.index_add(-1, self.groups[inside], values[..., inside])

    @property
    def share_outside(self) -> float:
        """The share of the values' magnitude that lies on no source: template, question, earlier response tokens."""
        whole = self.values.abs().sum()
        return float(self.values[self.groups < 0].abs().sum() / whole) if whole > 0 else 0.0

    @cached_property
    def picture(self) -> Grid:
        """Where the parts of the prompt's image lie, as a forward pass says; None without one."""
        own, ids = self.solver.responses, torch.tensor([self.prompt.ids], device=self.solver.responses.ids.device)
        given = {name: padded_types(name, one, ids.shape[1]) for name, one in own.model_kwargs.items()}
        return picture_grid(self.solver.model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), **given})

    @property
    def patches(self) -> Tensor:
        """Values (1, rows, columns) of the image's patches; ``ValueError`` where it is not known where these lie."""
        if self.picture is None:
            raise ValueError("the prompt has no image")
        return patch_values(self.values[None, : len(self.prompt.ids)], self.picture)

    @cached_property
    @torch.inference_mode(False)
    def map(self) -> Tensor:
        """(T, N): what each token before it contributed to each token of the response; T backward passes."""
        return self.solver.of_parts(torch.eye(len(self.response_ids)))

    @torch.inference_mode(False)
    def of(self, part: str | tuple[int, int]) -> Tensor:
        """Values (N,) for a part of the response alone.

        Args:
            part: a text that stands in the response once, or numbers of its tokens, from and to.

        Raises:
            TypeError, ValueError: it stands nowhere in it, or more than once; no tokens; something else.
        """
        chosen = self._chosen(part)
        if self.solver.additive and "map" in self.__dict__:
            return chosen.to(self.map) @ self.map
        return self.solver.of_parts(chosen[None])[0]

    @torch.inference_mode(False)
    def against(self, other: str, at: str | tuple[int, int] | None = None) -> Tensor:
        """Values (N,) for the model having written one thing rather than another.

        Args:
            other: another response, with the difference of the two responses' scores; or, with ``at``, what stands in
                its place in the other response. Then it is the difference of two logits, where the responses' tokens
                first differ, and the same as that of the tokens' log-probabilities.
            at: a text that stands in the response once, or numbers of its tokens, from and to.

        Returns:
            Of another response, the difference of both responses' values of the prompt's tokens, and 0 for the
            response's own.

        Raises:
            ValueError: it stands nowhere in it, or more than once; the other response is empty or the same, or, with
                ``at``, one is the beginning of the other; values that do not depend on a score.

        Example:
            >>> from captum_attn import GenerationAttention
            >>> explainer = GenerationAttention(decoder, chat_tokenizer)
            >>> found = explainer.explain("the cat is old . how old is the cat ?", "it is old")
            >>> found.by_source(found.against("young", at="old")).shape
            torch.Size([1])
            >>> found.by_source(found.against("nobody knows")).shape
            torch.Size([1])
        """
        if at is None:
            return self._against_response(list(self.encode(other)))
        ids = self._with(other, at)
        differ = [place for place, pair in enumerate(zip(self.response_ids, ids, strict=False)) if len(set(pair)) > 1]
        if not differ:
            raise ValueError(
                f"with {other!r} in the place of {at!r}, the responses differ in no token that both have: compare them "
                "as a whole, against(the other response)"
            )
        place = differ[0]
        return self.solver.of_contrast(place, self.response_ids[place], ids[place])

    def _with(self, other: str, at: str | tuple[int, int]) -> list[int]:
        """The ids of the response with another text in a place."""
        (places,) = self._chosen(at).nonzero(as_tuple=True)
        if not isinstance(at, str):
            return [*self.response_ids[: places[0]], *self.encode(other), *self.response_ids[places[-1] + 1 :]]
        if tuple(self.encode(self.response)) != self.response_ids:
            raise ValueError(
                "the model wrote other tokens than the tokenizer makes of its text, so that another text cannot be "
                "compared token by token: give numbers of tokens, or explain the text as a response that is given"
            )
        return list(self.encode(self.response.replace(at, other)))

    def _against_response(self, ids: list[int]) -> Tensor:
        if not ids or ids == list(self.response_ids):
            raise ValueError("the other response is empty, or the same: there is nothing to compare")
        own = self.solver.responses
        other = self.solver.of_other(Responses.of([(self.prompt.ids, ids)], own.ids.device, own.model_kwargs))
        count = len(self.prompt.ids)
        return torch.cat([self.values[:count] - other[:count], torch.zeros(len(self.response_ids))])

    def _chosen(self, part: str | tuple[int, int]) -> Tensor:
        """(T,): 1 for the tokens of a part."""
        count, chosen = len(self.response_ids), torch.zeros(len(self.response_ids))
        if not isinstance(part, str):
            if not isinstance(part, tuple | list) or len(part) != 2 or not all(map(is_index, part)):
                raise TypeError(f"a part is a text, or two numbers of tokens, (from, to), got {part!r}")
            start, end = part
            if not 0 <= start < end <= count:
                raise ValueError(f"the tokens {part} are not among the response's {count}: expected (from, to)")
            chosen[start:end] = 1
            return chosen
        first = self.response.find(part) if part else -1
        if first < 0:
            raise ValueError(f"{part!r} does not stand in the response {self.response!r}")
        if self.response.find(part, first + 1) >= 0:
            raise ValueError(f"{part!r} stands in {self.response!r} more than once: give numbers of tokens, (from, to)")
        place, begun = 0, 0  # tokens without text are the first bytes of the next one's
        for number, token in enumerate(self.response_tokens):
            place += len(token)
            if token:
                chosen[begun : number + 1] = float(place > first and place - len(token) < first + len(part))
                begun = number + 1
        return chosen

    def to_html(self, path: str | Path, contrasts: Mapping[str, Tensor] | None = None) -> Path:
        """Write a web page on which the response's tokens can be clicked, which needs nothing from elsewhere.

        Args:
            path: of the page.
            contrasts: by name, what :meth:`against` returned, to switch to.

        Returns:
            The path.
        """
        return write_page(self.page(contrasts), path)

    def save(self, path: str | Path, contrasts: Mapping[str, Tensor] | None = None) -> Path:
        """The older name of :meth:`to_html`."""
        warn_of_old_name("ExplainedResponse.save", "to_html")
        return self.to_html(path, contrasts)

    def show(self, contrasts: Mapping[str, Tensor] | None = None) -> None:
        """Show the page: in a notebook below the cell, elsewhere in a browser."""
        show_page(self.page(contrasts), self.page_height)

    def page(self, contrasts: Mapping[str, Tensor] | None = None) -> str:
        """The page that :meth:`to_html` writes.

        It holds :attr:`map`, or, where that has more than 500,000 entries, the values of a few tokens at a time.

        Raises:
            TypeError, ValueError: contrasts that are no mapping, or not of all its tokens.
        """
        if not isinstance(contrasts or {}, Mapping):
            raise TypeError(f"contrasts must be a mapping from names to values, got {type(contrasts).__name__}")
        parts, of_parts = self._parts()
        content = Content(
            prompt=self.prompt,
            response_tokens=self.response_tokens,
            scores=self.scores,
            probabilities=self.probabilities,
            score=self.score,
            what=self.solver.what,
            values=self.values,
            parts=parts,
            map=of_parts,
            sources=self.sources,
            groups=self.groups,
            share_outside=self.share_outside,
            additive=self.solver.additive,
            contrasts=contrasts or {},
        )
        return response_page(content)

    def _parts(self) -> tuple[list[tuple[int, int]], Tensor]:
        """As many parts of the response as a page holds, and their values."""
        count = len(self.response_ids)
        rows = max(1, min(count, _MAP_ENTRIES // len(self.values)))
        edges = [round(count * row / rows) for row in range(rows + 1)]
        parts = list(pairwise(edges))
        if rows == count:
            return parts, self.map
        place = torch.arange(count)
        return parts, self.solver.of_parts(
            torch.stack([(start <= place) & (place < end) for start, end in parts]).float()
        )

    def top(self, k: int = 5) -> pd.DataFrame:
        """The k sources that raised the score most, first of :meth:`source_frame`."""
        return self.source_frame().head(k)

    def plot(self, values: Tensor | None = None, title: str = "") -> ShownFigure:
        """A bar for each source, in the prompt's order; of many, for the 40 strongest.

        Args:
            values: (N,), of the tokens, as :meth:`of` and :meth:`against` return them. Default: of the whole response.
            title: above the bars. Default: the response.
        """
        names = [" ".join(source.text.split()) for source in self.sources]
        label = self.solver.what.format(SCORE_NAMES.get(self.score, self.score))
        of_sources = self.source_values if values is None else self.by_source(values)
        title = title or f"What made the model write “{self.response}”"
        return plot_tokens(names, of_sources, title, label, longest=_LONGEST_SOURCE)

    def to_captum(self) -> LLMAttributionResult:
        """The prompt's tokens, and their values for each token of the response, as Captum's LLM attributions say it.

        Takes :attr:`map`. ``plot_token_attr(show=True)`` draws it.
        """
        count = len(self.prompt.ids)
        return LLMAttributionResult(
            input_tokens=self.tokens[:count],
            output_tokens=list(self.response_tokens),
            seq_attr=self.values[:count],
            token_attr=self.map[:, :count],
            output_probs=self.probabilities,
        )

    def frame(self) -> pd.DataFrame:
        """A row for each token before the response's end: token, source, value."""
        import pandas as pd

        return pd.DataFrame({"token": self.tokens, "source": self.groups.tolist(), "value": self.values.tolist()})

    def source_frame(self) -> pd.DataFrame:
        """A row for each source, from what raised the score most down: text, value, share of all magnitude."""
        import pandas as pd

        values = self.source_values
        frame = pd.DataFrame(
            {
                "source": [source.text for source in self.sources],
                "value": values.tolist(),
                "share": (values.abs() / values.abs().sum().clamp(min=torch.finfo(values.dtype).tiny)).tolist(),
            }
        )
        return frame.sort_values("value", ascending=False)
