"""Configurations of models of text inside those of images and text."""

from __future__ import annotations

import transformers as hf


def nested_configs(**text) -> list[hf.PretrainedConfig]:
    """Some that have ``text`` for their language model and say none of it themselves."""
    text = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, **text}
    vision = hf.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    return [
        hf.LlavaConfig(text_config=hf.LlamaConfig(**text)),
        hf.Gemma3Config(text_config=hf.Gemma3TextConfig(**text)),
        hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, hf.BertConfig(**text)),
    ]
