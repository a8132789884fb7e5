"""A small chat model with random weights."""

from __future__ import annotations

from typing import Any

import torch
from helpers.small_models import TEXT_MODEL
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


def chat_model() -> tuple[Any, Any]:
    """A decoder of three layers, and a tokenizer with a chat template."""
    tokenizer = AutoTokenizer.from_pretrained(TEXT_MODEL)
    tokenizer.chat_template = TEMPLATE
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), **sizes, num_key_value_heads=2, bos_token_id=None, eos_token_id=None, pad_token_id=0
    )
    return LlamaForCausalLM(config).eval(), tokenizer
