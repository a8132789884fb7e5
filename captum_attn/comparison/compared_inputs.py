"""What is compared: the inputs, and each method's scores of their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from captum_attn.bench import RANDOM, Method, WholeInputs, random_scores, token_scores
from captum_attn.core import PatchGrid, image_grid, token_texts


@dataclass(frozen=True)
class Picture:
    """An image, and which of its patches are players.

    Attributes:
        pixels: (C, h, w).
        grid: how it is cut into patches.
        places: int64 (n,), the patch that each player is.
    """

    pixels: Tensor
    grid: PatchGrid
    places: Tensor

    def patches(self, scores: Tensor) -> Tensor:
        """Scores (n,) of the players at their patches, (rows, columns); 0 for patches that do not play."""
        whole = scores.new_zeros(self.grid.rows * self.grid.columns)
        return whole.index_put((self.places,), scores).view(self.grid.rows, self.grid.columns)


@dataclass
class ComparedInput:
    """One input, and what methods say of its n players.

    Attributes:
        pieces: the players as text, with the white space before them; of patches, "row, column".
        target: the predicted class.
        probability: its probability.
        scores: by method, float64 (n,).
        reruns: by method, the scores of its copies with other seeds.
        picture: of an image; None for text.
    """

    pieces: list[str]
    target: int
    probability: float
    picture: Picture | None = None
    scores: dict[str, Tensor] = field(default_factory=dict)
    reruns: dict[str, list[Tensor]] = field(default_factory=dict)

    @property
    def tokens(self) -> list[str]:
        """The players as text."""
        return [piece.strip() or "␣" for piece in self.pieces]

    def stacked(self, methods: Sequence[str]) -> Tensor:
        """The scores of some methods, (M, n)."""
        return torch.stack([self.scores[method] for method in methods])

    def relative(self, method: str) -> Tensor:
        """A method's scores (n,) relative to the largest magnitude, between -1 and 1."""
        finite = self.scores[method].nan_to_num()
        return finite / finite.abs().max().clamp(min=torch.finfo(finite.dtype).tiny)


class Collected:
    """The inputs that an evaluation explains, by their numbers, with the scores that it passes on.

    Args:
        tokenizer: names the tokens; without one, they are numbers.
        reruns: by method, copies of it with other seeds, which are asked about the same batches.
        seed: of random scores.

    Attributes:
        inputs: those that were explained so far.
        outputs: how many classes the model tells apart, as soon as one was explained.
    """

    def __init__(self, tokenizer: Any | None, reruns: Mapping[str, Sequence[Method]], seed: int) -> None:
        self.inputs: dict[int, ComparedInput] = {}
        self.outputs = 0
        self._tokenizer, self._reruns, self._seed = tokenizer, reruns, seed

    def __call__(self, name: str, scores: Tensor, rows: Sequence[int], whole: WholeInputs) -> None:
        """Take in a method's scores (B, N) of some inputs, by their numbers, and ask its copies about them."""
        self.outputs = whole.probabilities.shape[1]
        copies = [
            token_scores(f"{name}, rerun {number}", copy, whole.inputs.mapping(), whole)
            for number, copy in enumerate(self._reruns.get(name, ()), start=1)
        ]
        if name == RANDOM:
            copies = [random_scores(rows, whole.players, self._seed + 1)]
        for place, row in enumerate(rows):
            if row not in self.inputs:
                self.inputs[row] = described(whole, place, self._tokenizer)
            one, *others = (found[place, whole.players[place]].cpu().double() for found in (scores, *copies))
            self.inputs[row].scores[name], self.inputs[row].reruns[name] = one, others

    def in_order(self) -> Iterator[ComparedInput]:
        """The inputs in the order of the data."""
        return (self.inputs[row] for row in sorted(self.inputs))


def described(whole: WholeInputs, place: int, tokenizer: Any | None) -> ComparedInput:
    """One input of a batch, without scores.

    Raises:
        ValueError: an image whose players are no patches.
    """
    players = whole.players[place].nonzero().flatten().cpu()
    target, probability = int(whole.targets[place]), float(whole.confidence[place])
    if whole.grid is None:
        ids = whole.inputs.features[place].cpu()[players].tolist()
        pieces = [f" {one}" for one in ids] if tokenizer is None else token_texts(tokenizer, ids)
        return ComparedInput(pieces, target, probability)
    grid = image_grid(whole.grid)
    patch_of = {token: patch for patch, token in enumerate(grid.tokens(whole.players.shape[1]).tolist())}
    if not patch_of.keys() >= {*players.tolist()}:
        raise ValueError("some players are no patches of the image, where their scores could be shown")
    places = torch.tensor([patch_of[token] for token in players.tolist()])
    tokens = ["{}, {}".format(*divmod(patch, grid.columns)) for patch in places.tolist()]
    picture = Picture(whole.inputs.features[place].cpu().float(), grid, places)
    return ComparedInput(tokens, target, probability, picture)
