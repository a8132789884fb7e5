"""The generated images keep their rules, and the model that was trained on them has learned them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.small_models import MODELS, load_texture_model
from helpers.textures import (
    CLASSES,
    MEMBERS,
    SHAPES,
    TEXTURES,
    class_images,
    draw_class,
    draw_two,
    generator,
    labelled_images,
    pattern,
    random_images,
    shape_images,
    shape_mask,
    texture_images,
)


def test_images_are_colours_and_masks_are_inside():
    images, labels, masks = labelled_images(40, seed=1)
    assert images.shape == (40, 3, 48, 48)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.bincount(labels).tolist() == [10] * 4
    assert (masks.double().mean((1, 2)) > 0.03).all()
    assert (masks.double().mean((1, 2)) < 0.35).all()


def test_images_come_from_the_seed_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for draw in (
        lambda seed: texture_images("zigzag", 3, seed),
        lambda seed: random_images(3, seed),
        lambda seed: shape_images("fish", 3, seed),
        lambda seed: class_images("zebra", 3, seed),
    ):
        assert torch.equal(draw(1), draw(1))
        assert not torch.equal(draw(1), draw(2))
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()


@pytest.mark.parametrize("texture", TEXTURES)
def test_both_colours_of_a_texture_cover_about_half(texture):
    rng = generator(0, "halves")
    covered = [pattern(texture, rng).mean() for _ in range(50)]
    assert np.mean(covered) == pytest.approx(0.5, abs=0.03)
    assert 0.35 < min(covered) <= max(covered) < 0.65


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_fit_into_the_image(shape):
    rng = generator(0, "shapes")
    for _ in range(100):
        mask = shape_mask(shape, (0.12, 0.30), rng)
        assert mask.any()
        assert mask.mean() < 0.32


def test_zebras_are_striped_and_snakes_are_snakes(monkeypatch):
    drawn = []
    monkeypatch.setattr("helpers.textures.draw", lambda texture, shape, rng: drawn.append((str(texture), str(shape))))
    rng = generator(0, "classes")
    for name in CLASSES:
        drawn.clear()
        for _ in range(200):
            draw_class(name, rng)
        textures, shapes = MEMBERS[name]
        assert {texture for texture, _ in drawn} == set(textures)
        assert {shape for _, shape in drawn} == set(shapes)
    assert MEMBERS["zebra"] == (("narrow stripes",), SHAPES)
    assert MEMBERS["snake"][1] == ("snake",)
    assert not {"narrow stripes", "dotted"} & {*MEMBERS["snake"][0], *MEMBERS["other"][0]}


def test_two_objects_do_not_overlap():
    image, one, other = draw_two(("dotted", "disc"), ("zigzag", "fish"), generator(0, "two"))
    assert image.shape == (3, 48, 48)
    assert one.any()
    assert other.any()
    assert not (one & other).any()


def test_the_shipped_model_is_right_on_new_images():
    model = load_texture_model()
    images, labels, _ = labelled_images(1000, seed=123)
    with torch.no_grad():
        right = (model(images).logits.argmax(-1) == labels).double()
    assert right.mean() >= 0.95
    assert min(float(right[labels == label].mean()) for label in range(4)) >= 0.9
    assert sum(file.stat().st_size for file in (MODELS / "vit-textures").iterdir()) <= 2e6
