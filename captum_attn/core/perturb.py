"""Rank tokens by an attribution, choose some of them, and replace those in the input."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from captum_attn.core.inputs import ModelInputs
from captum_attn.core.tokens import PatchGrid

PatchReplacement = Literal["mean", "zeros"]
Replacement = int | PatchReplacement


def rank_players(scores: Tensor, players: Tensor) -> Tensor:
    """Each player's place by descending score; of equal scores, the earlier token comes first.

    Args:
        scores: (B, N), any floating dtype, without NaN.
        players: bool (B, N).

    Returns:
        Ranks int64 (B, N): 0 for the highest score, n - 1 for the lowest of n players; non-players come behind.

    Example:
        >>> rank_players(torch.tensor([[9.0, 1.0, 3.0, 1.0]]), torch.tensor([[False, True, True, True]]))
        tensor([[3, 1, 0, 2]])
    """
    order: Tensor = scores.argsort(dim=-1, descending=True, stable=True)
    players_first = (~players).gather(-1, order).int().argsort(dim=-1, stable=True)
    return order.gather(-1, players_first).argsort(dim=-1)


def reversed_ranks(ranks: Tensor, players: Tensor) -> Tensor:
    """The ranks (B, N) of the players in reverse; those of non-players stay."""
    return torch.where(players, players.sum(-1, keepdim=True) - 1 - ranks, ranks)


def top_players(ranks: Tensor, players: Tensor, percent: float) -> Tensor:
    """bool (B, N): the ⌈n · percent / 100⌉ players that come first.

    Args:
        ranks: int64 (B, N), of :func:`rank_players`.
        players: bool (B, N), n of them in an input.
        percent: 0 for none to 100 for all.

    Raises:
        ValueError: a percentage out of range.

    Example:
        >>> players = torch.tensor([[False, True, True, True]])
        >>> top_players(torch.tensor([[3, 1, 0, 2]]), players, 50)
        tensor([[False,  True,  True, False]])
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"percent must lie between 0 and 100, got {percent}")
    share = players.sum(-1, keepdim=True).double() * percent / 100
    return players & (ranks < (share - 1e-9).ceil())  # 7 % of 100 are 7, not 8


def replace_tokens(
    inputs: ModelInputs, chosen: Tensor, replacement: Replacement, grid: PatchGrid | None = None
) -> ModelInputs:
    """The inputs with some tokens replaced; their padding mask and all else stay.

    Args:
        inputs: token ids (B, N) or pixels (B, C, h, w).
        chosen: bool (B, N), the tokens to replace; of an image, the last ones are its patches.
        replacement: a token id for text; for images ``"mean"``, the mean of the image's patches, or ``"zeros"``.
        grid: how the image is cut into patches.

    Raises:
        TypeError: embeddings, or a replacement of the other kind.
    """
    if inputs.modality == "ids" and isinstance(replacement, int):
        return replace(inputs, features=inputs.features.masked_fill(chosen, replacement))
    if inputs.modality == "pixels" and grid is not None and replacement in ("mean", "zeros"):
        return replace(inputs, features=_with_patches(inputs.features, chosen, replacement == "mean", grid))
    raise TypeError(
        f"cannot replace tokens of {inputs.modality} by {replacement!r}: expected token ids and an id, or pixels and "
        "'mean' or 'zeros'"
    )


def patch_pixels(pixels: Tensor, grid: PatchGrid) -> Tensor:
    """The patches (B, rows, columns, C, height, width) of an image (B, C, h, w), without what no patch covers."""
    covered = pixels[:, :, : grid.rows * grid.height, : grid.columns * grid.width]
    patches: Tensor = covered.unflatten(3, (grid.columns, -1)).unflatten(2, (grid.rows, -1))
    return patches.permute(0, 2, 4, 1, 3, 5)


def _with_patches(pixels: Tensor, chosen: Tensor, mean: bool, grid: PatchGrid) -> Tensor:
    changed = pixels.clone()
    patches = patch_pixels(changed, grid)  # a view
    where = chosen[:, -grid.rows * grid.columns :].view(-1, grid.rows, grid.columns)[..., None, None, None]
    filling = patches.mean((1, 2), keepdim=True) if mean else torch.zeros_like(patches[:, :1, :1])
    patches.copy_(torch.where(where, filling, patches))
    return changed
