"""Which tokens the rows of a model's output (B, T, C) are about: the input's, or those that a decoder has written."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_attn.core.inputs import ModelInputs
from captum_attn.core.masks import is_binary
from captum_attn.core.models import text_config
from captum_attn.core.padding_masks import tokens_of


class OutputTokens(NamedTuple):
    """The tokens that an output (B, T, C) has a row for each of.

    Attributes:
        real: bool (B, T), those that are no padding; None where that is not known, as of a decoder's tokens that are
            made inside the model.
        of_the_input: whether they are the tokens that are explained.
    """

    real: Tensor | None
    of_the_input: bool


def decoder_tokens(inputs: ModelInputs, config: Any | None) -> Tensor | None:
    """bool (B, T): the tokens given to a decoder that are no padding; None if none are given.

    These are ``decoder_input_ids``, or, where pixels are explained, the ``input_ids`` beside them, which a language
    model reads together with the image. From ``decoder_attention_mask`` or ``attention_mask``, else from the padding
    id: behind the first token, as many a decoder starts with that id, and not where it ends texts, too. Embeddings
    without a mask have no padding.

    Raises:
        ValueError: a mask of another shape, or in which tokens and padding cannot be told apart.

    Example:
        >>> from types import SimpleNamespace
        >>> from captum_attn.core.inputs import ModelInputs
        >>> source, target = torch.tensor([[5, 6, 1]]), torch.tensor([[0, 7, 8, 0, 0]])
        >>> inputs = ModelInputs(source, "input_ids", {"decoder_input_ids": target})
        >>> decoder_tokens(inputs, SimpleNamespace(pad_token_id=0, eos_token_id=1))
        tensor([[ True,  True,  True, False, False]])
    """
    prefix = "decoder_" if {"decoder_input_ids", "decoder_inputs_embeds"} & inputs.keywords.keys() else ""
    ids: Any = inputs.keywords.get(f"{prefix}input_ids")
    given = ids if isinstance(ids, Tensor) else inputs.keywords.get(f"{prefix}inputs_embeds")
    if not isinstance(given, Tensor):
        return None
    batch, length = given.shape[:2]
    mask = inputs.keywords.get(f"{prefix}attention_mask")
    if isinstance(mask, Tensor):
        plain = mask.shape == (batch, length) and is_binary(mask)
        read = mask.bool() if plain else tokens_of({"attention_mask": mask}, (batch, length), None)
        if read is None:
            raise ValueError(
                f"what {prefix}attention_mask of shape {tuple(mask.shape)} says of padding cannot be told: expected "
                f"ones for tokens and zeros for padding, of shape {(batch, length)}"
            )
        return read
    real = torch.ones(batch, length, dtype=torch.bool, device=given.device)
    text = text_config(config, decoder=True)
    pad, end = (getattr(text, name, None) for name in ("pad_token_id", "eos_token_id"))
    if pad is not None and given is ids and pad not in (end if isinstance(end, list) else [end]):
        real[:, 1:] = given[:, 1:] != pad
    return real


def shifts_its_input(model: Any) -> bool:
    """Whether a model whose decoder is given nothing makes its tokens from the input's, place by place (BART, T5)."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
