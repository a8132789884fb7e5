"""Captum's forms of a target, checked: which score of each example is explained."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_attn.core.indices import as_index
from captum_attn.core.labels import class_number
from captum_attn.core.models import config_of
from captum_attn.core.run import ObservedForward

Index = int | str
Target = Index | tuple[Index, ...] | Tensor | list[int] | list[str] | list[tuple[Index, ...]] | None
"""An int or a class's name, a tuple (token, class), a list of these, an integer tensor; None, the predicted class."""


class Selection(NamedTuple):
    """The scores to explain.

    Attributes:
        scores: (B,), with the output's graph.
        targets: int64 (B, k): the class (k = 1), the token and the class (k = 2), nothing (k = 0: one score only).
        positions: int64 (B,), the token of the input whose output is explained; None where the output is one per
            example, or a decoder's.
    """

    scores: Tensor
    targets: Tensor
    positions: Tensor | None


def target_of_each(target: Target, batch: int) -> list[tuple[Index, ...]] | None:
    """The target of each example as a tuple of indices; None for the predicted class.

    Names of classes become numbers in :func:`select_target`, when the output is known.

    Raises:
        TypeError, ValueError: no form of target that Captum knows, or not one for each example.
    """
    if target is None:
        return None
    each: Any = target
    if hasattr(each, "__array__") and not isinstance(each, Tensor | str):
        array = each.__array__()
        each = array.tolist() if array.dtype.kind in "OU" else torch.as_tensor(array)
    if isinstance(each, Tensor):
        if each.is_floating_point() or each.dtype == torch.bool or each.dim() > 2:
            raise TypeError(
                f"a target tensor must hold integers (B,), or (B, 2) for tokens and classes, got {each.dtype} of shape "
                f"{tuple(each.shape)}"
            )
        each = list(map(tuple, each.tolist())) if each.dim() == 2 else each.flatten().tolist()
        each = each[0] if len(each) == 1 else each
    if not isinstance(each, list):
        each = [each] * batch
    if len(each) != batch:
        raise ValueError(f"{len(each)} targets for a batch of {batch}: give one for each example, or one for all")
    rows = [entry if isinstance(entry, tuple) else (entry,) for entry in each]
    try:
        return [tuple(index if isinstance(index, str) else as_index(index) for index in row) for row in rows]
    except TypeError:
        raise TypeError(
            "target must be an int, the name of a class, a tuple of these, a list of these, an integer tensor or None, "
            f"got {target!r}"
        ) from None


def select_target(run: ObservedForward, targets: list[tuple[Index, ...]] | None) -> Selection:
    """Select one score of each example.

    Args:
        run: a forward pass whose output is (B,), (B, C) or (B, N, C).
        targets: what :func:`target_of_each` returns; negative indices count from the end, those of tokens from the
            last one that is no padding. The configuration of the model that ran tells the numbers of names.

    Raises:
        ValueError: targets that do not fit the output, or name padding or no class; a score that is not finite.
        IndexError: a target out of range.
    """
    output, tokens = run.output, run.output_tokens
    if targets is None:
        indices = _predicted(output)
    else:
        rows = [_numbered(row, output, run) for row in targets]
        if tokens is not None:
            of_each = [None] * len(rows) if tokens.real is None else tokens.real
            rows = [(_token_index(row, real), *row[1:]) for row, real in zip(rows, of_each, strict=True)]
        indices = _checked(output, rows)
    scores = selected(output, indices)
    if not scores.isfinite().all():
        examples = (~scores.isfinite()).nonzero().flatten().tolist()
        raise ValueError(
            f"the model's output is not finite (NaN or infinite) for the examples {examples}, so there is nothing to "
            "explain. Check the inputs and the weights; half precision may have overflowed"
        )
    if not run.rows_are_examples:
        raise ValueError(
            f"a row of the output {tuple(output.shape)} depends on other examples of the {len(output)} than its own: "
            "rows are classes, tokens, one example's or means over the batch, or examples see each other. Each row "
            "must hold the scores of one example, (B,), (B, C) or (B, N, C), that depend on no other"
        )
    return Selection(scores, indices, indices[:, 0] if tokens is not None and tokens.of_the_input else None)


def selected(output: Tensor, targets: Tensor) -> Tensor:
    """The scores that checked targets select.

    Args:
        output: (B,), (B, C) or (B, N, C).
        targets: int64 (B, k), as of :class:`Selection`.

    Returns:
        (B,), with the output's graph.

    Example:
        >>> selected(torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([[1], [0]]))
        tensor([1., 2.])
    """
    if output.dim() == 1:
        return output
    indices = targets.to(output.device)
    return output[(torch.arange(len(output), device=output.device), *indices.unbind(1))]


def as_tuples(targets: Tensor) -> list[tuple[Index, ...]]:
    """Checked targets, int64 (B, k), in Captum's form: a tuple of indices for each example."""
    return [tuple(row) for row in targets.tolist()]


def no_selection(output: Tensor) -> Selection:
    """No scores at all, for what does not depend on any."""
    return Selection(output.new_empty(0), torch.empty(len(output), 0, dtype=torch.long), None)


def _numbered(target: tuple[Index, ...], output: Tensor, run: ObservedForward) -> tuple[int, ...]:
    """The target with the number of its class in place of the name."""
    numbers = tuple(index for index in target if not isinstance(index, str))
    if len(numbers) == len(target):
        return numbers
    name = target[-1]
    alone = len(numbers) == len(target) - 1 and isinstance(name, str)
    if not alone or output.dim() not in (2, 3) or len(target) != output.dim() - 1:
        raise ValueError(
            f"target {target[0] if len(target) == 1 else target!r} does not select one score of each example from the "
            f"output {tuple(output.shape)}: a name is a class's, alone for outputs (B, C) and as (token, name) for "
            "outputs (B, N, C)"
        )
    return (*numbers, class_number(str(name), config_of(run.model), output.shape[-1]))


def _predicted(output: Tensor) -> Tensor:
    """The predicted classes, int64 (B, 1), or (B, 0) for an output of one score each."""
    if output.dim() > 2:
        raise ValueError(
            f"the output {tuple(output.shape)} has more than one score for each class, so a target is needed: a "
            "tuple (token, class) where there is one for each token, or a list with such a tuple for each example"
        )
    return output.detach().argmax(-1, keepdim=True) if output.dim() == 2 else output.new_zeros(len(output), 0).long()


def _token_index(target: tuple[int, ...], real: Tensor | None) -> int:
    """The token of a target (token, class), counted from the front."""
    token = target[0]
    if real is None:
        if token < 0:
            raise ValueError(
                f"target {target} counts from the last token of a decoder, of whose tokens it is not known which are "
                "padding, as the model makes them itself: count from the front. Of a Hugging Face model, give "
                "decoder_input_ids and decoder_attention_mask along with the inputs"
            )
        return token
    own = real.nonzero().flatten().tolist()
    if token < 0:
        if -token > len(own):
            raise IndexError(f"target {target} is out of range: there are {len(own)} tokens that are no padding")
        return int(own[token])
    if token < len(real) and token not in own:
        raise ValueError(f"target {target} names a token that is padding; the others are {own[0]}..{own[-1]}")
    return token


def _checked(output: Tensor, targets: list[tuple[int, ...]]) -> Tensor:
    """The targets, int64 (B, k), all of them in range and none negative."""
    sizes = output.shape[1:]
    for row in targets:
        given = row[0] if len(row) == 1 else row
        if len(row) != len(sizes):
            expected = {0: "None (there is one score only)", 1: "a class", 2: "a tuple (token, class)"}.get(
                len(sizes), f"a tuple of {len(sizes)} indices"
            )
            raise ValueError(
                f"target {given} does not select one score of each example from the output {tuple(output.shape)}: "
                f"expected {expected}"
            )
        if not all(-size <= index < size for index, size in zip(row, sizes, strict=True)):
            ranges = " and ".join(f"{-size}..{size - 1}" for size in sizes)
            raise IndexError(f"target {given} is out of range for the output {tuple(output.shape)}: expected {ranges}")
    indices = torch.tensor(targets, dtype=torch.long, device=output.device).view(len(output), len(sizes))
    return indices % torch.tensor(sizes, dtype=torch.long, device=output.device)
