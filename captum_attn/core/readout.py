"""Which tokens the explained output is read from.

Rows of an influence matrix are weighted by objects with one question, :meth:`RowWeights.weights`: what they weigh may
be known beforehand, or only when a gradient has left the last layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from captum_attn.core.indices import as_index
from captum_attn.core.tokens import Tokens
from captum_attn.core.user_warnings import warn_user

Readout = int | Literal["auto", "mean"]


class RowWeights(Protocol):
    """Weights of the N tokens as rows (queries) of a matrix."""

    def weights(self) -> Tensor:
        """(B, N), of any dtype."""


@dataclass(frozen=True)
class KnownRows:
    """Weights (B, N) that are known beforehand."""

    values: Tensor

    def weights(self) -> Tensor:
        return self.values


@dataclass(frozen=True)
class ReachedRows:
    """The tokens that scores are read from, each row with the sum 1.

    They are those whose attention in the last layer a gradient reaches: the class token, the last token, all tokens
    where they are pooled, the token of the target.

    Args:
        reached: finds them, bool (B, N).
        like: a tensor of the weights' dtype and device.
    """

    reached: Callable[[], Tensor]
    like: Tensor

    def weights(self) -> Tensor:
        rows = self.reached().to(self.like)
        return rows / rows.sum(-1, keepdim=True).clamp(min=1)


def check_readout(readout: Any) -> Readout:
    """The readout, an index as an int; ``ValueError`` unless it is ``"auto"``, ``"mean"`` or an index."""
    if isinstance(readout, str) and readout in ("auto", "mean"):
        return readout  # type: ignore[return-value]
    try:
        return as_index(readout)
    except TypeError:
        raise ValueError(f"readout must be 'auto', 'mean' or the index of a token, got {readout!r}") from None


def rows_by_rule(
    readout: Readout,
    *,
    tokens: Tokens,
    images: bool,
    positions: Tensor | None,
    config: Any | None,
    causal: bool,
    read_by_others: bool,
) -> KnownRows:
    """The readout that was asked for, or what the model's kind says where no gradient can tell.

    Args:
        readout: an index (negative: from the end), ``"mean"`` for the players of an image, or all tokens of a text that
            are no padding, or ``"auto"``: the mean where the configuration says so (BEiT, ModernBERT) or other stacks
            read the tokens (T5, BART); else the token that the target names (``positions``), the last token that is no
            padding in a causal decoder, and the first one in an encoder.
        tokens: of a forward pass, on images or not.
        positions: int64 (B,), the token whose output is explained; None where the output is one per example.
        config: the model's configuration.
        causal, read_by_others: of the pass.

    Raises:
        ValueError: an index out of range; the mean over players that nothing names.
    """
    real = tokens.real
    batch, length = real.shape
    if readout == "auto":
        mean = getattr(config, "use_mean_pooling", False) or getattr(config, "classifier_pooling", "") == "mean"
        if read_by_others or (mean and positions is None):
            readout = "mean"
    if readout == "mean":
        weights = (tokens.players if images else real).double()
        return KnownRows(weights / weights.sum(-1, keepdim=True))
    if readout != "auto":
        if not -length <= readout < length:
            raise ValueError(f"readout={readout} is out of range for {length} tokens: expected {-length}..{length - 1}")
        positions = torch.full((batch,), readout % length, device=real.device)
    elif positions is None:
        order = torch.arange(length, device=real.device)
        positions = (order * real).argmax(-1) if causal else real.int().argmax(-1)
    one_hot = torch.zeros(real.shape, dtype=torch.double, device=real.device)
    return KnownRows(one_hot.scatter(1, positions[:, None], 1.0))


def warn_of_rule(causal: bool) -> None:
    """Say that the readout is a guess."""
    warn_user(
        "the model's weights have no gradients, so its readout cannot be found: the output is taken to be read from "
        f"the {'last' if causal else 'first'} token, or as the configuration says; readout= says otherwise"
    )
