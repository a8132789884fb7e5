"""Which tokens carry input (the players), which are padding, and which ones the prediction is read from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from captum_attn.core.inputs import PADDING_MASKS, ModelInputs, check_token_mask

Readout = int | Literal["auto", "mean"]

_START_IDS = ("bos_token_id", "cls_token_id")
_END_IDS = ("eos_token_id", "sep_token_id")


def real_tokens(inputs: ModelInputs, length: int, config: Any | None) -> Tensor:
    """bool (B, N): the tokens that are no padding.

    From ``attention_mask`` or PyTorch's ``src_key_padding_mask`` where the inputs hold one, else from the
    configuration's padding id, else all.
    """
    features = inputs.features
    real = torch.ones(len(inputs), length, dtype=torch.bool, device=features.device)
    if inputs.modality == "pixels":
        return real
    for name, marks_real in PADDING_MASKS.items():
        mask = inputs.keywords.get(name)
        if isinstance(mask, Tensor) and mask.dim() == 2:
            return mask.bool() if marks_real else ~mask.bool()
    pad = getattr(config, "pad_token_id", None)
    return features != pad if inputs.modality == "ids" and pad is not None else real


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
    if inputs.modality == "ids" and (special_ids or starts or ends):
        special = torch.tensor(sorted(special_ids or starts | ends), device=real.device)
        return ~torch.isin(inputs.features, special) & real
    if causal or config is None:
        return real
    unknown = not (starts or ends)
    return real & ~_outermost(inputs, real, first=bool(starts) or unknown, last=bool(ends) or unknown)


def special_token_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of a tokenizer's special tokens, without the unknown token, which stands for a word of the input."""
    special = set(tokenizer.all_special_ids)
    roles = tokenizer.special_tokens_map
    if roles.get("unk_token") not in [token for role, token in roles.items() if role != "unk_token"]:
        special.discard(tokenizer.unk_token_id)
    return frozenset(special)


def readout_weights(
    readout: Readout,
    *,
    real: Tensor,
    players: Tensor,
    positions: Tensor | None,
    inputs: ModelInputs,
    config: Any | None,
    causal: bool,
) -> Tensor:
    """Weights (B, N) of the tokens that the prediction is read from, each row with the sum 1.

    Args:
        readout: an index (negative: from the end), ``"mean"`` for mean-pooled tokens (the players of an image, all
            that is no padding of a text), or ``"auto"``: the token that the target names (``positions``), else the
            mean where the configuration says so (BEiT, ModernBERT) or a decoder reads all of the encoder's tokens
            (T5, BART), else the last token that is no padding in a causal decoder, else the first.
        real, players: bool (B, N).
        positions: int64 (B,), the token whose output is explained; None where the output is one per example.

    Raises:
        ValueError: an index out of range.
    """
    if readout == "auto" and positions is None:
        pooled = getattr(config, "use_mean_pooling", False) or getattr(config, "classifier_pooling", "") == "mean"
        if pooled or getattr(config, "is_encoder_decoder", False):
            readout = "mean"
    if readout == "mean":
        pooled_tokens = (players if inputs.modality == "pixels" else real).double()
        return pooled_tokens / pooled_tokens.sum(-1, keepdim=True)
    batch, length = real.shape
    if readout != "auto":
        if not -length <= readout < length:
            raise ValueError(f"readout={readout} is out of range for {length} tokens: expected {-length}..{length - 1}")
        positions = torch.full((batch,), readout % length, device=real.device)
    elif positions is None:
        order = torch.arange(length, device=real.device)
        positions = (order * real).argmax(-1) if causal else real.int().argmax(-1)
    return torch.zeros(real.shape, dtype=torch.double, device=real.device).scatter(1, positions[:, None], 1.0)


def patch_grid(model: Callable[..., Any], pixels: Tensor) -> tuple[int, int]:
    """Rows and columns of the patches into which the model cuts ``pixels`` (B, C, h, w).

    Raises:
        ValueError: no patch embedding in the model, by which the size of a patch would be known.
    """
    modules: Iterable[nn.Module] = model.modules() if isinstance(model, nn.Module) else ()
    for module in modules:
        if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride:
            return pixels.shape[2] // module.stride[0], pixels.shape[3] // module.stride[1]
    raise ValueError(
        f"no patch embedding (a Conv2d whose kernel size is its stride) in {type(model).__name__}, so tokens "
        "cannot be mapped to pixels: expected a vision transformer that cuts its image into patches"
    )


def _config_ids(config: Any | None, names: Iterable[str]) -> set[int]:
    values = (getattr(config, name, None) for name in names)
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
