"""Classifiers of more classes than their configurations name."""

from __future__ import annotations

from typing import Any

from helpers.small_models import load_text_model
from torch import Tensor, nn


class OwnHead(nn.Module):
    """A head of one's own on an encoder whose configuration names two classes."""

    def __init__(self, encoder: Any, classes: int = 5) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        scores: Tensor = self.head(self.encoder(input_ids, attention_mask, token_type_ids).last_hidden_state[:, 0])
        return scores


def own_head() -> nn.Module:
    return OwnHead(load_text_model()[0].bert).eval()


def replaced_head() -> nn.Module:
    """What many do, without a word to the configuration."""
    model = load_text_model()[0]
    model.classifier = nn.Linear(model.config.hidden_size, 5)
    return model


OWN_HEADS = [own_head, replaced_head]
