"""A tiny random model of any class of transformers, and inputs that fit it, without a download.

The default configuration of the class is shrunk attribute by attribute (:data:`SIZES`), parts included. What that does
not build has a line in :data:`OVERRIDES`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig

WIDTH, HEADS, HEAD_WIDTH, LAYERS, INNER = 32, 4, 8, 2, 48
VOCABULARY, LABELS, LENGTH, BATCH = 96, 3, 10, 2
PAD, START, END, FIRST_OTHER_SPECIAL, FIRST_WORD = 1, 2, 3, 4, 48
IMAGE, PATCH, WINDOW, FRAMES, SAMPLES = 32, 8, 4, 4, 3600
STD = 0.2
"""Tiny models attend almost uniformly unless their weights are larger than usual."""


def at_most(bound: int) -> Callable[[int], int]:
    return lambda value: min(value, bound)


SIZES: Sequence[tuple[str, Callable[[int], int]]] = (
    (r"max_window_layers|first_k_dense_replace|moe_layer_start_index", at_most(1)),
    (r"num_feat_extract_layers|num_adapter_layers|num_kv_shared_layers|sampling_rate|num_frames|seed", lambda value: value),
    (r"type_vocab_size|num_labels|num_channels|in_channels|spatial_merge_size|temporal_patch_size", lambda value: value),
    (r".*vocab.*", at_most(VOCABULARY)),
    (r"max_source_positions", at_most(LENGTH)),
    (r".*max.*position.*|n_positions|n_ctx|max_seq_len|context_length|model_max_length|seq_length", at_most(64)),
    (r"(.*_)?(n|num)_(group|expert_group)|topk_group", at_most(1)),
    (r".*shared_experts?", at_most(1)),
    (r".*(per_tok|per_token|topk|top_k|moe_k)", at_most(2)),
    (r".*experts?(_num)?", at_most(4)),
    (r"(.*_)?(layers?|n_layer|n_layers|depth|num_blocks|layers_per_stack|num_self_attends_per_block)", at_most(LAYERS)),
    (r"qk_head_dim", at_most(2 * HEAD_WIDTH)),
    (r".*(head_dim|d_kv|kv_channels|d_head|dim_head|head_size|headdim)", at_most(HEAD_WIDTH)),
    (r".*heads?", at_most(HEADS)),
    (r".*rank", at_most(WIDTH // 2)),
    (r".*(intermediate|ffn|feed_forward|inner|mlp|d_ff|dff|dim_ff|ff_dim).*", at_most(INNER)),
    (r"(image|crop|input)_size", at_most(IMAGE)),
    (r".*patch_size", at_most(PATCH)),
    (r".*window.*|local_attention|.*chunk_size|block_size", at_most(WINDOW)),
    (r"num_mel_bins|input_feat_size", at_most(16)),
    (r".*(hidden|embed|embd|embedding|projection|proj|model|output|conv|out|bottleneck|latents?).*(size|dim|channels)?", at_most(WIDTH)),
    (r".*(size|dim|width|channels|filters)", at_most(WIDTH)),
)
"""What becomes of a whole number: the first pattern that matches its whole name says it."""

OVERRIDES: Mapping[str, Mapping[str, Any]] = {}
"""Attributes of the configuration of a ``model_type`` that are set after the shrinking."""


def tiny_config(config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """The class's default configuration, shrunk."""
    return shrunk(config_class(), num_labels=LABELS)


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
        else:
            small[name] = smaller(name, value)
    if "pad_token_id" in small:
        small["pad_token_id"] = PAD
    return type(config)(**{**small, **OVERRIDES.get(config.model_type, {}), **also})


def smaller(name: str, value: Any) -> Any:
    """A small value for an attribute: of a list, for each entry."""
    if isinstance(value, list | tuple) and all(type(entry) is int for entry in value):
        return type(value)(smaller(name, entry) for entry in value)
    if type(value) is not int:
        return value
    return next((size(value) for pattern, size in SIZES if re.fullmatch(pattern, name)), value)


def kept_layers(values: Mapping[str, Any]) -> tuple[int | None, list[int]]:
    """The number of layers, and which of them to keep: one of each kind, where there are lists of kinds."""
    depth = next((values[name] for name in _DEPTHS if type(values.get(name)) is int), None)
    kinds = [v for v in values.values() if isinstance(v, list | tuple) and len(v) == depth and v and isinstance(v[0], str)]
    if depth is None or depth <= LAYERS:
        return None, []
    of_each = list(zip(*kinds, strict=True)) if kinds else [()] * depth
    first = {kind: layer for layer, kind in reversed(list(enumerate(of_each)))}
    kept = sorted(first.values())
    return depth, kept + [kept[-1]] * (LAYERS - len(kept))


def special_id(name: str, value: Any, ids: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(special_id(name, one, ids) for one in value[:1])
    if not isinstance(value, int) or value < 0:
        return value
    known = {"pad": PAD, "bos": START, "cls": START, "decoder_start": START, "eos": END, "sep": END}
    return known.get(re.sub(r"_?(token_id|token_index|index)$", "", name)) or next(ids)


_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "depth")
_SPECIAL_ID = re.compile(r".*(token_id|token_index|mask_index|pad_index|bos_index|eos_index|tag_pad_id|subs_pad_id)")
_KEY_VALUE_HEADS = re.compile(r"(.*_)?(key_value|kv)_heads|kv_n_heads")
_DERIVED = frozenset({"id2label", "label2id", "transformers_version", "architectures", "model_type"})


def tiny_model(model_class: type[nn.Module], seed: int = 0) -> Any:
    """A model of the class with random weights that are larger than usual; norms and buffers are as they are made."""
    torch.manual_seed(seed)
    model = model_class(tiny_config(model_class.config_class)).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and not _NO_WEIGHT.search(name):
            nn.init.normal_(parameter, std=STD)
    return model


_NO_WEIGHT = re.compile(r"(?i)norm|A_log|dt_bias")


def tiny_inputs(model: Any, task: str) -> dict[str, Tensor]:
    """A batch that the model can read."""
    torch.manual_seed(1)
    config, taken = model.config, inspect.signature(model.forward).parameters
    if task in ("image classification", "video classification"):
        sides = image_sides(config)
        shape = (BATCH, getattr(config, "num_frames", FRAMES), 3, *sides) if task.startswith("video") else (BATCH, channels(config), *sides)
        return {next(name for name in ("pixel_values_videos", "pixel_values") if name in taken): torch.rand(shape)}
    if not (task.startswith("audio") or task.startswith("speech")):
        return text_inputs(model, task)
    if "input_features" in taken:
        mels = getattr(config, "num_mel_bins", None) or getattr(config, "feature_projection_input_dim", 16)
        if "max_source_positions" in vars(config):
            return {"input_features": torch.randn(BATCH, mels, 2 * config.max_source_positions)}
        return {"input_features": torch.randn(BATCH, 64, mels)}
    if "input_values" in taken:
        if "num_mel_bins" in vars(config):
            return {"input_values": torch.randn(BATCH, config.max_length, config.num_mel_bins)}
        return {"input_values": torch.randn(BATCH, SAMPLES)}
    return text_inputs(model, task)


def text_inputs(model, task):
    config, taken = model.config, inspect.signature(model.forward).parameters
    text = config.get_text_config()
    vocabulary = min(getattr(text, "vocab_size", VOCABULARY) or VOCABULARY, VOCABULARY)
    lengths = (LENGTH, LENGTH - 3)
    ids = torch.full((BATCH, LENGTH), PAD)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(FIRST_WORD, vocabulary, (length,))
        ids[row, 0], ids[row, length - 1] = START, END
    mask = (ids != PAD).long()
    if task == "multiple choice":
        ids, mask = ids.unsqueeze(1).repeat(1, 2, 1), mask.unsqueeze(1).repeat(1, 2, 1)
    inputs = {next(n for n in ("input_ids", "inputs") if n in taken): ids}
    if "attention_mask" in taken:
        inputs["attention_mask"] = mask
    if "bbox" in taken:
        box = torch.randint(0, 8, (*ids.shape, 2))
        inputs["bbox"] = torch.cat((box, box + torch.randint(1, 8, box.shape)), -1)
    if "decoder_input_ids" in taken and task in ("sequence to sequence", "causal language modelling", "image and text to text"):
        inputs["decoder_input_ids"] = torch.randint(FIRST_WORD, vocabulary, (BATCH, 4))
    return inputs


def image_sides(config) -> tuple[int, int]:
    size = next((part.image_size for part in (config, getattr(config, "vision_config", None)) if getattr(part, "image_size", None)), IMAGE)
    return tuple(size) if isinstance(size, list | tuple) else (size, size)


def channels(config) -> int:
    return getattr(config, "num_channels", 3)
