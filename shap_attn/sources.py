"""What SHAP users explain: a pipeline, a model and its tokenizer, a model and its image processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import shap
import transformers
from shap.utils.transformers import is_transformers_lm
from torch import nn
from transformers import Pipeline, PreTrainedTokenizerBase
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.image_processing_base import ImageProcessingMixin

from captum_attn.core import config_of, parameter_names, picture_token, unwrapped, warn_user
from shap_attn.signals import is_signal

_TASKS = {
    "text-classification": "tokenizer",
    "image-classification": "image_processor",
    "audio-classification": "feature_extractor",
    "video-classification": "image_processor",
}
"""Of pipelines, and what of them reads inputs."""
_UNDERSTOOD = ("truncation", "max_length", "padding", "return_tensors", "timeout")


def taken_apart(model: Any, masker: Any) -> tuple[nn.Module, Any, int | None]:
    """The model; its tokenizer, its processor or None if it takes what that makes; a pipeline's ``max_length``.

    Raises:
        TypeError: a model or a masker of another kind.
        ValueError: a pipeline for another task, or a model of text without its tokenizer.
    """
    max_length, model = None, unwrapped_pipeline(model)
    if isinstance(model, Pipeline):
        if model.task not in _TASKS:
            raise ValueError(
                f"the pipeline's task is {model.task!r}, expected {', '.join(map(repr, _TASKS))}, 'text-generation' or "
                "'image-text-to-text'. For other tasks, captum_attn.ShapleyGradAttention(pipeline.model) takes a "
                "target such as (token, class)"
            )
        max_length = _max_length(_preprocessing(model))
        if masker is None:
            masker = getattr(model, _TASKS[model.task])
        model = model.model
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model is a {type(model).__name__}, expected a transformers pipeline, a shap.models.TransformersPipeline "
            "or a model with its tokenizer or image processor as second argument: attention cannot be seen through a "
            "plain function"
        )
    if isinstance(masker, shap.maskers.Text):
        masker = masker.tokenizer
    if is_transformers_lm(model):
        raise ValueError(
            f"{type(model).__name__} is an encoder-decoder that writes text, expected a classifier or a causal "
            "language model. captum_attn.ShapleyGradAttention(model) explains its next token, given the decoder's "
            "tokens"
        )
    if is_signal(model):
        if masker is not None and not isinstance(masker, FeatureExtractionMixin | ImageProcessingMixin):
            raise TypeError(
                f"masker is a {type(masker).__name__}, expected the feature extractor of {type(model).__name__}, or "
                "its image processor for videos"
            )
        return model, masker, None
    reads_pixels, reads_ids = (name in parameter_names(unwrapped(model)) for name in ("pixel_values", "input_ids"))
    if not (reads_pixels or reads_ids) and masker is None:  # timm's and torchvision's models take x
        reads_pixels = any(isinstance(module, nn.Conv2d) for module in model.modules())
    if masker is None and not reads_pixels:
        raise ValueError(
            f"{type(model).__name__} needs its tokenizer: AttentionExplainer(model, tokenizer). (If it takes images: "
            "it has no argument pixel_values, nor a Conv2d that would cut them into patches to show; "
            "captum_attn.ShapleyGradAttention(model).attribute_tokens(pixels) explains its tokens)"
        )
    if masker is not None and not isinstance(masker, PreTrainedTokenizerBase | ImageProcessingMixin):
        raise TypeError(
            f"masker is a {type(masker).__name__}, expected a Hugging Face tokenizer, an image processor or a "
            "shap.maskers.Text around a tokenizer; nothing is masked, it only says how inputs are read. Another "
            "transform of images goes over them beforehand: "
            "AttentionExplainer(model)(torch.stack([transform(image) for image in images]))"
        )
    reads_text = isinstance(masker, PreTrainedTokenizerBase)
    if masker is not None and reads_pixels != reads_ids and reads_text != reads_ids:
        raise TypeError(
            f"{type(model).__name__} takes {'pixels' if reads_pixels else 'text'}, but masker is a "
            f"{type(masker).__name__}: expected {'an image processor' if reads_pixels else 'a tokenizer'}"
        )
    return model, masker, max_length


def unwrapped_pipeline(model: Any) -> Any:
    """A model, or a pipeline without what SHAP put around it."""
    return model.inner_model if isinstance(model, shap.models.TransformersPipeline) else model


def is_language_model(model: Any) -> bool:
    """Whether it is a causal language model, with images among its words or without, or a pipeline around one."""
    model = unwrapped_pipeline(model)
    if isinstance(model, Pipeline):
        return model.task in ("text-generation", "image-text-to-text")
    reads_images = picture_token(config_of(model)) is not None and hasattr(model, "generate")
    return bool(is_transformers_lm(model) or reads_images) and not getattr(model.config, "is_encoder_decoder", False)


def _preprocessing(pipeline: Pipeline) -> dict[str, Any]:
    """A pipeline's settings for its tokenizer or image processor, which have no public name."""
    try:
        settings: dict[str, Any] = pipeline._preprocess_params
    except AttributeError as error:
        raise RuntimeError(
            f"transformers {transformers.__version__} keeps a pipeline's settings elsewhere than versions 5.9 to 5.24, "
            "with which this was tested: give AttentionExplainer(pipe.model, pipe.tokenizer, max_length=...)"
        ) from error
    return settings


def _max_length(settings: Mapping[str, Any]) -> int | None:
    """Of a pipeline's settings; a warning tells of others."""
    others = {name: value for name, value in settings.items() if name not in _UNDERSTOOD}
    if others:
        warn_user(f"the pipeline's settings {others} are not followed")
    return settings.get("max_length")
