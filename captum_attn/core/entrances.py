"""The explained input where it comes into a model: which token each state is of, and what takes its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.indices import as_index, is_index
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.origins import Entrance
from captum_attn.core.patches import painted_over, patch_values, with_patches_replaced
from captum_attn.core.perturb import Replacement, replace_tokens
from captum_attn.core.tiles import widen
from captum_attn.core.tokens import Tokens


class Layout(Enum):
    """How the states of an entrance lie to the tokens (B, T) that were given."""

    OWN = "a state for each token"
    SHIFTED = "a token later, as an encoder-decoder model looks up a text that both of its halves read"
    TRANSPOSED = "sequence first"


def input_is_cut(model: Any) -> ValueError:
    """What to raise where the input, or a part of it, comes in without the way from there to the input."""
    return ValueError(
        f"{type(model).__name__} computes with its input without gradients (under torch.no_grad(), on detached "
        "tensors, or outside of torch), so relevance cannot be followed down to all of it: let the model compute "
        "gradients there, or explain its attention, by ShapleyGradAttention(model, propagation=...)"
    )


def layout_of(entrance: Entrance, inputs: ModelInputs) -> Layout | None:
    """How the states of an entrance lie to the tokens of a text.

    Returns:
        None where other integers than the tokens' ids were looked up, such as positions that were made of them.
    """
    given, ids = inputs.features, entrance.ids
    if ids is None:
        return Layout.OWN if entrance.state.shape[:2] == given.shape[:2] else None
    if torch.equal(ids, given):
        return Layout.OWN
    if ids.shape == given.shape and given.shape[1] > 1 and torch.equal(ids[:, 1:], given[:, :-1]):
        return Layout.SHIFTED
    return Layout.TRANSPOSED if torch.equal(ids, given.mT) else None


def by_token(values: Tensor, layout: Layout) -> Tensor:
    """Values in the form of an entrance's state, as values (B, T, ...) of the tokens."""
    if layout is Layout.SHIFTED:
        return torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    return values.transpose(0, 1) if layout is Layout.TRANSPOSED else values


def at_entrance(values: Tensor, layout: Layout) -> Tensor:
    """Values (B, T) of the tokens, as an entrance's states lie; 0 where a state is of none of them."""
    if layout is Layout.SHIFTED:
        return torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], 1)
    return values.mT if layout is Layout.TRANSPOSED else values


def difference_from(baseline: Replacement, entrance: Entrance, inputs: ModelInputs, tokens: Tokens) -> Tensor:
    """What comes in there, less the baseline; all of it where no tokens come in, and of an image its patches' mean.

    Raises:
        ValueError: as :func:`baseline_of`; an image among the words, of which nothing says where its patches lie.
    """
    state = entrance.state.detach()
    if entrance.picture:
        without = state
        if tokens.picture is not None:  # else no token is a part of it
            without = with_patches_replaced(state, torch.ones_like(tokens.real), True, tokens.picture)
        return widen(state - without)
    if entrance.again or (not inputs.is_cut and layout_of(entrance, inputs) is None):
        return widen(state)
    return widen(state) - baseline_of(entrance, inputs, tokens, baseline)


def relevances(differences: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """Difference times gradient at each entrance, of float32 at least."""
    return [difference * widen(gradient) for difference, gradient in zip(differences, gradients, strict=True)]


def baseline_of(entrance: Entrance, inputs: ModelInputs, tokens: Tokens, baseline: Replacement) -> Tensor:
    """What would come in there without the input, of a shape that the entrance's state can be compared with.

    Args:
        entrance: where the input comes in, unchanged.
        inputs: token ids, embeddings or pixels.
        tokens: of the input.
        baseline: ``"zeros"``, the id of a token, or for images ``"mean"``, the mean of the image's patches.

    Raises:
        ValueError: a baseline that these inputs do not have; the mean of patches that are not known, or share pixels.
    """
    if baseline == "zeros":
        return torch.zeros_like(widen(entrance.state))
    if inputs.is_cut and baseline == "mean":
        try:
            return replace_tokens(inputs, tokens.players, "mean", tokens.grid).features.to(entrance.state)
        except ValueError as error:
            raise ValueError(f"the mean of the image's patches is no baseline here; 'zeros' is. {error}") from error
    if is_index(baseline) and entrance.table is not None and as_index(baseline) < len(entrance.table):
        return entrance.table[as_index(baseline)].detach().to(entrance.state)
    raise ValueError(
        f"{inputs.modality} have no baseline {baseline!r}: expected 'zeros'; for ids that are looked up in a "
        "table of as many embeddings, a token's id, or 'mask'; or for pixels 'mean'"
    )


@dataclass
class PartlyPresent:
    """The input, of which tokens are there in part, put in its place where it comes into the model.

    Attributes:
        inputs, tokens: the examples. Tokens that do not play are there.
        baseline: what stands in the place of a token that is not.
        presences: (B, N), from 0 to 1.
        differences: of the input from the baseline, for each entrance.
    """

    inputs: ModelInputs
    tokens: Tokens
    baseline: Replacement
    presences: Tensor
    differences: list[Tensor] = field(default_factory=list, init=False)

    def __call__(self, entrance: Entrance) -> Tensor:
        difference = difference_from(self.baseline, entrance, self.inputs, self.tokens)
        self.differences.append(difference)
        missing = torch.zeros(()) if entrance.again else self._missing(entrance)
        return entrance.state - (missing.to(difference) * difference).to(entrance.state)

    def _missing(self, entrance: Entrance) -> Tensor:
        """How much of the difference is not there, in a shape that fits the state."""
        missing = (1 - self.presences).masked_fill(~self.tokens.players, 0.0)
        if entrance.picture:
            if self.tokens.picture is None:
                return torch.zeros((), device=missing.device)
            return painted_over(patch_values(missing, self.tokens.picture), self.tokens.picture, entrance.state.shape)
        if self.inputs.is_cut:
            return over_entries(missing, self.inputs, self.tokens)
        layout = layout_of(entrance, self.inputs)
        if layout is None:
            return torch.zeros((), device=missing.device)
        lying = at_entrance(missing, layout)
        return lying.view(*lying.shape, *[1] * (entrance.state.dim() - 2))


def over_entries(values: Tensor, inputs: ModelInputs, tokens: Tokens) -> Tensor:
    """Values (B, N) of an input's tokens, as those of the entries that their patches cover: of pixels (B, 1, h, w)."""
    return painted_over(patch_values(values, tokens.grid), tokens.grid, inputs.features.shape)
