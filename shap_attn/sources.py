"""What SHAP users explain: a pipeline, a model and its tokenizer, a model and its image processor."""

from __future__ import annotations

from typing import Any

import shap
from torch import nn
from transformers import Pipeline, PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from captum_attn.core.models import config_of, parameter_names

_TASKS = ("text-classification", "image-classification")


def taken_apart(model: Any, masker: Any) -> tuple[nn.Module, Any, dict[str, Any]]:
    """The model; its tokenizer, its image processor, or None for a model that takes pixels; a pipeline's settings.

    Raises:
        TypeError: a model or a masker of another kind.
        ValueError: a pipeline for another task, or a model of text without its tokenizer.
    """
    settings: dict[str, Any] = {}
    if isinstance(model, shap.models.TransformersPipeline):
        model = model.inner_model
    if isinstance(model, Pipeline):
        if model.task not in _TASKS:
            raise ValueError(
                f"the pipeline's task is {model.task!r}, expected {' or '.join(map(repr, _TASKS))}. For other tasks, "
                "captum_attn.ShapleyGradAttention(pipeline.model) takes a target such as (token, class)"
            )
        settings = getattr(model, "_preprocess_params", {})
        masker = masker or (model.tokenizer if model.task == "text-classification" else model.image_processor)
        model = model.model
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model is a {type(model).__name__}, expected a transformers pipeline, a shap.models.TransformersPipeline "
            "or a model with its tokenizer or image processor as second argument: attention cannot be seen through a "
            "plain function"
        )
    if isinstance(masker, shap.maskers.Text):
        masker = masker.tokenizer
    if masker is None and "pixel_values" not in parameter_names(model):
        raise ValueError(f"{type(model).__name__} needs its tokenizer: AttentionExplainer(model, tokenizer)")
    if masker is not None and not isinstance(masker, PreTrainedTokenizerBase | ImageProcessingMixin):
        raise TypeError(
            f"masker is a {type(masker).__name__}, expected a Hugging Face tokenizer, an image processor or a "
            "shap.maskers.Text around a tokenizer; nothing is masked, it only says how inputs are read"
        )
    return model, masker, settings


def class_names(model: nn.Module, given: Any) -> list[str] | None:
    """Names of the model's outputs: the given ones, else the configuration's, else None.

    Raises:
        ValueError: not one for each output.
    """
    labels = getattr(config_of(model), "id2label", None)
    names = [str(labels[index]) for index in sorted(labels)] if labels else None
    if given is None:
        return names
    if isinstance(given, str) or (names is not None and len(given) != len(names)):
        raise ValueError(f"output_names is {given!r}, expected a list of {len(names) if names else ''} names")
    return [str(name) for name in given]
