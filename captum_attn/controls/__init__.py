"""Does attention explain? Controls of a model's attention: correlations, replaced attention, other seeds."""

from captum_attn.controls.control_result import ControlResult
from captum_attn.controls.correlation import Correlations, attention_correlation
from captum_attn.controls.counterfactual import Counterfactuals, ReadoutAttention, counterfactual_attention
from captum_attn.controls.effects import AttentionEffects
from captum_attn.controls.permuted import permuted_attention
from captum_attn.controls.seeds import SeedVariance, seed_variance
from captum_attn.controls.uniform import uniform_attention
from captum_attn.functional import jensen_shannon, total_variation

__all__ = [
    "AttentionEffects",
    "ControlResult",
    "Correlations",
    "Counterfactuals",
    "ReadoutAttention",
    "SeedVariance",
    "attention_correlation",
    "counterfactual_attention",
    "jensen_shannon",
    "permuted_attention",
    "seed_variance",
    "total_variation",
    "uniform_attention",
]


def __dir__() -> list[str]:
    return __all__
