"""Replace some tokens of an input by others that say nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from captum_attn._moved import moved_names
from captum_attn.core.indices import as_index, is_index
from captum_attn.core.inputs import PADDING_MASKS, ModelInputs
from captum_attn.core.models import text_config
from captum_attn.core.patches import Grid, known_grid, with_patches_replaced
from captum_attn.core.user_warnings import warn_user

PatchReplacement = Literal["mean", "zeros"]
Replacement = int | PatchReplacement
"""What stands where a token is taken away: a token id; for images ``"mean"``, the mean patch, or ``"zeros"``."""


def replace_tokens(
    inputs: ModelInputs, chosen: Tensor, replacement: Replacement, grid: Grid = None, picture: Grid = None
) -> ModelInputs:
    """The inputs with some tokens replaced; their padding mask and all else stay.

    Args:
        inputs: token ids (B, N) or pixels (B, C, h, w).
        chosen: bool (B, N), the tokens to replace.
        replacement: a token id for text; for images ``"mean"``, the mean of the image's patches, or ``"zeros"``.
        grid: how the image is cut into patches.
        picture: the same of an image beside a text: its patches are replaced by their mean.

    Raises:
        TypeError: embeddings, or a replacement of the other kind.
        ValueError: an image whose patches are not known, or share pixels.
    """
    if picture is not None:
        patches = torch.zeros_like(chosen).index_fill(1, known_grid(picture).tokens(chosen.shape[1]), True)
        if inputs.picture is None:
            raise ValueError("the processor has cut the image, so that its patches cannot be replaced by their mean")
        pixels = with_patches_replaced(inputs.picture, chosen & patches, True, picture)
        inputs, chosen = replace(inputs, keywords={**inputs.keywords, "pixel_values": pixels}), chosen & ~patches
    if inputs.modality == "ids" and is_index(replacement):
        return replace(inputs, features=inputs.features.masked_fill(chosen, as_index(replacement)))
    if inputs.is_cut and replacement in ("mean", "zeros"):
        features = with_patches_replaced(inputs.features, chosen, replacement == "mean", grid, _real_entries(inputs))
        return replace(inputs, features=features)
    raise TypeError(
        f"cannot replace tokens of {inputs.modality} by {replacement!r}: expected token ids and an id, or pixels and "
        "'mean' or 'zeros'"
    )


def _real_entries(inputs: ModelInputs) -> Tensor | None:
    """bool (B, T), the entries of a sound that a mask of them says to be no padding; None without one."""
    for name, marks in PADDING_MASKS.items():
        mask = inputs.companions.get(name)
        if isinstance(mask, Tensor) and mask.shape == inputs.features.shape[:2] and not mask.is_floating_point():
            return mask.bool() == marks
    return None


def check_replacement(replacement: Any) -> None:
    """Raise ``ValueError`` unless it is a token id, ``"mean"``, ``"zeros"``, or None for the default."""
    is_id = is_index(replacement) and as_index(replacement) >= 0
    if replacement is not None and not is_id and replacement not in get_args(PatchReplacement):
        raise ValueError(f"replacement must be a token id, or 'mean' or 'zeros' for images, got {replacement!r}")


def default_replacement(inputs: ModelInputs, tokenizer: Any | None, config: Any | None) -> Replacement:
    """What replaces a token, if nobody says: the mean patch of an image, the mask token of a text.

    Of a tokenizer without a mask token, that of padding or of unknown words, with a warning.

    A model that looks for padding (decoders, for their last token) would read elsewhere if tokens became padding, so
    the padding of the configuration is no replacement but in encoder-decoder models.

    Raises:
        ValueError: there is none.
    """
    if inputs.is_cut:
        return "mean"
    if tokenizer is None:
        raise ValueError("nothing says what replaces a token: give tokenizer=, or replacement= with a token id")
    if tokenizer.mask_token_id is not None:
        return int(tokenizer.mask_token_id)
    padding = getattr(text_config(config), "pad_token_id", None)
    for role in ("pad_token", "unk_token"):
        index = getattr(tokenizer, f"{role}_id")
        if index is not None and (index != padding or getattr(config, "is_encoder_decoder", False)):
            warn_user(
                f"{type(tokenizer).__name__} has no mask token: tokens are replaced by {getattr(tokenizer, role)!r}; "
                "replacement= takes another id"
            )
            return int(index)
    raise ValueError(
        f"{type(tokenizer).__name__} has no mask token, and no other special token that the model does not take for "
        "padding: give the id of a token that says nothing, such as replacement=tokenizer.encode(' the')[-1]"
    )


def seeded(seed: int, number: int) -> torch.Generator:
    """The generator of one of many draws, which do not depend on each other."""
    return torch.Generator().manual_seed(1_000_003 * seed + number)


__getattr__ = moved_names(__name__, "captum_attn.functional", ["rank_players", "reversed_ranks", "top_players"])
