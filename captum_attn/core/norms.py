"""How long the vectors are that tokens contribute to each other's states, beyond how much attention they get.

With f_h(j) token j's value in head h under the output projection, what token i takes from token j is the vector
F_ij = Σ_h A_h[i, j] f_h(j). Its squared length is a quadratic form in the H attention probabilities, with the Gram
matrix of the f_h(j), so that no (N, N, D) tensor is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from captum_attn.core.outputs import AttentionOutput
from captum_attn.core.readout import RowWeights
from captum_attn.core.tiles import Tile, widen


class ContributionForm(NamedTuple):
    """What the lengths of a layer's contributions depend on, besides its attention.

    Attributes:
        gram: (B, N, H, H), inner products of the f_h(j) of each token j.
        with_residual: (B, N, H), inner products of the f_h(i) with token i's own state; None without residual.
        residual: (B, N), squared lengths of these states; None likewise.
        gain: (B, N, 1), by which token i's contributions are multiplied: the layer norm's 1 / standard deviation; None
            without layer norm.
    """

    gram: Tensor
    with_residual: Tensor | None = None
    residual: Tensor | None = None
    gain: Tensor | None = None

    def of(self, examples: slice) -> ContributionForm:
        """That of some examples."""
        others = (None if part is None else part[examples] for part in self[1:])
        return ContributionForm(self.gram[examples], *others)


def contribution_form(output: AttentionOutput, heads: Sequence[int], count: int, residual: bool) -> ContributionForm:
    """The quadratic form of one layer.

    Args:
        output: what followed the layer's attention, with a projection, and with a residual connection if wanted.
        heads: those that count, of ``count``.
        residual: whether a token's own state is part of what it contributes to itself, and whether a layer norm right
            after the sum is applied to the contributions.
    """
    if output.projection is None:
        raise ValueError("there is no output projection")
    projection = widen(output.projection).unflatten(-1, (count, -1))
    value = widen(output.value).repeat_interleave(count // output.value.shape[1], 1)
    kept = list(heads)
    vectors = torch.einsum("bhnd,ohd->bnho", value[:, kept], projection[:, kept])
    if not residual or output.residual is None:
        return ContributionForm(vectors @ vectors.mT)
    own = widen(output.residual)
    if output.norm is not None:
        vectors, own = output.norm.linear_part(vectors), output.norm.linear_part(own)
    return ContributionForm(
        vectors @ vectors.mT,
        (vectors @ own.unsqueeze(-1)).squeeze(-1),
        own.square().sum(-1),
        None if output.norm is None else output.norm.spread,
    )


def contribution_norms(attention: Tensor, form: ContributionForm, queries: slice) -> Tensor:
    """Lengths of what each query takes from each key.

    Args:
        attention: (b, H, q, N), of all heads that count.
        form: of the same examples.
        queries: which of the N tokens the q queries are.

    Returns:
        (b, q, N).
    """
    by_key = attention.permute(0, 3, 2, 1)
    squares = ((by_key @ form.gram) * by_key).sum(-1).mT
    if form.with_residual is not None and form.residual is not None:
        places = torch.arange(queries.start, queries.stop, device=attention.device)
        own = attention[:, :, places - queries.start, places].mT
        added = 2 * (own * form.with_residual[:, queries]).sum(-1) + form.residual[:, queries]
        squares = squares.contiguous()
        squares[:, places - queries.start, places] += added
    norms = squares.clamp(min=0).sqrt()
    return norms if form.gain is None else norms * form.gain[:, queries]


class NormObserver:
    """Collect the lengths of contributions: the mean over layers of their matrix, or its rows under fixed weights.

    Attributes:
        layers: the layers that count, by which tiles are chosen.

    Args:
        shape: (B, H, N) of every layer's attention.
        outputs: what followed each of the layers that count, by its number.
        heads: the heads that count, in ascending order.
        residual: as of :func:`contribution_form`.
        row_weights: weights (B, N) of the rows; None keeps the whole matrix.
        like: a tensor of the dtype and on the device of the result.
    """

    whole_heads = True

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: dict[int, AttentionOutput],
        heads: Sequence[int],
        residual: bool,
        row_weights: RowWeights | None,
        like: Tensor,
    ) -> None:
        batch, self._count, length = shape
        self.layers, self._outputs, self._heads, self._residual = list(outputs), outputs, list(heads), residual
        weights = None if row_weights is None else row_weights.weights()
        self._weights = None if weights is None else weights.to(like)
        matrix = (length, length) if weights is None else (length,)
        self._total = like.new_zeros(batch, *matrix)
        self._form: tuple[int, ContributionForm] | None = None

    def __call__(self, tile: Tile) -> None:
        """Add one tile, which must hold all heads."""
        if tile.layer not in self._outputs:
            return
        examples, _, queries = tile.block
        form = self._form_of(tile.layer).of(examples)
        norms = contribution_norms(tile.attention[:, self._heads], form, queries).to(self._total.device)
        if self._weights is None:
            self._total[examples, queries] += norms
        else:
            self._total[examples] += (self._weights[examples, queries].unsqueeze(1) @ norms).squeeze(1)

    def _form_of(self, layer: int) -> ContributionForm:
        if self._form is None or self._form[0] != layer:
            form = contribution_form(self._outputs[layer], self._heads, self._count, self._residual)
            self._form = layer, form
        return self._form[1]

    @property
    def influence(self) -> Tensor:
        """(B, N, N), or (B, N) under row weights."""
        return self._total / len(self.layers)
