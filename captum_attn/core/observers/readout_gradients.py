"""What explained scores draw on: gradients of hidden states, and how far the readout attends to each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from captum_attn.core.observers.influence import InfluenceObserver
from captum_attn.core.observers.watched import Watched
from captum_attn.core.readout import RowWeights


class ReadoutGradients(NamedTuple):
    """How an output depends on the tokens' hidden states, and how far they are attended to.

    Attributes:
        gradients: of each of the states asked for, (B, N, D); zero where the output does not depend on them.
        attention: for each, (B, N): mean attention of all heads from the readout token, or the mean of several, to each
            token, in the last attention before the states; float32, or float64 for a float64 model.
        readout: these tokens.
    """

    gradients: list[Tensor]
    attention: list[Tensor]
    readout: RowWeights


class ReadoutObserver(InfluenceObserver):
    """Collect the readout's attention to each token, layer by layer.

    Args:
        watched: the layers that are the last before some states, and all heads.
        readout: the tokens that the explained scores are read from.
        before: for each of the states, which of the watched layers it is.
    """

    def __init__(self, watched: Watched, readout: RowWeights, before: Sequence[int]) -> None:
        super().__init__(watched, "attention", readout, per="layer")
        self._readout, self._before = readout, before

    def with_gradients(self, gradients: list[Tensor]) -> ReadoutGradients:
        """The attention that was seen, and gradients of the states."""
        attention = self.influence
        return ReadoutGradients(gradients, [attention[:, layer] for layer in self._before], self._readout)
