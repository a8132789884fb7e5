"""Classes of transformers, each for what is special about it, against eager attention and autograd.

The families of :mod:`families`, BERT to BEiT, have a closer look in ``test_families.py``. All of them:
``python examples/benchmarks/model_families.py``.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import model_families
import pytest
import torch
import transformers
from families import on
from helpers.shrunk_models import LABELS, WITH_IMAGE
from ledger import accounts
from model_families import (
    BY_KEY,
    MARKS,
    TOLERANCE,
    Candidate,
    Outcome,
    between_marks,
    candidates,
    table_of_families,
    tried,
)

from captum_attn.core import mapping_inputs, observed_forward
from captum_attn.core.propagation import ATTNLRP, CP

EXACT = {
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
    "BartForConditionalGeneration": "encoder-decoder with given decoder inputs",
    "LlavaForConditionalGeneration": "two towers: the language model reads the text",
    "Qwen2VLForConditionalGeneration": "positions in three dimensions",
    "DiffLlamaForCausalLM": "one module attends twice with the same probabilities",
    "Wav2Vec2ForCTC": "intervals of a wave, with a score each",
    "ASTForAudioClassification": "patches of a spectrogram",
    "VideoMAEForVideoClassification": "blocks of frames",
    "SwinForImageClassification": "shifted windows, merged patches",
    "CvtForImageClassification": "convolved projections, fewer keys than queries",
    "DonutSwinForImageClassification": "windows as large as the grid in the last stage",
}
REFUSED = {
    "FunnelForSequenceClassification": ("pooled tokens", "attention"),
    "LongT5ForConditionalGeneration": ("local attention in blocks, beside a decoder of the same length", "attention"),
    "MambaForCausalLM": ("no attention at all", "attention"),
    "TimesformerForVideoClassification": ("over time and over space apart", "attention"),
}
WITHOUT_RULES = {
    "JambaForCausalLM": {"exp", "softplus"},
    "BambaForCausalLM": {"exp", "softplus"},
    "Zamba2ForCausalLM": {"exp", "softplus"},
    "Qwen3NextForCausalLM": {"exp", "softplus", "linalgsolvetriangular"},
}
"""What recurrent layers compute beside attention."""
ROUNDED = {"Gemma2ForCausalLM": 1e-6}  # its softmax, to float32
CANDIDATES: dict[str, Candidate] = {one.model_class: one for one in candidates() if one.task != WITH_IMAGE}


@pytest.fixture(autouse=True)
def _on_the_device(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models and inputs, made on the CPU, are tried there."""
    make, fill = model_families.tiny_model, model_families.tiny_inputs
    monkeypatch.setattr(model_families, "tiny_model", lambda *args: make(*args).to(device))
    monkeypatch.setattr(model_families, "tiny_inputs", lambda *args: on(device, fill(*args)))


@pytest.mark.parametrize("name", EXACT)
def test_influence_equals_eager_attention_times_gradient(name: str) -> None:
    outcome = tried(CANDIDATES[name])
    assert outcome.kind == "exact", f"{name} ({EXACT[name]}): {outcome.reason}"
    assert outcome.error is not None
    assert outcome.error <= TOLERANCE


@pytest.mark.parametrize("name", EXACT)
def test_input_and_absorbed_relevance_make_up_the_score(name: str) -> None:
    candidate = CANDIDATES[name]
    labels = 2 if candidate.task == "question answering" else LABELS
    model = model_families.tiny_model(getattr(transformers, name), labels).double()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the grouped products are of float32
    filled = model_families.tiny_inputs(model, candidate.task).items()
    inputs = mapping_inputs(
        model, {key: value.double() if value.is_floating_point() else value for key, value in filled}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "BloomForCausalLM":
            with pytest.raises(ValueError, match="GeLUFunction"):
                accounts(model, inputs, (5, 1), ATTNLRP)
            return
        output = model_families.logits_of(model_families.seeded(model, dict(inputs.mapping())))
        target = (1,) if output.dim() == 2 else (5, 1)
        with observed_forward(model, inputs, propagation=ATTNLRP) as run:
            assert run.coverage is not None
            assert set(run.coverage.plain) == WITHOUT_RULES.get(name, set())
        for propagation in (ATTNLRP, CP):
            torch.manual_seed(0)
            _, score, of_input, absorbed = accounts(model, inputs, target, propagation)
            if name not in WITHOUT_RULES:
                assert (score - of_input - absorbed).abs() <= ROUNDED.get(name, 1e-8) * score.abs()


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_token_by_token_attention_is_refused_with_the_reason(name: str) -> None:
    special, reason = REFUSED[name]
    outcome = tried(CANDIDATES[name])
    assert outcome.kind == "refused", f"{name} ({special}): {outcome.reason}"
    assert reason in outcome.reason


def test_the_documentation_says_why_a_family_is_refused() -> None:
    found = [
        Outcome("BertModel", "bert", "text classification", "exact"),
        Outcome("SwinModel", "swin", "image classification", "exact", BY_KEY),
        Outcome("SwinNet", "swin", "image classification", "not buildable", "TypeError: no pixels"),
        Outcome(
            "LedModel", "led", "text classification", "refused", "attention 'a' has shape (8, 2), expected (2, 2):"
        ),
        Outcome("OddModel", "odd", "text classification", "refused", "a reason without words of its own:"),
        Outcome("BlipModel", "blip", "text classification", "not buildable", "TypeError: no pixels"),
    ]
    text = "\n".join(table_of_families(found))
    assert "| all | 2 | 2 | 2 | 0 | 6 |" in text
    assert "**exact** (2): bert, swin (key by key, 1 of 2)\n" in text
    assert "- **refused**, no one token-by-token matrix in every layer" in text
    assert "- **refused**, a reason without words of its own: odd\n" in text
    assert "- **not buildable**: swin, blip\n" in text


def test_the_documentation_is_written_between_the_marks_of_its_page() -> None:
    text = (Path(__file__).parents[3] / "captum_attn" / "README.md").read_text(encoding="utf-8")
    begin, end = MARKS
    written = between_marks(text, ["a row", "another"])
    assert f"{begin}\na row\nanother\n{end}" in written
    assert written.split(begin)[0] == text.split(begin)[0]
    assert written.split(end)[1] == text.split(end)[1]
    assert between_marks(written, ["a row", "another"]) == written
    with pytest.raises(ValueError, match="once each"):
        between_marks(text.replace(end, ""), [])
