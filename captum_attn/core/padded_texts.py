"""Texts of several lengths as one batch, in which padding does not count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.encoding import reserved_positions
from captum_attn.core.forward import plain_output
from captum_attn.core.inputs import mapping_inputs
from captum_attn.core.models import device_of, parameter_names
from captum_attn.core.tried_models import TriedModels, predicts_alike


def padded(tokenizer: Any, columns: Mapping[str, Any], model: Callable[..., Any]) -> dict[str, Tensor]:
    """Columns of encoded texts as tensors (B, N), padded to the longest of them, on the tokenizer's side.

    Where that is the left, with positions that do not count padding, if the model takes any. The first such batch of a
    model, and longer ones, are tried: what it says of the shortest text, and of the same one without padding.

    Raises:
        ValueError: texts of several lengths, and a tokenizer without a pad token; or a model for which padding counts.

    Example:
        >>> padded(tokenizer, dict(tokenizer(["a gripping film", "dull"])), model)["attention_mask"].sum(-1)
        tensor([5, 3])
    """
    lengths = torch.tensor([len(ids) for ids in columns["input_ids"]])
    if lengths.unique().numel() == 1:
        return {name: torch.tensor(column) for name, column in columns.items()}
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no pad token: set tokenizer.pad_token, or use batch_size=1")
    batch = dict(tokenizer.pad(dict(columns), padding=True, return_tensors="pt", verbose=False))
    left = tokenizer.padding_side == "left"
    places = torch.arange(int(lengths.max())).expand(len(lengths), -1)
    real = (places.flip(-1) if left else places) < lengths[:, None]
    if left and "position_ids" in parameter_names(model):
        batch["position_ids"] = counted_positions(real) + reserved_positions(model)
    _check_padding(model, batch, real, f"padding on the {tokenizer.padding_side}")
    return batch


def counted_positions(real: Tensor) -> Tensor:
    """int64 (B, N), each token's place in its text, bool (B, N) which are none of padding.

    Example:
        >>> counted_positions(torch.tensor([[False, True, True]]))
        tensor([[0, 0, 1]])
    """
    return (real.cumsum(-1) - 1).clamp(min=0)


_tried = TriedModels()


def _check_padding(model: Callable[..., Any], batch: Mapping[str, Tensor], real: Tensor, what: str) -> None:
    """Raise ``ValueError`` if a model says something else of the shortest text than of the same one by itself."""
    if _tried.knows(model, what, real.shape[1]):
        return
    row = int(real.sum(-1).argmin())
    own = real[row]
    beside = {name: column[[row]].to(device_of(model)) for name, column in batch.items()}
    alone = {name: column[:, own] if column.shape[:2] == (1, len(own)) else column for name, column in beside.items()}
    found, expected = (
        plain_output(model, mapping_inputs(model, given), hidden_states=True) for given in (beside, alone)
    )
    if found.dim() == 3 and found.shape[1] == len(own):
        found = found[:, own]
    if found.shape == expected.shape and not predicts_alike(found, expected):
        off = float((found - expected).abs().max())
        raise ValueError(
            f"{what} counts: {type(model).__name__}'s output for a text of {int(own.sum())} tokens changes by up to "
            f"{off:.2g} when it is padded to {len(own)}, so that it depends on what else is in the batch: does "
            "config.pad_token_id equal tokenizer.pad_token_id? Is tokenizer.padding_side the model's? Else use "
            "batch_size=1"
        )
    _tried.add(model, what, real.shape[1])
