"""The result of an attribution, token by token, and its place in the input."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from operator import index
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from captum_attn.core import Grid, ModelInputs, PatchLayout, known_grid, patch_values
from captum_attn.core.patches import NoPatchGrid, spread_over
from captum_attn.drawing import ShownFigure, as_written, new_figure
from captum_attn.formatting import number, percent, strongest
from captum_attn.pages import Scored, Shown, page
from captum_attn.shown_inputs import ShownInput, by_word, shown_input

if TYPE_CHECKING:
    import pandas as pd

_MOST_ON_A_PAGE, _MOST_IN_A_FIGURE = 30, 6


@dataclass(frozen=True, repr=False)
class Origin:
    """Where attributions come from, for those who show them.

    Attributes:
        method: its name.
        what: its values are.
        inputs: the batch that was explained.
        tokenizer: names its tokens.
        class_names: of the outputs, if they have names.
        scale: what makes probabilities of the output's scores, ``"softmax"`` or ``"sigmoid"``; None if nothing says.
    """

    method: str
    what: str
    inputs: ModelInputs
    tokenizer: Any | None
    class_names: Sequence[str] | None
    scale: Literal["softmax", "sigmoid"] | None = None


@dataclass(frozen=True, repr=False)
class TokenAttributions(Shown):
    """What the tokens of B inputs are worth to an explanation, N tokens each.

    A notebook shows it as a page of coloured tokens and patches; :meth:`show`, :meth:`plot`, :meth:`to_html`,
    :meth:`frame` and :meth:`top` work anywhere. ``result[0]`` is that of the first input.

    Attributes:
        values: (B, N), exactly 0 for tokens that do not play; (B, L, N) or (B, L, H, N) where layers or heads are
            kept apart. Shapley values sum to v(all players). float32, or float64 for a float64 model.
        players: bool (B, N), the tokens that play.
        targets: int64 (B, k), what was explained: the class (k = 1), or the token and the class (k = 2).
        scores: (B,), the model's output for the targets.
        output: the model's whole output, (B, C) for a classifier; detached.
        grid: how an image was cut into patches, or why that is not known; None for text.
        standard_error: (B, N), of sampled values; None for exact ones.
        picture: how an image beside a text was cut into patches, which are some of its tokens, or why that is not
            known; None without one.
        of_features: in the shape of embeddings (B, N, D) or pixels (B, C, h, w), what each of their numbers is worth,
            if the method says; it sums to the values of the tokens.
        real: bool (B, N), the tokens that are no padding.
        layers, heads: the numbers of those that are kept apart; None for the mean.
        origin: the method, the inputs, and what names their tokens and classes.

    Example:
        >>> from captum_attn import AttnLRP
        >>> result = AttnLRP(model, tokenizer=tokenizer).attribute_tokens("a gripping film", "positive")
        >>> result.tokens[0], result.class_names
        (['[CLS]', 'a', 'gripping', 'film', '[SEP]'], ['negative', 'positive'])
        >>> result.top(1).token.item()
        'gripping'
        >>> path = result.to_html("page.html")
        >>> result.plot().savefig("tokens.png")
    """

    values: Tensor
    players: Tensor
    targets: Tensor
    scores: Tensor
    output: Tensor
    grid: Grid = None
    standard_error: Tensor | None = None
    of_features: Tensor | None = None
    picture: Grid = None
    real: Tensor | None = None
    origin: Origin | None = None
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None
    words_of: Sequence[ShownInput] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        shapes = {"values": self.values, "targets": self.targets, "output": self.output}
        return f"TokenAttributions({', '.join(f'{name} {tuple(part.shape)}' for name, part in shapes.items())})"

    def __len__(self) -> int:
        return len(self.players)

    def __getitem__(self, examples: int | slice) -> TokenAttributions:
        """The attributions of one input, or some, as a batch of their own."""
        if not isinstance(examples, slice):
            one = range(len(self))[index(examples)]
            examples = slice(one, one + 1)

        def cut(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[examples]

        parts: dict[str, Any] = {name: cut(getattr(self, name)) for name in _PER_EXAMPLE}
        origin = self.origin and replace(self.origin, inputs=self.origin.inputs[examples])
        return replace(self, **parts, origin=origin, words_of=self.words_of and self.words_of[examples])

    def __iter__(self) -> Iterator[TokenAttributions]:
        return (self[example] for example in range(len(self)))

    @property
    def patches(self) -> Tensor:
        """The values of an image's patches, (B, ..., rows, columns); of an image beside a text, too.

        Raises:
            ValueError: the inputs were no images, or nothing says which tokens are patches.
        """
        return patch_values(self.values, self.picture if self.grid is None else self.grid)

    def spread_over(self, features: Tensor) -> Tensor:
        """The values in the shape of the inputs: ``of_features``, or else spread evenly over what each token covers.

        Args:
            features: ids (B, N), embeddings (B, N, D) or pixels (B, C, h, w).

        Returns:
            The shape of ``features``. Sums are kept: over D it is the token's value, over C and the pixels of a patch
            the patch's. A pixel that two patches share, as where the model resizes images, gets a part of each, by
            area. Pixels that no patch covers get 0. Tokens of an image that are no patches, but play, are in no pixel,
            with a warning.

        Raises:
            ValueError: an image of which nothing says where its patches lie, or with patches that cover no pixel.
        """
        if self.of_features is not None:
            return self.of_features
        if self.grid is not None:
            patches = self.patches
            self._warn_of_others()
            return spread_over(patches, self.grid, features.shape)
        if features.dim() == 2 and features.shape[1] == self.values.shape[-1]:
            return self.values
        if features.shape[:2] != self.values.shape[:1] + self.values.shape[-1:]:
            raise ValueError(
                f"values {tuple(self.values.shape)} cannot be spread over {tuple(features.shape)}: give the input that "
                "was explained; of an image beside a text, spread_over_picture(pixels)"
            )
        return (self.values / features.shape[-1]).unsqueeze(-1).expand_as(features).contiguous()

    def spread_over_picture(self, pixels: Tensor) -> Tensor:
        """The values of an image's patches beside a text, spread evenly over the pixels (B, C, h, w) that each covers.

        Sums are kept: it sums to the values of the tokens that are patches. ``ValueError`` without an image.
        """
        return spread_over(self.patches, self.picture, pixels.shape)

    @property
    def method(self) -> str:
        """The name of the method; empty if that is not known."""
        return "" if self.origin is None else self.origin.method

    @property
    def class_names(self) -> list[str] | None:
        """What the configuration calls the outputs, if it has a name for each."""
        return None if self.origin is None or self.origin.class_names is None else list(self.origin.class_names)

    @property
    def tokens(self) -> list[list[str]]:
        """The tokens of each input, padding left out: as they stand in its text; of patches, their places."""
        return [one.names for one in self.shown]

    @cached_property
    def shown(self) -> Sequence[ShownInput]:
        """Each input as people see it.

        Raises:
            ValueError: attributions that do not know their inputs, such as those that were put together by hand.
        """
        if self.words_of is not None:
            return self.words_of
        if self.origin is None:
            raise ValueError("these attributions do not know what they are of: take them from attribute_tokens")
        inputs, tokenizer = self.origin.inputs, self.origin.tokenizer
        return [
            shown_input(inputs, example, self.real_tokens[example], players, self.grid, self.picture, tokenizer)
            for example, players in enumerate(self.players)
        ]

    def words(self) -> TokenAttributions:
        """The same with the pieces of each word merged, their values summed; patches are shown, without their grid.

        In additive games, the sum is the word's own Shapley value, exactly. Words are Unicode's (UAX 29).

        Example:
            >>> from captum_attn import ShapleyGradAttention
            >>> result = ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens("unspeakably good", 1)
            >>> len(result.tokens[0]), result.words().tokens[0]
            (7, ['[CLS]', 'unspeakably', 'good', '[SEP]'])
        """
        merged = [one.in_words() for one in self.shown]
        length = max(len(one.pieces) for one, _ in merged)
        values = self.values.new_zeros(*self.values.shape[:-1], length)
        players = torch.zeros(len(self), length, dtype=torch.bool, device=self.players.device)
        real = torch.zeros_like(players)
        for example, (one, groups) in enumerate(merged):
            count = len(one.pieces)
            values[example, ..., :count] = by_word(self._own(example), groups.to(values.device))
            players[example, :count], real[example, :count] = one.playing.to(players.device), True
        shown = [one for one, _ in merged]
        none: dict[str, Any] = {"grid": None, "picture": None, "standard_error": None, "of_features": None}
        return replace(self, values=values, players=players, real=real, words_of=shown, **none)

    def frame(self) -> pd.DataFrame:
        """A row for each token that is no padding: input, position, token, value, whether it plays, target.

        Where layers or heads are kept apart, a row for each in each of them, with their numbers.
        """
        import pandas as pd

        rows = []
        kept_apart = (self.layers, self.heads)
        for example, names in enumerate(self.tokens):
            playing, target = self.players[example][self.real_tokens[example]].tolist(), self.target_name(example)
            apart = self._own(example).detach().cpu()
            for place in torch.cartesian_prod(*map(torch.arange, apart.shape)).view(-1, apart.dim()).tolist():
                *kept, position = place
                numbers = {
                    name: one if known is None else known[one]
                    for name, one, known in zip(("layer", "head"), kept, kept_apart, strict=False)
                }
                token = {"token": names[position], "value": float(apart[tuple(place)]), "player": playing[position]}
                rows.append({"input": example, **numbers, "position": position, **token, "target": target})
        return pd.DataFrame(rows)

    def top(self, k: int = 5) -> pd.DataFrame:
        """The rows of :meth:`frame` of each input's k tokens with the largest magnitude, strongest first."""
        merged = replace(self, values=self._one_each) if self.values.dim() > 2 else self
        return strongest(merged.frame(), k, ["input"])

    def plot(self) -> ShownFigure:
        """A figure: bars of tokens, an image beside its patches, a sound or a video under its values.

        Of several texts or images the first six, one below the other; of sounds and videos, the first. Where layers or
        heads are kept apart, their mean.
        """
        shown = self.shown[:_MOST_IN_A_FIGURE]
        titles = [self.title(example) for example in range(len(shown))]
        values = [self.shown_values(example) for example in range(len(shown))]
        label = self.origin.what if self.origin else "attributed value"
        if shown[0].is_signal:
            return shown[0].plot(values[0], titles[0])
        heights = [one.height(title, label) for one, title in zip(shown, titles, strict=False)]
        figure = new_figure(7.2, sum(heights))
        parts = figure.subfigures(len(shown), 1, height_ratios=heights, squeeze=False).flat
        for part, one, own, title in zip(parts, shown, values, titles, strict=False):
            one.draw(part, own, title, label)
        return as_written(figure)

    def page(self) -> str:
        """The page, as HTML that needs nothing from elsewhere: tokens and patches on their colours, to hover over.

        Of the first 30 inputs. :func:`captum_attn.visualization.explore` makes pages that say from whom tokens take.
        """
        name = self.method or "Attributions"
        parts = [f"<h1>{escape(name)}</h1>"]
        if self.origin and self.origin.what:
            what = self.origin.what[:1].upper() + self.origin.what[1:]
            parts.append(f"<p class='note'>{escape(what)}. Red raises the explained output, blue lowers it.</p>")
        views = []
        for example, one in enumerate(self.shown[:_MOST_ON_A_PAGE]):
            values, title = self.shown_values(example), self.title(example)
            parts.append(f"<h2>{escape(title)}</h2>{one.extra_html(values, title)}<div id='input-{example}'></div>")
            scored = {name: Scored(values[None], self.origin.what if self.origin else "", bool((values < 0).any()))}
            views.append(one.view(f"input-{example}", [self.target_name(example)], 0, scored))
        if len(self) > _MOST_ON_A_PAGE:
            parts.append(f"<p class='note'>The first {_MOST_ON_A_PAGE} of {len(self)} inputs.</p>")
        return page(name, "\n".join(parts), views)

    @property
    def page_height(self) -> int:  # type: ignore[override]
        tall = 620 if self.picture is not None or self.grid is not None else 480
        return min(60 + tall * len(self), 900)

    @property
    def real_tokens(self) -> Tensor:
        """bool (B, N), those that are shown: no padding, but all patches; all tokens where that is not known."""
        real = torch.ones_like(self.players) if self.real is None else self.real
        layout = next((one for one in (self.grid, self.picture) if isinstance(one, PatchLayout)), None)
        if layout is None:
            return real
        return real.index_fill(1, layout.tokens(real.shape[1]).to(real.device), True)

    @property
    def _one_each(self) -> Tensor:
        """(B, N): of layers and heads that are kept apart, the mean."""
        return self.values if self.values.dim() == 2 else self.values.flatten(1, -2).mean(1)

    def _own(self, example: int) -> Tensor:
        """An input's values (..., n), without padding."""
        return self.values[example][..., self.real_tokens[example]]

    def shown_values(self, example: int) -> Tensor:
        """An input's values (n,) as they are shown: without padding, the mean of layers and heads."""
        return self._one_each[example][self.real_tokens[example]].detach().cpu()

    def target_name(self, example: int) -> str:
        """What was explained, in words."""
        if not self.targets.shape[-1]:
            return "the output"
        *place, index = self.targets[example].tolist()
        names = self.class_names
        called = str(names[index]) if names else self._written(index)
        return f"{called} at output token {place[0]}" if place else called

    def _written(self, index: int) -> str:
        """A class without a name: of a language model, the token; else its number."""
        tokenizer = self.origin and self.origin.tokenizer
        if tokenizer and self.output.dim() == 3 and len(tokenizer) <= self.output.shape[-1]:
            return f"“{tokenizer.decode([index])}”"
        return str(index)

    def title(self, example: int) -> str:
        """What was predicted, and explained."""
        target, probabilities = self.target_name(example), self._probabilities(example)
        if probabilities is None:
            return f"{target}: score {number(float(self.scores[example]))}" if len(self.scores) else target
        predicted, explained = int(probabilities.argmax()), int(self.targets[example, 0])
        names = self.class_names or [str(one) for one in range(len(probabilities))]
        said = f"{names[predicted]} ({percent(float(probabilities[predicted]))})"
        if predicted == explained:
            return said
        return f"{said}; explained: {names[explained]} ({percent(float(probabilities[explained]))})"

    def _probabilities(self, example: int) -> Tensor | None:
        """Of the classes; None where nothing says how scores are to be read."""
        if self.output.dim() != 2 or self.output.shape[1] < 2:
            return None
        scores = self.output[example].float()
        if (scores >= 0).all() and abs(float(scores.sum()) - 1) < 1e-3:
            return scores
        scale = self.origin and self.origin.scale
        return {"softmax": scores.softmax(-1), "sigmoid": scores.sigmoid()}.get(scale or "")

    def _warn_of_others(self) -> None:
        """Warn of values of tokens that are no patches."""
        length = self.values.shape[-1]
        others = torch.ones(length, dtype=torch.bool).index_fill(0, known_grid(self.grid).tokens(length), False)
        lost = others & (self.values != 0).flatten(0, -2).any(0).cpu()
        if lost.any():
            warnings.warn(
                f"the tokens {lost.nonzero().flatten().tolist()} play, but are no patches, so their values are in no "
                "pixel, and the map does not sum to v(all players): see attribute_tokens(...).values, or let patches "
                "alone play",
                stacklevel=5,
            )


def concatenated(parts: Sequence[TokenAttributions]) -> TokenAttributions:
    """The attributions of one batch that was explained in parts.

    Raises:
        ValueError: the parts' images were cut in several ways, as by players that differ from part to part.
    """
    grid, picture = parts[0].grid, parts[0].picture
    if any(part.picture != picture for part in parts):
        picture = NoPatchGrid("the image's patches are other tokens in one part of the batch than in another")
    if any(part.grid != grid for part in parts):
        raise ValueError("the patches are other tokens in one part of the batch than in another: explain them apart")
    errors = [part.standard_error for part in parts if part.standard_error is not None]
    finer = [part.of_features for part in parts if part.of_features is not None]
    return TokenAttributions(
        torch.cat([part.values for part in parts]),
        torch.cat([part.players for part in parts]),
        torch.cat([part.targets for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.output for part in parts]),
        grid,
        torch.cat(errors) if errors else None,
        torch.cat(finer) if finer else None,
        picture,
        torch.cat([part.real_tokens for part in parts]),
        layers=parts[0].layers,
        heads=parts[0].heads,
    )


_PER_EXAMPLE = ("values", "players", "targets", "scores", "output", "standard_error", "of_features", "real")
