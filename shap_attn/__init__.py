"""Attention-game Shapley values in SHAP's workflows and plots."""

from shap_attn.explainer import AttentionExplainer

__all__ = ["AttentionExplainer"]
