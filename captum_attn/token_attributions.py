"""The result of an attribution, token by token, and its place in the input."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_attn.core import Grid, known_grid, patch_values
from captum_attn.core.patches import NoPatchGrid, spread_over


@dataclass(frozen=True, repr=False)
class TokenAttributions:
    """What the tokens of B inputs are worth to an explanation, N tokens each.

    Attributes:
        values: (B, N), exactly 0 for tokens that do not play; (B, L, N) or (B, L, H, N) where layers or heads are
            kept apart. Shapley values sum to v(all players). float32, or float64 for a float64 model.
        players: bool (B, N), the tokens that play.
        targets: int64 (B, k), what was explained: the class (k = 1), or the token and the class (k = 2).
        scores: (B,), the model's output for the targets.
        output: the model's whole output, (B, C) for a classifier; detached.
        grid: how an image was cut into patches, or why that is not known; None for text.
        standard_error: (B, N), of sampled values; None for exact ones.
        picture: how an image beside a text was cut into patches, which are some of its tokens, or why that is not
            known; None without one.
        of_features: in the shape of embeddings (B, N, D) or pixels (B, C, h, w), what each of their numbers is worth,
            if the method says; it sums to the values of the tokens.
    """

    values: Tensor
    players: Tensor
    targets: Tensor
    scores: Tensor
    output: Tensor
    grid: Grid = None
    standard_error: Tensor | None = None
    of_features: Tensor | None = None
    picture: Grid = None

    def __repr__(self) -> str:
        shapes = {"values": self.values, "targets": self.targets, "output": self.output}
        return f"TokenAttributions({', '.join(f'{name} {tuple(part.shape)}' for name, part in shapes.items())})"

    @property
    def patches(self) -> Tensor:
        """The values of an image's patches, (B, ..., rows, columns); of an image beside a text, too.

        Raises:
            ValueError: the inputs were no images, or nothing says which tokens are patches.
        """
        return patch_values(self.values, self.picture if self.grid is None else self.grid)

    def spread_over(self, features: Tensor) -> Tensor:
        """The values in the shape of the inputs: ``of_features``, or else spread evenly over what each token covers.

        Args:
            features: ids (B, N), embeddings (B, N, D) or pixels (B, C, h, w).

        Returns:
            The shape of ``features``. Sums are kept: over D it is the token's value, over C and the pixels of a patch
            the patch's. A pixel that two patches share, as where the model resizes images, gets a part of each, by
            area. Pixels that no patch covers get 0. Tokens of an image that are no patches, but play, are in no pixel,
            with a warning.

        Raises:
            ValueError: an image of which nothing says where its patches lie, or with patches that cover no pixel.
        """
        if self.of_features is not None:
            return self.of_features
        if self.grid is not None:
            patches = self.patches
            self._warn_of_others()
            return spread_over(patches, self.grid, features.shape)
        if features.dim() == 2:
            return self.values
        if features.shape[:2] != self.values.shape[:1] + self.values.shape[-1:]:
            raise ValueError(
                f"values {tuple(self.values.shape)} cannot be spread over {tuple(features.shape)}: give the input that "
                "was explained; of an image beside a text, spread_over_picture(pixels)"
            )
        return (self.values / features.shape[-1]).unsqueeze(-1).expand_as(features).contiguous()

    def spread_over_picture(self, pixels: Tensor) -> Tensor:
        """The values of an image's patches beside a text, spread evenly over the pixels (B, C, h, w) that each covers.

        Sums are kept: it sums to the values of the tokens that are patches. ``ValueError`` without an image.
        """
        return spread_over(self.patches, self.picture, pixels.shape)

    def _warn_of_others(self) -> None:
        """Warn of values of tokens that are no patches."""
        length = self.values.shape[-1]
        others = torch.ones(length, dtype=torch.bool).index_fill(0, known_grid(self.grid).tokens(length), False)
        lost = others & (self.values != 0).flatten(0, -2).any(0).cpu()
        if lost.any():
            warnings.warn(
                f"the tokens {lost.nonzero().flatten().tolist()} play, but are no patches, so their values are in no "
                "pixel, and the map does not sum to v(all players): see attribute_tokens(...).values, or let patches "
                "alone play",
                stacklevel=5,
            )


def concatenated(parts: Sequence[TokenAttributions]) -> TokenAttributions:
    """The attributions of one batch that was explained in parts.

    Raises:
        ValueError: the parts' images were cut in several ways, as by players that differ from part to part.
    """
    grid, picture = parts[0].grid, parts[0].picture
    if any(part.picture != picture for part in parts):
        picture = NoPatchGrid("the image's patches are other tokens in one part of the batch than in another")
    if any(part.grid != grid for part in parts):
        raise ValueError("the patches are other tokens in one part of the batch than in another: explain them apart")
    errors = [part.standard_error for part in parts if part.standard_error is not None]
    finer = [part.of_features for part in parts if part.of_features is not None]
    return TokenAttributions(
        torch.cat([part.values for part in parts]),
        torch.cat([part.players for part in parts]),
        torch.cat([part.targets for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.output for part in parts]),
        grid,
        torch.cat(errors) if errors else None,
        torch.cat(finer) if finer else None,
        picture,
    )
