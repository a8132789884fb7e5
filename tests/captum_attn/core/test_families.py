"""The core against eager attention and ``torch.autograd.grad``, for every family, padding and precision."""

from __future__ import annotations

import pickle

import pytest
import torch
from families import FAMILIES, batch, eager_reference

from captum_attn.core import mapping_inputs, observed_forward

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
TARGET = 1


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", FAMILIES)
def test_signed_influence_of_every_head_equals_eager_attention_times_gradient(name, padding, dtype, device):
    family = FAMILIES[name]
    if family.vision and padding == "left":
        pytest.skip("images have no padding")
    model, inputs = family.build(dtype, device=device), batch(family, padding, dtype, device)
    if name == "gemma2" and dtype == torch.float64:
        model.set_attn_implementation("plain")  # its own code rounds to float32, where masked rows become NaN
    plain = model(**inputs).logits.detach()
    logits, attention, gradient = eager_reference(family, model, inputs, TARGET, dtype)
    with observed_forward(model, mapping_inputs(model, inputs)) as run:
        signed = run.influence(run.output[:, TARGET], variant="signed", per="head", retain_graph=True)
        mean = run.influence(run.output[:, TARGET], variant="rectified")
    assert gradient.abs().max() > 0
    assert relative_error(signed, attention * gradient) <= TOLERANCE[dtype]
    assert relative_error(mean, (attention * gradient.relu()).mean((1, 2))) <= TOLERANCE[dtype]
    assert relative_error(run.output.detach(), plain) <= TOLERANCE[dtype]
    assert relative_error(run.output.detach(), logits) <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_alone_equals_returned_attention(name, device):
    family = FAMILIES[name]
    model, inputs = family.build(device=device), batch(family, device=device)
    _, attention, _ = eager_reference(family, model, inputs, TARGET, torch.float32)
    with observed_forward(model, mapping_inputs(model, inputs), gradients=False) as run:
        observed = run.influence(None, variant="attention", per="head")
    real = torch.ones(3, observed.shape[-1], device=device) if family.vision else inputs["attention_mask"]
    assert relative_error(observed * real[:, None, None, :, None], attention * real[:, None, None, :, None]) <= 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_model_pickles_after_explanation(name, device):
    family = FAMILIES[name]
    model = family.build(device=device)
    with observed_forward(model, mapping_inputs(model, batch(family, device=device))) as run:
        run.influence(run.output[:, 0], variant="rectified")
    pickle.loads(pickle.dumps(model))
