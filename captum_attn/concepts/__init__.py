"""T-TCAV: which concepts move a prediction, where in the input, and how sure that is."""

from captum_attn.bench import UnreadableError
from captum_attn.concepts.cavs import CAVEstimator, CAVs, DiscriminantCAVs, LogisticCAVs, pattern_cavs
from captum_attn.concepts.results import ConceptScores, agreement
from captum_attn.concepts.sensitivity_maps import SensitivityMaps
from captum_attn.concepts.ttcav import TTCAV

__all__ = [
    "TTCAV",
    "CAVEstimator",
    "CAVs",
    "ConceptScores",
    "DiscriminantCAVs",
    "LogisticCAVs",
    "SensitivityMaps",
    "UnreadableError",
    "agreement",
    "pattern_cavs",
]


def __dir__() -> list[str]:
    return __all__
