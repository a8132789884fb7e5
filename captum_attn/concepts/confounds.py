"""Is a concept the explained class in disguise? Examples that the model takes for it, that lie near it, and copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.stats import fisher_exact
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from captum_attn.functional import SIGNIFICANT, holm


class ExplainedInputs(NamedTuple):
    """What is known of the n inputs that are explained.

    Attributes:
        pooled: (n, D) of each layer, Σ_i a_i g_i.
        targets: int64 (n, k), what is explained.
        states: (n, D) of each layer, the means of their tokens; None if they are not known.
        contents: of each, a fingerprint of what it holds, as ``captum_attn.concepts.experimental_sets`` makes it; none
            if they are not known.
    """

    pooled: Sequence[Tensor]
    targets: Tensor
    states: Sequence[Tensor] | None = None
    contents: Sequence[str] = ()

    def predicted_as_explained(self, predicted: Tensor) -> Tensor | None:
        """bool (E,), which examples, predicted int64 (E,), are what is explained; None where that is not one class."""
        explained = self.targets.unique()
        if self.targets.shape[1] != 1 or len(explained) != 1 or (predicted < 0).any():
            return None
        return predicted.eq(explained.cpu())


@dataclass(frozen=True)
class Confounds:
    """What speaks against the E examples of K concepts as witnesses.

    Attributes:
        concepts: int64 (E,), the concept of each example, 0 to K - 1.
        predicted: bool (E,), the model predicts what is explained; None where that is not one class.
        copies: bool (E,), those with the content of an explained input, or of an example before them.
        near: float64 (K,), the share of a concept's examples that lie on the inputs' side of what tells these from the
            other concepts, in the layer where its effect is surest; NaN where it is not known.
    """

    concepts: Tensor
    predicted: Tensor | None
    copies: Tensor
    near: Tensor

    @property
    def suspicious(self) -> Tensor:
        """bool (E,): predicted, or copies."""
        return self.copies if self.predicted is None else self.copies | self.predicted

    def copies_of_each(self) -> list[int]:
        """How many of each concept's examples are copies."""
        return torch.bincount(self.concepts[self.copies], minlength=len(self.near)).tolist()

    def predicted_shares(self) -> list[tuple[float, float]]:
        """Of each concept, the share of its examples that are predicted, and of the others'; NaN if not known."""
        if self.predicted is None:
            return [(torch.nan, torch.nan)] * len(self.near)
        owns = (self.concepts == concept for concept in range(len(self.near)))
        hits = self.predicted.double()
        return [(float(hits[own].mean()), float(hits[~own].mean())) for own in owns]

    def predicted_more_often(self) -> Tensor:
        """bool (K,), whether a concept's examples are predicted more often than the others' (Fisher's test, Holm)."""
        if self.predicted is None:
            return torch.zeros(len(self.near), dtype=torch.bool)
        p_values = []
        for concept in range(len(self.near)):
            own = self.concepts == concept
            table = [[int((self.predicted[of] == hit).sum()) for hit in (True, False)] for of in (own, ~own)]
            p_values.append(fisher_exact(table, alternative="greater").pvalue)
        return holm(torch.tensor(p_values, dtype=torch.double)) < SIGNIFICANT


def find_confounds(
    states: Sequence[Tensor],
    concepts: Tensor,
    surest: Tensor,
    inputs: ExplainedInputs,
    predicted: Tensor,
    copies: Tensor,
) -> Confounds:
    """Look at examples beside the explained inputs.

    Args:
        states: (E, D) of each layer, of the examples.
        concepts: int64 (E,), their concepts.
        surest: int64 (K,), the layer in which each concept's effect is surest.
        inputs: that are explained.
        predicted: int64 (E,), the classes that the model predicts.
        copies: bool (E,), those that are copies of inputs, or of examples before them.
    """
    near = [
        torch.nan if inputs.states is None else near_inputs(states[layer], concepts, concept, inputs.states[layer])
        for concept, layer in enumerate(surest.tolist())
    ]
    return Confounds(concepts.cpu(), inputs.predicted_as_explained(predicted), copies, torch.tensor(near).double())


def near_inputs(states: Tensor, concepts: Tensor, concept: int, inputs: Tensor) -> float:
    """The share of one concept's examples, mean states (E, D), on the inputs' (n, D) side of the other concepts' mean.

    NaN for a single input. Inputs without a state (NaN), of which no token is read, do not count.

    Source: this library's; Fisher's discriminant, its covariance shrunk as Ledoit and Wolf 2004 have it.
    """
    inputs = inputs[inputs.isfinite().all(-1)]
    if len(inputs) < 2:
        return torch.nan
    own = concepts == concept
    known = torch.cat([states[~own], inputs.to(states)]).double().cpu().numpy()
    labels = torch.arange(len(known)) >= int((~own).sum())
    discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
    discriminant.fit(known, labels.numpy())
    return float(discriminant.predict(states[own].double().cpu().numpy()).mean())
