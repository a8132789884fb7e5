"""Attention-game Shapley values in SHAP's workflows and plots."""

from shap_attn import plots
from shap_attn.explainer import AttentionExplainer
from shap_attn.frames import explanation_from_frame
from shap_attn.generation_explainer import GenerationExplainer
from shap_attn.hierarchy import AttentionText
from shap_attn.plots import relabel
from shap_attn.pooling import pool
from shap_attn.shap_baselines import ExactBaseline, PartitionBaseline

__all__ = [
    "AttentionExplainer",
    "AttentionText",
    "ExactBaseline",
    "GenerationExplainer",
    "PartitionBaseline",
    "explanation_from_frame",
    "plots",
    "pool",
    "relabel",
]


def __dir__() -> list[str]:
    return __all__
