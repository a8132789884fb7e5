"""What made a language model write this? Responses, the tokens and sources behind them, and contrasts."""

from captum_attn.generation.explained_response import ExplainedResponse
from captum_attn.generation.generation_attention import GenerationAttention
from captum_attn.generation.head_weights import HeadWeights
from captum_attn.generation.prompt_sources import Source, Sources, find_sources
from captum_attn.generation.prompts import Prompt, read_prompt, without_end
from captum_attn.generation.scored_response import ResponseClassifier, ScoredResponse, response_inputs
from captum_attn.generation.source_ablations import (
    fit_head_weights,
    leave_one_out,
    linear_datamodeling_score,
    random_absences,
    scores_without,
    top_k_drop,
)

__all__ = [
    "ExplainedResponse",
    "GenerationAttention",
    "HeadWeights",
    "Prompt",
    "ResponseClassifier",
    "ScoredResponse",
    "Source",
    "Sources",
    "find_sources",
    "fit_head_weights",
    "leave_one_out",
    "linear_datamodeling_score",
    "random_absences",
    "read_prompt",
    "response_inputs",
    "scores_without",
    "top_k_drop",
    "without_end",
]
