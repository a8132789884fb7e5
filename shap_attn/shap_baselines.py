"""SHAP's own explainers as baselines for :func:`captum_attn.metrics.evaluate`: one score for each token.

Tokens are taken away as the metrics do it; what is explained is the probability of the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import shap
import torch
from torch import Tensor

from captum_attn.bench import CoalitionBaseline, MaskedModel
from captum_attn.functional import CharacteristicFunction

Array = npt.NDArray[Any]
_MOST_EXACT = 15
_WORD_STARTS = ("Ġ", "▁")


class PartitionBaseline(CoalitionBaseline):
    """``shap.PartitionExplainer`` along SHAP's hierarchy of text: Owen values, at a budget of evaluations.

    Args:
        masked: the model of text, with its tokenizer.
        max_evals: evaluations of the model for each text; SHAP's default is 500.

    Raises:
        ValueError: a model without a tokenizer.

    Example:
        >>> from captum_attn.bench import MaskedModel
        >>> partition = PartitionBaseline(MaskedModel(model, tokenizer), max_evals=20)
        >>> partition(batch, torch.tensor([1, 0])).shape
        torch.Size([2, 6])

    Source: Lundberg and Lee 2017; Owen 1977, for values along a hierarchy.
    """

    dtype = torch.double

    def __init__(self, masked: MaskedModel, max_evals: int = 500) -> None:
        super().__init__(masked)
        if masked.tokenizer is None:
            raise ValueError("SHAP's hierarchy is one of text: expected a MaskedModel with a tokenizer")
        self.max_evals = max_evals

    def values(self, worth: CharacteristicFunction, players: int, ids: Sequence[int]) -> Tensor:
        masker = _Tokens(_Hierarchy(self._pieces(ids)).clustering())
        explainer = shap.PartitionExplainer(_model(worth), masker)
        explanation = explainer(
            np.arange(players)[None], max_evals=self.max_evals, batch_size=self.masked.batch_size, silent=True
        )
        return torch.from_numpy(explanation.values.reshape(players))

    def _pieces(self, ids: Sequence[int]) -> list[str]:
        """The tokens as SHAP's hierarchy wants them: ``##`` before pieces that go on with a word."""
        tokenizer: Any = self.masked.tokenizer
        tokens: list[str] = tokenizer.convert_ids_to_tokens(list(ids))
        if not any(token.startswith(_WORD_STARTS) for token in tokens):
            return tokens
        pieces: list[str] = []
        for token in tokens:
            starts = token.startswith(_WORD_STARTS) or not token[:1].isalpha()
            inside = not starts and bool(pieces) and pieces[-1][-1:].isalpha()
            pieces.append(f"##{token}" if inside else token.lstrip("".join(_WORD_STARTS)))
        return pieces


class ExactBaseline(CoalitionBaseline):
    """``shap.ExactExplainer``: Shapley values of the masked model from all 2ⁿ coalitions, for n ≤ 15 players.

    Raises:
        ValueError: when called, for an input of more players.

    Example:
        >>> from captum_attn.bench import MaskedModel
        >>> exact = ExactBaseline(MaskedModel(model, tokenizer))
        >>> exact(batch, torch.tensor([1, 0])).shape
        torch.Size([2, 6])

    Source: Lundberg and Lee 2017.
    """

    dtype = torch.double

    def values(self, worth: CharacteristicFunction, players: int, ids: Sequence[int]) -> Tensor:
        if players > _MOST_EXACT:
            raise ValueError(
                f"{players} tokens have 2^{players} coalitions: expected at most {_MOST_EXACT}. Choose shorter inputs, "
                "or a sampler such as captum's ShapleyValueSampling"
            )
        background = np.zeros((1, players))
        explainer = shap.ExactExplainer(_model(worth), shap.maskers.Independent(background))
        explanation = explainer(np.ones((1, players)), batch_size=2**players, silent=True)
        return torch.from_numpy(explanation.values.reshape(players))


class _Hierarchy(shap.maskers.Text):  # type: ignore[misc]
    """SHAP's hierarchy of text, over pieces (n,) instead of a text."""

    def __init__(self, pieces: Sequence[str]) -> None:
        super().__init__()
        self.pieces = pieces

    def token_segments(self, s: str) -> tuple[list[str], list[int]]:
        """The pieces, each with a space at its end, so that SHAP leaves them as they are."""
        return [f"{piece} " for piece in self.pieces], list(range(len(self.pieces)))

    def clustering(self, s: str = "") -> Array:
        """In SciPy's linkage format, (n - 1, 4)."""
        return super().clustering(s) if len(self.pieces) > 1 else np.zeros((0, 4))


class _Tokens:
    """A masker of positions (n,): what is kept of them, bool (1, n)."""

    def __init__(self, hierarchy: Array) -> None:
        self.shape = (1, len(hierarchy) + 1)
        self.clustering = hierarchy

    def __call__(self, mask: Array, positions: Array) -> tuple[Array]:
        return (mask[None],)


def _model(worth: CharacteristicFunction) -> Any:
    return lambda kept: worth(torch.from_numpy(np.asarray(kept, dtype=bool))).double().cpu().numpy()
