"""Models that attend in windows, or on coarser and coarser grids, are explained key by key."""

from __future__ import annotations

import pytest
import torch
from attention_reference import gradients, recording
from hierarchical_models import MODELS, build, laid_out, pixels

from captum_attn import ShapleyAttention, ShapleyGradAttention


@pytest.mark.parametrize("name", MODELS)
def test_values_are_those_of_eager_attention_laid_where_the_paper_says(name):
    model, images, layers = build(name), pixels(name), MODELS[name].keys
    with recording(model) as recorded:
        scores = model(pixel_values=images).logits[:, 1]
    products = [one.attention.detach() * g for one, g in zip(recorded, gradients(scores, recorded), strict=True)]
    finest = max((keys.grid for keys in layers), key=lambda grid: grid.count)
    for parts, method in ((products, ShapleyGradAttention), ([one.attention for one in recorded], ShapleyAttention)):
        worths = (part.detach().sum(-2) for part in parts)
        expected = [laid_out(worth, keys, finest, 2) for worth, keys in zip(worths, layers, strict=True)]
        explainer = method(model)
        found = explainer.attribute_tokens(images, target=1, per="layer")
        assert found.grid.counts == (finest.count, finest.count)
        assert found.grid.sizes == (finest.size, finest.size)
        assert (found.grid.top, found.grid.left) == (finest.first, finest.first)
        torch.testing.assert_close(found.patches, torch.stack(expected, 1), rtol=1e-4, atol=1e-7)
        mean = explainer.attribute_tokens(images, target=1)
        torch.testing.assert_close(mean.patches, found.patches.mean(1))
