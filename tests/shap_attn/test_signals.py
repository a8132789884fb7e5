"""Sounds and videos in SHAP's form."""

from __future__ import annotations

import numpy as np
import pytest
import shap
import torch
import transformers as hf
from families import FAMILIES
from helpers.small_models import load_text_model
from matplotlib import pyplot as plt
from PIL import Image
from signal_models import batch, build
from torch import nn

from captum_attn import ShapleyGradAttention
from shap_attn import AttentionExplainer

FIRST = {
    "wav2vec2": "time 5-25",
    "whisper": "time 0-2",
    "spectrogram patches": "time 1-7, bands 0-8",
    "videomae": "frames 0-2, rows 0-8, columns 0-8",
    "v-jepa 2": "frames 0-2, rows 0-8, columns 0-8",
}
EXTRACTOR = hf.Wav2Vec2FeatureExtractor(sampling_rate=1000, return_attention_mask=True)


@pytest.mark.parametrize("name", FIRST)
def test_values_are_those_of_the_patches_with_their_times_and_places(name):
    model = build(name)
    ((key, features),) = batch(name).items()
    explanation = AttentionExplainer(model, game="incoming")(features)
    for output in range(3):
        expected = ShapleyGradAttention(model).attribute_tokens({key: features}, target=output).patches.flatten(1)
        found = torch.tensor(np.stack([values[:, output] for values in explanation.values]))
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-7)
    assert explanation[0].feature_names[0] == FIRST[name]
    assert len(explanation[0].feature_names) == len(explanation[0].values)
    assert AttentionExplainer(model)(features[0]).shape[0] == 1


def test_a_pipeline_of_sounds():
    model = build("wav2vec2")
    pipeline = hf.pipeline("audio-classification", model=model, feature_extractor=EXTRACTOR)
    waves = [np.random.default_rng(seed).normal(size=430 + 40 * seed).astype(np.float32) for seed in range(2)]
    explainer = AttentionExplainer(pipeline)
    explanation = explainer([waves[0], {"array": waves[1], "sampling_rate": 1000}], outputs=1)
    processed = [EXTRACTOR(wave, sampling_rate=1000, return_tensors="pt") for wave in waves]
    for row, inputs in zip(explanation.values, processed, strict=True):
        expected = ShapleyGradAttention(model).attribute_tokens(inputs, target=1).patches[0]
        np.testing.assert_allclose(row, expected.numpy(), rtol=1e-4, atol=1e-7)
    assert explanation[1].feature_names[1] == "0.03-0.04 s"
    shap.plots.bar(explanation[0], show=False)
    shap.plots.waterfall(explanation[0], show=False)
    plt.close("all")
    with pytest.raises(ValueError, match="has 16000 samples a second, but the model hears 1000: resample it"):
        explainer({"raw": waves[0], "sampling_rate": 16000})
    for stereo in ([np.stack([waves[0], waves[0]])], np.stack([waves[0], waves[0]], 1)):
        with pytest.raises(ValueError, match="one channel"):
            explainer(stereo)


def test_times_are_those_of_the_features_that_the_processor_made():
    config = {
        "d_model": 32,
        "encoder_layers": 1,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "num_mel_bins": 30,
    }
    whisper = hf.WhisperForAudioClassification(hf.WhisperConfig(**config, max_source_positions=50)).eval()
    sizes = {"feature_size": 30, "sampling_rate": 1600, "hop_length": 16, "chunk_length": 1, "n_fft": 64}
    extractor = hf.WhisperFeatureExtractor(**sizes)
    explanation = AttentionExplainer(whisper, extractor)(np.random.default_rng(0).normal(size=800), outputs=0)
    assert explanation[0].feature_names[20] == "0.40-0.42 s"  # frames of 10 ms, padded from half a second to one
    narrow = hf.ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_length=24,
        num_mel_bins=40,
        patch_size=8,
        time_stride=8,
        frequency_stride=8,
    )
    model = hf.ASTForAudioClassification(narrow).eval()
    names = AttentionExplainer(model)(torch.randn(24, 40))[0].feature_names
    assert (names[0], names[1], names[5]) == ("time 0-8, bands 0-8", "time 0-8, bands 8-16", "time 8-16, bands 0-8")


class OfTextOrSound(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = FAMILIES["bert"].build()
        self.config = self.model.config

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, input_values=None):
        return self.model(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)


def test_a_model_of_texts_that_hears_too_reads_texts():
    model, (_, tokenizer) = OfTextOrSound(), load_text_model()
    model.model.resize_token_embeddings(len(tokenizer))
    assert AttentionExplainer(model, tokenizer)(["a gripping film"]).shape[2] == 3


def test_a_video_of_pictures():
    model = build("videomae")
    size = {"height": 16, "width": 16}
    processor = hf.VideoMAEImageProcessor(size={"shortest_edge": 16}, crop_size=size)
    generator = np.random.default_rng(0)
    clip = [Image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for _ in range(8)]
    inputs = processor(clip, return_tensors="pt")
    expected = ShapleyGradAttention(model).attribute_tokens(inputs, target=0).patches.flatten()
    for given in (clip, [clip]):
        explanation = AttentionExplainer(model, processor)(given, outputs=0)
        np.testing.assert_allclose(explanation.values[0], expected.numpy(), rtol=1e-4, atol=1e-7)


def test_what_reads_something_else_is_refused():
    with pytest.raises(TypeError, match="expected the feature extractor of Wav2Vec2ForSequenceClassification"):
        AttentionExplainer(build("wav2vec2"), "a tokenizer")
    explainer = AttentionExplainer(build("wav2vec2"), EXTRACTOR)
    for given in ([], "call.wav", ["call.wav"]):
        with pytest.raises(TypeError, match=r"read (files|it) beforehand"):
            explainer(given)
    with pytest.raises(ValueError, match="a sound has an 'array'"):
        explainer({"wave": np.zeros(400), "sampling_rate": 1000})
    with pytest.raises(ValueError, match="are for texts, but the model takes no text"):
        AttentionExplainer(build("wav2vec2"), words=True)
