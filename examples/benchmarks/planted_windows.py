"""Do explanations of models that attend in windows, or on coarser grids, point at the object?

A Swin, a PVT and a Hiera are trained for a few minutes each on pictures of one digit among up to three blots, which
have the pixels of a digit in another order, all at random places; so it is known where the class is seen. Measured as
in ``planted_signals.py``, on digits that training did not see::

    python examples/benchmarks/planted_windows.py
    python examples/benchmarks/planted_windows.py --steps 50 --inputs 20    # to see it run
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers as hf
from planted_signals import SEED, found, methods_of
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.moving_digits import DIGITS, SIDE
from helpers.small_models import digits

from captum_attn import ShapleyAttention

SIZE, BLOTS = 64, 3
COMMON: Mapping[str, Any] = {"num_channels": 1, "num_labels": len(DIGITS)}
MODELS: Mapping[str, Callable[[], Any]] = {
    "Swin": lambda: hf.SwinForImageClassification(
        hf.SwinConfig(
            **COMMON, image_size=SIZE, patch_size=4, embed_dim=32, depths=(2, 2), num_heads=(2, 4), window_size=4
        )
    ),
    "PVT": lambda: hf.PvtForImageClassification(
        hf.PvtConfig(
            **COMMON,
            image_size=SIZE,
            hidden_sizes=(32, 48, 64, 64),
            depths=(1, 1, 1, 1),
            num_attention_heads=(1, 2, 4, 4),
            sequence_reduction_ratios=(2, 1, 1, 1),
        )
    ),
    "Hiera": lambda: hf.HieraForImageClassification(
        hf.HieraConfig(**COMMON, image_size=[SIZE, SIZE], embed_dim=32, depths=[1, 2, 2, 1], num_heads=[1, 2, 4, 8])
    ),
}


def labelled_pictures(count: int, seed: int, held_out: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Draw pictures.

    Args:
        count: how many.
        seed: of what is drawn.
        held_out: of digits that :func:`small_models.digits` holds out.

    Returns:
        float32 (n, 1, 64, 64) in [0, 1]; int64 labels (n,), places in ``DIGITS``; bool (n, 64, 64), where the digit is.
    """
    generator = torch.Generator().manual_seed(seed)
    training = digits()
    images, classes = training[2:] if held_out else training[:2]
    labels = torch.arange(count) % len(DIGITS)
    pictures = 0.1 * torch.rand(count, 1, SIZE, SIZE, generator=generator)
    seen = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    for (picture,), label, where in zip(pictures, labels.tolist(), seen, strict=True):
        blots = int(torch.randint(BLOTS + 1, (), generator=generator))
        quarters = torch.randperm(4, generator=generator)[: blots + 1].tolist()
        for number, quarter in enumerate(quarters):
            drawn_class = int(torch.randint(len(DIGITS), (), generator=generator)) if number else label
            own = (classes == DIGITS[drawn_class]).nonzero().flatten()
            one = images[own[int(torch.randint(len(own), (), generator=generator))]]
            drawn = interpolate(one[None].float(), size=SIDE)[0, 0]
            if number:
                drawn = drawn.flatten()[torch.randperm(SIDE * SIDE, generator=generator)].view(SIDE, SIDE)
            top, left = torch.randint(SIZE // 2 - SIDE + 1, (2,), generator=generator).tolist()
            top, left = top + quarter // 2 * SIZE // 2, left + quarter % 2 * SIZE // 2
            at = (slice(top, top + SIDE), slice(left, left + SIDE))
            picture[at] += 0.9 * drawn
            where[at] |= number == 0
    return pictures.clamp(0, 1), labels, seen


def trained(build: Callable[[], Any], steps: int) -> Any:
    """The model, after so many batches of new pictures."""
    torch.manual_seed(0)
    model = build().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    for step in (progress := tqdm(range(steps), leave=False)):
        pictures, labels, _ = labelled_pictures(64, step)
        loss = cross_entropy(model(pixel_values=pictures).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval()


def methods_without_rows(model: Any) -> Mapping[str, Any]:
    """Those of the other benchmark that need no rows of attention, and the game on attention alone."""
    others = {name: method for name, method in methods_of(model).items() if name not in ("RawAttention", "GradSAM")}
    return {**others, "ShapleyAttention": ShapleyAttention(model)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100, help="pictures for either part")
    parser.add_argument("--steps", type=int, default=3000, help="of training, 64 new pictures each")
    options = parser.parse_args()
    pictures, labels, seen = labelled_pictures(2 * options.inputs, SEED, held_out=True)
    tables = []
    for name, build in MODELS.items():
        model = trained(build, options.steps)
        tables.append(found(name, model, pictures, labels, {"where": seen}, methods_without_rows(model)))
    print(pd.concat(tables).to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
