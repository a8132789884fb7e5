"""Images as SHAP users give them: processed for the model, and as pictures to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PILImage
from torch import Tensor, nn
from transformers.image_utils import load_image

from captum_attn import TokenAttributions
from captum_attn.core import Grid
from captum_attn.core.patches import under_patches

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Image:
    """An image.

    Attributes:
        pixels: (C, h, w), what the model takes.
        picture: (h, w, 3) in [0, 1], what the model sees, for people.
    """

    pixels: Tensor
    picture: Array

    def __len__(self) -> int:
        return 1


class ImageReader:
    """Reads images for one model.

    Args:
        processor: an image processor; None: the images are the model's own pixel values.
        model: its first convolution says how many channels it takes.
    """

    can_pad = True  # nothing to pad: all images have one size

    def __init__(self, processor: Any, model: nn.Module) -> None:
        self.processor = processor
        convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
        self.channels = next((module.in_channels for module in convolutions), 3)

    def read(self, images: Any) -> list[Image]:
        """Process images: arrays (h, w, C) or (N, h, w, C), tensors (C, h, w) or (N, C, h, w), PIL images, paths.

        With a processor, values are 0 to 255, or 0 to 1 in floating point, which are rounded to 8 bits.

        Raises:
            TypeError: what is no image, or no floating point without a processor.
            ValueError: other channels than the model's, values out of range, images of several sizes.
            FileNotFoundError: a path to nothing.
        """
        arrays = [self._array(place, image) for place, image in enumerate(_listed(images))]
        if self.processor is None:
            rows = [self._own_pixels(array) for array in arrays]
        else:
            rows = [self._processed(array) for array in _in_bytes(arrays)]
        sizes = sorted({tuple(row.pixels.shape) for row in rows})
        if len(sizes) > 1:
            raise ValueError(f"images of several sizes (C, h, w), {sizes}: make them one size, or explain one by one")
        return rows

    def collated(self, rows: Sequence[Image]) -> tuple[Tensor, None]:
        """Input of the model, (B, C, h, w), whatever the name of its argument; its patches play."""
        return torch.stack([row.pixels for row in rows]), None

    def arranged(self, rows: Sequence[Image], results: Sequence[TokenAttributions]) -> list[Array]:
        """The values (rows, columns, 1, K) of each image's patches, from the results for K targets."""
        patches = torch.stack([result.patches for result in results], -1).unsqueeze(-2).double().cpu()
        return list(patches.numpy())

    def fields(self, rows: Sequence[Image], grids: Sequence[Grid]) -> dict[str, Any]:
        """``data`` of an explanation, which SHAP's plots stretch to what the patches cover."""
        return {"data": np.stack([covered(row.picture, grid) for row, grid in zip(rows, grids, strict=True)])}

    def _array(self, place: int, image: Any) -> Array:
        """The image as an array (h, w, C)."""
        if isinstance(image, str | Path):
            if not Path(image).is_file() and not str(image).startswith(("http://", "https://", "data:")):
                raise FileNotFoundError(f"image {place}: there is no file {str(image)[:200]!r}")
            image = load_image(str(image))
        if isinstance(image, PILImage.Image):
            image = np.asarray(load_image(image).convert("L" if self.channels == 1 else "RGB"))
        elif isinstance(image, Tensor):
            image = (image.float() if image.is_floating_point() else image).detach().cpu().numpy()
            image = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
        elif not isinstance(image, np.ndarray) or image.dtype.kind not in "uif":
            raise TypeError(
                f"image {place} is a {type(image).__name__}, expected an array (h, w, {self.channels}) or a tensor "
                f"({self.channels}, h, w) of numbers, a PIL image or a path"
            )
        array: Array = image[..., None] if image.ndim == 2 else image
        if array.ndim != 3 or array.shape[-1] != self.channels:
            raise ValueError(
                f"image {place} has shape {image.shape} (channels last), but the model takes {self.channels} "
                f"channels: expected arrays (h, w, {self.channels}), or tensors ({self.channels}, h, w)"
            )
        return array

    def _own_pixels(self, array: Array) -> Image:
        if array.dtype.kind != "f":
            raise TypeError(
                f"the pixels are {array.dtype}, expected the model's own floating-point values: give the image "
                "processor as second argument, or, for a model without one, apply its own transform (resizing, "
                "normalizing) first"
            )
        span = float(array.max() - array.min())
        return Image(_channels_first(array), as_picture((array - array.min()) / (span or 1.0)))

    def _processed(self, array: Array) -> Image:
        pixels = self.processor(array, input_data_format="channels_last", return_tensors="pt")["pixel_values"][0]
        shown = np.moveaxis(pixels.double().numpy(), 0, -1)
        if getattr(self.processor, "do_normalize", False):
            shown = shown * np.array(self.processor.image_std) + np.array(self.processor.image_mean)
        return Image(pixels, as_picture(shown if getattr(self.processor, "do_rescale", True) else shown / 255))


def covered(picture: Array, grid: Grid) -> Array:
    """The part of a picture (h, w, 3) that patches cover; grey where a model adds to it.

    Raises:
        ValueError: no grid.
    """
    channels = torch.from_numpy(picture).movedim(-1, 0)
    return under_patches(channels, grid, beyond=0.5).movedim(0, -1).numpy()


def _listed(images: Any) -> list[Any]:
    many = isinstance(images, list | tuple) or (isinstance(images, np.ndarray | Tensor) and images.ndim == 4)
    if hasattr(images, "to_list") or (isinstance(images, np.ndarray) and images.dtype.kind in "OU"):  # a Series, paths
        images, many = list(images), True
    if many and not len(images):
        raise ValueError("there are no images: expected at least one")
    return list(images) if many else [images]


def _in_bytes(arrays: Sequence[Array]) -> list[Array]:
    """The images in 8 bits; images of floats are 0 to 1 if none of them has more, else 0 to 255."""
    low, high = min(array.min() for array in arrays), max(array.max() for array in arrays)
    if not (np.isfinite([low, high]).all() and low >= 0 and high <= 255):
        raise ValueError(
            f"the images have values from {low:.3g} to {high:.3g}, expected 0 to 255, or 0 to 1 in floating point. If "
            "they are processed already, leave out the image processor: AttentionExplainer(model)"
        )
    floats = [array for array in arrays if array.dtype.kind == "f"]
    scale = 255 if floats and max(array.max() for array in floats) <= 1 else 1
    scales = [scale if array.dtype.kind == "f" else 1 for array in arrays]
    return [np.round(array * own).astype(np.uint8) for array, own in zip(arrays, scales, strict=True)]


def _channels_first(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 0))).float()


def as_picture(array: Array) -> Array:
    """(h, w, 3) in [0, 1]; other channels than red, green and blue are averaged."""
    three = array if array.shape[-1] == 3 else array.mean(-1, keepdims=True).repeat(3, -1)
    return three.clip(0, 1).astype(np.float64)
