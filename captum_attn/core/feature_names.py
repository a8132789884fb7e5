"""The names under which Hugging Face models take what is explained, and which of several that is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from torch import Tensor

Modality = Literal["ids", "embeddings", "pixels", "sound", "video"]

FEATURE_NAMES: dict[str, tuple[Modality, ...]] = {
    "inputs_embeds": ("embeddings",),
    "pixel_values_videos": ("video",),
    "pixel_values": ("pixels", "video", "embeddings"),
    "input_values": ("sound",),
    "input_features": ("sound",),
    "input_ids": ("ids",),
}
"""In the order in which they are explained where a mapping has several, and what they hold.

Pixels that a processor has cut into patches, (B, N, D), are as embeddings: tokens already.
"""

DIMENSIONS: dict[Modality, tuple[int, ...]] = {
    "ids": (2,),
    "embeddings": (3,),
    "pixels": (4,),
    "sound": (2, 3),
    "video": (5,),
}
"""Of what is explained, that of the batch included."""


def features_name(mapping: Mapping[str, Any]) -> str | None:
    """What of a mapping is explained: embeddings before pixels before ids; None if it has none of them.

    Ids beside embeddings are what these were made of, and beside pixels a question or a prompt.

    Example:
        >>> features_name({"input_ids": ..., "pixel_values": ...}), features_name({"text": ...})
        ('pixel_values', None)
    """
    return next((name for name in FEATURE_NAMES if name in mapping), None)


def modality_names(mapping: Mapping[str, Any]) -> list[str]:
    """Each modality of a mapping, by the name of what is explained of it; ids beside embeddings are not one more.

    Example:
        >>> modality_names({"input_ids": ..., "attention_mask": ..., "pixel_values": ...})
        ['pixel_values', 'input_ids']
    """
    names = [name for name in FEATURE_NAMES if name in mapping]
    return [name for name in names if name != "input_ids" or "inputs_embeds" not in names]


def modality_of(features: Tensor, name: str | None) -> Modality:
    """What features are, by the name under which a model takes them; without one, by their form.

    Example:
        >>> modality_of(torch.zeros(2, 16000), "input_values"), modality_of(torch.zeros(2, 5, 8), None)
        ('sound', 'embeddings')
    """
    by_form: Modality = "ids"
    if features.is_floating_point():
        forms: dict[int, Modality] = {4: "pixels", 5: "video"}
        by_form = forms.get(features.dim(), "embeddings")
    known = FEATURE_NAMES.get(name or "", ())
    return by_form if by_form in known or not known else known[0]


def name_for(features: Tensor, taken: Collection[str]) -> str | None:
    """The argument of a model that takes such features, of those that it takes; None where no name says so."""
    for name, kinds in FEATURE_NAMES.items():
        of_form = any(features.dim() in DIMENSIONS[kind] for kind in kinds)
        if name in taken and of_form and features.is_floating_point() != (name == "input_ids"):
            return name
    return None


def usual_name(modality: Modality) -> str:
    """The name under which most models take it."""
    return "pixel_values" if modality == "video" else next(n for n, kinds in FEATURE_NAMES.items() if modality in kinds)
