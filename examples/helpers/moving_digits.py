"""Clips of which it is known in which frames their class is seen: a blot that moves, and is a digit for a while.

Digits are those of ``sklearn.datasets.load_digits``, enlarged; the blot has the same pixels in another order.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from helpers.small_models import digits

DIGITS = (0, 1, 4, 7)
FRAMES, SIZE, SIDE = 12, 32, 16
SHOWN = 4  # frames, from an even one on


def labelled_clips(count: int, seed: int, held_out: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Draw clips.

    Args:
        count: how many.
        seed: of what is drawn.
        held_out: of digits that :func:`small_models.digits` holds out.

    Returns:
        float32 (n, 12, 1, 32, 32) in [0, 1]; int64 labels (n,), places in :data:`DIGITS`; bool (n, 12, 32, 32), where
        the digit is.
    """
    generator = torch.Generator().manual_seed(seed)
    training = digits()
    images, classes = training[2:] if held_out else training[:2]
    labels = torch.arange(count) % len(DIGITS)
    clips = 0.1 * torch.rand(count, FRAMES, SIZE, SIZE, generator=generator)
    seen = torch.zeros(count, FRAMES, SIZE, SIZE, dtype=torch.bool)
    for clip, label, where in zip(clips, labels.tolist(), seen, strict=True):
        own = (classes == DIGITS[label]).nonzero().flatten()
        number = int(torch.randint(len(own), (), generator=generator))
        digit = interpolate(images[own[number]][None].float(), size=SIDE)[0, 0]
        blot = digit.flatten()[torch.randperm(SIDE * SIDE, generator=generator)].view(SIDE, SIDE)
        begin = 2 * int(torch.randint((FRAMES - SHOWN) // 2 + 1, (), generator=generator))
        start, end = (torch.rand(2, generator=generator) * (SIZE - SIDE) for _ in range(2))
        for frame in range(FRAMES):
            top, left = (start + (end - start) * frame / (FRAMES - 1)).round().int().tolist()
            shown = begin <= frame < begin + SHOWN
            at = (slice(top, top + SIDE), slice(left, left + SIDE))
            clip[frame][at] += 0.9 * (digit if shown else blot)
            where[frame][at] = shown
    return clips.clamp(0, 1)[:, :, None], labels, seen
