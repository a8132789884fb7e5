"""Attention-gradient explanations of transformers as Captum attributions.

The public names are imported when first used, so that ``captum_attn.core`` can be had without captum.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_attn.concepts import TTCAV
    from captum_attn.mask_tunnel import MaskTunnel
    from captum_attn.shapley import AttentionShapley, ShapleyAttention, ShapleyGradAttention
    from captum_attn.token_attributions import TokenAttributions

__all__ = ["TTCAV", "AttentionShapley", "MaskTunnel", "ShapleyAttention", "ShapleyGradAttention", "TokenAttributions"]

_HOMES = {
    "TTCAV": "captum_attn.concepts",
    "AttentionShapley": "captum_attn.shapley",
    "MaskTunnel": "captum_attn.mask_tunnel",
    "ShapleyAttention": "captum_attn.shapley",
    "ShapleyGradAttention": "captum_attn.shapley",
    "TokenAttributions": "captum_attn.token_attributions",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
