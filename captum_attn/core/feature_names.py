"""The names under which Hugging Face models take what is explained, and which of several that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Modality = Literal["ids", "embeddings", "pixels"]

FEATURE_NAMES: dict[Modality, str] = {
    "embeddings": "inputs_embeds",
    "pixels": "pixel_values",
    "ids": "input_ids",
}
"""In the order in which they are explained where a mapping has several."""


def features_name(mapping: Mapping[str, Any]) -> str | None:
    """What of a mapping is explained: embeddings before pixels before ids; None if it has none of them.

    Ids beside embeddings are what these were made of, and beside pixels a question or a prompt.

    Example:
        >>> features_name({"input_ids": ..., "pixel_values": ...}), features_name({"text": ...})
        ('pixel_values', None)
    """
    return next((name for name in FEATURE_NAMES.values() if name in mapping), None)
