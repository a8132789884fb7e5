"""Attention times gradient by other means than ours: in eager code, with ``torch.autograd.grad``.

What a model returns under ``output_attentions=True`` in eager attention says which layers there are. For models that
return none, softmax is recorded, with ``scaled_dot_product_attention`` spelled out. Nothing here is of ``captum_attn``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

Select = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Recorded:
    """Attention probabilities (B, H, Q, K) with their graph, and the name of the innermost module that made them."""

    owner: str
    attention: Tensor


@dataclass(frozen=True)
class Reference:
    """What the explanation of one score of each example must be.

    Attributes:
        layers: A ⊙ G of each layer of the stack that reads the features, (B, H, Q, K).
        source: how the attention was got.
        recorded: how many were recorded, which may be more than the model returns.
    """

    layers: Sequence[Tensor]
    source: Literal["returned", "recorded"]
    recorded: int


def reference(model: Any, run: Callable[..., Any], select: Select, tolerance: float) -> Reference:
    """A ⊙ G of the layers in which the features' tokens attend to each other, first without any change to the model.

    Args:
        model: is left in eager attention.
        run: runs the model; options are passed on to it.
        select: the scores (B,) of what the model returns.
        tolerance: of scores in eager attention; if they differ by more, what is returned there does not count.
    """
    with recording(model) as recorded:
        scores = select(run())
    recorded_gradients = gradients(scores, recorded)
    products = used_once(recorded, recorded_gradients)
    found = [
        (one.owner, of_heads(product, len(scores)))
        for one, product in products
        if not is_router(one.attention) and not _CROSS.search(one.owner)
    ]
    layers = [layer for owner, layer in found if not _DECODER.search(owner)] or [layer for _, layer in found]
    returned = returned_layers(model, run, select, scores.detach(), tolerance)
    again = len(recorded_gradients) - sum(gradient is None for gradient in recorded_gradients) > len(products)
    alone = not getattr(model.config, "is_encoder_decoder", False)
    more = alone and returned is not None and go_on(layers, returned, tolerance)
    if returned and not again and not more:  # what is returned has the gradient of one use only
        return Reference(returned, "returned", len(layers))
    return Reference(layers, "recorded", len(layers))


def go_on(layers: Sequence[Tensor], returned: Sequence[Tensor], tolerance: float) -> bool:
    """Whether there are more layers than the model returns: a pooler of its own, or more than one for each stage."""
    if len(layers) <= len(returned):
        return False
    if len({layer.shape for layer in returned}) > 1:
        return True
    if len({layer.shape for layer in (*layers, *returned)}) > 1:
        return False
    pairs = list(zip(layers, returned, strict=False))
    return all((one - other).abs().max() <= tolerance * other.abs().max() for one, other in pairs)


def used_once(recorded: Sequence[Recorded], found: Sequence[Tensor | None]) -> list[tuple[Recorded, Tensor]]:
    """A ⊙ G of each attention with a gradient; one, where a module computes the same A again for other values."""
    products: list[tuple[Recorded, Tensor]] = []
    for one, gradient in zip(recorded, found, strict=True):
        if gradient is None:
            continue
        product = one.attention.detach() * gradient
        if products and products[-1][0].owner == one.owner and torch.equal(products[-1][0].attention, one.attention):
            product = products.pop()[1] + product
        products.append((one, product))
    return products


def is_router(probabilities: Tensor) -> bool:
    """Whether a softmax of three dimensions relates tokens to something else, such as experts."""
    return probabilities.dim() == 3 and probabilities.shape[1] != probabilities.shape[2]


def of_heads(layer: Tensor, batch: int) -> Tensor:
    """(B, H, Q, K) of (B · H, Q, K); others as they are."""
    return layer.unflatten(0, (batch, -1)) if layer.dim() == 3 and len(layer) % batch == 0 else layer


def gradients(scores: Tensor, recorded: Sequence[Recorded]) -> Sequence[Tensor | None]:
    """Of the sum of the scores; None for attention on which they do not depend."""
    attentions = [one.attention for one in recorded]
    return torch.autograd.grad(scores.sum(), attentions, allow_unused=True) if attentions else ()


def returned_layers(
    model: Any, run: Callable[..., Any], select: Select, scores: Tensor, tolerance: float
) -> list[Tensor] | None:
    """A ⊙ G of the attentions that the model returns in eager attention: the encoder's if there are two stacks."""
    try:
        model.set_attn_implementation("eager")
        output = run(output_attentions=True)
    except Exception:  # whatever the class does not support
        return None
    name = "encoder_attentions" if getattr(model.config, "is_encoder_decoder", False) else "attentions"
    attentions = [one for one in getattr(output, name, None) or () if isinstance(one, Tensor) and one.requires_grad]
    eager = select(output)
    if not all(one.min() >= 0 and one.sum(-1).max() < 1.001 for one in attentions):
        return None  # ProphetNet returns scores
    if not attentions or (eager - scores).abs().max() > tolerance * scores.abs().max():
        return None
    found = torch.autograd.grad(eager.sum(), attentions, allow_unused=True)
    if any(gradient is None for gradient in found):
        return None
    return [attention.detach() * gradient for attention, gradient in zip(attentions, found, strict=True)]


@contextmanager
def recording(model: nn.Module) -> Iterator[list[Recorded]]:
    """Collect what softmax returns of (…, Q, K) scores, in the order in which it runs."""
    recorded: list[Recorded] = []
    running: list[str] = []
    names = {module: name for name, module in model.named_modules()}
    softmax = torch.softmax

    def keep(probabilities: Tensor) -> Tensor:
        if probabilities.dim() > 2 and probabilities.requires_grad:
            recorded.append(Recorded(running[-1] if running else "", probabilities))
        return probabilities

    def watched(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args, **options: keep(original(*args, **options))

    def spelled_out(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa:
            key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None:
            scores = scores + (torch.where(attn_mask, 0.0, -math.inf) if attn_mask.dtype == torch.bool else attn_mask)
        idle = (scores == -math.inf).all(-1, keepdim=True)
        return keep(softmax(scores.masked_fill(idle, 0.0), -1).masked_fill(idle, 0.0)) @ value

    def enter(module: nn.Module, *_: Any) -> None:
        running.append(names.get(module, ""))

    def leave(*_: Any) -> None:
        running.pop()

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            mock.patch.object(torch, "softmax", watched(torch.softmax)),
            mock.patch.object(Tensor, "softmax", watched(Tensor.softmax)),  # F.softmax calls this one
            mock.patch.object(F, "scaled_dot_product_attention", spelled_out),
        ):
            yield recorded
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for hook in hooks:
            hook.remove()


_CROSS = re.compile(r"(?i)cross_?att|enc_?dec_?att|encoder_att")
_DECODER = re.compile(r"(^|\.)decoder\.")
