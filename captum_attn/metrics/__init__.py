"""Is an explanation faithful to the model, or only pretty? Metrics, interventions, and evaluations side by side."""

from captum_attn._extras import brought_by

with brought_by("metrics"):
    from captum_attn.bench import MaskedModel
    from captum_attn.metrics.catalogue import CATALOGUE, F1_PERCENTAGE, Metric, Need, ReportScale, known_metrics
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
    from captum_attn.metrics.paired_differences import Gain, PairedDifferences
    from captum_attn.metrics.record import UNTOUCHED
    from captum_attn.metrics.results import Evaluation
    from captum_attn.metrics.scored_batch import ScoredBatch

__all__ = [
    "AOPC",
    "CATALOGUE",
    "F1_PERCENTAGE",
    "UNTOUCHED",
    "Comprehensiveness",
    "Deletion",
    "Evaluation",
    "Gain",
    "Insertion",
    "LogOdds",
    "MaskedModel",
    "Metric",
    "Need",
    "OverExamples",
    "PairedDifferences",
    "ReportScale",
    "ScoredBatch",
    "Sufficiency",
    "TokenAUPRC",
    "TokenF1",
    "TokenIOU",
    "evaluate",
    "known_metrics",
]


def __dir__() -> list[str]:
    return __all__
