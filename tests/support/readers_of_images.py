"""Tiny models that read an image among words, with processors, as they would be loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from chat_models import chat_model
from models import randomized
from PIL import Image

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
NO_ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


def _tokenizer(*names: str) -> Any:
    tokenizer = chat_model()[1]
    tokenizer.add_tokens(list(names), special_tokens=True)
    return tokenizer


def _of_pillow(name: str) -> Any:
    """An image processor that needs no torchvision; lower versions of transformers have none."""
    return getattr(hf, name, None) or pytest.skip(f"this transformers has no {name}")


def _random(model: Any) -> Any:
    torch.manual_seed(0)
    return randomized(model)


def llava() -> tuple[Any, Any]:
    """Sixteen patches, and a chat template with parts."""
    tokenizer = _tokenizer("<image>")
    processor = hf.LlavaProcessor(
        image_processor=_of_pillow("CLIPImageProcessorPil")(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_center_crop=True
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**SIZES, image_size=32, patch_size=8),
        text_config=hf.LlamaConfig(**SIZES, **NO_ENDS, vocab_size=len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    return _random(hf.LlavaForConditionalGeneration(config)), processor


def gemma3() -> tuple[Any, Any]:
    """Four pooled patches, with signs around them, and types of tokens."""
    tokenizer = _tokenizer("<boi>", "<eoi>", "<soft>")
    tokenizer.boi_token, tokenizer.eoi_token, tokenizer.image_token = "<boi>", "<eoi>", "<soft>"
    tokenizer.boi_token_id, tokenizer.image_token_id = tokenizer.convert_tokens_to_ids(["<boi>", "<soft>"])
    processor = hf.Gemma3Processor(
        image_processor=_of_pillow("Gemma3ImageProcessorPil")(size={"height": 32, "width": 32}),
        tokenizer=tokenizer,
        image_seq_length=4,
    )
    config = hf.Gemma3Config(
        vision_config={**SIZES, "image_size": 32, "patch_size": 8},
        text_config={
            **SIZES,
            **NO_ENDS,
            "vocab_size": len(tokenizer),
            "num_key_value_heads": 2,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
        },
        image_token_index=tokenizer.image_token_id,
        mm_tokens_per_image=4,
    )
    return _random(hf.Gemma3ForConditionalGeneration(config)), processor


def photograph(seed: int = 0) -> Image.Image:
    """Noise of 40 × 50 pixels."""
    pixels = np.random.default_rng(seed).random((40, 50, 3)) * 255
    return Image.fromarray(pixels.astype("uint8"))
