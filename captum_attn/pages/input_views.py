"""An explained input, as a page shows it: its tokens or patches on their colours, to hover over and to click."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_attn.pages.self_contained import as_source, pixels_as_png

_STEPS = 32767  # of a 16-bit number
_CRISP = 160  # pixels a side, below which pictures are not smoothed


@dataclass(frozen=True)
class Scored:
    """What one method says of an input's N tokens.

    Attributes:
        values: (K, N), a row for each class that can be chosen.
        what: they are, in words.
        signed: whether negative ones lower the output.
    """

    values: Tensor
    what: str = ""
    signed: bool = True


@dataclass(frozen=True)
class PatchedPicture:
    """An image whose patches are tokens.

    Attributes:
        pixels: (h, w) or (h, w, 3), in [0, 1].
        counts: rows and columns of patches.
        extent: left, right, bottom and top edge of the patches, in pixels.
        tokens: which of the N tokens each patch is, row by row.
    """

    pixels: Any
    counts: tuple[int, int]
    extent: tuple[float, float, float, float]
    tokens: Sequence[int]

    def data(self) -> dict[str, Any]:
        """As the page's script reads it."""
        height, width = self.pixels.shape[:2]
        left, right, bottom, top = self.extent
        grey = {"cmap": "gray", "vmin": 0, "vmax": 1} if self.pixels.ndim == 2 else {}
        return {
            "source": as_source(pixels_as_png(self.pixels, **grey)),
            "name": "the image",
            "rows": self.counts[0],
            "columns": self.counts[1],
            "left": left / width,
            "top": top / height,
            "width": (right - left) / width,
            "height": (bottom - top) / height,
            "tokens": list(self.tokens),
            "crisp": max(height, width) < _CRISP,
        }


@dataclass(frozen=True)
class Influences:
    """From whom tokens take, and to whom they give, by layer and head.

    Attributes:
        layers: names of the L layers that are kept apart; of one entry, for the mean.
        variants: by name, matrices (L, H, N, N), rows are queries, of each class that can be chosen, or of all alike.
        rectifies: by name, the variant of which one takes the positive part.
    """

    layers: Sequence[str]
    variants: Mapping[str, Sequence[Tensor]]
    rectifies: Mapping[str, str]

    def data(self) -> dict[str, Any]:
        """As the page's script reads it, in 16 bits a number, relative to the largest of its layer and head."""
        heads = next(iter(self.variants.values()))[0].shape[1]
        names = list(self.variants)
        own = [{"name": name, "of": [_packed(matrix) for matrix in of]} for name, of in self.variants.items()]
        derived = [{"name": name, "rectifies": names.index(of)} for name, of in self.rectifies.items()]
        return {"layers": list(self.layers), "heads": heads, "variants": [*own[:1], *derived, *own[1:]]}


def input_view(
    element: str,
    tokens: Sequence[str],
    special: Sequence[bool],
    classes: Sequence[str],
    target: int,
    methods: Mapping[str, Scored],
    picture: PatchedPicture | None = None,
    influence: Influences | None = None,
    of: str = "method",
) -> dict[str, Any]:
    """What the page's script shows of an input of N tokens.

    Args:
        element: the id of the element that it goes into.
        tokens: their texts; joined, they are the text, with its white space. Those of patches are not shown.
        special: which of them only mark beginnings and ends.
        classes: names of the K classes that can be chosen.
        target: the one that is shown first.
        methods: by name, what they say.
        picture: the image, if some of the tokens are its patches.
        influence: from whom each token takes.
        of: what the methods are, if they are something else, such as concepts.
    """
    return {
        "kind": "input",
        "of": of,
        "element": element,
        "tokens": list(tokens),
        "special": list(special),
        "classes": list(classes),
        "target": target,
        "methods": [
            {"name": name, "what": one.what, "signed": one.signed, "values": [rounded(row) for row in one.values]}
            for name, one in methods.items()
        ],
        "picture": picture and picture.data(),
        "influence": influence and influence.data(),
    }


def rounded(values: Iterable[float] | Tensor) -> list[float]:
    """To four significant digits, which is what can be seen; 0 for what is not finite."""
    numbers = torch.as_tensor(values).detach().cpu().nan_to_num(0, 0, 0).tolist()
    return [float(f"{number:.4g}") for number in numbers]


def _packed(matrices: Tensor) -> dict[str, Any]:
    """Matrices (L, H, N, N) as text: 16-bit numbers, and what one step of each layer and head is worth."""
    flat = matrices.detach().cpu().double().nan_to_num(0, 0, 0).flatten(0, 1).flatten(1)
    scales = flat.abs().amax(1) / _STEPS
    steps = (flat / scales.clamp(min=torch.finfo(flat.dtype).tiny)[:, None]).round().to(torch.int16)
    raw = steps.contiguous().numpy().astype("<i2").tobytes()
    return {"scales": scales.tolist(), "data": base64.b64encode(raw).decode()}
