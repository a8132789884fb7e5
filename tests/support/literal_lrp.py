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
    return of_query, of_key.mT, of_value


def bert(model: Any, ids: Tensor, target: int, constant: bool) -> Tensor:
    """(N,), relevance of the word embeddings of a ``BertForSequenceClassification``."""
    embeddings = model.bert.embeddings
    words = embeddings.word_embeddings.weight[ids]
    positions, types = embeddings.position_embeddings.weight[: len(ids)], embeddings.token_type_embeddings.weight[:1]
    given = words + positions + types
    state, layers = embeddings.LayerNorm(given), []
    for layer in model.bert.encoder.layer:
        one = EncoderAttention(
            layer.attention.self.query,
            layer.attention.self.key,
            layer.attention.self.value,
            layer.attention.self.num_attention_heads,
        )
        mixed = one.mixed(state)
        first = layer.attention.output.dense(mixed) + state
        middle = layer.attention.output.LayerNorm(first)
        up = layer.intermediate.dense(middle)
        active = F.gelu(up)
        second = layer.output.dense(active) + middle
        layers.append((layer, one, state, mixed, first, middle, active, second))
        state = layer.output.LayerNorm(second)
    pooler, classifier = model.bert.pooler.dense, model.classifier
    pooled = pooler(state[0]).tanh()
    relevance = torch.zeros(classifier.out_features, dtype=state.dtype)
    relevance[target] = classifier(pooled)[target]
    relevance = of_linear(relevance, pooled, classifier.weight, classifier.bias)
    relevance = _in_first(of_linear(relevance, state[0], pooler.weight, pooler.bias), state)
    for layer, one, state, mixed, first, middle, active, second in reversed(layers):
        relevance = of_layer_norm(relevance, second, layer.output.LayerNorm)
        by_mlp, by_residual = of_sum(relevance, layer.output.dense(active), middle)
        by_mlp = of_linear(by_mlp, active, layer.output.dense.weight, layer.output.dense.bias)
        dense = layer.intermediate.dense
        relevance = by_residual + of_linear(by_mlp, middle, dense.weight, dense.bias)
        relevance = of_layer_norm(relevance, first, layer.attention.output.LayerNorm)
        dense = layer.attention.output.dense
        by_attention, by_residual = of_sum(relevance, dense(mixed), state)
        by_attention = of_linear(by_attention, mixed, dense.weight, dense.bias)
        relevance = by_residual + one.of_mixed(by_attention, state, constant)
    relevance = of_layer_norm(relevance, given, embeddings.LayerNorm)
    return of_sum(relevance, words, positions, types)[0].sum(-1)


def vit(model: Any, pixels: Tensor, target: int, constant: bool) -> Tensor:
    """(C, h, w), relevance of the pixels of a ``ViTForImageClassification``."""
    embeddings = model.vit.embeddings
    convolution = embeddings.patch_embeddings.projection
    size = convolution.kernel_size[0]
    patches = F.unfold(pixels[None], size, stride=size)[0].T
    weight = convolution.weight.flatten(1)
    tokens = torch.cat([embeddings.cls_token[0], patches @ weight.T + convolution.bias])
    positions = embeddings.position_embeddings[0]
    state, layers = tokens + positions, []
    for layer in model.vit.layers:
        attention = layer.attention
        one = EncoderAttention(attention.q_proj, attention.k_proj, attention.v_proj, model.config.num_attention_heads)
        normed = layer.layernorm_before(state)
        mixed = one.mixed(normed)
        middle = attention.o_proj(mixed) + state
        after = layer.layernorm_after(middle)
        active = F.gelu(layer.mlp.fc1(after))
        layers.append((layer, one, state, normed, mixed, middle, after, active))
        state = layer.mlp.fc2(active) + middle
    normed = model.vit.layernorm(state)
    relevance = torch.zeros(model.classifier.out_features, dtype=state.dtype)
    relevance[target] = model.classifier(normed[0])[target]
    relevance = _in_first(of_linear(relevance, normed[0], model.classifier.weight, model.classifier.bias), normed)
    relevance = of_layer_norm(relevance, state, model.vit.layernorm)
    for layer, one, state, normed, mixed, middle, after, active in reversed(layers):
        second, first = layer.mlp.fc2, layer.mlp.fc1
        by_mlp, by_residual = of_sum(relevance, second(active), middle)
        by_mlp = of_linear(by_mlp, active, second.weight, second.bias)
        by_mlp = of_linear(by_mlp, after, first.weight, first.bias)
        relevance = by_residual + of_layer_norm(by_mlp, middle, layer.layernorm_after)
        dense = layer.attention.o_proj
        by_attention, by_residual = of_sum(relevance, dense(mixed), state)
        by_attention = one.of_mixed(of_linear(by_attention, mixed, dense.weight, dense.bias), normed, constant)
        relevance = by_residual + of_layer_norm(by_attention, state, layer.layernorm_before)
    relevance = of_sum(relevance, tokens, positions)[0][1:]
    relevance = of_linear(relevance, patches, weight, convolution.bias)
    return F.fold(relevance.T[None], pixels.shape[1:], size, stride=size)[0]


def llama(model: Any, ids: Tensor, target: int, constant: bool) -> Tensor:
    """(N,), relevance of the embeddings of a ``LlamaForCausalLM`` for a score at the last token."""
    config, words = model.config, model.model.embed_tokens.weight[ids]
    groups = config.num_attention_heads // config.num_key_value_heads
    turns = _rotations(*(part[0] for part in model.model.rotary_emb(words[None], torch.arange(len(ids))[None])))
    state, layers = words, []
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        normed = _rms(state, layer.input_layernorm)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        query, key, value = (_by_head(projection(normed), config.head_dim) for projection in projections)
        shared = [part.repeat_interleave(groups, 0) for part in (_turned(key, turns), value)]
        turned = [_turned(query, turns), *shared]
        scores = turned[0] @ turned[1].mT * config.head_dim**-0.5
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
        mixed = (scores.softmax(-1) @ turned[2]).transpose(0, 1).flatten(1)
        middle = attention.o_proj(mixed) + state
        after = _rms(middle, layer.post_attention_layernorm)
        gate, up = F.silu(mlp.gate_proj(after)), mlp.up_proj(after)
        layers.append((layer, state, normed, query, key, turned, mixed, middle, after, gate, up))
        state = mlp.down_proj(gate * up) + middle
    relevance = torch.zeros(config.vocab_size, dtype=state.dtype)
    last = _rms(state, model.model.norm)[-1]
    relevance[target] = model.lm_head(last)[target]
    of_last = of_linear(relevance, last, model.lm_head.weight)
    relevance = torch.zeros_like(state)
    relevance[-1] = of_last  # a norm by the root mean square hands relevance on as it is
    for layer, state, normed, query, key, turned, mixed, middle, after, gate, up in reversed(layers):
        attention, mlp = layer.self_attn, layer.mlp
        by_mlp, by_residual = of_sum(relevance, mlp.down_proj(gate * up), middle)
        half = 0.5 * of_linear(by_mlp, gate * up, mlp.down_proj.weight)
        relevance = by_residual + of_linear(half, after, mlp.gate_proj.weight)
        relevance = relevance + of_linear(half, after, mlp.up_proj.weight)
        by_attention, by_residual = of_sum(relevance, attention.o_proj(mixed), state)
        by_attention = _by_head(of_linear(by_attention, mixed, attention.o_proj.weight), config.head_dim)
        scale = config.head_dim**-0.5
        of_query, of_key, of_value = of_attention(by_attention, *turned, scale, causal=True, constant=constant)
        of_key, of_value = (part.unflatten(0, (-1, groups)).sum(1) for part in (of_key, of_value))
        parts = (_of_turned(of_query, query, turns), _of_turned(of_key, key, turns), of_value)
        relevance = by_residual
        for part, projection in zip(parts, (attention.q_proj, attention.k_proj, attention.v_proj), strict=True):
            relevance = relevance + of_linear(part.transpose(0, 1).flatten(1), normed, projection.weight)
    return relevance.sum(-1)


class EncoderAttention:
    """Attention with projections that have biases."""

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, heads: int) -> None:
        self.projections, self.width = (query, key, value), query.out_features // heads

    def _projected(self, state: Tensor) -> list[Tensor]:
        return [_by_head(projection(state), self.width) for projection in self.projections]

    def mixed(self, state: Tensor) -> Tensor:
        query, key, value = self._projected(state)
        return ((query @ key.mT * self.width**-0.5).softmax(-1) @ value).transpose(0, 1).flatten(1)

    def of_mixed(self, relevance: Tensor, state: Tensor, constant: bool) -> Tensor:
        by_head, scale = _by_head(relevance, self.width), self.width**-0.5
        parts = of_attention(by_head, *self._projected(state), scale, causal=False, constant=constant)
        return torch.stack(
            [
                of_linear(part.transpose(0, 1).flatten(1), state, projection.weight, projection.bias)
                for part, projection in zip(parts, self.projections, strict=True)
            ]
        ).sum(0)


def _by_head(state: Tensor, width: int) -> Tensor:
    return state.unflatten(-1, (-1, width)).transpose(0, 1)


def _in_first(relevance: Tensor, state: Tensor) -> Tensor:
    return torch.cat([relevance[None], torch.zeros_like(state[1:])])


def _rms(state: Tensor, norm: Any) -> Tensor:
    return state / (state.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight


def _rotations(cosines: Tensor, sines: Tensor) -> Tensor:
    """(N, d, d), the matrix by which a query or key is turned at each position, of the model's own (N, d)."""
    half = cosines.shape[-1] // 2
    places = torch.arange(half)
    turns = torch.diag_embed(cosines)
    turns[:, places, places + half], turns[:, places + half, places] = -sines[:, :half], sines[:, :half]
    return turns


def _turned(state: Tensor, turns: Tensor) -> Tensor:
    return torch.einsum("nij,hnj->hni", turns, state)


def _of_turned(relevance: Tensor, state: Tensor, turns: Tensor) -> Tensor:
    found = torch.empty_like(state)
    for head in range(state.shape[0]):
        for token in range(state.shape[1]):
            found[head, token] = of_linear(relevance[head, token], state[head, token], turns[token])
    return found
