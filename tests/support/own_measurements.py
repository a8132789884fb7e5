"""Measurements as an outside user would write them: of public names alone."""

from __future__ import annotations

import math

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from captum_attn import AttentionRollout
from lightning_callbacks import Measurement


class RolloutEntropy(Measurement):
    """Entropy of what the prediction draws on the tokens, by attention rollout up to each layer, in nats."""

    def prepare(self, model, probe):
        layers = range(model.config.num_hidden_layers)
        self.names = [f"rollout_entropy/layer_{layer}" for layer in layers]
        self.methods = [AttentionRollout(model, layers=range(layer + 1)) for layer in layers]

    def numbers(self, seen):
        rows = torch.stack([rollout.values for rollout in seen.attributions], 2)
        return torch.special.entr(rows / rows.sum(1, keepdim=True)).sum(1)


class ProbingAccuracy(Measurement):
    """How well a linear probe tells labels apart by the states of each layer that the prediction is read from."""

    def prepare(self, model, probe):
        if probe.labels is None:
            raise ValueError("a probe learns from labels, and the probe set has none")
        layers = range(model.config.num_hidden_layers)
        self.names = [f"probing_accuracy/layer_{layer}" for layer in layers]
        self.modules = [f"bert.encoder.layer.{layer}" for layer in layers]
        self.width = model.config.hidden_size * len(layers)

    def numbers(self, seen):
        return torch.cat([(seen.readout[:, :, None] * states.hidden).sum(1) for states in seen.states], 1)

    def metrics(self, numbers, labels):
        if labels.unique(return_counts=True)[1].min() < 3:
            return dict.fromkeys(self.names, math.nan)
        each = zip(self.names, numbers.chunk(len(self.names), 1), strict=True)
        probe = LogisticRegression(max_iter=1000)
        return {name: cross_val_score(probe, states, labels, cv=3).mean() for name, states in each}
