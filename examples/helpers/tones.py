"""Sounds of which it is known when their class is heard: a short call in noise, beside a tone that says nothing.

The four calls are :data:`CALLS`; each lasts .2 to .3 of the second that a sound is long. Somewhere else in it, a steady
tone of the same loudness is heard in every sound, whatever its class.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CALLS = ("rising", "falling", "buzzing", "trembling")
RATE = 8000
SAMPLES = 8000


def labelled_sounds(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw sounds of one second.

    Returns:
        float32 (n, 8000), with a standard deviation of 1; int64 labels (n,); bool (n, 8000), when the call is heard.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CALLS)
    waves = 0.1 * torch.randn(count, SAMPLES, generator=generator)
    heard = torch.zeros(count, SAMPLES, dtype=torch.bool)
    for wave, label, when in zip(waves, labels.tolist(), heard, strict=True):
        numbers = torch.rand(8, generator=generator).tolist()
        length, other = (int(SAMPLES * (0.2 + 0.1 * number)) for number in numbers[:2])
        first, gap, second = (number / sum(numbers[2:5]) for number in numbers[2:5])
        free = SAMPLES - length - other
        start = int(free * first)
        after = start + length + int(free * gap)
        if second > first:  # the other one comes first
            start, after = after - length + other, start
        loudness = 0.4 + 0.4 * numbers[5]
        wave[start : start + length] += loudness * call(CALLS[label], length, 300 + 500 * numbers[6])
        wave[after : after + other] += loudness * tone(torch.full((other,), 300 + 900 * numbers[7]))
        when[start : start + length] = True
    return waves / waves.std(1, keepdim=True), labels, heard


def call(kind: str, length: int, pitch: float) -> Tensor:
    """One of :data:`CALLS`, (length,) samples: sweeps of 50 ms up or down, overtones, or a loudness that goes 25 Hz."""
    seconds = torch.arange(length) / RATE
    sweep = seconds / 0.05 % 1
    if kind in ("rising", "falling"):
        return tone(pitch * 2.5 ** (sweep if kind == "rising" else 1 - sweep))
    plain = tone(torch.full((length,), 1.5 * pitch))
    return plain.sign() * plain.abs() ** 0.2 if kind == "buzzing" else plain * (2 * math.pi * 25 * seconds).sin()


def tone(pitches: Tensor) -> Tensor:
    """A tone whose pitch in hertz is given for each sample, faded in and out within 10 ms."""
    fade = torch.arange(1, len(pitches) + 1).minimum(torch.arange(len(pitches), 0, -1)) / (0.01 * RATE)
    return torch.sin(2 * math.pi * (pitches / RATE).cumsum(0)) * fade.clamp(max=1)
