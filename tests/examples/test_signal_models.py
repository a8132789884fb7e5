"""The small models of sounds and clips are right, and explained by what makes them so."""

from __future__ import annotations

import pytest
import torch
from helpers.moving_digits import DIGITS, labelled_clips
from helpers.small_models import load_clip_model, load_sound_model
from helpers.tones import CALLS, labelled_sounds
from train_signal_models import random_listener, random_viewer

from captum_attn import AttnLRP, ShapleyGradAttention
from captum_attn.core import patch_means
from captum_attn.functional import energy_pointing_game

KINDS = {
    "sound": (lambda: load_sound_model()[0], random_listener, lambda n: labelled_sounds(n, seed=5), CALLS),
    "video": (load_clip_model, random_viewer, lambda n: labelled_clips(n, seed=5, held_out=True), DIGITS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_is_right_and_the_same_each_time(kind):
    _, _, draw, classes = KINDS[kind]
    inputs, labels, truth = draw(8)
    again, _, _ = draw(8)
    assert torch.equal(inputs, again)
    assert labels.tolist() == [*range(len(classes))] * 2
    held = truth.flatten(2).any(2) if kind == "video" else truth
    assert (held.sum(1) < held.shape[1] / 2).all()
    assert held.any(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_models_are_right_and_explained_by_when_their_class_is_there(kind):
    load, random_model, draw, _ = KINDS[kind]
    model = load()
    assert {name: part.shape for name, part in model.state_dict().items()} == {
        name: part.shape for name, part in random_model().state_dict().items()
    }
    inputs, labels, truth = draw(40)
    for method, least in ((ShapleyGradAttention(model), 1.5), (AttnLRP(model), 2.0)):
        result = method.attribute_tokens(inputs, target=labels)
        assert (result.output.argmax(-1) == labels).double().mean() > 0.9
        moments = truth if kind == "sound" else truth.any((2, 3), keepdim=True).expand_as(truth)
        held = patch_means(moments.double(), result.grid).flatten(1)
        share = energy_pointing_game(result.patches.double().flatten(1)[:, None], held[:, None])
        assert float((share / held.mean(1)).mean()) > least
