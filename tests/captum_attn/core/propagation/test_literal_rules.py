"""Relevance against the papers' rules, written out as messages from layer to layer, without autograd."""

from __future__ import annotations

import literal_lrp
import pytest
import torch
import transformers as hf
from torch import nn

from captum_attn import AttnLRP

_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_IDS = torch.tensor([2, 17, 9, 30, 11, 3])
TOLERANCE = 1e-10


def _random(model: nn.Module) -> nn.Module:
    """In float64, with norms and biases that matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter + 0.3 * noise if parameter.dim() == 1 else 0.4 * noise)
    return model.eval().double()


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("propagation", ["attnlrp", "cp"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_bert(propagation: str, implementation: str) -> None:
    config = hf.BertConfig(vocab_size=40, max_position_embeddings=8, num_labels=3, **_SMALL)
    model = _random(hf.BertForSequenceClassification._from_config(config, attn_implementation=implementation))
    players = torch.ones(1, 6, dtype=torch.bool)
    method = AttnLRP(model, propagation=propagation)
    found = method.attribute_tokens(_IDS[None], target=1, players=players).values[0]
    with torch.no_grad():
        expected = literal_lrp.bert(model, _IDS, 1, constant=propagation == "cp")
    assert _error(found, expected) <= TOLERANCE


@pytest.mark.parametrize("propagation", ["attnlrp", "cp"])
def test_vit(propagation: str) -> None:
    config = hf.ViTConfig(image_size=8, patch_size=4, num_labels=3, **_SMALL)
    model = _random(hf.ViTForImageClassification(config))
    pixels = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    method = AttnLRP(model, propagation=propagation, baseline="zeros")
    with torch.no_grad():
        expected = literal_lrp.vit(model, pixels, 1, constant=propagation == "cp")
    assert _error(method.attribute(pixels[None], target=1)[0], expected) <= TOLERANCE
    patches = expected.sum(0).unflatten(1, (2, 4)).unflatten(0, (2, 4)).sum((1, 3))
    assert _error(method.attribute_tokens(pixels[None], target=1).patches[0], patches) <= TOLERANCE


@pytest.mark.parametrize("propagation", ["attnlrp", "cp"])
def test_llama(propagation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = hf.LlamaConfig(vocab_size=40, num_key_value_heads=1, head_dim=8, **_SMALL)
    model = _random(hf.LlamaForCausalLM(config))
    to = torch.Tensor.to
    monkeypatch.setattr(  # its norm and rotations round to float32
        torch.Tensor, "to", lambda self, *args, **kwargs: self if torch.float32 in args else to(self, *args, **kwargs)
    )
    method = AttnLRP(model, propagation=propagation)
    found = method.attribute_tokens(_IDS[None], target=(5, 7), players=torch.ones(1, 6, dtype=torch.bool)).values[0]
    with torch.no_grad():
        expected = literal_lrp.llama(model, _IDS, 7, constant=propagation == "cp")
    assert _error(found, expected) <= TOLERANCE
