"""What the masks among a model's arguments say of padding, whatever their names, forms and senses."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.inputs import ModelInputs


def given_masks(inputs: ModelInputs, length: int) -> dict[str, Tensor]:
    """The companions of B texts of N tokens that may tell tokens from padding, by name or place.

    They are tensors of zeros and ones (B, N), tensors of four dimensions over N keys, and what is called a mask.
    """
    shape = (len(inputs), length)
    return {name: value for name, value in inputs.companions.items() if _is_mask(name, value, shape)}


def tokens_of(masks: dict[str, Tensor], shape: tuple[int, int], surely: Tensor | None) -> Tensor | None:
    """bool (B, N): the tokens that masks mark, if they leave no doubt; else None.

    Args:
        masks: of :func:`given_masks`; those with names that are usual for masks of padding are read.
        shape: (B, N).
        surely: bool (B, N), tokens that are certainly no padding; None if nothing is known.

    Returns:
        The one reading, ones for tokens or zeros for tokens, under which every text has a token and all that surely
        are tokens are marked. An additive mask has zeros for tokens.

    Example:
        >>> padded = torch.tensor([[0, 0, 0], [0, 0, 1]])
        >>> tokens_of({"padding_mask": padded}, (2, 3), None)
        tensor([[ True,  True,  True],
                [ True,  True, False]])
        >>> tokens_of({"padding_mask": padded[1:]}, (1, 3), None) is None  # of one text, either may be padding
        True
    """
    readings = [_reading(name, mask, shape, surely) for name, mask in masks.items() if _USUAL.match(name)]
    marked = [tokens for tokens in readings if tokens is not None]
    agree = len(marked) == len(readings) > 0 and all(torch.equal(tokens, marked[0]) for tokens in marked)
    return marked[0] if agree else None


def _is_mask(name: str, value: Any, shape: tuple[int, int]) -> bool:
    if not isinstance(value, Tensor) or _OF_SOMETHING_ELSE.search(name):
        return False
    over_keys = value.dim() == 4 and value.shape[-1] == shape[1] and value.shape[0] in (1, shape[0])
    of_tokens = value.shape == shape and not value.is_floating_point() and bool(((value == 0) | (value == 1)).all())
    return over_keys or of_tokens or "mask" in name.lower()


def _reading(name: str, mask: Tensor, shape: tuple[int, int], surely: Tensor | None) -> Tensor | None:
    """bool (B, N): what one mask marks, in the sense that leaves no doubt."""
    if mask.dim() == 2 and shape[0] == shape[1] > 1 and "pad" not in name.lower():
        return None  # it may be a mask of keys for queries
    additive = mask.is_floating_point() and bool((mask < 0).any())
    senses = [mask == 0] if additive else [mask.bool(), ~mask.bool()]
    if mask.dim() == 4:
        for_queries = mask.shape[2] > 1  # in a sense that attention's kernels know: ones may be attended to
        senses = [allowed.flatten(1, 2).any(1).expand(shape) for allowed in senses[: 1 if for_queries else 2]]
    possible = [
        tokens
        for tokens in senses
        if tokens.shape == shape and tokens.any(-1).all() and (surely is None or bool((tokens | ~surely).all()))
    ]
    agree = bool(possible) and all(torch.equal(tokens, possible[0]) for tokens in possible)
    return possible[0] if agree else None


_USUAL = re.compile(r"(?i)(input_|token_|text_|encoder_|src_|key_)*(attention_?|pad_?|padding_?)?masks?$")
_OF_SOMETHING_ELSE = re.compile(
    r"(?i)^token_type|^position|^decoder|^cross|head_?mask|global|label|masked|pixel|visual"
)
