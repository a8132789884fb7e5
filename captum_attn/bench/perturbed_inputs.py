"""What a model says of perturbed copies of a batch, each distinct one asked once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from captum_attn.bench.masked_model import INTERVENTIONS, Intervention, MaskedModel, WholeInputs


@dataclass
class PerturbedInputs:
    """The answers to all perturbed inputs that anyone asked for so far.

    Attributes:
        masked: the model.
        whole: the B inputs as they are.
        known: probability of the whole input's class, and the class predicted, by intervention, place in the batch and
            the tokens that are taken.
    """

    masked: MaskedModel
    whole: WholeInputs
    known: dict[tuple[str, int, bytes], tuple[float, int]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Inputs of which nothing is taken need not be asked."""
        nothing = torch.zeros_like(self.whole.players[0]).cpu().numpy().tobytes()
        pairs = zip(self.whole.confidence.tolist(), self.whole.targets.tolist(), strict=True)
        for place, found in enumerate(pairs):
            self.known |= {(intervention, place, nothing): found for intervention in INTERVENTIONS}

    def answers(self, intervention: Intervention, taken: Tensor) -> tuple[Tensor, Tensor]:
        """Ask the model without some of the tokens.

        Args:
            intervention: how tokens are taken away.
            taken: bool (..., B, N), the tokens to take.

        Returns:
            (..., B): probabilities of the classes that are predicted on the whole inputs, and the classes predicted.
        """
        rows, targets = taken.flatten(0, -2), self.whole.targets
        places = torch.arange(len(targets)).repeat(len(rows) // len(targets))
        keys = [
            (intervention, place, row.tobytes()) for place, row in zip(places.tolist(), rows.cpu().numpy(), strict=True)
        ]
        new = {key: index for index, key in enumerate(keys) if key not in self.known}
        if new:
            index, device = torch.tensor(list(new.values())), rows.device
            examples = places[index].to(device)
            answers = self.masked.probabilities(self.whole, examples, rows[index.to(device)], intervention)
            of_target = answers.gather(1, targets[examples, None]).squeeze(1)
            self.known.update(zip(new, zip(of_target.tolist(), answers.argmax(-1).tolist(), strict=True), strict=True))
        probabilities, predictions = zip(*(self.known[key] for key in keys), strict=True)
        shape = taken.shape[:-1]
        return torch.tensor(probabilities, dtype=torch.double).view(shape), torch.tensor(predictions).view(shape)
