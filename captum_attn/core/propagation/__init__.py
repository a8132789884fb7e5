"""Gradients under rules: how relevance goes down a model that is not linear."""

from captum_attn.core.propagation.coverage import Coverage, check_coverage, coverage_of
from captum_attn.core.propagation.mode import PropagationMode
from captum_attn.core.propagation.replacements import (
    Applied,
    Linearised,
    Proportional,
    Rule,
    alias,
    constant,
    replaced,
    scaled,
    with_gradient_times,
)
from captum_attn.core.propagation.rule_sets import ATTNLRP, CP, GRADIENT, PROPAGATIONS, Propagation, propagation_named

__all__ = [
    "ATTNLRP",
    "CP",
    "GRADIENT",
    "PROPAGATIONS",
    "Applied",
    "Coverage",
    "Linearised",
    "Propagation",
    "PropagationMode",
    "Proportional",
    "Rule",
    "alias",
    "check_coverage",
    "constant",
    "coverage_of",
    "propagation_named",
    "replaced",
    "scaled",
    "with_gradient_times",
]
