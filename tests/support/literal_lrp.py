"""The rules of AttnLRP and CP-LRP as the papers write them: explicit relevance messages, layer by layer, no autograd.

A message from output i to input j is (z_ij / z_i) R_i: what the input contributed, in units of the whole. Everything is
float64, of one example without padding.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def of_linear(relevance: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """R_j = Σ_i W_ij x_j / (Σ_k W_ik x_k + b_i) R_i (the ε rule, ε → 0)."""
    output = state @ weight.T if bias is None else state @ weight.T + bias
    return state * ((relevance / output) @ weight)


def of_sum(relevance: Tensor, *terms: Tensor) -> list[Tensor]:
    """Each term gets its part of the sum."""
    whole = torch.stack([term.expand_as(relevance) for term in terms]).sum(0)
    return [term / whole * relevance for term in terms]


def of_layer_norm(relevance: Tensor, state: Tensor, norm: nn.LayerNorm) -> Tensor:
    """A linear layer whose weights are (δ_ij − 1/D) γ_i / σ."""
    width = state.shape[-1]
    centring = torch.eye(width, dtype=state.dtype) - 1 / width
    found = torch.empty_like(state)
    for token in range(len(state)):
        sigma = (state[token].var(correction=0) + norm.eps).sqrt()
        weight = centring * (norm.weight / sigma)[:, None]
        found[token] = of_linear(relevance[token], state[token], weight, norm.bias)
    return found


def of_softmax(relevance: Tensor, scores: Tensor) -> Tensor:
    """R_i = x_i (R_i − s_i Σ_j R_j), the first-order term; a masked score gets nothing."""
    probabilities = scores.softmax(-1)
    found = scores * (relevance - probabilities * relevance.sum(-1, keepdim=True))
    return torch.where(probabilities == 0, 0.0, found)


def of_matrix_product(relevance: Tensor, left: Tensor, right: Tensor, share: float = 0.5) -> tuple[Tensor, Tensor]:
    """R_ip = Σ_q share · L_ip R_pq / O_iq R_iq, and the same of the right factor."""
    part = share * relevance / (left @ right)
    return left * (part @ right.mT), right * (left.mT @ part)


def of_attention(
    relevance: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool, constant: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Of (H, N, d) queries, keys and values, from relevance (H, N, d) of what attention returns."""
    products = query @ key.mT
    scores = products * scale
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
    attention = scores.softmax(-1)
    if constant:
        return torch.zeros_like(query), torch.zeros_like(key), of_matrix_product(relevance, attention, value, 1.0)[1]
    of_probabilities, of_value = of_matrix_product(relevance, attention, value)
    of_query, of_key = of_matrix_product(of_softmax(of_probabilities, scores), query, key.mT)
    return of_query, of_key, of_value.clone() if False else of_value if of_key is None else _ordered(of_query, of_key, of_value)
