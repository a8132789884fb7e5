"""A model by its name or folder, and what reads its inputs: no remote code, no waiting for a network that is not."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from transformers.models.auto import modeling_auto
from transformers.utils import logging

Kind = Literal["text", "image", "audio", "video", "prompt"]
_HUB = "https://huggingface.co"
_PATIENCE = 3.0  # seconds


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, what makes its inputs, and what it reads."""

    model: Any
    processor: Any
    kind: Kind


def load(name: str) -> LoadedModel:
    """A classifier or a language model in float32, from a folder, the hub's cache or the hub.

    Args:
        name: a folder, or a name on the hub.

    Raises:
        ValueError: no such folder, and no way to the hub; a model of another kind; one that needs code of its own.
    """
    logging.disable_progress_bar()
    options = {"trust_remote_code": False, "local_files_only": not _needs_the_hub(name)}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise ValueError(_said(name, error)) from error
    kind = _kind_of(config, name)
    model_class, processor_class = _CLASSES[kind]
    try:
        processor = processor_class.from_pretrained(name, **options)
        model = model_class.from_pretrained(name, dtype=torch.float32, **options)
    except (OSError, ValueError) as error:
        raise ValueError(_said(name, error)) from error
    return LoadedModel(model.eval(), processor, kind)


def _said(name: str, error: BaseException) -> str:
    """What went wrong, in our words where it is that code would have to run."""
    if "trust_remote_code" not in str(error):
        return f"--model {name}: {_first_line(error)}"
    return (
        f"--model {name} needs code of its own, which this command never runs: load it in Python, if you trust it, and "
        "give it to captum_attn.visualization.explore"
    )


def _kind_of(config: Any, name: str) -> Kind:
    architectures = set(config.architectures or ())
    if architectures & _names(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, config):
        return "prompt"
    for kind, mapping in _CLASSIFIERS.items():
        if architectures & _names(mapping, config):
            return kind
    raise ValueError(
        f"--model {name} is {', '.join(sorted(architectures)) or config.model_type}: expected a classifier of texts, "
        "images, sounds or videos, or a causal language model. In Python, any transformer can be explained"
    )


def _names(mapping: Mapping[str, Any], config: Any) -> set[str]:
    found = mapping.get(config.model_type, ())
    return {found} if isinstance(found, str) else set(found)


def _needs_the_hub(name: str) -> bool:
    """Whether the model is to be fetched; ``ValueError`` at once where it cannot be."""
    if Path(name).is_dir():
        return False
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists():
        raise ValueError(f"--model {name}: there is no such folder")
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return False
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise ValueError(f"--model {name} is no folder here, nor in the hub's cache, and HF_HUB_OFFLINE is set")
    host = urlsplit(os.environ.get("HF_ENDPOINT", _HUB))
    try:
        socket.create_connection((host.hostname, host.port or 443), timeout=_PATIENCE).close()
    except OSError as error:
        raise ValueError(
            f"--model {name} is no folder here, nor in the hub's cache, and {host.hostname} cannot be reached "
            f"({_first_line(error)}): give a folder, or try again with a network"
        ) from error
    return True


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


_CLASSIFIERS: Mapping[Kind, Mapping[str, Any]] = {
    "text": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "image": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "audio": modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    "video": modeling_auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
}
_CLASSES: Mapping[Kind, tuple[Any, Any]] = {
    "text": (transformers.AutoModelForSequenceClassification, transformers.AutoTokenizer),
    "image": (transformers.AutoModelForImageClassification, transformers.AutoImageProcessor),
    "audio": (transformers.AutoModelForAudioClassification, transformers.AutoFeatureExtractor),
    "video": (transformers.AutoModelForVideoClassification, transformers.AutoImageProcessor),
    "prompt": (transformers.AutoModelForCausalLM, transformers.AutoTokenizer),
}
