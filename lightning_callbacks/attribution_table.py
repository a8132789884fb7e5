"""Token attributions as a table: one row for each input, padding stripped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from captum_attn import TokenAttributions
from captum_attn.core import Grid, PatchGrid, PatchLayout

_PLACE = {
    "rows": pa.int64(),
    "columns": pa.int64(),
    "positions": pa.list_(pa.int64()),
    **dict.fromkeys(("patch_height", "patch_width", "top", "left"), pa.float64()),
    **dict.fromkeys(("image_height", "image_width"), pa.int64()),
    "sides": pa.list_(pa.struct({"dim": pa.int64(), "count": pa.int64(), "size": pa.float64(), "first": pa.float64()})),
}
"""Columns that say where the scores lie in an image, a sound or a video."""


def attribution_table(
    result: TokenAttributions,
    *,
    real: Tensor,
    ids: Tensor | None = None,
    tokenizer: Any | None = None,
    class_names: Sequence[str] | None = None,
    labels: Any | None = None,
    multi_label: bool = False,
    image_size: Sequence[int] | None = None,
) -> pa.Table:
    """One row for each of B inputs. What does not apply is null, and every column keeps its type.

    Args:
        result: values (B, N) and what goes with them.
        real: bool (B, N), the tokens that are no padding; the others are left out.
        ids: int64 (B, N), of texts.
        tokenizer: names the ids.
        class_names: one for each class.
        labels: known labels, a tensor (B, ...) or a list of B.
        multi_label: whether the classes do not exclude each other: probabilities are logistic, not softmax.
        image_size: height and width of images, in pixels, as they were given to the model.

    Returns:
        Columns ``tokens`` (list of str), ``ids`` (list of int64), ``scores`` (list of float32, or float64 as the
        values), ``players`` (list of bool), ``target`` (int64; a list of token and class where one of many tokens'
        outputs is explained, with padding not counted), ``target_name`` (str), ``logit`` and ``probability`` of the
        target (float; a probability is for outputs (B, C) of several classes), ``label``; and what lays the scores over
        an image: ``rows`` and ``columns`` of its patches (int64), ``positions`` of these among the scores, row by row
        (list of int64), ``patch_height``, ``patch_width``, ``top`` and ``left`` of the first one (float64), in pixels
        of the image given to the model, and that image's ``image_height`` and ``image_width`` (int64); ``sides``, of
        images, sounds and videos, the dimensions of the input along which patches lie, and of each the ``dim``, the
        ``count`` of patches, the ``size`` of one and where the ``first`` begins.

    Example:
        >>> from captum_attn import ShapleyGradAttention
        >>> result = ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens(batch)
        >>> table = attribution_table(result, real=batch["attention_mask"].bool(), ids=batch["input_ids"])
        >>> table["scores"].type, table["ids"][0].as_py() == batch["input_ids"][0, :5].tolist()
        (ListType(list<item: float>), True)
    """
    rows, scores = len(result.values), _floating(result.values)
    kept = real.cpu()
    ids = None if ids is None else ids.cpu()
    return pa.table(
        {
            "tokens": pa.nulls(rows, pa.list_(pa.string()))
            if ids is None or tokenizer is None
            else _lists(kept, pa.array(tokenizer.convert_ids_to_tokens(ids[kept].tolist()), pa.string())),
            "ids": pa.nulls(rows, pa.list_(pa.int64())) if ids is None else _lists(kept, _array(ids[kept])),
            "scores": _lists(kept, _array(scores[kept])),
            "players": _lists(kept, _array(result.players.cpu()[kept])),
            "target": _targets(result.targets.cpu(), kept),
            "target_name": pa.array(_target_names(result, class_names), pa.string()),
            "logit": _column(result.scores, scores.dtype, rows),
            "probability": _column(_probability(result, multi_label), scores.dtype, rows),
            "label": _labels(labels, rows),
            **_place(result.grid, image_size, *scores.shape),
        }
    )


def _place(grid: Grid, image_size: Sequence[int] | None, rows: int, length: int) -> dict[str, pa.Array]:
    """What lays the scores (rows, length) over an image; nulls where that is not known."""
    values: dict[str, Any] = {}
    if image_size is not None:
        values |= dict(zip(("image_height", "image_width"), image_size, strict=True))
    if isinstance(grid, PatchLayout):
        values |= {"positions": grid.tokens(length).tolist(), "sides": [asdict(side) for side in grid.sides]}
    if isinstance(grid, PatchGrid):
        values |= {"rows": grid.rows, "columns": grid.columns}
        values |= {"patch_height": grid.height, "patch_width": grid.width, "top": grid.top, "left": grid.left}
    return {name: pa.array([values.get(name)] * rows, kind) for name, kind in _PLACE.items()}


def _array(values: Tensor) -> pa.Array:
    return pa.array(values.detach().cpu().numpy())


def _floating(values: Tensor) -> Tensor:
    """On the CPU, in a precision that Parquet has."""
    return values.detach().cpu().to(torch.promote_types(values.dtype, torch.float32))


def _lists(kept: Tensor, flat: pa.Array) -> pa.Array:
    """The entries (M,) of the kept places (B, N) as a list for each row."""
    ends = kept.sum(1).cumsum(0).tolist()
    return pa.ListArray.from_arrays(pa.array([0, *ends], pa.int32()), flat)


def _column(values: Tensor | None, dtype: torch.dtype, rows: int) -> pa.Array:
    """Numbers (B,), or nulls where there are none."""
    if values is None or len(values) != rows:
        return pa.nulls(rows, _array(torch.empty(0, dtype=dtype)).type)
    return _array(_floating(values).to(dtype))


def _targets(targets: Tensor, kept: Tensor) -> pa.Array:
    if targets.shape[1] == 0:
        return pa.nulls(len(targets), pa.int64())
    if targets.shape[1] == 1:
        return _array(targets[:, 0])
    padding = (~kept).cumsum(1).gather(1, targets[:, :1])  # before the token
    return pa.array(torch.cat((targets[:, :1] - padding, targets[:, 1:]), 1).tolist(), pa.list_(pa.int64()))


def _target_names(result: TokenAttributions, names: Sequence[str] | None) -> list[str | None]:
    classes = result.targets[:, -1:].flatten().tolist()
    if names is None or not classes or result.output.shape[-1] != len(names):
        return [None] * len(result.values)
    return [names[index] for index in classes]


def _probability(result: TokenAttributions, multi_label: bool) -> Tensor | None:
    """The probability (B,) of the target; None where the scores are not those of several classes."""
    if result.output.dim() != 2 or result.output.shape[1] < 2 or result.targets.shape[1] != 1:
        return None
    output = _floating(result.output)
    return (output.sigmoid() if multi_label else output.softmax(-1)).gather(1, result.targets.cpu())[:, 0]


def _labels(labels: Any | None, rows: int) -> pa.Array:
    if labels is None:
        return pa.nulls(rows, pa.int64())
    if isinstance(labels, Tensor):
        labels = (_floating(labels) if labels.is_floating_point() else labels).tolist()
    known = pa.array(list(labels))
    return known.cast(pa.int64()) if pa.types.is_null(known.type) else known
