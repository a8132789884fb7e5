"""Which tokens carry input (the players), and which are padding."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_attn.core.inputs import ModelInputs, check_token_mask, picture_token
from captum_attn.core.masks import is_binary
from captum_attn.core.models import text_config
from captum_attn.core.padding_masks import check_sense, given_lengths, given_masks, tokens_of, unread_masks
from captum_attn.core.patches import Grid, NoPatchGrid, PatchLayout
from captum_attn.core.user_warnings import warn_user

_START_IDS = ("bos_token_id", "cls_token_id")
_END_IDS = ("eos_token_id", "sep_token_id")


class Tokens(NamedTuple):
    """What the tokens of a batch are.

    Attributes:
        real: bool (B, N), those that are no padding.
        playing: bool (B, N), those that carry input; None for an image of which nothing says where its patches are.
        grid: how images are cut into patches, or why that is not known; None for text.
        picture: the same of an image beside a text, some of whose tokens are its patches; None without one.
    """

    real: Tensor
    playing: Tensor | None
    grid: Grid
    picture: Grid = None

    @property
    def players(self) -> Tensor:
        """bool (B, N), the tokens that carry input.

        Raises:
            ValueError: nothing says which they are.
        """
        if self.playing is None:
            reason = self.grid.reason if isinstance(self.grid, NoPatchGrid) else ""
            raise ValueError(
                f"{reason}. Say which tokens play: players=, a bool tensor (B, N) = {tuple(self.real.shape)}"
            )
        return self.playing


def real_tokens(inputs: ModelInputs, length: int, config: Any | None) -> Tensor:
    """bool (B, N): the tokens that are no padding.

    From ``attention_mask`` or PyTorch's ``src_key_padding_mask`` where the inputs hold one, or a mask of another name
    or form that can be read in one sense only; else from the configuration's padding id, else all. Padding without a
    mask is a mistake more often than not, and gets a warning, as do masks that cannot be read, and lengths, where
    nothing else tells what is padding.

    An id that pads *and* opens or closes texts (a chat model's pad token that is its eos) is padding only in a run of
    two or more at one end of a row, or before the row's bos. A run of an id that opens texts before a text, or closes
    them after it, has one real token, the one beside the text; but if some row of the batch has none there, texts
    are neither opened nor closed by it, and the whole run is padding. So is a row of nothing else.

    Raises:
        ValueError: a mask whose name says its sense marks padding for tokens.
    """
    features = inputs.features
    real = torch.ones(len(inputs), length, dtype=torch.bool, device=features.device)
    if inputs.is_cut:
        return real
    pads = _config_ids(config, ("pad_token_id",)) if inputs.modality == "ids" else set()
    roles = pads & _config_ids(config, (*_START_IDS, *_END_IDS))
    known = bool(pads - roles)
    if pads:
        real = ~torch.isin(features, torch.tensor(sorted(pads - roles), device=real.device))
    masks, shape, surely = given_masks(inputs, length), (len(inputs), length), real if known else None
    read = tokens_of(masks, shape, surely)
    check_sense(masks, features, surely)
    if read is not None:
        return read
    for pad in roles:
        real &= ~_runs_of_padding(features, pad, config)
    if not real.all() and not masks:
        warn_user(
            f"the input ids hold padding ({sorted(pads)}) but there is no attention_mask, so the model attends to the "
            "padding and its output changes; pass the tokenizer's attention_mask"
        )
    elif not known and (unread := [*unread_masks(masks, shape, surely), *given_lengths(inputs, length)]):
        warn_user(
            f"what {', '.join(unread)} says of padding cannot be told, so all tokens count as tokens: give an "
            f"attention_mask {shape}, ones for tokens (additional_forward_arg_names= names arguments), or players="
        )
    return real


def find_players(
    inputs: ModelInputs,
    real: Tensor,
    *,
    special_ids: Collection[int] | None,
    config: Any | None,
    causal: bool,
    grid: Grid = None,
) -> Tensor | None:
    """bool (B, N): the tokens that play. Padding never does; of the rest, the first rule that applies decides.

    1. ``players`` in the inputs' notes;
    2. ``special_tokens_mask`` in the inputs' notes;
    3. images: the patches play, which leaves out class, distillation and register tokens; None without a ``grid``;
    4. token ids: ``special_ids``, a tokenizer's, do not play;
    5. token ids: the configuration's bos, cls, eos and sep ids do not play;
    6. encoders whose configuration names no such id (BERT's), and any encoder's embeddings: the first and the last
       token that is no padding are taken for ``[CLS]`` and ``[SEP]``, as are other tokens with their ids;
    7. every token plays (decoders' embeddings, models without a configuration).

    Raises:
        TypeError, ValueError: a mask that is none, such as numbers of groups.
    """
    named = named_players(inputs, tuple(real.shape))
    if named is not None:
        return named & real
    if inputs.is_cut:
        if not isinstance(grid, PatchLayout):
            return None
        return torch.zeros_like(real).index_fill(1, grid.tokens(real.shape[1]).to(real.device), True) & real
    starts, ends = _config_ids(config, _START_IDS), _config_ids(config, _END_IDS)
    if inputs.modality == "ids" and (special_ids is not None or starts or ends):
        special_ids = (starts | ends if special_ids is None else {*special_ids}) - {picture_token(config)}
        special = torch.tensor(sorted(special_ids), device=real.device)
        return ~torch.isin(inputs.features, special) & real
    if causal or config is None:
        return real
    unknown = not (starts or ends)
    return real & ~_outermost(inputs, real, first=bool(starts) or unknown, last=bool(ends) or unknown)


def named_players(inputs: ModelInputs, shape: tuple[int, ...]) -> Tensor | None:
    """bool (B, N) = ``shape``: the players that the inputs' notes name, by ``players`` or ``special_tokens_mask``.

    Raises:
        TypeError: no tensor, or one of floats.
        ValueError: another shape, or numbers other than 0 and 1.
    """
    for name, marks_players in (("players", True), ("special_tokens_mask", False)):
        mask: Tensor | None = inputs.notes.get(name)
        if mask is None:
            continue
        check_token_mask(name, mask, shape)
        if not is_binary(mask):
            raise ValueError(
                f"{name} must be bool, or 0 and 1 for each token, got {mask.dtype} with {int(mask.min())} to "
                f"{int(mask.max())}. Numbers of groups are no players: each marked token plays by itself. In "
                "additive games the values of a group's tokens can be added up; captum_attn.functional."
                "group_shapley_values has groups play any game"
            )
        return mask.bool() if marks_players else ~mask.bool()
    return None


def special_ids_of(tokenizer: Any | None) -> frozenset[int] | None:
    """:func:`special_token_ids`, or None without a tokenizer; ``TypeError`` for what is none."""
    if tokenizer is not None and not hasattr(tokenizer, "all_special_ids"):
        raise TypeError(f"tokenizer must be a Hugging Face tokenizer, got {type(tokenizer).__name__}")
    return None if tokenizer is None else special_token_ids(tokenizer)


def special_token_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that ``decode(skip_special_tokens=True)`` skips: of tokens with a role, and of those added as special ones.

    Not the unknown token's, which stands for a word of the input.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {*tokenizer.all_special_ids, *(index for index, token in added.items() if token.special)}
    roles = tokenizer.special_tokens_map
    if roles.get("unk_token") not in [token for role, token in roles.items() if role != "unk_token"]:
        special.discard(tokenizer.unk_token_id)
    return frozenset(special)


def _config_ids(config: Any | None, names: Iterable[str]) -> set[int]:
    values = (getattr(text_config(config), name, None) for name in names)
    return {i for value in values for i in (value if isinstance(value, list) else [value]) if i is not None}


def _runs_of_padding(ids: Tensor, pad: int, config: Any | None) -> Tensor:
    """bool (B, N): where an id that also opens or closes texts is padding; see :func:`real_tokens`."""
    starts, ends = _config_ids(config, _START_IDS), _config_ids(config, _END_IDS)
    openers = torch.tensor(sorted(starts - {pad}), device=ids.device)
    before = _run_at_the_end(ids.flip(1) == pad, opens := pad in starts)
    after = _run_at_the_end(ids == pad, pad in ends)
    leading = (ids == pad).int().cummin(1).values.bool()
    next_opens = torch.isin(ids, openers) & ~leading & torch.nn.functional.pad(leading, (1, -1))
    before_the_start = leading & next_opens.any(1, keepdim=True) & (not opens)
    return before.flip(1) | after | before_the_start


def _run_at_the_end(same: Tensor, has_role: bool) -> Tensor:
    """bool (B, N): of a run of two or more at the end of rows, what is padding."""
    run = same.flip(1).int().cummin(1).values.flip(1).bool()
    lengths = run.sum(1, keepdim=True)
    kept = int(has_role and bool(lengths.min() > 0))  # the token that closes the text
    first = run.int().argmax(1, keepdim=True)
    places = torch.arange(run.shape[1], device=run.device)
    return run & (lengths > 1) & (places >= first + kept)


def _outermost(inputs: ModelInputs, real: Tensor, *, first: bool, last: bool) -> Tensor:
    """bool (B, N): the first and the last token that is no padding, and tokens with the same ids."""
    order = torch.arange(real.shape[1], device=real.device)
    ends = [real.int().argmax(-1, keepdim=True)] * first + [(order * real).argmax(-1, keepdim=True)] * last
    outer = torch.stack([order == end for end in ends]).any(0)
    if inputs.modality == "ids":
        for end in ends:
            outer |= inputs.features == inputs.features.gather(1, end)
    return outer
