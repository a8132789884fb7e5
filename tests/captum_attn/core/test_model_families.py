"""Some thirty classes of transformers, each for what is special about it, against eager attention and autograd.

All of them: ``python examples/benchmarks/model_families.py``.
"""

from __future__ import annotations

import pytest
from model_families import TOLERANCE, Candidate, candidates, tried

EXACT = {
    "BertForSequenceClassification": "an encoder read at its class token",
    "DebertaForMaskedLM": "disentangled attention in eager code, an output for each token",
    "XLNetForTokenClassification": "two-stream code whose scores come from einsum, sequence first",
    "CamembertForQuestionAnswering": "start and end logits side by side",
    "ModernBertForTokenClassification": "local and global layers, packed projections",
    "XmodForSequenceClassification": "adapters of each language",
    "LayoutLMv3ForTokenClassification": "boxes beside the ids",
    "Gemma2ForCausalLM": "capped scores, sliding windows, grouped keys",
    "Qwen3MoeForCausalLM": "routed experts, whose softmax is no attention",
    "BloomForCausalLM": "positions by linear biases (ALiBi)",
    "FalconForCausalLM": "attention and MLP side by side, one key head for all",
    "GPTJForCausalLM": "parallel blocks, part of each head is rotated",
    "DeepseekV3ForCausalLM": "latent keys and values, wider queries than values",
    "OlmoForCausalLM": "clipped projections, norms without weights",
    "JambaForCausalLM": "one layer of attention among state-space layers",
    "BambaForCausalLM": "the same with Mamba-2",
    "Qwen3NextForCausalLM": "linear attention and gated attention",
    "Zamba2ForCausalLM": "attention blocks shared between layers",
    "T5ForSequenceClassification": "encoder-decoder with relative position biases: the encoder is explained",
    "BartForConditionalGeneration": "encoder-decoder with given decoder inputs",
    "ViTForImageClassification": "patches read at a class token",
    "Dinov2WithRegistersForImageClassification": "register tokens",
    "BeitForImageClassification": "mean of the patches",
    "LlavaForConditionalGeneration": "two towers: the language model reads the text",
    "Qwen2VLForConditionalGeneration": "positions in three dimensions",
    "DiffLlamaForCausalLM": "one module attends twice with the same probabilities",
}
REFUSED = {
    "SwinForImageClassification": ("shifted windows, merged patches", "attention"),
    "FunnelForSequenceClassification": ("pooled tokens", "attention"),
    "LongT5ForConditionalGeneration": ("local attention in blocks, beside a decoder of the same length", "attention"),
    "MambaForCausalLM": ("no attention at all", "attention"),
    "Wav2Vec2ForCTC": ("waveforms are neither ids, embeddings nor pixels", "expected"),
    "VideoMAEForVideoClassification": ("videos have five dimensions", "expected"),
}
CANDIDATES: dict[str, Candidate] = {candidate.model_class: candidate for candidate in candidates()}


@pytest.mark.parametrize("name", EXACT)
def test_influence_equals_eager_attention_times_gradient(name: str) -> None:
    outcome = tried(CANDIDATES[name])
    assert outcome.kind == "exact", f"{name} ({EXACT[name]}): {outcome.reason}"
    assert outcome.error is not None
    assert outcome.error <= TOLERANCE


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_token_by_token_attention_is_refused_with_the_reason(name: str) -> None:
    special, reason = REFUSED[name]
    outcome = tried(CANDIDATES[name])
    assert outcome.kind == "refused", f"{name} ({special}): {outcome.reason}"
    assert reason in outcome.reason
