"""Attribution methods, one or a family in each module; here is what they are made of, for methods of your own."""

from captum_attn.methods.attribution import (
    AttentionAttribution,
    CommonArguments,
    Explained,
    Inputs,
    OnePassAttribution,
    influence_of,
)
from captum_attn.methods.integrated_attn_lrp import IntegratedAttnLRP
from captum_attn.methods.one_pass import explain_in_one_pass
from captum_attn.methods.shapley import (
    AttentionShapley,
    CustomGame,
    Estimator,
    GameOrAuto,
    ShapleyAttention,
    ShapleyGradAttention,
)
from captum_attn.methods.token_relevance import Rows, TokenRelevance, check_rows

__all__ = [
    "AttentionAttribution",
    "AttentionShapley",
    "CommonArguments",
    "CustomGame",
    "Estimator",
    "Explained",
    "GameOrAuto",
    "Inputs",
    "IntegratedAttnLRP",
    "OnePassAttribution",
    "Rows",
    "ShapleyAttention",
    "ShapleyGradAttention",
    "TokenRelevance",
    "check_rows",
    "explain_in_one_pass",
    "influence_of",
]


def __dir__() -> list[str]:
    return __all__
