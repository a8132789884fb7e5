"""Attention-game Shapley values in SHAP's workflows and plots."""

from shap_attn import plots
from shap_attn.explainer import AttentionExplainer
from shap_attn.frames import explanation_from_frame
from shap_attn.hierarchy import AttentionText
from shap_attn.plots import relabel
from shap_attn.pooling import pool

__all__ = ["AttentionExplainer", "AttentionText", "explanation_from_frame", "plots", "pool", "relabel"]


def __dir__() -> list[str]:
    return __all__
