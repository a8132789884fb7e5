"""How much each head counts for where a response comes from, learned from ablations of a few examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_attn.core import add_to_hash

_PENALTY = 10.0
"""Chosen on cases of examples/helpers/planted_cases.py with ``--seed 5000``."""


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """Weights of the heads of one model.

    Attributes:
        weights: (L, H), float64.
        explains: what they were fitted for: :attr:`captum_attn.GenerationAttention.explains`.

    Source: this library's form of AT2, Cohen-Wang, Chuang, Madry 2025, *Learning to Attribute with Attention*,
    2504.13752.
    """

    weights: Tensor
    explains: Mapping[str, str]

    def combined(self, influence: Tensor) -> Tensor:
        """Values (..., N) of the influence (..., L, H, N) of each head.

        Raises:
            ValueError: a model of other layers or heads.
        """
        if influence.shape[-3:-1] != self.weights.shape:
            raise ValueError(
                f"these weights are for {tuple(self.weights.shape)} layers and heads, but "
                f"{tuple(influence.shape[-3:-1])} are explained"
            )
        return torch.einsum("lh,...lhn->...n", self.weights.to(influence), influence)

    @classmethod
    def fit(cls, influence: Sequence[Tensor], lost: Sequence[Tensor], explains: Mapping[str, str]) -> HeadWeights:
        """Fit them by ridge regression; :func:`captum_attn.generation.fit_head_weights` brings what it takes.

        Heads are not standardized, so that one that hardly looks at sources counts little, and what is lost is in units
        of each example's most. The penalty, in units of the influence's variance, is fixed, as rows of one example are
        too alike to choose it by.

        Args:
            influence: for each example (L, H, K), of its K sources in each head.
            lost: for each example (K,), what the response's score loses without each of them.
            explains: of the explainer.

        Raises:
            ValueError: no examples, or none of which one source counts more than another.
        """
        from sklearn.linear_model import Ridge

        if not influence:
            raise ValueError("there are no examples to fit the weights of heads to")
        predictors = torch.cat([of_heads.flatten(0, 1).mT for of_heads in influence]).double()
        tiny = torch.finfo(torch.float32).tiny
        shares = torch.cat([one.double() / one.abs().max().clamp(min=tiny) for one in lost])
        ridge = Ridge(_PENALTY * max(float(predictors.var(correction=0)), tiny))
        ridge.fit(predictors.numpy(), shares.numpy())
        if not ridge.coef_.any():
            raise ValueError(
                "there is nothing to learn from these examples: without whichever source, their responses lose alike. "
                "Take examples with several sources, of which some matter"
            )
        return cls(torch.from_numpy(ridge.coef_).view(influence[0].shape[:2]), explains)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file."""
        from safetensors.torch import save_file

        save_file(
            {"weights": self.weights.contiguous()},
            str(path),
            metadata=dict(self.explains),
        )

    @classmethod
    def load(cls, path: str | Path) -> HeadWeights:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: a file of another kind.
        """
        from safetensors import SafetensorError, safe_open

        message = f"{path} is no file of heads' weights that HeadWeights.save wrote"
        try:
            with safe_open(str(path), framework="pt") as file:
                names, metadata = list(file.keys()), file.metadata() or {}
                if names != ["weights"] or "variant" not in metadata:
                    raise ValueError(f"{message}: it holds {names}")
                return cls(file.get_tensor("weights"), metadata)
        except SafetensorError as error:
            raise ValueError(f"{message}: {error}") from error


def mark_of(model: Any) -> str:
    """What tells a model from others of its shape, in whatever precision: signs of some of its weights."""
    digest = sha256()
    for weight in getattr(model, "parameters", list)():
        add_to_hash(digest, weight.detach().flatten()[:64] >= 0)
    return f"{type(model).__name__} {digest.hexdigest()[:12]}"
