"""Explanations that share a backward pass are those that each one has of its own."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, image_batch, text_batch
from models import left_untouched

from captum_attn import (
    AttentionRollout,
    GenericRelevance,
    GradientAttentionRollout,
    GradSAM,
    NormAttention,
    ShapleyAttention,
    ShapleyGradAttention,
)
from captum_attn.core import mapping_inputs, observed_forward
from captum_attn.functional import kernel_shapley
from captum_attn.methods.one_pass import explain_in_one_pass

METHODS = {
    "incoming": lambda model: ShapleyGradAttention(model),
    "cls, rectified": lambda model: ShapleyGradAttention(model, game="cls", sign="rectified"),
    "one layer and head": lambda model: ShapleyGradAttention(model, layers=[1], heads=[0, 2]),
    "max_mutual": lambda model: ShapleyGradAttention(model, game="max_mutual"),
    "sampled": lambda model: ShapleyGradAttention(model, game="mutual", estimator=kernel_shapley),
    "attention": lambda model: ShapleyAttention(model),
    "attention, mutual": lambda model: ShapleyAttention(model, game="mutual", layers=[-1]),
    "generic relevance": lambda model: GenericRelevance(model),
    "gradient rollout": lambda model: GradientAttentionRollout(model, rows="incoming"),
    "rollout": lambda model: AttentionRollout(model, layers=[0, 2]),
    "Grad-SAM": lambda model: GradSAM(model),
}
LAYERS = {"bert": "bert.encoder.layer", "gpt2": "transformer.h", "vit": "vit.layers"}


@pytest.mark.parametrize("target", [None, 2, [0, 1, 2]])
@pytest.mark.parametrize("family", LAYERS)
def test_several_methods_and_states_share_one_backward_pass(family, target, monkeypatch):
    model = FAMILIES[family].build()
    batch = image_batch() if FAMILIES[family].vision else text_batch()
    batch = {name: part[:2] for name, part in batch.items()}  # as many inputs as classes are looked at twice
    inputs = mapping_inputs(model, batch)
    target = [*target, *target][: len(inputs)] if isinstance(target, list) else target
    methods = [build(model) for build in METHODS.values()]
    names = [f"{LAYERS[family]}.{layer}" for layer in (0, 2)]
    expected = [method.attribute_tokens(batch, target) for method in methods]
    chosen = expected[0].targets
    with observed_forward(model, inputs, modules=names) as run:
        alone = run.readout_gradients(run.output.gather(1, chosen).squeeze(1), run.states)
    passes, backward = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: passes.append(1) or backward(*args, **kwargs))
    with left_untouched(model), observed_forward(model, inputs, modules=names) as run:
        found, readout = explain_in_one_pass(run, inputs, methods, run.states, target)
    assert len(passes) == 1
    for name, mine, theirs in zip(METHODS, found, expected, strict=True):
        assert torch.allclose(mine.values, theirs.values, atol=1e-6), name
        assert torch.equal(mine.targets, theirs.targets)
    for mine, theirs in zip(
        [*readout.gradients, *readout.attention], [*alone.gradients, *alone.attention], strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_methods_alone_and_attention_alone():
    model = FAMILIES["bert"].build()
    batch = text_batch()
    inputs = mapping_inputs(model, batch)
    for build in METHODS.values():
        with observed_forward(model, inputs) as run:
            (found,), readout = explain_in_one_pass(run, inputs, [build(model)])
        assert readout is None
        assert torch.allclose(found.values, build(model).attribute_tokens(batch).values, atol=1e-6)


def test_norms_say_that_they_need_what_follows_attention():
    model = FAMILIES["bert"].build()
    inputs = mapping_inputs(model, text_batch())
    with observed_forward(model, inputs) as run, pytest.raises(ValueError, match="after_attention=True"):
        explain_in_one_pass(run, inputs, [NormAttention(model)])
    with observed_forward(model, inputs, after_attention=True) as run:
        (found, _), _ = explain_in_one_pass(run, inputs, [NormAttention(model), GradSAM(model)])
    torch.testing.assert_close(found.values, NormAttention(model).attribute_tokens(text_batch()).values)


def test_another_target_can_be_explained_afterwards():
    model = FAMILIES["bert"].build()
    inputs = mapping_inputs(model, text_batch())
    with observed_forward(model, inputs) as run:
        explain_in_one_pass(run, inputs, [ShapleyGradAttention(model)], target=0, retain_graph=True)
        (found,), _ = explain_in_one_pass(run, inputs, [ShapleyGradAttention(model)], target=1)
    expected = ShapleyGradAttention(model).attribute_tokens(text_batch(), 1)
    assert torch.allclose(found.values, expected.values, atol=1e-6)


def test_nothing_to_explain_is_refused():
    model = FAMILIES["bert"].build()
    inputs = mapping_inputs(model, text_batch())
    with observed_forward(model, inputs) as run, pytest.raises(ValueError, match="nothing to explain"):
        explain_in_one_pass(run, inputs, [])
