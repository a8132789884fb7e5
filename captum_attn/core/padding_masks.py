"""What the masks among a model's arguments say of padding, whatever their names, forms and senses."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.inputs import PADDING_MASKS, ModelInputs
from captum_attn.core.masks import blind_rows, is_binary, open_keys


def given_masks(inputs: ModelInputs, length: int) -> dict[str, Tensor]:
    """The companions of B texts of N tokens that may tell tokens from padding, by name or place.

    They are tensors of zeros and ones (B, N), tensors of four dimensions over N keys, and what is called a mask.
    """
    shape = (len(inputs), length)
    return {name: value for name, value in inputs.companions.items() if _is_mask(name, value, shape)}


def given_lengths(inputs: ModelInputs, length: int) -> list[str]:
    """Names of companions that count the tokens of B texts, some of which have fewer than N. They name no side."""
    return [
        name
        for name, value in inputs.companions.items()
        if _LENGTHS.search(name) and isinstance(value, Tensor) and value.shape == (len(inputs),)
        if not value.is_floating_point() and value.dtype != torch.bool and bool((value < length).any())
    ]


def tokens_of(masks: dict[str, Tensor], shape: tuple[int, int], surely: Tensor | None) -> Tensor | None:
    """bool (B, N): the tokens that masks mark, if they leave no doubt; else None.

    Args:
        masks: of :func:`given_masks`; those with names that are usual for masks of padding are read. One (B, N) whose
            name says its sense, ``attention_mask`` or PyTorch's ``src_key_padding_mask``, decides alone.
        shape: (B, N).
        surely: bool (B, N), the tokens that are no padding by their ids; None if nothing is known.

    Returns:
        The one reading, ones for tokens or zeros for tokens, under which every text has a token and all that surely
        are tokens are marked. An additive mask has zeros for tokens. One of keys for queries marks the keys that some
        query may attend to; in the right sense, tokens attend to themselves.

    Raises:
        ValueError: a mask whose name says its sense marks padding for tokens.

    Example:
        >>> padded = torch.tensor([[0, 0, 0], [0, 0, 1]])
        >>> tokens_of({"padding_mask": padded}, (2, 3), None)
        tensor([[ True,  True,  True],
                [ True,  True, False]])
        >>> tokens_of({"padding_mask": padded[1:]}, (1, 3), None) is None  # of one text, either may be padding
        True
    """
    named = [_readings(name, masks[name], shape, surely) for name in PADDING_MASKS if _per_token(masks, name, shape)]
    if any(len(readings) == 1 for readings in named):
        return next(readings[0] for readings in named if len(readings) == 1)
    readings = [_readings(name, mask, shape, surely) for name, mask in masks.items() if _USUAL.match(name)]
    first = next((one[0] for one in readings if one), None)
    agree = all(len(one) == 1 and first is not None and torch.equal(one[0], first) for one in readings)
    return first if agree else None


def unread_masks(masks: dict[str, Tensor], shape: tuple[int, int], surely: Tensor | None) -> list[str]:
    """Names of masks over the tokens that may mark some as padding, where it is unknown which."""
    over_tokens = [name for name, mask in masks.items() if shape[1] in mask.shape[1:] and mask.amax() > mask.amin()]
    readings = {name: _readings(name, masks[name], shape, surely) for name in over_tokens}
    return [name for name, found in readings.items() if not found or not all(tokens.all() for tokens in found)]


def check_sense(masks: dict[str, Tensor], features: Tensor, surely: Tensor | None) -> None:
    """Raise ``ValueError`` if a mask (B, N) whose name says its sense marks padding for tokens.

    Args:
        masks: of :func:`given_masks`.
        features: ids (B, N) or embeddings (B, N, D).
        surely: as in :func:`tokens_of`.
    """
    for name, ones in PADDING_MASKS.items():
        senses = _senses(masks[name]) if _per_token(masks, name, features.shape[:2]) else []
        if len(senses) == 2 and _marks_padding(senses[0 if ones else 1], features, surely):
            one, zero = ("tokens", "padding") if ones else ("padding", "tokens")
            raise ValueError(
                f"{name} marks the padding for tokens: expected ones for {one} and zeros for {zero}. If the model "
                "wants it the other way round, explain a function that takes it under another name, such as "
                f"lambda input_ids, padding_mask: model(input_ids, {name}=padding_mask)"
            )


def is_padding_mask(part: Tensor, features: Tensor) -> bool:
    """Whether it is 0 on one side of each text, where the same padding stands everywhere, and 1 elsewhere.

    Args:
        part: (B, N).
        features: ids (B, N) or embeddings (B, N, D).
    """
    return is_binary(part) and bool(part.any()) and _one_sided(part) and alike(features[part == 0])


def alike(features: Tensor) -> bool:
    """Whether tokens (M,) or (M, D) are all the same."""
    return bool((features == features[:1]).all())


def _is_mask(name: str, value: Any, shape: tuple[int, int]) -> bool:
    if not isinstance(value, Tensor) or _OF_SOMETHING_ELSE.search(name):
        return False
    over_keys = value.dim() == 4 and value.shape[-1] == shape[1] and value.shape[0] in (1, shape[0])
    of_tokens = value.shape == shape and not value.is_floating_point() and is_binary(value)
    return over_keys or of_tokens or "mask" in name.lower()


def _marks_padding(tokens: Tensor, features: Tensor, surely: Tensor | None) -> bool:
    """Whether what is marked is padding by its ids in some text, or one token throughout, at one side of each text."""
    if surely is not None:
        return bool((tokens.any(-1) & surely.any(-1) & ~(tokens & surely).any(-1)).any())
    return int(tokens.sum()) > 1 and is_padding_mask(~tokens, features) and not is_padding_mask(tokens, features)


def _per_token(masks: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> bool:
    return name in masks and masks[name].shape == shape


def _readings(name: str, mask: Tensor, shape: tuple[int, int], surely: Tensor | None) -> list[Tensor]:
    """bool (B, N) each: what one mask may mark, in all ways that make sense."""
    senses, ones = _senses(mask), PADDING_MASKS.get(name)
    if len(senses) == 2 and ones is not None:
        senses = senses[:1] if ones else senses[1:]
    relates = mask.dim() > 2 or (mask.shape == (shape[1], shape[1]) and "pad" not in name.lower())
    readings = list(senses) if mask.shape == shape else []
    if readings and ones is not None and not (relates and _could_relate(senses[0])):
        return readings  # taken at its word
    for allowed in senses if relates else ():
        wide = allowed[(None,) * (4 - allowed.dim())] if allowed.dim() != 3 else allowed[:, None]
        if wide.shape[-1] == shape[1] and wide.shape[0] in (1, shape[0]):
            readings += [tokens.expand(shape) for tokens in _attended(wide)]
    if relates and surely is not None:  # a mask that leaves padding open is none of padding
        readings = [tokens & surely for tokens in readings]
    possible: list[Tensor] = []
    for tokens in readings:
        fits = bool(tokens.any(-1).all()) and (surely is None or bool((tokens | ~surely).all()))
        if fits and not any(torch.equal(tokens, other) for other in possible):
            possible.append(tokens)
    return possible


def _attended(allowed: Tensor) -> list[Tensor]:
    """bool (B or 1, K) each: the keys that a mask (B or 1, H, Q, K) of this sense may mark as tokens.

    They are those that some query may attend to. Where this leaves padding without a key, masks open its rows, to
    themselves or to all keys; without these rows there is another reading.
    """
    seen = allowed.any(1)
    marked, queries, keys = seen.any(1), *seen.shape[1:]
    if queries == 1 or queries != keys:
        return [marked]
    itself = seen.diagonal(dim1=1, dim2=2)
    if not (itself | ~marked).all():
        return []  # tokens attend to themselves
    full = seen.all(-1) & ~seen.all(-1).all(-1, keepdim=True)
    full[:, -1] = False  # of a causal mask
    opened = full & ~(seen & ~full[..., None]).any(1)
    alone = itself & (seen.sum(-1) == 1) & (seen.sum(1) == 1)
    return [marked, marked & ~(opened | alone)]


def _could_relate(tokens: Tensor) -> bool:
    """Whether a mask (N, N) of N texts of N tokens may be one of keys for queries: causal, or of another form."""
    if tokens.all() or not tokens.diagonal().all():
        return False
    causal = torch.ones_like(tokens).tril()
    return not _one_sided(tokens) or torch.equal(tokens, causal) or torch.equal(tokens, causal.mT)


def _one_sided(part: Tensor) -> bool:
    """Whether what (B, N) zeros and ones mark as 0 lies at one side, the same in all rows."""
    steps = part.long().diff(dim=1)
    return bool((steps <= 0).all() or (steps >= 0).all())


def _senses(mask: Tensor) -> list[Tensor]:
    """bool, in the shape of the mask: what it may allow; none of weights, which may mean anything."""
    if is_binary(mask):
        return [mask.bool(), ~mask.bool()]
    if not (mask < 0).any():
        return [] if mask.is_floating_point() else [mask != 0]  # numbers of segments
    if ((mask == 0) | (mask == mask.min())).all():
        return [mask == 0]
    mask = mask.double()  # with biases of positions
    return [open_keys(mask) & ~blind_rows(mask)]


_USUAL = re.compile(r"(?i)(input_|token_|text_|encoder_|src_|key_)*(attention_?|pad_?|padding_?)?masks?$")
_OF_SOMETHING_ELSE = re.compile(
    r"(?i)^token_type|^position|^decoder|^cross|head_?mask|global|label|masked|pixel|visual"
)
_LENGTHS = re.compile(r"(?i)(^|_)(seq_?)?len(s|gths?)?($|_)")
