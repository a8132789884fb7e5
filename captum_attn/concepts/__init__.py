"""T-TCAV: which concepts move a prediction, where in the input, and how sure that is."""

from captum_attn._extras import brought_by

with brought_by("concepts"):
    from captum_attn.bench import UnreadableError
    from captum_attn.concepts.cavs import (
        CAVEstimator,
        CAVs,
        DiscriminantCAVs,
        EstimatorName,
        LogisticCAVs,
        pattern_cavs,
    )
    from captum_attn.concepts.concept_scores import ConceptScores, cav_agreement
    from captum_attn.concepts.concept_states import ConceptStates, Scope
    from captum_attn.concepts.concept_warnings import warn_of_weak_tests
    from captum_attn.concepts.confounds import ExplainedInputs
    from captum_attn.concepts.experimental_sets import ExperimentalSets
    from captum_attn.concepts.layers import Layer, find_layers, layer_labels
    from captum_attn.concepts.sensitivity_maps import SensitivityMaps
    from captum_attn.concepts.ttcav import TTCAV

agreement = cav_agreement

__all__ = [
    "TTCAV",
    "CAVEstimator",
    "CAVs",
    "ConceptScores",
    "ConceptStates",
    "DiscriminantCAVs",
    "EstimatorName",
    "ExperimentalSets",
    "ExplainedInputs",
    "Layer",
    "LogisticCAVs",
    "Scope",
    "SensitivityMaps",
    "UnreadableError",
    "agreement",
    "cav_agreement",
    "find_layers",
    "layer_labels",
    "pattern_cavs",
    "warn_of_weak_tests",
]


def __dir__() -> list[str]:
    return __all__
