"""Is an explanation faithful to the model, or only pretty? Metrics, interventions, and evaluations side by side."""

from captum_attn.bench import MaskedModel
from captum_attn.metrics.catalogue import CATALOGUE, Metric
from captum_attn.metrics.evaluation import evaluate
from captum_attn.metrics.over_examples import (
    AOPC,
    Comprehensiveness,
    Deletion,
    Insertion,
    LogOdds,
    OverExamples,
    Sufficiency,
    TokenAUPRC,
    TokenF1,
    TokenIOU,
)
from captum_attn.metrics.results import Evaluation

__all__ = [
    "AOPC",
    "CATALOGUE",
    "Comprehensiveness",
    "Deletion",
    "Evaluation",
    "Insertion",
    "LogOdds",
    "MaskedModel",
    "Metric",
    "OverExamples",
    "Sufficiency",
    "TokenAUPRC",
    "TokenF1",
    "TokenIOU",
    "evaluate",
]


def __dir__() -> list[str]:
    return __all__
