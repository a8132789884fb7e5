"""How long the vectors are that tokens contribute to each other's states, beyond how much attention they get.

With f_h(j) token j's value in head h under the output projection, what token i takes from token j is the vector
F_ij = Σ_h A_h[i, j] f_h(j). Its squared length is a quadratic form in the H attention probabilities, with the Gram
matrix of the f_h(j), so that no (N, N, D) tensor is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from captum_attn.core.after_attention import AfterAttention
from captum_attn.core.observers.watched import LayerObserver, Watched
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


def contribution_form(after: AfterAttention, heads: Sequence[int], count: int, residual: bool) -> ContributionForm:
    """The quadratic form of one layer.

    Args:
        after: what followed the layer's attention, with a projection, and with a residual connection if wanted.
        heads: those that count, of ``count``.
        residual: whether a token's own state is part of what it contributes to itself, and whether a layer norm right
            after the sum is applied to the contributions.
    """
    if after.projection is None:
        raise ValueError("there is no output projection")
    projection = widen(after.projection).unflatten(-1, (count, -1))
    value = widen(after.value).repeat_interleave(count // after.value.shape[1], 1)
    kept = list(heads)
    vectors = torch.einsum("bhnd,ohd->bnho", value[:, kept], projection[:, kept])
    if not residual or after.residual is None:
        return ContributionForm(vectors @ vectors.mT)
    own = widen(after.residual)
    if after.norm is not None:
        vectors, own = after.norm.linear_part(vectors), after.norm.linear_part(own)
    return ContributionForm(
        vectors @ vectors.mT,
        (vectors @ own.unsqueeze(-1)).squeeze(-1),
        own.square().sum(-1),
        None if after.norm is None else after.norm.spread,
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


class NormObserver(LayerObserver):
    """Collect the lengths of contributions: the mean over layers of their matrix, or its rows under fixed weights.

    Args:
        watched: as of :class:`LayerObserver`.
        after: what followed each of the watched layers, by its number.
        residual: as of :func:`contribution_form`.
        row_weights: weights (B, N) of the rows; None keeps the whole matrix.
    """

    whole_heads = True

    def __init__(
        self, watched: Watched, after: Mapping[int, AfterAttention], residual: bool, row_weights: RowWeights | None
    ) -> None:
        super().__init__(watched)
        self._after, self._residual = after, residual
        self._weights = None if row_weights is None else row_weights.weights().to(watched.like)
        self._total = watched.zeros(*(watched.length,) * (2 if row_weights is None else 1))
        self._form: tuple[int, ContributionForm] | None = None

    def take(self, tile: Tile) -> None:
        examples, _, queries = tile.block
        form = self._form_of(tile.layer).of(examples)
        norms = contribution_norms(tile.attention[:, self.watched.heads], form, queries).to(self._total.device)
        if self._weights is None:
            self._total[examples, queries] += norms
        else:
            self._total[examples] += (self._weights[examples, queries].unsqueeze(1) @ norms).squeeze(1)

    def _form_of(self, layer: int) -> ContributionForm:
        if self._form is None or self._form[0] != layer:
            count = self.watched.shape[1]
            self._form = layer, contribution_form(self._after[layer], self.watched.heads, count, self._residual)
        return self._form[1]

    @property
    def influence(self) -> Tensor:
        """(B, N, N), or (B, N) under row weights."""
        return self._total / len(self.watched.layers)
