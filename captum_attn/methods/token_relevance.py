"""What explanations have in common that say how relevant each token of the input is to each token at the top."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal, Unpack, get_args

import torch
from torch import Tensor

from captum_attn.core import ObservedForward
from captum_attn.core.readout import KnownRows, RowWeights
from captum_attn.core.targets import Target
from captum_attn.methods.attribution import CommonArguments, Explained, Inputs, OnePassAttribution, influence_of
from captum_attn.token_attributions import TokenAttributions

Rows = Literal["readout", "incoming"]
"""Which rows of a relevance matrix say what a token is worth: the readout token's, or the sum of all."""


class TokenRelevance(OnePassAttribution):
    """An explanation by a matrix R (B, N, N), the relevance of token j (column) to token i (row), and rows of it.

    Args:
        rows: a token's value is its relevance to the ``"readout"`` token (the literature's choice), or the sum of its
            relevance to all tokens that are no padding, ``"incoming"``.
        model, layers, heads, readout, tokenizer, additional_forward_arg_names: see
            :class:`captum_attn.AttentionAttribution`.

    Raises:
        TypeError, ValueError: an argument that is none of these.
    """

    def __init__(self, model: Callable[..., Any], *, rows: Rows = "readout", **common: Unpack[CommonArguments]) -> None:
        check_rows(rows)
        super().__init__(model, **common)
        self.rows = rows

    @abstractmethod
    def matrix_observer(self, explained: Explained, row_weights: RowWeights | None) -> Any:
        """An observer whose ``influence`` is R (B, N, N), or Σ_i weight_i R_ij (B, N) under row weights (B, N)."""

    def observer(self, explained: Explained) -> Any:
        rows = explained.readout if self.rows == "readout" else KnownRows(explained.real)
        return self.matrix_observer(explained, rows)

    def solve(self, explained: Explained, observer: Any) -> TokenAttributions:
        return explained.attributions(observer.influence)

    def matrix(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = None,
        *,
        show_progress: bool = False,
    ) -> Tensor:
        """The whole matrix R, special tokens and padding included.

        Args:
            inputs, target, additional_forward_args, internal_batch_size, show_progress: as in :meth:`attribute`.

        Returns:
            (B, N, N); row i says how relevant each token is to token i.

        Raises:
            TypeError, ValueError, IndexError, RuntimeError: as :meth:`attribute`.

        Example:
            >>> from captum_attn import AttentionRollout
            >>> AttentionRollout(model).matrix(batch).shape
            torch.Size([2, 6, 6])
        """

        def watch(explained: Explained) -> Any:
            return self.matrix_observer(explained, None)

        batch = self.model_inputs(inputs, additional_forward_args)
        return torch.cat(self._each(watch, influence_of, batch, target, internal_batch_size, show_progress))


def check_rows(rows: str) -> None:
    """Raise ``ValueError`` for unknown rows."""
    if rows not in get_args(Rows):
        raise ValueError(f"rows must be {' or '.join(map(repr, get_args(Rows)))}, got {rows!r}")


def check_one_stack(run: ObservedForward, method: str) -> None:
    """Raise ``ValueError`` for a model whose output is not read from the top of one stack, layer above layer."""
    if run.sorted.side_by_side:
        raise ValueError(
            f"{method} follows relevance from layer to layer, but those of {type(run.model).__name__} have several "
            "attention calls side by side. RawAttention, NormAttention, GradSAM, IntegratedAttention and "
            "ShapleyGradAttention take the mean over all calls"
        )
    if run.crosses_stacks:
        raise ValueError(
            f"{method} follows relevance down one stack of layers, from the states that the output is read from, but "
            f"another stack of this {type(run.model).__name__} reads the tokens, such as a decoder by cross attention. "
            "Expected an encoder or a decoder alone; RawAttention, NormAttention, GradSAM, IntegratedAttention and "
            "ShapleyGradAttention explain encoder-decoder models"
        )
