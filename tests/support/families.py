"""Tiny random models of every family that the core must explain, and how to feed them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

VOCABULARY = 60
PAD, CLS, SEP = 1, 2, 3
_TEXT = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "num_labels": 3}
_SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
_IMAGE = {**_SMALL, "image_size": 12, "patch_size": 4, "num_channels": 3, "num_labels": 3}
_GROUPED = {**_TEXT, **_SMALL, "num_key_value_heads": 2, "head_dim": 8}
_SEQ2SEQ = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": SEP, "num_labels": 3}


@dataclass(frozen=True)
class Family:
    """A model family and how to build a tiny one; ``own_code`` is attention that no interface can replace."""

    model_class: type[nn.Module]
    config: Callable[[], Any]
    vision: bool = False
    own_code: bool = False

    def build(
        self, dtype: torch.dtype = torch.float32, implementation: str | None = None, device: str | torch.device = "cpu"
    ) -> Any:
        torch.manual_seed(0)
        options = {} if implementation is None else {"attn_implementation": implementation}
        model = self.model_class._from_config(self.config(), **options)
        for parameter in model.parameters():  # tiny models attend almost uniformly unless weights are larger
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2)
        return model.eval().to(device, dtype)


FAMILIES: dict[str, Family] = {
    "bert": Family(hf.BertForSequenceClassification, lambda: hf.BertConfig(**_TEXT, **_SMALL)),
    "roberta": Family(hf.RobertaForSequenceClassification, lambda: hf.RobertaConfig(**_TEXT, **_SMALL)),
    "distilbert": Family(
        hf.DistilBertForSequenceClassification,
        lambda: hf.DistilBertConfig(**_TEXT, dim=32, n_layers=3, n_heads=4, hidden_dim=48),
    ),
    "electra": Family(
        hf.ElectraForSequenceClassification, lambda: hf.ElectraConfig(**_TEXT, **_SMALL, embedding_size=16)
    ),
    "albert": Family(hf.AlbertForSequenceClassification, lambda: hf.AlbertConfig(**_TEXT, **_SMALL, embedding_size=16)),
    "modernbert": Family(
        hf.ModernBertForSequenceClassification,
        lambda: hf.ModernBertConfig(
            **_TEXT,
            **_SMALL,
            cls_token_id=CLS,
            bos_token_id=CLS,
            sep_token_id=SEP,
            eos_token_id=SEP,
            local_attention=10,
        ),
    ),
    "deberta_v2": Family(
        hf.DebertaV2ForSequenceClassification,
        lambda: hf.DebertaV2Config(
            **_TEXT, **_SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"], max_position_embeddings=32
        ),
        own_code=True,
    ),
    "gpt2": Family(
        hf.GPT2ForSequenceClassification,
        lambda: hf.GPT2Config(**_TEXT, n_embd=32, n_layer=3, n_head=4, bos_token_id=CLS, eos_token_id=SEP),
    ),
    "llama": Family(hf.LlamaForSequenceClassification, lambda: hf.LlamaConfig(**_GROUPED)),
    "qwen2": Family(hf.Qwen2ForSequenceClassification, lambda: hf.Qwen2Config(**_GROUPED)),
    "gemma2": Family(
        hf.Gemma2ForSequenceClassification,
        lambda: hf.Gemma2Config(**_GROUPED, sliding_window=4, query_pre_attn_scalar=8, attn_logit_softcapping=5.0),
    ),
    "t5": Family(
        hf.T5ForSequenceClassification,
        lambda: hf.T5Config(
            **_SEQ2SEQ, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, decoder_start_token_id=PAD
        ),
    ),
    "bart": Family(
        hf.BartForSequenceClassification,
        lambda: hf.BartConfig(
            **_SEQ2SEQ,
            d_model=32,
            encoder_layers=3,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            bos_token_id=CLS,
            decoder_start_token_id=SEP,
        ),
    ),
    "vit": Family(hf.ViTForImageClassification, lambda: hf.ViTConfig(**_IMAGE), vision=True),
    "deit": Family(hf.DeiTForImageClassification, lambda: hf.DeiTConfig(**_IMAGE), vision=True),
    "dinov2": Family(hf.Dinov2ForImageClassification, lambda: hf.Dinov2Config(**_IMAGE), vision=True),
    "dinov2_registers": Family(
        hf.Dinov2WithRegistersForImageClassification,
        lambda: hf.Dinov2WithRegistersConfig(**_IMAGE, num_register_tokens=2),
        vision=True,
    ),
    "beit": Family(
        hf.BeitForImageClassification, lambda: hf.BeitConfig(**_IMAGE, use_relative_position_bias=True), vision=True
    ),
}


def text_batch(padding: str = "right", length: int = 9) -> dict[str, Tensor]:
    """Three texts of 9, 6 and 4 tokens, ``[CLS] … [SEP]`` each, padded on one side."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.full((3, length), PAD)
    for row, tokens in enumerate((length, length - 3, length - 5)):
        words = torch.randint(5, VOCABULARY, (tokens - 2,), generator=generator)
        text = torch.tensor([CLS, *words.tolist(), SEP])
        start = length - tokens if padding == "left" else 0
        input_ids[row, start : start + tokens] = text
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long()}


def image_batch(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Three random images of 12 × 12 pixels."""
    return {"pixel_values": torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(2)).to(dtype)}


def batch(
    family: Family,
    padding: str = "right",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> dict[str, Tensor]:
    """Inputs that fit the family."""
    return on(device, image_batch(dtype) if family.vision else text_batch(padding))


def on(device: str | torch.device, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same inputs on a device."""
    return {name: value.to(device) for name, value in inputs.items()}


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Textbook attention in the precision of the query (the library's eager code rounds to float32)."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = scores if softcap is None else softcap * (scores / softcap).tanh()
    for bias in (attention_mask, position_bias):
        scores = scores if bias is None else scores + bias
    probabilities = scores.softmax(-1)
    return (probabilities @ value).transpose(1, 2).contiguous(), probabilities


hf.AttentionInterface.register("plain", plain_attention)
hf.AttentionMaskInterface.register("plain", ALL_MASK_ATTENTION_FUNCTIONS["eager"])


def eager_reference(
    family: Family, model: nn.Module, inputs: dict[str, Tensor], target: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, C), A and G (B, L, H, N, N), from a copy in eager attention, by returned attentions."""
    eager = family.build(dtype, implementation="eager", device=next(model.parameters()).device)
    eager.load_state_dict(copy.deepcopy(model.state_dict()))
    if not family.own_code:
        eager.set_attn_implementation("plain")
    output = eager(**inputs, output_attentions=True)
    attentions = output.encoder_attentions if "encoder_attentions" in output else output.attentions
    gradients = torch.autograd.grad(output.logits[:, target].sum(), attentions)
    return output.logits.detach(), torch.stack(attentions, 1).detach(), torch.stack(gradients, 1)
