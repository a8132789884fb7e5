"""Small causal language models of several families, with random weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

SIZES: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "num_key_value_heads": 2, "intermediate_size": 48}
GPT: dict[str, Any] = {"vocab_size": 50, "n_embd": 32, "n_layer": 3, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
DECODERS: dict[str, Any] = {
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT)),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**SIZES)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**SIZES, head_dim=8)),
    "gemma2, sliding and soft-capped": lambda: hf.Gemma2ForCausalLM(
        hf.Gemma2Config(**SIZES, head_dim=8, sliding_window=4, attn_logit_softcapping=2.0)
    ),
    "gemma3, sliding": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(
            **SIZES, head_dim=8, sliding_window=4, layer_types=["sliding_attention"] * 2 + ["full_attention"]
        )
    ),
    "mistral, sliding": lambda: hf.MistralForCausalLM(hf.MistralConfig(**SIZES, sliding_window=5)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**SIZES)),
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**SIZES, num_local_experts=4)),
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32)),
    "roberta, whose positions begin behind padding's": lambda: hf.RobertaForCausalLM(
        hf.RobertaConfig(**{**SIZES, "num_key_value_heads": None}, is_decoder=True, max_position_embeddings=40)
    ),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(**{**GPT, "hidden_size": 32})),
}


def decoder(name: str) -> Any:
    torch.manual_seed(0)
    return DECODERS[name]().eval()


def recurrent(scale: float = 6) -> Any:
    """A decoder with recurrent layers, of weights so large that its recurrence matters."""
    layers = {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4}
    torch.manual_seed(0)
    model = hf.JambaForCausalLM(hf.JambaConfig(**SIZES, **layers, num_experts=1, use_mamba_kernels=False)).eval()
    enlarge(model, scale)
    return model


def enlarge(model: Any, scale: float) -> None:
    """Multiply a model's matrices."""
    for weight in model.parameters():
        weight.data.mul_(scale if weight.dim() > 1 else 1)
