"""Models and helpers that several tests share."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class PlainClassifier(nn.Module):
    """A classifier on ``nn.TransformerEncoder`` that takes embeddings (B, N, 16) and reads the first token."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(16, 3)

    def forward(self, embeddings: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        return self.head(self.encoder(embeddings, src_key_padding_mask=src_key_padding_mask)[:, 0])


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything about a model and the process that an explanation must not change."""
    return {
        "hooks": [
            (name, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), sorted(vars(m)))
            for name, m in model.named_modules()
        ],
        "modes": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "weights": copy.deepcopy(model.state_dict()),
        "implementation": getattr(getattr(model, "config", None), "_attn_implementation", None),
        "rng": torch.get_rng_state(),
        "rng_of_devices": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "fastpath": torch.backends.mha.get_fastpath_enabled(),
        "modes_on_stack": torch.overrides._get_current_function_mode_stack(),
        "grad_mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def randomized(model: Any, std: float = 0.2) -> Any:
    """The model in eval mode, with weights that are large enough for attention to matter."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=std)
    return model.eval()


@contextmanager
def left_untouched(model: nn.Module) -> Iterator[None]:
    """Assert that the block changes nothing about the model, not even if it raises."""
    before = state_of(model)
    try:
        yield
    finally:
        after = state_of(model)
        changed = [what for what in before if not same(before[what], after[what])]
        assert not changed, changed


def same(left: Any, right: Any) -> bool:
    """Equality that goes into containers and compares tensors exactly."""
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)
