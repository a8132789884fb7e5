"""Which layer is the surest."""

from __future__ import annotations

import torch

from captum_attn.concepts.scoring import EffectPValues


def test_of_layers_that_are_as_sure_the_one_of_the_largest_effect_counts() -> None:
    nan = torch.nan
    examples = torch.tensor([[0.01, 0.30, nan], [0.01, 0.20, nan], [0.01, 0.01, nan], [0.02, 0.05, nan]])
    direction = torch.tensor([[0.01, 0.10, nan], [0.01, 0.10, nan], [0.00, 0.40, nan], [0.00, 0.01, nan]])
    effects = torch.tensor([[0.5, 9.0, 0.0], [-2.0, 0.1, 0.0], [1.0, 9.0, 0.0], [8.0, 0.2, 0.0]])
    found = EffectPValues(examples.double(), direction.double(), effects, 99)
    assert found.surest.tolist() == [1, 3, 0]
    assert found.least == 2 / 100
