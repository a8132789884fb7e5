"""Whether the gradients of attention are those of the model: a check by finite differences.

If layer l's probabilities A become A (1 + ε R), the explained score changes by ε Σ A ⊙ G ⊙ R, for any R. The left side
is two runs of the model under attention replacement, the right side what explanations are made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_attn.core.inputs import ModelInputs
from captum_attn.core.replacement import replaced_output, replacement_calls
from captum_attn.core.run import ObservedForward
from captum_attn.core.tiles import Tile

TOLERANCE = 0.1
"""By how much differences may depart from gradients, in units of the size that a random direction gives these."""

_STEPS = (1e-2, 5e-2, 2e-1)


class LayerCheck(NamedTuple):
    """How far the gradient of one layer's attention agrees with finite differences.

    Attributes:
        layer: its index among the explained ones.
        error: the largest difference of an example, in units of √Σ (A ⊙ G)², the size of such changes; NaN where they
            are too small to be told from rounding.
    """

    layer: int
    error: float

    @property
    def agrees(self) -> bool | None:
        """Whether the error is within the tolerance; None if there is nothing to tell by."""
        return None if math.isnan(self.error) else self.error <= TOLERANCE


def check_gradients_of_attention(
    model: Callable[..., Any],
    inputs: ModelInputs,
    run: ObservedForward,
    selected: Tensor,
    select: Callable[[Tensor], Tensor],
    seed: int = 0,
) -> list[LayerCheck]:
    """Compare gradients with finite differences in each layer, along a random direction.

    Args:
        model, inputs: what ran.
        run: the observed pass, with gradients, still open.
        selected: the scores (B,), from ``run.output``.
        select: takes the same scores from another output.
        seed: of the direction.

    Returns:
        One for each explained layer. It takes two forward passes for each layer, or some more where a first, small
        step is lost in rounding.
    """
    directions = _Directions(run, seed)
    run.show([directions], selected, retain_graph=True)
    calls = replacement_calls(run)

    def scores(layer: int, step: float) -> Tensor:
        def moved(one: int, attention: Tensor, _: Tensor) -> Tensor:
            return attention * (1 + step * directions.of(layer).to(attention)) if one == layer else attention

        return select(replaced_output(model, inputs, moved, calls)).double()

    found = []
    for layer in range(run.layers):
        change, size = directions.changes[:, layer].double(), directions.squares[:, layer].double().sqrt()
        error = math.nan
        for step in _STEPS:
            rounding = 16 * torch.finfo(selected.dtype).eps * float(selected.detach().abs().max()) / step
            if float(size.max()) > rounding / (0.2 * TOLERANCE):
                slope = (scores(layer, step) - scores(layer, -step)) / (2 * step)
                error = float(((slope - change).abs() / size.max()).max())
                break
        found.append(LayerCheck(layer, error))
    return found


def examples_that_see_each_other(
    model: Callable[..., Any], inputs: ModelInputs, run: ObservedForward, select: Callable[[Tensor], Tensor]
) -> bool:
    """Whether the first example's attention changes the score of another one, which no batch may do."""
    directions = _Directions(run, 0)

    def moved(layer: int, attention: Tensor, _: Tensor) -> Tensor:
        first = torch.zeros(len(attention), 1, 1, 1, dtype=attention.dtype, device=attention.device)
        first[0] = 0.5
        return attention * (1 + first * directions.of(layer).to(attention).clamp(-1, 1))

    calls = replacement_calls(run)
    same = select(replaced_output(model, inputs, lambda layer, attention, allowed: attention, calls))
    other = select(replaced_output(model, inputs, moved, calls))
    return not torch.allclose(same[1:], other[1:], rtol=1e-3, atol=1e-4)


class _Directions:
    """An observer of Σ A ⊙ G ⊙ R and Σ (A ⊙ G)², (B, L) each, for random R."""

    whole_heads = False

    def __init__(self, run: ObservedForward, seed: int) -> None:
        self._shape, self._seed, self._like = (*run.attention_shape, run.length), seed, run.like
        self.layers = [call.layer for call in run.calls]
        self.changes = run.like.new_zeros(self._shape[0], len(self.layers))
        self.squares = torch.zeros_like(self.changes)
        self._at: tuple[int, Tensor] | None = None

    def of(self, layer: int) -> Tensor:
        """R (B, H, N, N) of a layer, by its index."""
        if self._at is None or self._at[0] != layer:
            generator = torch.Generator().manual_seed(1_000 * self._seed + layer)
            self._at = layer, torch.randn(self._shape, generator=generator).to(self._like)
        return self._at[1]

    def __call__(self, tile: Tile) -> None:
        if tile.relevance is not None and tile.layer in self.layers:
            layer = self.layers.index(tile.layer)
            examples = tile.block.examples
            self.changes[examples, layer] += (tile.relevance * self.of(layer)[tile.block]).sum((1, 2, 3))
            self.squares[examples, layer] += tile.relevance.square().sum((1, 2, 3))
