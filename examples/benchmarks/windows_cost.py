"""What an explanation of a model with windows or on coarser grids costs, in units of a forward and a backward pass.

    python examples/benchmarks/windows_cost.py

Models of the published sizes with random weights explain two images of 224 × 224. The unit is a forward pass, and a
backward pass to the weights. CPU seconds, in turn; a ratio is the median of the rounds' ratios. The first call of a
model follows the image in two ways, and compares a batch with its examples.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from captum_attn import AttnLRP, ShapleyGradAttention

MODELS: dict[str, Callable[[], Any]] = {
    "Swin-T": lambda: hf.SwinForImageClassification(hf.SwinConfig()),
    "Hiera-T": lambda: hf.HieraForImageClassification(hf.HieraConfig()),
    "PVT-T": lambda: hf.PvtForImageClassification(hf.PvtConfig()),
    "SegFormer-B0": lambda: hf.SegformerForImageClassification(hf.SegformerConfig()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.rand(2, 3, 224, 224)
    print("| | seconds | first game | game | AttnLRP |\n|---|--:|--:|--:|--:|")
    for name, build in MODELS.items():
        model = build().eval()
        calls: list[Callable[[], object]] = [partial(forward_and_backward, model, images)]
        kinds: tuple[Any, ...] = (ShapleyGradAttention, AttnLRP)
        calls += [partial(kind(model).attribute_tokens, images, 1) for kind in kinds]
        calls[0]()
        first = seconds_of(calls[1]) / seconds_of(calls[0])
        calls[2]()
        times = [[seconds_of(call) for call in calls] for _ in range(rounds)]
        game, relevance = (median(row[place] / row[0] for row in times) for place in (1, 2))
        print(f"| {name} | {median(row[0] for row in times):.2f} | {first:.2f} | {game:.2f} | {relevance:.2f} |")


def forward_and_backward(model: Any, images: Tensor) -> None:
    model(pixel_values=images).logits[:, 1].sum().backward()
    model.zero_grad(set_to_none=True)


def seconds_of(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()
