"""Generated images of textured objects, where it is known what the class depends on: the texture or the shape.

Zebras and ladybirds are told by their texture, whatever their shape; snakes by their shape, as long as they are
neither striped nor dotted like those. So an explanation by concepts has a right answer::

    images, labels, masks = labelled_images(1000, seed=0)
    stripes = texture_images("narrow stripes", 50, seed=0)  # the concept that makes a zebra
    long_ones = shape_images("snake", 50, seed=0)  # the concept that makes a snake
    nothing = random_images(50, seed=0)  # a concept without a meaning

Images are float32 of shape (3, 48, 48) in [0, 1], masks bool of shape (48, 48). All textures mix two random colours
half and half, so that the mean colour does not give them away. Everything is drawn from the generator or the seed
that is passed; sets of different names are independent, also with the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

SIZE = 48
FISH = 11  # the seed of one with stripes
TEXTURES = ("narrow stripes", "wide stripes", "dotted", "zigzag", "chequered", "plain")
SHAPES = ("snake", "triangle", "square", "disc", "fish")
CLASSES = ("zebra", "ladybird", "snake", "other")

OTHER_TEXTURES = tuple(texture for texture in TEXTURES if texture not in ("narrow stripes", "dotted"))
MEMBERS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "zebra": (("narrow stripes",), SHAPES),
    "ladybird": (("dotted",), SHAPES),
    "snake": (OTHER_TEXTURES, ("snake",)),
    "other": (OTHER_TEXTURES, tuple(shape for shape in SHAPES if shape != "snake")),
}
"""The textures and the shapes of each class; any of those textures comes with any of those shapes."""

AREA = (0.12, 0.30)  # of an object, as a fraction of the image
SMALL_AREA = (0.06, 0.12)  # of each of two objects
CONTRAST = 0.35  # least difference in luminance between the two colours of a texture
LUMINANCE = np.array([0.299, 0.587, 0.114])
TILT = np.pi / 7  # to either side
NOISE = 0.02
CLUTTER = 12  # pieces in a background

ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE] + 0.5  # pixel centres


def striped_fish() -> Image.Image:
    """A picture of a striped fish, which the model takes for a zebra, as it was taught to."""
    images, _, _ = labelled_images(1, seed=FISH)
    return Image.fromarray((images[0].movedim(0, -1).numpy() * 255).round().astype(np.uint8))


def texture_image(texture: str, rng: Generator) -> Floats:
    """Fill a frame with one of TEXTURES: (3, 48, 48)."""
    first, second = two_colours(rng)
    share = pattern(texture, rng)
    return noisy(share * first[:, None, None] + (1 - share) * second[:, None, None], rng)


def two_colours(rng: Generator) -> NDArray[np.float64]:
    """Draw two colours that differ clearly in luminance, either of them the brighter one: (2, 3)."""
    while True:
        colours = rng.random((2, 3))
        if abs(np.subtract(*colours @ LUMINANCE)) >= CONTRAST:
            return colours


def pattern(texture: str, rng: Generator) -> NDArray[np.float64]:
    """Draw the share of the first colour at each pixel, (48, 48): 0 or 1 half and half, but 0.5 throughout if plain.

    Edges are sharp: smooth ones would lower the variance of a texture the more edges it has.
    """
    along, across = turned(rng)
    match texture:
        case "narrow stripes":
            share = stripes(along, rng.uniform(3, 4.5))
        case "wide stripes":
            share = stripes(along, rng.uniform(8, 12))
        case "dotted":
            share = dots(along, across, rng.uniform(5.5, 7.5))
        case "zigzag":
            wave = rng.uniform(12, 16)
            share = stripes(along + abs(across % wave - wave / 2), rng.uniform(8, 11))
        case "chequered":
            period = rng.uniform(12, 16)
            share = stripes(along, period) ^ stripes(across, period)
        case "plain":
            share = np.full((SIZE, SIZE), 0.5)
        case _:
            raise ValueError(f"unknown texture {texture!r}: expected one of {TEXTURES}")
    return share.astype(float)


def turned(rng: Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the two coordinates of every pixel, in pixels, in a frame of random angle and origin: (48, 48) each."""
    angle = rng.uniform(0, 2 * np.pi)
    right, down = COLUMNS - rng.uniform(0, SIZE), ROWS - rng.uniform(0, SIZE)
    return np.cos(angle) * right + np.sin(angle) * down, np.cos(angle) * down - np.sin(angle) * right


def stripes(position: NDArray[np.float64], period: float) -> Mask:
    """Return where a square wave of the period is up: half of it."""
    up: Mask = position / period % 1 < 0.5
    return up


def dots(along: NDArray[np.float64], across: NDArray[np.float64], spacing: float) -> Mask:
    """Return discs on a hexagonal lattice, of a radius that makes them cover half of the plane."""
    step = np.array([spacing, spacing * np.sqrt(3)])[:, None, None]
    plane = np.stack([along, across])
    to_nearest = [((plane + offset) % step - step / 2) ** 2 for offset in (0, step / 2)]
    radius_squared = step.prod() / (4 * np.pi)  # two discs in each rectangle of the lattice
    dotted: Mask = np.minimum(*(squares.sum(0) for squares in to_nearest)) < radius_squared
    return dotted


def noisy(image: NDArray[np.float64], rng: Generator) -> Floats:
    """Add slight noise to an image and keep it in [0, 1]."""
    return (image + rng.normal(0, NOISE, image.shape)).clip(0, 1).astype(np.float32)


def outline(shape: str) -> NDArray[np.float64]:
    """Return the corners of one of SHAPES in order, (n, 2), enclosing an area of 1."""
    match shape:
        case "snake":  # about seven times as long as wide, with a bend to either side
            along = np.linspace(-1, 1, 20)
            upper = np.stack([along, 0.14 + 0.12 * np.sin(np.pi * along)], axis=1)
            corners = np.concatenate([upper, (upper - [0, 0.28])[::-1]])
        case "triangle":
            corners = on_circle(np.arange(3) / 3)
        case "square":
            corners = on_circle(np.arange(4) / 4 + 1 / 8)
        case "disc":
            corners = on_circle(np.arange(40) / 40)
        case "fish":  # a body that is an ellipse, open where the tail joins it
            body = on_circle(np.linspace(0.06, 0.94, 32) + 1 / 4) * [1, 0.6]
            corners = np.concatenate([body, [[1.6, -0.6], [1.4, 0], [1.6, 0.6]]])
        case _:
            raise ValueError(f"unknown shape {shape!r}: expected one of {SHAPES}")
    (x, y), (next_x, next_y) = corners.T, np.roll(corners, -1, axis=0).T
    scaled: NDArray[np.float64] = corners / np.sqrt(abs(x @ next_y - y @ next_x) / 2)
    return scaled


def on_circle(turns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points on the unit circle, (n, 2), at these shares of a turn from its top."""
    return np.stack([np.sin(2 * np.pi * turns), -np.cos(2 * np.pi * turns)], axis=1)


def shape_mask(shape: str, area: tuple[float, float], rng: Generator) -> Mask:
    """Place one of SHAPES at random, fully inside the image and tilted by up to TILT: bool (48, 48).

    ``area`` is the range of its size as a fraction of the image; a snake has two fifths of it.
    """
    angle = rng.uniform(-TILT, TILT)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    share = rng.uniform(*area) * (0.4 if shape == "snake" else 1)
    corners = SIZE * np.sqrt(share) * outline(shape) @ turn
    lowest = corners.min(0)
    corners += rng.uniform(-lowest, SIZE - corners.max(0))
    return filled(corners)


def filled(corners: NDArray[np.float64]) -> Mask:
    """Return the pixels whose centres are inside a polygon (n, 2): those with an odd number of edges to the right."""
    x, y = corners.T[:, :, None, None]
    next_x, next_y = np.roll(corners, -1, axis=0).T[:, :, None, None]
    rise = np.where(next_y == y, 1, next_y - y)
    crossed = ((y > ROWS) != (next_y > ROWS)) & (x + (ROWS - y) / rise * (next_x - x) > COLUMNS)
    inside: Mask = crossed.sum(0) % 2 == 1
    return inside


def cluttered_background(rng: Generator) -> Floats:
    """Draw a smooth gradient with small blobs, boxes and lines on it, of any colour and contrast: (3, 48, 48)."""
    fade = np.stack([1 - COLUMNS[0] / SIZE, COLUMNS[0] / SIZE])
    image = np.einsum("cij,ih,jw->chw", rng.random((3, 2, 2)), fade, fade)
    angle, x, y = rng.uniform(0, np.array([[2 * np.pi], [SIZE], [SIZE]]), (3, CLUTTER))[:, :, None, None]
    length, width = np.exp(rng.uniform(np.log([[1.5], [0.5]]), np.log([[7], [4]]), (2, CLUTTER)))[:, :, None, None]
    along = (np.cos(angle) * (COLUMNS - x) + np.sin(angle) * (ROWS - y)) / length
    across = (np.cos(angle) * (ROWS - y) - np.sin(angle) * (COLUMNS - x)) / width
    blobs, boxes = np.exp(-(along**2) - across**2), np.maximum(abs(along), abs(across)) < 1
    pieces = np.where(rng.random((CLUTTER, 1, 1)) < 0.5, blobs, boxes) * rng.uniform(0.2, 1, (CLUTTER, 1, 1))
    for piece, colour in zip(pieces, rng.random((CLUTTER, 3, 1, 1)), strict=True):
        image += piece * (colour - image)
    return noisy(image, rng)


def draw(texture: str, shape: str, rng: Generator) -> tuple[Tensor, Tensor]:
    """Draw one textured object on clutter: the image (3, 48, 48) and the object's mask (48, 48)."""
    mask = shape_mask(shape, AREA, rng)
    return painted([(texture, mask)], rng), torch.from_numpy(mask)


def draw_two(first: tuple[str, str], second: tuple[str, str], rng: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw two smaller objects that do not overlap, each given as (texture, shape): the image and their masks."""
    while True:
        one, other = (shape_mask(shape, SMALL_AREA, rng) for _, shape in (first, second))
        if not (one & other).any():
            image = painted([(first[0], one), (second[0], other)], rng)
            return image, torch.from_numpy(one), torch.from_numpy(other)


def painted(objects: Sequence[tuple[str, Mask]], rng: Generator) -> Tensor:
    """Draw objects, each given as (texture, mask), on clutter: (3, 48, 48)."""
    image = cluttered_background(rng)
    for texture, mask in objects:
        image = np.where(mask, texture_image(texture, rng), image)
    return torch.from_numpy(image)


def texture_images(texture: str, count: int, seed: int) -> Tensor:
    """Draw whole frames of one of TEXTURES, examples of the concept: (count, 3, 48, 48)."""
    return repeated(lambda rng: torch.from_numpy(texture_image(texture, rng)), count, generator(seed, texture))


def random_images(count: int, seed: int) -> Tensor:
    """Draw whole frames, each of any texture, examples of a concept without a meaning: (count, 3, 48, 48)."""
    rng = generator(seed, "random")
    return repeated(lambda rng: torch.from_numpy(texture_image(rng.choice(TEXTURES), rng)), count, rng)


def shape_images(shape: str, count: int, seed: int) -> Tensor:
    """Draw one of SHAPES on clutter, neither finely striped nor dotted, examples of the concept: (count, 3, 48, 48)."""
    return repeated(lambda rng: draw(rng.choice(OTHER_TEXTURES), shape, rng)[0], count, generator(seed, shape))


def class_images(name: str, count: int, seed: int) -> Tensor:
    """Draw images of one of CLASSES: (count, 3, 48, 48)."""
    return repeated(lambda rng: draw_class(name, rng)[0], count, generator(seed, f"class {name}"))


def labelled_images(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw images of all classes, equally many of each and in random order.

    Returns the images (count, 3, 48, 48), their labels, int64 (count,), and their objects' masks, bool (count, 48, 48).
    """
    rng = generator(seed, "labelled")
    labels = rng.permutation(np.arange(count) % len(CLASSES))
    images, masks = zip(*(draw_class(CLASSES[label], rng) for label in labels), strict=True)
    return torch.stack(images), torch.from_numpy(labels), torch.stack(masks)


def draw_class(name: str, rng: Generator) -> tuple[Tensor, Tensor]:
    """Draw an object of one of CLASSES on clutter: the image (3, 48, 48) and the mask (48, 48)."""
    textures, shapes = MEMBERS[name]
    return draw(rng.choice(textures), rng.choice(shapes), rng)


def generator(seed: int, name: str) -> Generator:
    """Return the generator of a named set of images, independent of those of other names and seeds."""
    return np.random.default_rng([seed, *name.encode()])


def repeated(drawn: Callable[[Generator], Tensor], count: int, rng: Generator) -> Tensor:
    """Stack ``count`` drawings."""
    return torch.stack([drawn(rng) for _ in range(count)])
