"""Where in the input a concept moves the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from captum_attn._moved import moved_names
from captum_attn.concepts.concept_figures import concepts_over_image, concepts_under_text
from captum_attn.core import Grid, patch_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class SensitivityMaps:
    """How much each token's state, moved towards a concept, would raise the explained output.

    Attributes:
        values: (n, L, K, N), s_i = a_i ⟨g_i, v⟩ of n inputs, L layers, K concepts and N tokens; 0 for tokens out of
            scope. float32, or float64 for a float64 model.
        concepts: names of the K concepts.
        layers: names of the L layers.
        targets: int64 (n, k), what was explained.
        target_names: the same in words, where the model's configuration has them.
        grid: how images are cut into patches; None for text.
        pixels: (n, C, h, w) of images; None for text.
        tokens: of each text, its tokens, padding left out; None without a tokenizer.
        real: bool (n, N), the tokens that are no padding.
    """

    values: Tensor
    concepts: Sequence[str]
    layers: Sequence[str]
    targets: Tensor
    target_names: Sequence[str]
    real: Tensor
    grid: Grid = None
    pixels: Tensor | None = None
    tokens: Sequence[Sequence[str]] | None = None

    def __repr__(self) -> str:
        return f"SensitivityMaps(values {tuple(self.values.shape)}, concepts {list(self.concepts)})"

    @property
    def patches(self) -> Tensor:
        """The values of an image's patches, (n, L, K, rows, columns).

        Raises:
            ValueError: the inputs were no images.
        """
        return patch_values(self.values, self.grid)

    def plot(
        self, example: int = 0, concepts: Sequence[str] | str | None = None, layer: str | int | None = None
    ) -> Figure:
        """Concepts on one input: a panel for each over an image, or a row for each under the tokens of a text.

        Args:
            example: which of the n inputs.
            concepts: some of them, or one. Default: all.
            layer: its name, or its place among ``layers``. Default: the last one in which the output
                depends on more than one token, or on one.

        Returns:
            A matplotlib figure that belongs to no window. Red raises the explained output, blue lowers it; all concepts
            have one scale.

        Raises:
            ValueError: an unknown concept or layer.
            IndexError: no such input.
        """
        if not -len(self.values) <= example < len(self.values):
            raise IndexError(f"example {example} is out of range: there are {len(self.values)} inputs")
        place = self._layer(layer, example)
        names = [concepts] if isinstance(concepts, str) else list(self.concepts if concepts is None else concepts)
        unknown = [name for name in names if name not in self.concepts]
        if unknown or not names:
            raise ValueError(f"unknown concepts {unknown}: expected some of {', '.join(map(repr, self.concepts))}")
        chosen = [list(self.concepts).index(name) for name in names]
        title = f"{self.target_names[example]}, {self.layers[place]}"
        if not self.values[example, place].any():
            title += ": no gradient on these tokens"
        if self.pixels is not None:
            patches = self.patches[example, place, chosen]
            return concepts_over_image(self.pixels[example], patches, self.grid, names, title)
        values = self.values[example, place, chosen][:, self.real[example]]
        tokens = self.tokens[example] if self.tokens else [str(number) for number in range(values.shape[1])]
        return concepts_under_text(tokens, values, names, title)

    def _layer(self, layer: str | int | None, example: int) -> int:
        if layer is None:
            sensitive = (self.values[example] != 0).any(1).sum(-1)  # tokens, in each layer
            deepest = (sensitive >= sensitive.max().clamp(max=2)).nonzero().flatten()
            return int(deepest[-1])
        if isinstance(layer, int) and -len(self.layers) <= layer < len(self.layers):
            return layer % len(self.layers)
        if isinstance(layer, int) or layer not in self.layers:
            raise ValueError(
                f"unknown layer {layer!r}: expected one of {', '.join(map(repr, self.layers))}, or its place"
            )
        return list(self.layers).index(layer)


__getattr__ = moved_names(__name__, "captum_attn.functional", ["token_sensitivity"])
