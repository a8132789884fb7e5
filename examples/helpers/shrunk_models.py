"""A tiny random model of any class of transformers, and inputs that fit it, without a download.

The default configuration of the class is shrunk attribute by attribute (:data:`SIZES`), parts included. What that does
not build has a line in :data:`OVERRIDES`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

WIDTH, HEADS, HEAD_WIDTH, LAYERS, INNER = 32, 4, 8, 2, 48
VOCABULARY, LABELS, LENGTH, BATCH = 96, 3, 10, 2
PAD, START, END, FIRST_OTHER_SPECIAL, FIRST_WORD = 1, 2, 3, 4, 48
IMAGE, PATCH, WINDOW, FRAMES, SAMPLES = 32, 8, 4, 4, 3600
WITH_IMAGE = "image and text to text, with an image"
STD = 0.2
"""Tiny models attend almost uniformly unless their weights are larger than usual."""


def at_most(bound: int) -> Callable[[int], int]:
    return lambda value: min(value, bound)


def power_of_two(bound: int) -> Callable[[int], int]:
    """The largest one that is at most the value and the bound."""
    return lambda value: 1 << (min(value, bound).bit_length() - 1) if value > 0 else value


def unchanged(value: int) -> int:
    return value


SIZES: Sequence[tuple[str, Callable[[int], int]]] = (
    (r".*(kernel|stride|padding|dilation|ratio|factor).*|(in|out)_channels|num_channels|.*merge_size", unchanged),
    (r"num_(feat_extract|adapter)_layers|type_vocab_size|temporal_patch_size|num_frames|num_labels", unchanged),
    (r".*(rate|seed|seconds|offset|period|length)", unchanged),
    (r".*vocab.*", at_most(VOCABULARY)),
    (r"max_source_positions", at_most(LENGTH)),
    (r".*max.*position.*|n_positions|n_ctx|max_seq_len|context_length|model_max_length", at_most(64)),
    (r"max_window_layers|first_k_dense_replace|moe_layer_start_index|num_kv_shared_layers", at_most(1)),
    (r"(n|num|num_expert)_group|topk_group|.*shared_experts?", at_most(1)),
    (r".*(n|num)_?groups|.*(per_tok|per_token|topk|top_k|moe_k)", at_most(2)),
    (r".*experts?(_num)?", at_most(4)),
    (r"(.*_)?(layers?|n_layer|depth|depths|num_blocks|layers_per_stack|self_attends_per_block)", at_most(LAYERS)),
    (r"qk_head_dim", at_most(2 * HEAD_WIDTH)),
    (r".*(head_dim|d_kv|kv_channels|d_head|dim_head|head_size|headdim)|rotary_dim", at_most(HEAD_WIDTH)),
    (r".*heads?", power_of_two(HEADS)),
    (r".*rank", at_most(WIDTH // 2)),
    (r".*(intermediate|ffn|feed_forward|inner|mlp|d_ff|dff|dim_ff|ff_dim).*", at_most(INNER)),
    (r"(image|crop|input)_size", at_most(IMAGE)),
    (r".*patch_size", at_most(PATCH)),
    (r".*window.*|local_attention|.*chunk_size|block_size", at_most(WINDOW)),
    (r"num_mel_bins|input_feat_size", at_most(16)),
    (r".*(hidden|embed|embd|embedding|proj|model|output|conv|out|bottleneck|latents?).*", at_most(WIDTH)),
    (r".*(size|dim|width|channels|filters)", at_most(WIDTH)),
)
"""What becomes of a whole number: the first pattern that matches its whole name says it."""

MISSING: Mapping[str, Any] = {
    "head_dim": HEAD_WIDTH,
    "num_key_value_heads": HEADS // 2,
    "vocab_size": VOCABULARY,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
}
"""What stands for None where a configuration leaves it open."""

_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1}
_TWO_STAGES = {"depths": (2, 2), "num_heads": (2, 4)}
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_KINDS = {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2}

OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    "DbrxAttentionConfig": {"rope_theta": 1e4, "clip_qkv": 8.0},
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "bros": {"hidden_size": 64},
    "chameleon": {"vocabulary_map": {"<image>": FIRST_OTHER_SPECIAL}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {**_ROPE, "mrope_section": [2, 1, 1]}}},
    "cvt": {"depth": (1, 2, 3), "num_heads": (1, 2, 4)},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"]},
    "donut-swin": _TWO_STAGES,
    "efficientnet": {"hidden_dim": 2560},
    "emu3": {"vocabulary_map": {"<image>": FIRST_OTHER_SPECIAL, "<|extra_200|>": FIRST_OTHER_SPECIAL + 1}},
    "ernie4_5_vl_moe_text": {"rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2]}},
    "esm": {"vocab_size": VOCABULARY},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_unified_assistant_text": {"num_kv_shared_layers": 0},
    "glm5_next_text": {"index_topk": 16},
    "granitemoehybrid": {**_MAMBA, "layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "hiera": {"image_size": [64, 64]},
    "levit": {"image_size": 128, "patch_size": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lilt": {"hidden_size": 48},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "molmo2_adapter": {"vision_feature_layer": [1, 0]},
    "mistral4": {"head_dim": 2 * HEAD_WIDTH},
    "mobilevitv2": {"image_size": 64},
    "mobilevit": {"image_size": 64},
    "musicgen_decoder": {"num_codebooks": 1},
    "musicgen_melody_decoder": {"num_codebooks": 1},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 2},
    "neomme": {"head_dim": 16},
    "paddleocr_vl_text": {"rope_parameters": {**_ROPE, "mrope_section": [2, 1, 1]}},
    "perceiver": {"num_cross_attention_heads": 1},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 20},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 20},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_shape": (4, 16), "axial_pos_embds_dim": (16, 16)},
    "ReformerModelWithLMHead": {"is_decoder": True},
    "swin": _TWO_STAGES,
    "swinv2": _TWO_STAGES,
    "t5": {"decoder_start_token_id": PAD},
    "xmod": {"default_language": "en_XX"},
    "zamba": {**_KINDS, "attention_hidden_size": 64, "attention_head_dim": 16, "mamba_dt_rank": 4},
    "zamba2": {
        **_KINDS,
        "hybrid_layer_ids": [1, 3],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "n_mamba_heads": 8,
        "mamba_headdim": 8,
    },
}
"""Attributes of the configuration of a ``model_type``, or for one class, that the generic way does not find."""


def tiny_config(model_class: Any, labels: int) -> PreTrainedConfig:
    """The class's default configuration, shrunk."""
    return shrunk(model_class.config_class(), num_labels=labels, **OVERRIDES.get(model_class.__name__, {}))


def shrunk(config: PreTrainedConfig, **also: Any) -> PreTrainedConfig:
    """A configuration of the same class with small numbers and few layers, special tokens below the vocabulary."""
    values = {name: value for name, value in vars(config).items() if not name.startswith("_") and name not in _DERIVED}
    depth, layers = kept_layers(values)
    special = iter(range(FIRST_OTHER_SPECIAL, FIRST_WORD))
    small: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, PreTrainedConfig):
            small[name] = shrunk(value)
        elif _SPECIAL_ID.fullmatch(name):
            small[name] = special_id(name, value, special)
        elif isinstance(value, list | tuple) and len(value) == depth:
            small[name] = type(value)(value[layer] for layer in layers)
        elif name in _DEPTHS and value == depth:
            small[name] = len(layers)
        elif _KEY_VALUE_HEADS.fullmatch(name) and isinstance(value, int):
            small[name] = HEADS if value == values.get("num_attention_heads") else min(value, HEADS // 2)
        elif value is None:
            small[name] = MISSING.get(name)
        else:
            small[name] = smaller(name, value)
    if "pad_token_id" in small:
        small["pad_token_id"] = PAD
    if "mrope_section" in getattr(config, "ignore_keys_at_rope_validation", ()):
        small["rope_parameters"] = with_sections(small["rope_parameters"])
    return type(config)(**{**small, **OVERRIDES.get(config.model_type or type(config).__name__, {}), **also})


def smaller(name: str, value: Any) -> Any:
    """A small value for an attribute: of a list, for each entry."""
    if isinstance(value, list | tuple) and all(type(entry) is int for entry in value):
        return type(value)(smaller(name, entry) for entry in value)
    if type(value) is not int:
        return value
    return next((size(value) for pattern, size in SIZES if re.fullmatch(pattern, name)), value)


def kept_layers(values: Mapping[str, Any]) -> tuple[int | None, list[int]]:
    """The number of layers, and which of them to keep: one of each kind, where there are lists of kinds."""
    depth: int | None = next((values[name] for name in _DEPTHS if type(values.get(name)) is int), None)
    if depth is None or depth <= LAYERS or "depths" in values:  # stages are no layers
        return None, []
    lists = [value for value in values.values() if isinstance(value, list | tuple) and len(value) == depth]
    kinds = [value for value in lists if isinstance(value[0], str)]
    of_each: list[tuple[str, ...]] = list(zip(*kinds, strict=True)) if kinds else [()] * depth
    first = {kind: layer for layer, kind in reversed(list(enumerate(of_each)))}
    kept = sorted(first.values())
    return depth, kept + [kept[-1]] * (LAYERS - len(kept))


def with_sections(rope: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rotary parameters whose frequencies are divided among time, height and width."""
    frequencies = int(HEAD_WIDTH * rope.get("partial_rotary_factor", 1.0)) // 2
    third = frequencies // 3
    sections = {"mrope_section": [frequencies - 2 * third, third, third]}
    nested = {name: {**part, **sections} for name, part in rope.items() if isinstance(part, Mapping)}
    return {**rope, **(nested or sections)}


def special_id(name: str, value: Any, ids: Iterator[int]) -> Any:
    """The id of a special token: a known one, or the next one that is free. None and -1 stay."""
    if isinstance(value, list | tuple):
        return type(value)(special_id(name, one, ids) for one in value[:1])
    if not isinstance(value, int) or value < 0:
        return value
    known = {"pad": PAD, "bos": START, "cls": START, "decoder_start": START, "eos": END, "sep": END}
    return known.get(re.sub(r"_?(token_id|token_index|index)$", "", name)) or next(ids)


_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "depth")
_SPECIAL_ID = re.compile(r".*(token_id|token_index|mask_index|pad_index|bos_index|eos_index|tag_pad_id|subs_pad_id)")
_KEY_VALUE_HEADS = re.compile(r"(.*_)?(key_value|kv)_heads|kv_n_heads")
_DERIVED = frozenset(
    {"id2label", "label2id", "transformers_version", "architectures", "model_type", "ignore_keys_at_rope_validation"}
)


def tiny_model(model_class: Any, labels: int = LABELS, seed: int = 0) -> Any:
    """A model of the class with random weights that are larger than usual; norms and buffers are as they are made."""
    torch.manual_seed(seed)
    model = model_class(tiny_config(model_class, labels)).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and not _NO_WEIGHT.search(name):
            nn.init.normal_(parameter, std=STD)
    return model


_NO_WEIGHT = re.compile(r"(?i)norm[^.]*\.\w+$|A_log|dt_bias")


def tiny_inputs(model: Any, task: str) -> dict[str, Tensor]:
    """A batch that the model can read."""
    torch.manual_seed(1)
    taken = inspect.signature(model.forward).parameters
    if task.startswith(("audio", "speech")):
        return sound(model.config, taken)
    if task.startswith("video"):
        name = next(name for name in ("pixel_values_videos", "pixel_values") if name in taken)
        return {name: torch.rand(BATCH, getattr(model.config, "num_frames", FRAMES), *image_shape(model.config))}
    if task.startswith("image c") and "pixel_values" in taken:
        return images(model.config, taken)
    return with_image(model, taken) if task == WITH_IMAGE else texts(model.config, taken, task)


def with_image(model: Any, taken: Container[str]) -> dict[str, Tensor]:
    """Two texts of one length with places for an image's tokens, as many as the model makes of it."""
    seen = {"pixel_values": torch.rand(BATCH, *image_shape(model.config))}
    if "image_grid_thw" in taken:
        seen = cut_beforehand(model.config.vision_config)
    with torch.no_grad():
        features = model.get_image_features(**seen)
    features = getattr(features, "pooler_output", features)
    count = len(features[0]) if isinstance(features, list | tuple) or features.dim() == 3 else len(features) // BATCH
    token = next(getattr(model.config, name) for name in _IMAGE_TOKEN if getattr(model.config, name, None) is not None)
    words = torch.randint(FIRST_WORD, VOCABULARY, (BATCH, LENGTH - 3))
    ids = torch.cat([words[:, :3], torch.full((BATCH, count), token), words[:, 3:]], 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **seen}
    kinds = {name: (ids == token).long() for name in ("token_type_ids", "mm_token_type_ids") if name in taken}
    return {**inputs, **kinds}


def cut_beforehand(config: Any) -> dict[str, Tensor]:
    """Two images of 4 x 4 patches, as the processors of Qwen2-VL and its like cut them."""
    channels = getattr(config, "in_channels", getattr(config, "in_chans", 3))
    width = channels * getattr(config, "temporal_patch_size", 1) * config.patch_size**2
    return {
        "pixel_values": torch.rand(BATCH * 16, width),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * BATCH),
    }


_IMAGE_TOKEN = ("image_token_id", "image_token_index")


def images(config: Any, taken: Container[str]) -> dict[str, Tensor]:
    """Two images; cut into patches where a model takes images of any shape."""
    if "spatial_shapes" in taken:
        width = 3 * config.vision_config.patch_size**2
        return {
            "pixel_values": torch.rand(BATCH, 16, width),
            "pixel_attention_mask": torch.ones(BATCH, 16, dtype=torch.long),
            "spatial_shapes": torch.tensor([[4, 4]] * BATCH),
        }
    return {"pixel_values": torch.rand(BATCH, *image_shape(config))}


def sound(config: Any, taken: Container[str]) -> dict[str, Tensor]:
    """Samples, or spectra over time."""
    encoder = getattr(config, "encoder_config", config)
    mels = next((getattr(encoder, name) for name in _SPECTRUM if getattr(encoder, name, None)), WIDTH)
    if "input_features" in taken and hasattr(config, "encoder_layers"):
        return {"input_features": torch.randn(BATCH, mels, 2 * config.max_source_positions)}
    if "input_features" in taken:
        return {"input_features": torch.randn(BATCH, 64, mels)}
    if hasattr(config, "frequency_stride"):
        return {"input_values": torch.randn(BATCH, config.max_length, mels)}
    return {"input_values": torch.randn(BATCH, SAMPLES)}


_SPECTRUM = ("feature_projection_input_dim", "input_dim", "num_mel_bins")


def texts(config: Any, taken: Container[str], task: str) -> dict[str, Tensor]:
    """Two texts, the second one padded; with boxes, or the beginning of an answer, where the model takes them."""
    words = min(getattr(config.get_text_config(), "vocab_size", VOCABULARY) or VOCABULARY, VOCABULARY)
    ids = torch.full((BATCH, LENGTH), PAD)
    for row, length in enumerate((LENGTH, LENGTH - 3)):
        ids[row, :length] = torch.randint(FIRST_WORD, words, (length,))
        ids[row, 0], ids[row, length - 1] = START, END
        if task == "question answering":
            ids[row, 2:4] = END  # between question and text
    inputs = {"input_ids" if "input_ids" in taken else "inputs": ids}
    if "attention_mask" in taken:
        inputs["attention_mask"] = (ids != PAD).long()
    if "bbox" in taken:
        corner = torch.randint(0, 8, (*ids.shape, 2))
        boxes = torch.cat((corner, corner + torch.randint(1, 8, corner.shape)), -1)
        inputs["bbox"] = boxes / 16 if "visual_bbox" in taken else boxes
    if "decoder_input_ids" in taken and task in _GENERATING:
        # As long as the text, so that a decoder's attention could be taken for the encoder's.
        inputs["decoder_input_ids"] = torch.randint(FIRST_WORD, words, (BATCH, LENGTH))
    return inputs


def image_shape(config: Any) -> tuple[int, ...]:
    """(C, h, w)"""
    parts = [config, getattr(config, "vision_config", None)]
    size = next((part.image_size for part in parts if getattr(part, "image_size", None)), IMAGE)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return getattr(config, "num_channels", 3), height, width


_GENERATING = ("sequence to sequence", "causal language modelling", "image and text to text")
