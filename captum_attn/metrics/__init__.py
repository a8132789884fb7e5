"""Is an explanation faithful to the model, or only pretty? Metrics, interventions, and evaluations side by side."""

from captum_attn.bench import MaskedModel
from captum_attn.metrics.evaluation import evaluate
from captum_attn.metrics.faithfulness import AOPC, Comprehensiveness, Deletion, Insertion, LogOdds, Sufficiency
from captum_attn.metrics.plausibility import TokenAUPRC, TokenF1, TokenIOU
from captum_attn.metrics.results import Evaluation

__all__ = [
    "AOPC",
    "Comprehensiveness",
    "Deletion",
    "Evaluation",
    "Insertion",
    "LogOdds",
    "MaskedModel",
    "Sufficiency",
    "TokenAUPRC",
    "TokenF1",
    "TokenIOU",
    "evaluate",
]


def __dir__() -> list[str]:
    return __all__
