"""Which tokens carry input (the players), and which are padding."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_attn.core.inputs import PADDING_MASKS, ModelInputs, check_token_mask
from captum_attn.core.padding_masks import given_masks, tokens_of

_START_IDS = ("bos_token_id", "cls_token_id")
_END_IDS = ("eos_token_id", "sep_token_id")


def real_tokens(inputs: ModelInputs, length: int, config: Any | None) -> Tensor:
    """bool (B, N): the tokens that are no padding.

    From ``attention_mask`` or PyTorch's ``src_key_padding_mask`` where the inputs hold one, or a mask of another name
    or form that can be read in one sense only; else from the configuration's padding id, else all. Padding without a
    mask is a mistake more often than not, and gets a warning, as does a mask that cannot be read where nothing else
    tells what is padding.
    """
    features = inputs.features
    real = torch.ones(len(inputs), length, dtype=torch.bool, device=features.device)
    if inputs.modality == "pixels":
        return real
    for name, marks_real in PADDING_MASKS.items():
        mask = inputs.companions.get(name)
        if isinstance(mask, Tensor) and mask.dim() == 2:
            return mask.bool() if marks_real else ~mask.bool()
    pads = _config_ids(config, ("pad_token_id",)) if inputs.modality == "ids" else set()
    if pads:
        real = ~torch.isin(features, torch.tensor(sorted(pads), device=real.device))
    known = bool(pads) and not pads & _config_ids(config, (*_START_IDS, *_END_IDS))
    masks = given_masks(inputs, length)
    read = tokens_of(masks, (len(inputs), length), real if known else None)
    if read is not None:
        return read
    doubtful = [name for name, mask in masks.items() if mask.shape == real.shape and (mask != mask[0, 0]).any()]
    if known and not real.all() and not masks:
        warnings.warn(
            f"the input ids hold padding ({sorted(pads)}) but there is no attention_mask, so the model attends to the "
            "padding and its output changes; pass the tokenizer's attention_mask",
            stacklevel=2,
        )
    elif not known and doubtful:
        warnings.warn(
            f"whether {', '.join(doubtful)} marks tokens or padding cannot be told, so all tokens count as tokens: "
            "give it as attention_mask (ones for tokens; additional_forward_arg_names= names arguments), or players=",
            stacklevel=2,
        )
    return real


def find_players(
    inputs: ModelInputs,
    real: Tensor,
    *,
    special_ids: Collection[int] | None,
    config: Any | None,
    causal: bool,
    patches: int,
) -> Tensor:
    """bool (B, N): the tokens that play. Padding never does; of the rest, the first rule that applies decides.

    1. ``players`` in the inputs' notes;
    2. ``special_tokens_mask`` in the inputs' notes;
    3. images: the last ``patches`` tokens play, which leaves out class, distillation and register tokens;
    4. token ids: ``special_ids``, a tokenizer's, do not play;
    5. token ids: the configuration's bos, cls, eos and sep ids do not play;
    6. encoders whose configuration names no such id (BERT's), and any encoder's embeddings: the first and the last
       token that is no padding are taken for ``[CLS]`` and ``[SEP]``, as are other tokens with their ids;
    7. every token plays (decoders' embeddings, models without a configuration).
    """
    for name, marks_players in (("players", True), ("special_tokens_mask", False)):
        mask: Tensor | None = inputs.notes.get(name)
        if mask is not None:
            check_token_mask(name, mask, real.shape)
            return mask.bool() & real if marks_players else ~mask.bool() & real
    if inputs.modality == "pixels":
        return torch.arange(real.shape[1], 0, -1, device=real.device).expand_as(real) <= patches
    starts, ends = _config_ids(config, _START_IDS), _config_ids(config, _END_IDS)
    if inputs.modality == "ids" and (special_ids is not None or starts or ends):
        special = torch.tensor(sorted(starts | ends if special_ids is None else special_ids), device=real.device)
        return ~torch.isin(inputs.features, special) & real
    if causal or config is None:
        return real
    unknown = not (starts or ends)
    return real & ~_outermost(inputs, real, first=bool(starts) or unknown, last=bool(ends) or unknown)


def special_ids_of(tokenizer: Any | None) -> frozenset[int] | None:
    """:func:`special_token_ids`, or None without a tokenizer; ``TypeError`` for what is none."""
    if tokenizer is not None and not hasattr(tokenizer, "all_special_ids"):
        raise TypeError(f"tokenizer must be a Hugging Face tokenizer, got {type(tokenizer).__name__}")
    return None if tokenizer is None else special_token_ids(tokenizer)


def special_token_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of a tokenizer's special tokens, without the unknown token, which stands for a word of the input."""
    special = set(tokenizer.all_special_ids)
    roles = tokenizer.special_tokens_map
    if roles.get("unk_token") not in [token for role, token in roles.items() if role != "unk_token"]:
        special.discard(tokenizer.unk_token_id)
    return frozenset(special)




class PatchGrid(NamedTuple):
    """How an image is cut into patches: rows and columns of them, and the height and width of one in pixels."""

    rows: int
    columns: int
    height: int
    width: int


def patch_values(values: Tensor, grid: PatchGrid | None) -> Tensor:
    """Values (..., N) of an image's tokens as those of its patches, (..., rows, columns): the last tokens.

    Raises:
        ValueError: no grid, as of texts.
    """
    if grid is None:
        raise ValueError("there are no patches, the inputs were no images: use .values")
    patches: Tensor = values[..., -grid.rows * grid.columns :]
    return patches.reshape(*values.shape[:-1], grid.rows, grid.columns)


def patch_grid(model: nn.Module | None, pixels: Tensor, length: int) -> PatchGrid:
    """How the model cuts ``pixels`` (B, C, h, w) into patches, which must be among its ``length`` tokens.

    Raises:
        ValueError: no patch embedding in the model (a convolution whose kernel size is its stride), or none of so few
            patches.
    """
    for module in model.modules() if model is not None else ():
        if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride:
            height, width = module.stride
            grid = PatchGrid(pixels.shape[2] // height, pixels.shape[3] // width, height, width)
            if 0 < grid.rows * grid.columns <= length:
                return grid
    raise ValueError(
        f"no patch embedding (a Conv2d whose kernel size is its stride) in {type(model).__name__} that makes at most "
        f"{length} patches of {tuple(pixels.shape[2:])} pixels, so its {length} tokens cannot be mapped to pixels"
    )


def _config_ids(config: Any | None, names: Iterable[str]) -> set[int]:
    text = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    values = (getattr(text, name, None) for name in names)
    return {i for value in values for i in (value if isinstance(value, list) else [value]) if i is not None}


def _outermost(inputs: ModelInputs, real: Tensor, *, first: bool, last: bool) -> Tensor:
    """bool (B, N): the first and the last token that is no padding, and tokens with the same ids."""
    order = torch.arange(real.shape[1], device=real.device)
    ends = [real.int().argmax(-1, keepdim=True)] * first + [(order * real).argmax(-1, keepdim=True)] * last
    outer = torch.stack([order == end for end in ends]).any(0)
    if inputs.modality == "ids":
        for end in ends:
            outer |= inputs.features == inputs.features.gather(1, end)
    return outer
