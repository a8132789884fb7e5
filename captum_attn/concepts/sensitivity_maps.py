"""Where in the input a concept moves the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_attn._moved import moved_names
from captum_attn.concepts.concept_figures import concepts_over_image, concepts_under_text, written_p
from captum_attn.core import Grid, image_grid, patch_means, patch_values
from captum_attn.core.propagation import GRADIENT
from captum_attn.drawing import ShownFigure, shown_pixels
from captum_attn.formatting import listed, strongest
from captum_attn.functional import energy_pointing_game, holm, pointing_game
from captum_attn.pages import PatchedPicture, Scored, Shown, input_view, opening, page, table_html

if TYPE_CHECKING:
    import pandas as pd

_MOST_ON_A_PAGE = 20
_CAUTIONS = (
    "A map says where a step of the states towards the concept would move the output, not where a person sees it.",
    "It is worth as much as the concept's vectors: look at p-values and accuracies in interpret() first.",
)


@dataclass(frozen=True, repr=False)
class SensitivityMaps(Shown):
    """How much each token's state, moved towards a concept, would raise the explained output.

    A notebook shows it as a page; :meth:`show`, :meth:`plot`, :meth:`to_html`, :meth:`frame` and :meth:`top` work
    anywhere.

    Attributes:
        values: (n, L, K, N), s_i = a_i ⟨g_i, v⟩ of n inputs, L layers, K concepts and N tokens, in units of the
            explained output, where v is as long as the concept lies from the others along it; 0 for tokens out of
            scope. float32, or float64 for a float64 model.
        concepts: names of the K concepts.
        layers: names of the L layers.
        targets: int64 (n, k), what was explained.
        target_names: the same in words, where the model's configuration has them.
        grid: how images are cut into patches; None for text.
        pixels: (n, C, h, w) of images; None for text.
        tokens: of each text, its tokens, padding left out; None without a tokenizer.
        real: bool (n, N), the tokens that are no padding.
        p_values: float64 (L, K), of the concepts' effects by these tokens; NaN where they have no gradient.
        masks: bool (n, h, w) of images, the pixels of the object in question; None if they are not known.
        propagation: how gradients went down; under rules, values are relevance, and have no unit.

    Raises:
        ValueError: masks of another size, or of texts.
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
    p_values: Tensor | None = None
    masks: Tensor | None = None
    propagation: str = GRADIENT.name

    def __post_init__(self) -> None:
        check_masks(self.masks, self.pixels)

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
    ) -> ShownFigure:
        """Concepts on one input: a panel for each over an image, or a row for each under the tokens of a text.

        Args:
            example: which of the n inputs.
            concepts: some of them, or one. Default: all.
            layer: its name, or its place among ``layers``. Default, for each concept: of those in which the output
                depends on at least half as many tokens as in any, that where its effect is surest.

        Returns:
            A matplotlib figure that belongs to no window. Red raises the explained output, blue lowers it; all concepts
            have one scale. Beside each stands the p-value of its effect by these tokens in this layer, after Holm's
            correction for the layers.

        Raises:
            ValueError: an unknown concept or layer.
            IndexError: no such input.
        """
        if not -len(self.values) <= example < len(self.values):
            raise IndexError(f"example {example} is out of range: there are {len(self.values)} inputs")
        names = [concepts] if isinstance(concepts, str) else list(self.concepts if concepts is None else concepts)
        unknown = [name for name in names if name not in self.concepts]
        if unknown or not names:
            raise ValueError(f"unknown concepts {unknown}: expected some of {', '.join(map(repr, self.concepts))}")
        chosen = [list(self.concepts).index(name) for name in names]
        places = [self._layer(layer, example, concept) for concept in chosen]
        title = [self.target_names[example]]
        if len(set(places)) == 1:
            title.append(self.layers[places[0]])
        if self.propagation != GRADIENT.name:
            title.append(self.propagation)
        names = [self._label(*each, len(set(places)) > 1) for each in zip(names, places, chosen, strict=True)]
        values = self.values[example, places, chosen]
        heading = ", ".join(title) + ("" if values.any() else ": no gradient on these tokens")
        if self.pixels is not None:
            mask = None if self.masks is None else self.masks[example]
            patches = patch_values(values, self.grid)
            return concepts_over_image(self.pixels[example], patches, self.grid, names, heading, self._unit, mask)
        return concepts_under_text(self._names(example), values[:, self.real[example]], names, heading, self._unit)

    def frame(self) -> pd.DataFrame:
        """A row for each input, layer, concept and token: ``input``, ``layer``, ``concept``, ``position``, ``token``
        and ``value``; without padding."""
        import pandas as pd

        frames = []
        for example, of_input in enumerate(self.values.detach().cpu()):
            real, names = self.real[example].cpu(), self._names(example)
            axes = [[example], self.layers, self.concepts, real.nonzero().flatten().tolist()]
            index = pd.MultiIndex.from_product(axes, names=["input", "layer", "concept", "position"])
            columns = {"token": names * (of_input[..., 0].numel()), "value": of_input[..., real].flatten().numpy()}
            frames.append(pd.DataFrame(columns, index))
        return pd.concat(frames).reset_index()

    def top(self, k: int = 5) -> pd.DataFrame:
        """The rows of :meth:`frame` of the k tokens with the largest magnitude, of each input and concept, in the layer
        where the concept's effect is surest."""
        surest = {
            (example, name): self.layers[self._layer(None, example, concept)]
            for example in range(len(self.values))
            for concept, name in enumerate(self.concepts)
        }
        frame = self.frame()
        layers = [surest[key] for key in zip(frame.input, frame.concept, strict=True)]
        return strongest(frame[frame.layer == layers], k, ["input", "concept"])

    def page(self) -> str:
        """The page, as HTML that needs nothing from elsewhere: each input as each concept sees it, to hover over.

        Of the first 20 inputs, each concept in the layer where its effect is surest; with masks, :meth:`on_object`.
        """
        title = f"Where in the input concepts move the output: {listed([*dict.fromkeys(self.target_names)])}"
        note = (
            f"Of each token or patch, the {self._unit}: red raises the output, blue lowers it, each concept relative "
            "to its strongest token, in the layer where its effect is surest."
        ).replace("\n", " ")
        parts, views = [opening(title, note, _CAUTIONS)], []
        if self.masks is not None:
            on_object = self.on_object().groupby(["concept", "layer"], sort=False)[["share", "area", "ratio", "top"]]
            parts += ["<h2>On the masked object, mean over inputs</h2>", table_html(on_object.mean().reset_index())]
        for example in range(min(len(self.values), _MOST_ON_A_PAGE)):
            heading = f"Input {example}: {self.target_names[example]}"
            parts.append(f"<h2>{escape(heading)}</h2><div id='input-{example}'></div>")
            views.append(self._view(example))
        if len(self.values) > _MOST_ON_A_PAGE:
            parts.append(f"<p class='note'>The first {_MOST_ON_A_PAGE} of {len(self.values)} inputs.</p>")
        return page(title, "\n".join(parts), views)

    def _view(self, example: int) -> dict[str, Any]:
        """What the page's script shows of an input: concepts in place of methods."""
        real, scored = self.real[example].cpu(), {}
        for concept, name in enumerate(self.concepts):
            place = self._layer(None, example, concept)
            values = self.values[example, place, concept].detach().cpu()[real]
            label = self._label(name, place, concept, True).replace("\n", ", ")
            scored[label] = Scored(values[None], self._unit.replace("\n", " "), bool((values < 0).any()))
        names = self._names(example)
        picture, special = None, [False] * len(names)
        if self.pixels is not None:
            grid = image_grid(self.grid)
            patches = grid.tokens(len(names)).tolist()
            counts, special = (grid.rows, grid.columns), [token not in patches for token in range(len(names))]
            picture = PatchedPicture(shown_pixels(self.pixels[example]), counts, grid.extent, patches)
        pieces, target = [f" {name}" for name in names], [self.target_names[example]]
        return input_view(f"input-{example}", pieces, special, target, 0, scored, picture, of="concept")

    @property
    def _unit(self) -> str:
        what = "change of the output" if self.propagation == GRADIENT.name else "relevance"
        return f"{what},\ntowards the concept"

    def _names(self, example: int) -> list[str]:
        """The tokens of an input without padding, or their numbers."""
        if self.tokens:
            return list(self.tokens[example])
        return list(map(str, self.real[example].nonzero().flatten().tolist()))

    def on_object(self) -> pd.DataFrame:
        """How much of each concept's sensitivity lies on the masked object.

        Returns:
            A row for each input, layer and concept: ``input`` (its number), ``layer``, ``concept``; ``share`` of the
            positive sensitivity that lies on the object; ``area``, the object's share of the patches; ``ratio`` of
            both, 1 if the map does not see it; ``top``, 1 if its most sensitive patch is on it, else 0. NaN where no
            sensitivity is positive.

        Raises:
            ValueError: no masks were given.
        """
        import pandas as pd

        if self.masks is None:
            raise ValueError("there are no masks: give them to sensitivity_maps(..., masks=)")
        covered = patch_means(self.masks.cpu().double(), self.grid)[:, None, None]  # (n, 1, 1, rows, columns)
        patches = self.patches.double().cpu()
        share = energy_pointing_game(patches, covered)
        top = pointing_game(patches, covered).double().where(~share.isnan(), torch.nan)
        area = covered.mean((-2, -1)).expand_as(share)
        places = pd.MultiIndex.from_product(
            [range(len(self.values)), self.layers, self.concepts], names=["input", "layer", "concept"]
        )
        columns = {"share": share, "area": area, "ratio": share / area, "top": top}
        return pd.DataFrame({name: one.flatten().numpy() for name, one in columns.items()}, places).reset_index()

    def _label(self, name: str, place: int, concept: int, with_layer: bool) -> str:
        """A concept's name, and below it where and how sure its effect is."""
        facts = [self.layers[place]] if with_layer else []
        if self.p_values is not None:
            facts.append(written_p(float(holm(self.p_values[:, concept])[place])))
        return "\n".join([name, ", ".join(facts)] if facts else [name])

    def _layer(self, layer: str | int | None, example: int, concept: int) -> int:
        if layer is None:
            sensitive = (self.values[example] != 0).any(1).sum(-1)  # tokens, in each layer
            seen = (2 * sensitive >= sensitive.max()).nonzero().flatten().cpu()
            if self.p_values is None:
                return int(seen[-1])
            return int(seen[self.p_values[:, concept].nan_to_num(torch.inf)[seen].argmin()])
        if isinstance(layer, int) and -len(self.layers) <= layer < len(self.layers):
            return layer % len(self.layers)
        if isinstance(layer, int) or layer not in self.layers:
            raise ValueError(
                f"unknown layer {layer!r}: expected one of {', '.join(map(repr, self.layers))}, or its place"
            )
        return list(self.layers).index(layer)


def check_masks(masks: Tensor | None, pixels: Tensor | None) -> None:
    """Raise ``ValueError`` for masks that do not fit images (n, C, h, w)."""
    if masks is None:
        return
    if pixels is None:
        raise ValueError("masks are of the pixels of images, but the inputs are no images")
    expected = (len(pixels), *pixels.shape[-2:])
    if masks.dtype != torch.bool or masks.shape != expected:
        raise ValueError(
            f"masks must be bool {expected}, of the images as the model reads them, got {masks.dtype} "
            f"{tuple(masks.shape)}"
        )


__getattr__ = moved_names(__name__, "captum_attn.functional", ["token_sensitivity"])
