"""The six small trained models that the examples and the tests explain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    VideoMAEForVideoClassification,
    ViTForImageClassification,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

MODELS = Path(__file__).resolve().parents[1] / "models"
TEXT_MODEL = MODELS / "bert-sst2"
IMAGE_MODEL = MODELS / "vit-digits"
TEXTURE_MODEL = MODELS / "vit-textures"
ANSWER_MODEL = MODELS / "llama-facts"
SOUND_MODEL = MODELS / "wav2vec2-calls"
CLIP_MODEL = MODELS / "videomae-digits"


def writes_text(config: PreTrainedConfig) -> bool:
    """Whether a model of this configuration is a causal language model."""
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, ())
    return not set(config.architectures or ()).isdisjoint([names] if isinstance(names, str) else names)


def load_text_model(
    folder: Path = TEXT_MODEL,
) -> tuple[BertForSequenceClassification, PreTrainedTokenizerBase]:
    """Load the sentiment classifier (0 negative, 1 positive) and its tokenizer.

    The model is in eval mode with float32 weights. It maps ``input_ids`` and ``attention_mask``, both int64
    of shape (batch, tokens) with at most 128 tokens, to float32 ``logits`` of shape (batch, 2).

    Example::

        model, tokenizer = load_text_model()
        batch = tokenizer(["a gripping , funny film ."], return_tensors="pt")
        model(**batch).logits.argmax(-1)  # tensor([1])
    """
    model = BertForSequenceClassification.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model, tokenizer


def load_answering_model(folder: Path = ANSWER_MODEL) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Load the decoder that answers a question with a sentence of its prompt, and its tokenizer.

    The model is in eval mode with float32 weights, and reads 1,024 tokens at most.

    Example::

        model, tokenizer = load_answering_model()
        prompt = "The harbour of Ashby is made of stone.\\n\\nQuestion: What is the harbour of Ashby made of?"
    """
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def load_image_model(folder: Path = IMAGE_MODEL) -> ViTForImageClassification:
    """Load the digit classifier.

    The model is in eval mode with float32 weights. It maps float32 ``pixel_values`` in [0, 1] of shape
    (batch, 1, 8, 8) to float32 ``logits`` of shape (batch, 10).

    Example::

        model = load_image_model()
        _, _, images, labels = digits()
        model(images).logits.argmax(-1)  # int64, shape (450,)
    """
    return ViTForImageClassification.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def load_sound_model(
    folder: Path = SOUND_MODEL,
) -> tuple[Wav2Vec2ForSequenceClassification, Wav2Vec2FeatureExtractor]:
    """Load the classifier of calls (0 rising, 1 falling, 2 buzzing, 3 trembling), and its feature extractor.

    The model is in eval mode with float32 weights. It maps float32 ``input_values`` of shape (batch, samples), 8,000 of
    them a second, to float32 ``logits`` of shape (batch, 4).

    Example::

        model, _ = load_sound_model()
        waves, labels, heard = labelled_sounds(4, seed=0)
        model(waves).logits.argmax(-1)  # tensor([0, 1, 2, 3])
    """
    model = Wav2Vec2ForSequenceClassification.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model, Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)


def load_clip_model(folder: Path = CLIP_MODEL) -> VideoMAEForVideoClassification:
    """Load the classifier of moving digits (0, 1, 4, 7).

    The model is in eval mode with float32 weights. It maps float32 ``pixel_values`` in [0, 1] of shape
    (batch, 12, 1, 32, 32) to float32 ``logits`` of shape (batch, 4).

    Example::

        clips, labels, seen = labelled_clips(4, seed=0, held_out=True)
        load_clip_model()(clips).logits.argmax(-1)  # int64, shape (4,)
    """
    return VideoMAEForVideoClassification.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def load_texture_model(folder: Path = TEXTURE_MODEL) -> ViTForImageClassification:
    """Load the classifier of textured objects (0 zebra, 1 ladybird, 2 snake, 3 other).

    The model is in eval mode with float32 weights. It maps float32 ``pixel_values`` in [0, 1] of shape
    (batch, 3, 48, 48) to float32 ``logits`` of shape (batch, 4).

    Example::

        model = load_texture_model()
        images, labels, _ = labelled_images(100, seed=1)  # of textures.py
        model(images).logits.argmax(-1)  # int64, shape (100,)
    """
    return ViTForImageClassification.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split the handwritten digits of scikit-learn, always the same way, stratified by digit.

    Returns train images, train labels, test images and test labels: 1347 and 450 images, float32 of shape
    (n, 1, 8, 8) with values in [0, 1] (0 is background), and int64 labels of shape (n,).

    Example::

        train_images, train_labels, test_images, test_labels = digits()
        test_images.shape  # torch.Size([450, 1, 8, 8])
    """
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[:, None]
    split = train_test_split(images, data.target, test_size=0.25, random_state=0, stratify=data.target)
    train_images, test_images, train_labels, test_labels = map(torch.as_tensor, split)
    return train_images, train_labels, test_images, test_labels
