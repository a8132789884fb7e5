"""What made a language model write this? Responses, the tokens and sources behind them, and contrasts."""

from captum_attn.generation.explained_response import ExplainedResponse
from captum_attn.generation.generation_attention import GenerationAttention
from captum_attn.generation.prompt_sources import Source
from captum_attn.generation.prompts import Prompt

__all__ = ["ExplainedResponse", "GenerationAttention", "Prompt", "Source"]
