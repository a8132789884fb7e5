"""Attention explanations spelled out from their definitions, on attention A and gradients G, (B, L, H, N, N)."""

from __future__ import annotations

import networkx as nx
import torch
from torch import Tensor


def raw_attention(attention: Tensor) -> Tensor:
    return attention.mean((1, 2))


def rollout(attention: Tensor, residual: float = 0.5) -> Tensor:
    """Abnar and Zuidema: from the lowest layer up, one matrix product after the other."""
    identity = torch.eye(attention.shape[-1], dtype=attention.dtype)
    joint = identity.expand_as(attention[:, 0, 0])
    for layer in attention.mean(2).unbind(1):
        joint = (residual * identity + (1 - residual) * layer) @ joint
    return joint


def generic_relevance(attention: Tensor, gradient: Tensor) -> Tensor:
    """Chefer, Gur and Wolf: R starts as the identity, and each layer adds its share."""
    relevance = torch.eye(attention.shape[-1], dtype=attention.dtype).expand_as(attention[:, 0, 0])
    for layer in range(attention.shape[1]):
        mean = (attention[:, layer] * gradient[:, layer]).clamp(min=0).mean(1)
        relevance = relevance + mean @ relevance
    return relevance


def gradient_rollout(attention: Tensor, gradient: Tensor) -> Tensor:
    joint = torch.eye(attention.shape[-1], dtype=attention.dtype).expand_as(attention[:, 0, 0])
    for layer in range(attention.shape[1]):
        mean = (attention[:, layer] * gradient[:, layer]).clamp(min=0).mean(1)
        kept = mean + torch.eye(attention.shape[-1], dtype=attention.dtype)
        joint = (kept / kept.sum(-1, keepdim=True)) @ joint
    return joint


def kept_of_itself(attention: Tensor, gradient: Tensor) -> Tensor:
    """What each token keeps in :func:`gradient_rollout` by residual connections alone, (B, N)."""
    sums = 1 + (attention * gradient).clamp(min=0).mean(2).sum(-1)
    return sums.prod(1).reciprocal()


def grad_sam(attention: Tensor, gradient: Tensor, real: Tensor) -> Tensor:
    gathered = (attention * gradient.clamp(min=0)).sum(-1).mean((1, 2))
    return gathered / real.sum(-1, keepdim=True)


def flow_graph(capacities: Tensor) -> nx.DiGraph:
    """A graph of layers (L, N, N), lowest first: node (l, i) is token i above l layers."""
    graph = nx.DiGraph()
    for layer, matrix in enumerate(capacities.tolist()):
        for start, row in enumerate(matrix):
            for end, capacity in enumerate(row):
                if capacity > 0:
                    graph.add_edge((layer + 1, start), (layer, end), capacity=capacity)
    return graph


def attention_flow(attention: Tensor, readout: int, residual: float = 0.5) -> Tensor:
    """Of one example (L, H, N, N): the maximum flow from the readout token to each token, (N,)."""
    layers, _, length, _ = attention.shape
    capacities = residual * torch.eye(length) + (1 - residual) * attention.mean(1)
    graph = flow_graph(capacities)
    return torch.tensor([nx.maximum_flow_value(graph, (layers, readout), (0, token)) for token in range(length)])
