"""Attention-gradient explanations of transformers as Captum attributions."""

from captum_attn.shapley import ShapleyAttention, ShapleyGradAttention
from captum_attn.token_attributions import TokenAttributions

__all__ = ["ShapleyAttention", "ShapleyGradAttention", "TokenAttributions"]
