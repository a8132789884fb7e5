"""Tiny random models that hear or see videos, one of each family, and how to feed them."""

from __future__ import annotations

import torch
import transformers as hf
from torch import nn

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "num_labels": 3}
WAVES_SETTINGS = {
    **_SMALL,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 6,
    "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "layer",
    "classifier_proj_size": 16,
    "vocab_size": 20,
    "pad_token_id": 0,
}
_FRAMES = {"image_size": 16, "num_frames": 8}
WAVES, SPECTROGRAM, FEATURES, VIDEO = "input_values", "spectrogram", "input_features", "pixel_values"
SHAPES = {WAVES: (2, 430), SPECTROGRAM: (2, 44, 24), FEATURES: (2, 30, 16), VIDEO: (2, 8, 3, 16, 16)}
STRIDE, REACH = 20, 30  # of the three convolutions of waves together
MODELS = {
    "wav2vec2": (hf.Wav2Vec2ForSequenceClassification, hf.Wav2Vec2Config, WAVES_SETTINGS, WAVES),
    "wav2vec2, frames": (hf.Wav2Vec2ForCTC, hf.Wav2Vec2Config, WAVES_SETTINGS, WAVES),
    "hubert": (hf.HubertForSequenceClassification, hf.HubertConfig, WAVES_SETTINGS, WAVES),
    "wavlm": (hf.WavLMForSequenceClassification, hf.WavLMConfig, WAVES_SETTINGS, WAVES),
    "unispeech": (hf.UniSpeechForSequenceClassification, hf.UniSpeechConfig, WAVES_SETTINGS, WAVES),
    "unispeech-sat": (hf.UniSpeechSatForSequenceClassification, hf.UniSpeechSatConfig, WAVES_SETTINGS, WAVES),
    "data2vec": (
        hf.Data2VecAudioForSequenceClassification,
        hf.Data2VecAudioConfig,
        {**WAVES_SETTINGS, "conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2},
        WAVES,
    ),
    "conformer": (hf.Wav2Vec2ConformerForSequenceClassification, hf.Wav2Vec2ConformerConfig, WAVES_SETTINGS, WAVES),
    "wav2vec2-bert": (
        hf.Wav2Vec2BertForSequenceClassification,
        hf.Wav2Vec2BertConfig,
        {**_SMALL, "feature_projection_input_dim": 16, "classifier_proj_size": 16},
        FEATURES,
    ),
    "whisper": (
        hf.WhisperForAudioClassification,
        hf.WhisperConfig,
        {
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "num_mel_bins": 30,
            "max_source_positions": 8,
            "num_labels": 3,
            "classifier_proj_size": 16,
        },
        FEATURES,
    ),
    "spectrogram patches": (
        hf.ASTForAudioClassification,
        hf.ASTConfig,
        {**_SMALL, "max_length": 44, "num_mel_bins": 24, "patch_size": 8, "time_stride": 6, "frequency_stride": 8},
        SPECTROGRAM,
    ),
    "videomae": (hf.VideoMAEForVideoClassification, hf.VideoMAEConfig, {**_SMALL, **_FRAMES, "patch_size": 8}, VIDEO),
    "vivit": (
        hf.VivitForVideoClassification,
        hf.VivitConfig,
        {**_SMALL, **_FRAMES, "tubelet_size": [2, 8, 8]},
        VIDEO,
    ),
    "v-jepa 2": (
        hf.VJEPA2ForVideoClassification,
        hf.VJEPA2Config,
        {
            **_SMALL,
            "crop_size": 16,
            "patch_size": 8,
            "frames_per_clip": 8,
            "num_pooler_layers": 1,
            "mlp_ratio": 2,
            "pred_hidden_size": 32,
            "pred_num_attention_heads": 4,
            "pred_num_hidden_layers": 1,
        },
        "pixel_values_videos",
    ),
}


def build(name):
    model_class, config_class, settings_, _ = MODELS[name]
    torch.manual_seed(0)
    model = model_class._from_config(config_class(**settings_))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def batch(name):
    kind = MODELS[name][3]
    shape = (2, 30, 16) if name == "whisper" else SHAPES.get(kind, SHAPES[VIDEO])
    key = WAVES if kind == SPECTROGRAM else kind
    return {key: torch.randn(shape, generator=torch.Generator().manual_seed(1))}
