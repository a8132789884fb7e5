"""How far two attentions of the same batch are apart: by head, by layer, and in all, as rows of a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_attn.controls.observed_examples import LayerAttention, ObservedBatch


def distance_rows(
    observed: ObservedBatch,
    own: Sequence[LayerAttention],
    others: Mapping[int, Tensor],
    heads: Sequence[int],
    of_output: Mapping[str, Tensor],
) -> list[dict[str, Any]]:
    """The rows of a batch: for each example each head, each layer, and all layers together.

    Columns ``example``; ``layer`` and ``head``, numbers or "all"; ``divergence``, the mean Jensen-Shannon divergence
    over the queries that count; ``readout``, that of the readout token; and those of the output, in rows of layer
    "all". The divergence of a layer is the mean over its heads, that of all layers the mean over layers; NaN where no
    query has two keys to choose from.

    Args:
        observed: the batch.
        own: its attention, of each layer.
        others: other attention (B, H, N, N), of some layers.
        heads: those that are compared.
        of_output: further columns, values (B,).
    """
    apart = torch.stack([_divergences(own[layer], other, observed.readout) for layer, other in others.items()], 1)
    apart = apart[:, :, list(heads)].cpu()
    rows: list[dict[str, Any]] = []
    for place, example in enumerate(observed.examples):
        output = {name: float(values[place]) for name, values in of_output.items()}
        for layer, by_head in zip(others, apart[place], strict=True):
            rows += [_row(example, layer, head, value) for head, value in zip(heads, by_head, strict=True)]
            rows.append(_row(example, layer, "all", by_head.nanmean(0)))
        rows.append({**_row(example, "all", "all", apart[place].nanmean((0, 1))), **output})
    return rows


def _divergences(own: LayerAttention, other: Tensor, readout: Tensor) -> Tensor:
    """(B, H, 2): of all queries that count, and of the readout token's."""
    other = other.to(own.probabilities)
    choices = own.rows.expand(-1, other.shape[1], -1)
    read = choices & (readout > 0)[:, None]
    return torch.stack(
        [
            own.divergence(other, weights).masked_fill(~counted.any(-1), torch.nan)
            for weights, counted in ((None, choices), (readout, read))
        ],
        -1,
    )


def _row(example: int, layer: int | str, head: int | str, values: Tensor) -> dict[str, Any]:
    divergence, readout = values.tolist()
    return {"example": example, "layer": layer, "head": head, "divergence": divergence, "readout": readout}
