"""One explained input as people see it: its tokens as text, its patches over the image, its sound or video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from captum_attn.core import (
    Grid,
    ModelInputs,
    PatchGrid,
    PatchLayout,
    patch_values,
    special_token_ids,
    token_texts,
    word_groups,
)
from captum_attn.drawing import (
    ShownFigure,
    bars_height,
    draw_image,
    draw_tokens,
    image_height,
    plot_sound,
    plot_video,
    shown_pixels,
)
from captum_attn.pages import Influences, PatchedPicture, Scored, figure_html, input_view


@dataclass(frozen=True)
class ShownInput:
    """An input of n tokens, padding left out.

    Attributes:
        pieces: the tokens' texts with the white space before them; of patches, their places.
        playing: bool (n,), the tokens that play.
        special: bool (n,), those that only mark beginnings and ends.
        grid: of what its patches are; None for a text alone.
        features: the image (C, h, w), sound or video whose patches they are.
    """

    pieces: Sequence[str]
    playing: Tensor
    special: Sequence[bool]
    grid: PatchLayout | None = None
    features: Tensor | None = None

    @property
    def patches(self) -> list[int]:
        """Which tokens are patches."""
        return [] if self.grid is None else self.grid.tokens(len(self.pieces)).tolist()

    @property
    def names(self) -> list[str]:
        """What each token is called."""
        return [piece.strip() or "␣" for piece in self.pieces]

    def in_words(self) -> tuple[ShownInput, Tensor]:
        """The same with the pieces of each word as one token, and int64 (n,), the word of each token."""
        apart = list(self.special)
        for place in self.patches:
            apart[place] = True
        groups = torch.tensor(word_groups(self.pieces, apart))
        count = int(groups.max()) + 1
        pieces = ["".join(self.pieces[one] for one in (groups == word).nonzero().flatten()) for word in range(count)]
        firsts = [int((groups == word).nonzero()[0]) for word in range(count)]
        grid = self.grid
        if isinstance(grid, PatchGrid):
            places = tuple(int(groups[place]) for place in self.patches)
            grid = PatchGrid(grid.rows, grid.columns, grid.height, grid.width, grid.top, grid.left, places)
        playing = torch.zeros(count, dtype=torch.bool).index_put((groups,), self.playing, accumulate=True)
        return ShownInput(pieces, playing, [self.special[one] for one in firsts], grid, self.features), groups

    def view(
        self,
        element: str,
        classes: Sequence[str],
        target: int,
        methods: Mapping[str, Scored],
        influence: Influences | None = None,
    ) -> dict[str, Any]:
        """What a page's script shows of it; see :func:`captum_attn.pages.input_view`."""
        return input_view(element, self.pieces, self.special, classes, target, methods, self._picture(), influence)

    def extra_html(self, values: Tensor, title: str) -> str:
        """What a page shows of a sound or a video beside its tokens: a figure of the values (n,)."""
        return "" if self.grid is None or isinstance(self.grid, PatchGrid) else figure_html(self.plot(values, title))

    def height(self, title: str, label: str) -> float:
        """How many inches :meth:`draw` takes."""
        image = image_height(self.features, title, label) if self._is_image and self.features is not None else 0
        return image + (bars_height(len(self._texts), title) if self._texts else 0)

    def draw(self, figure: Figure | SubFigure, values: Tensor, title: str, label: str) -> None:
        """Values (n,) over the image, and as bars of the text's tokens."""
        if self._is_image and self.features is not None and self._texts:
            heights = [image_height(self.features, title, label), bars_height(len(self._texts))]
            parts: Any = figure.subfigures(2, 1, height_ratios=heights)
            above, below = parts
            draw_image(above, self.features, self._at_patches(values), title, label, self.grid)
            self._draw_texts(below, values, "", label)
        elif self._is_image and self.features is not None:
            draw_image(figure, self.features, self._at_patches(values), title, label, self.grid)
        else:
            self._draw_texts(figure, values, title, label)

    def plot(self, values: Tensor, title: str) -> ShownFigure:
        """Values (n,) of a sound or a video, over it."""
        assert self.features is not None
        draw = plot_video if self.features.dim() == 4 else plot_sound
        return draw(self.features, self._at_patches(values), title, grid=self.grid)

    @property
    def is_signal(self) -> bool:
        """Whether it is a sound or a video."""
        return self.grid is not None and not self._is_image

    @property
    def _is_image(self) -> bool:
        return isinstance(self.grid, PatchGrid)

    @property
    def _texts(self) -> list[int]:
        """The tokens that are no patches, and play."""
        patches = {*self.patches}
        return [place for place in self.playing.nonzero().flatten().tolist() if place not in patches]

    def _draw_texts(self, figure: Figure | SubFigure, values: Tensor, title: str, label: str) -> None:
        names = self.names
        draw_tokens(figure, [names[one] for one in self._texts], values[self._texts], title, label)

    def _at_patches(self, values: Tensor) -> Tensor:
        return patch_values(values[None], self.grid)[0]

    def _picture(self) -> PatchedPicture | None:
        if not isinstance(self.grid, PatchGrid) or self.features is None:
            return None
        counts = (self.grid.rows, self.grid.columns)
        return PatchedPicture(shown_pixels(self.features), counts, self.grid.extent, self.patches)


def shown_input(
    inputs: ModelInputs, example: int, real: Tensor, players: Tensor, grid: Grid, picture: Grid, tokenizer: Any | None
) -> ShownInput:
    """An example of a batch.

    Args:
        inputs: the batch.
        example: its number.
        real, players: bool (N,), its tokens that are shown, all but padding, and that play.
        grid, picture: how its image, sound or video is cut, or an image beside its text.
        tokenizer: names tokens; without one, they have numbers.
    """
    real, players = real.cpu(), players.cpu()
    places = real.nonzero().flatten()
    count = len(places)
    layout = next((one for one in (grid, picture) if isinstance(one, PatchLayout)), None)
    features = None
    if layout is not None:
        beside = inputs.picture if grid is None else None
        features = (inputs.features if beside is None else beside)[example].detach().cpu().float()
        layout = _without_padding(layout, real)
    pieces, special = [f" {place}" for place in places.tolist()], (~players[places]).tolist()
    if inputs.modality == "ids":
        ids = inputs.features[example].cpu()[places].tolist()
        pieces = [f" {one}" for one in ids]
        if tokenizer is not None:
            pieces = token_texts(tokenizer, ids, inputs.texts[example] if inputs.texts else None)
            marks = special_token_ids(tokenizer)
            special = [one in marks for one in ids]
    if layout is not None:
        for number, token in enumerate(layout.tokens(count).tolist()):
            pieces[token], special[token] = _place(number, layout), False
        if inputs.modality != "ids":
            pieces = [f" [token{piece}]" if mark else piece for piece, mark in zip(pieces, special, strict=True)]
    return ShownInput(pieces, players[places], special, layout, features)


def _without_padding(layout: PatchLayout, real: Tensor) -> PatchLayout:
    """The layout, its positions counted among the tokens that are no padding."""
    if real.all():
        return layout
    among = real.cumsum(0) - 1
    positions = tuple(among[layout.tokens(len(real))].tolist())
    if isinstance(layout, PatchGrid):
        sizes = (layout.rows, layout.columns, layout.height, layout.width, layout.top, layout.left)
        return PatchGrid(*sizes, positions)
    return PatchLayout(layout.sides, positions)


def _place(number: int, layout: PatchLayout) -> str:
    """A patch's name: its place along each side, counted from 1."""
    place = torch.unravel_index(torch.tensor(number), layout.counts)
    return f" patch {', '.join(str(int(one) + 1) for one in place)}"


def by_word(values: Tensor, groups: Tensor) -> Tensor:
    """Sums (..., W) over the pieces of each word of values (..., n)."""
    return values.new_zeros(*values.shape[:-1], int(groups.max()) + 1).index_add(-1, groups, values)
