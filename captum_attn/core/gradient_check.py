"""Whether the gradients of attention are those of the model: a check by finite differences.

If layer l's probabilities A become A (1 + ε R), the explained score changes by ε Σ A ⊙ G ⊙ R, for any R. The left side
is two runs of the model under attention replacement, the right side what explanations are made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_attn.core.inputs import ModelInputs
from captum_attn.core.observers import LayerObserver
from captum_attn.core.replacement import replaced_output, replacement_calls
from captum_attn.core.run import ObservedForward
from captum_attn.core.tiles import Tile

TOLERANCE = 0.1
"""How far gradients may be off, in units of their own size: about the relative error of A ⊙ G that is let pass."""

_DIRECTIONS = 6
"""One alone can be nearly at a right angle to what is wrong."""

_STEPS = (5e-4, 2e-3, 1e-2, 5e-2, 2e-1)


class LayerCheck(NamedTuple):
    """How far the gradient of one layer's attention agrees with finite differences.

    Attributes:
        layer: its index among the explained ones.
        error: root mean square over directions of the difference between both sides, or what bounds it, of the example
            where it is largest, in units of √Σ (A ⊙ G)², the size of such changes; NaN where they are too small to be
            told from rounding.
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
) -> list[LayerCheck]:
    """Compare gradients with finite differences in each layer, along random directions.

    Args:
        model, inputs: what ran.
        run: the observed pass, with gradients, still open.
        selected: the scores (B,), from ``run.output``.
        select: takes the same scores from another output.

    Returns:
        One for each explained layer. All layers are moved at once, along independent directions, so that the difference
        bounds that of each; a layer whose own changes are too small beside it is then moved alone. Each time takes two
        forward passes for each of six directions, and as many again where the score bends too much for the first step.
    """
    directions = [_Directions(run, seed) for seed in range(_DIRECTIONS)]
    run.show(directions, selected, retain_graph=True)
    calls = replacement_calls(run)
    sizes = directions[0].squares.double().mean(0).sqrt()
    if torch.finfo(selected.dtype).eps > 1e-4:  # half precision rounds inside the model by more than can be told
        return [LayerCheck(layer, math.nan) for layer in range(run.layers)]
    rounding = 16 * torch.finfo(selected.dtype).eps * float(selected.detach().abs().max()) / (0.2 * TOLERANCE)

    def scores(layers: Sequence[int], direction: _Directions, step: float) -> Tensor:
        def moved(layer: int, attention: Tensor, _: Tensor) -> Tensor:
            return attention * (1 + step * direction.of(layer).to(attention)) if layer in layers else attention

        return select(replaced_output(model, inputs, moved, calls)).double()

    def difference(layers: Sequence[int], step: float) -> float:
        apart = [
            (scores(layers, one, step) - scores(layers, one, -step)) / (2 * step)
            - one.changes[:, layers].double().sum(1)
            for one in directions
        ]
        return float(torch.stack(apart).square().mean(0).sqrt().max())

    def smallest_difference(layers: Sequence[int]) -> float:
        size, found = float(sizes[layers].square().sum().sqrt()), math.nan
        for step in [step for step in _STEPS if size * step > rounding][:2]:
            found = min(difference(layers, step), math.inf if math.isnan(found) else found)
            if found <= TOLERANCE * size:
                break
        return found

    together = smallest_difference(range(run.layers))
    checks = []
    for layer, size in enumerate(sizes.tolist()):
        bounded = not math.isnan(together) and together <= TOLERANCE * size
        checks.append(
            LayerCheck(layer, (together if bounded else smallest_difference([layer])) / size if size else math.nan)
        )
    return checks


def examples_that_see_each_other(
    model: Callable[..., Any], inputs: ModelInputs, run: ObservedForward, select: Callable[[Tensor], Tensor]
) -> bool:
    """Whether the attention of one of the first examples changes the score of another one, which no batch may do."""
    direction, calls = _Directions(run, 0), replacement_calls(run)

    def scores(example: int | None) -> Tensor:
        def moved(layer: int, attention: Tensor, _: Tensor) -> Tensor:
            if example is None:
                return attention
            changed, rows = attention.clone(), len(attention) // len(inputs)
            own = slice(example * rows, (example + 1) * rows)
            changed[own] *= 1 + 0.5 * direction.of(layer)[own].to(attention).clamp(-1, 1)
            return changed

        return select(replaced_output(model, inputs, moved, calls)).double()

    same = scores(None)
    for example in range(min(len(inputs), 3)):
        changes = (scores(example) - same).abs()
        others = torch.cat([changes[:example], changes[example + 1 :]])
        rounding = 16 * torch.finfo(run.output.dtype).eps * float(same.abs().max())
        if len(others) and float(others.max()) > max(1e-3 * float(changes[example]), rounding):
            return True
    return False


def tokens_mix_elsewhere(
    model: Callable[..., Any],
    inputs: ModelInputs,
    run: ObservedForward,
    read: Tensor,
    players: Tensor | None,
    select: Callable[[Tensor], Tensor],
) -> bool | None:
    """Whether tokens reach the score by other ways than the explained attention: convolution, recurrence, more of it.

    While every token attends to itself alone, the tokens that are not read are exchanged: the score must stay.

    Args:
        model, inputs, run, select: as of :func:`check_gradients_of_attention`.
        read: bool (B, N), the tokens of the last layer that the score is read from.
        players: bool (B, N), of images the patches; None if these are unknown.

    Returns:
        None where nothing can be told: no token is read in the last layer, or all, or some of an image's patches, or
        another stack reads them.
    """
    if not read.any():
        return None
    if inputs.is_cut and (players is None or bool((read & players).any())):
        return None
    others = run.real & ~read
    if not others.any() or run.crosses_stacks:
        return None
    alone = torch.eye(run.length, device=run.like.device)
    calls = replacement_calls(run)

    def scores(batch: ModelInputs) -> Tensor:
        output = replaced_output(model, batch, lambda layer, attention, allowed: alone.expand(attention.shape), calls)
        return select(output).double()

    before, after = scores(inputs), scores(_exchanged(inputs, others))
    rounding = 64 * torch.finfo(run.output.dtype).eps * float(before.abs().max())
    return float((after - before).abs().max()) > max(rounding, 1e-5)


def _exchanged(inputs: ModelInputs, others: Tensor) -> ModelInputs:
    """The inputs with other content in some of the tokens (B, N); of images, in all pixels, as tokens are patches."""
    features = inputs.features.clone()
    if inputs.is_cut:
        return replace(inputs, features=features.flip(-1) + 0.5)
    for example, places in enumerate(others):
        where = places.nonzero().flatten()
        features[example, where] = features[example, where.roll(1)]
    return replace(inputs, features=features)


class _Directions(LayerObserver):
    """An observer of Σ A ⊙ G ⊙ R and Σ (A ⊙ G)², (B, L) each, for R drawn from a normal distribution."""

    def __init__(self, run: ObservedForward, seed: int) -> None:
        super().__init__(run.watched_calls())
        self._seed, self._shapes = seed, [call.shape for call in run.calls]
        self.changes = self.watched.zeros(run.layers)
        self.squares = torch.zeros_like(self.changes)
        self._at: tuple[int, Tensor] | None = None

    def of(self, layer: int) -> Tensor:
        """R (B, H, N, N) of a layer, by its index; with windows, more of smaller ones."""
        if self._at is None or self._at[0] != layer:
            generator = torch.Generator().manual_seed(1_000 * self._seed + layer)
            self._at = layer, torch.randn(self._shapes[layer], generator=generator).to(self.watched.like)
        return self._at[1]

    def take(self, tile: Tile) -> None:
        if tile.relevance is not None:
            layer, block = self.watched.layers.index(tile.layer), tile.block
            rows, batch = self._shapes[layer][0], len(self.changes)
            examples = block.of_examples(rows, batch, self.changes.device)
            change = (tile.relevance * self.of(layer)[block]).sum((1, 2, 3))
            self.changes[:, layer].index_add_(0, examples, change.to(self.changes))
            self.squares[:, layer].index_add_(0, examples, tile.relevance.square().sum((1, 2, 3)).to(self.changes))
