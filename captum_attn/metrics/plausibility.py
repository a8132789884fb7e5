"""Plausibility as ``torchmetrics.Metric``s over scores and rationales, each with its standard error."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from captum_attn.functional import token_auprc, token_f1, token_iou
from captum_attn.metrics.means import MeanOverExamples


class PlausibilityMetric(MeanOverExamples):
    """The mean over the examples that have a rationale."""

    higher_is_better = True
    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    @abstractmethod
    def of_each(self, scores: Tensor, rationales: Tensor, players: Tensor) -> Tensor:
        """The number of each example, (B,)."""

    def update(self, scores: Tensor, rationales: Tensor, players: Tensor) -> None:
        """Take in a batch: ``scores`` float (B, N), ``rationales`` bool (B, N), ``players`` bool (B, N)."""
        values = self.of_each(scores, rationales, players)
        self.add(values[~values.isnan()])


class TokenAUPRC(PlausibilityMetric):
    """The mean of :func:`~captum_attn.functional.token_auprc` (average precision), over examples with a rationale.

    Example:
        >>> metric = TokenAUPRC()
        >>> tokens = torch.tensor([[True, True]])
        >>> metric.update(torch.tensor([[0.1, 0.9]]), torch.tensor([[False, True]]), players=tokens)
        >>> metric.compute()
        tensor(1.)
    """

    def of_each(self, scores: Tensor, rationales: Tensor, players: Tensor) -> Tensor:
        return token_auprc(scores, rationales, players)


class TokenF1(PlausibilityMetric):
    """The mean of :func:`~captum_attn.functional.token_f1`, over examples with a rationale.

    Example:
        >>> metric = TokenF1()
        >>> tokens = torch.tensor([[True, True]])
        >>> metric.update(torch.tensor([[0.1, 0.9]]), torch.tensor([[True, False]]), players=tokens)
        >>> metric.compute()
        tensor(0.)
    """

    def of_each(self, scores: Tensor, rationales: Tensor, players: Tensor) -> Tensor:
        return token_f1(scores, rationales, players)


class TokenIOU(PlausibilityMetric):
    """The mean of :func:`~captum_attn.functional.token_iou`, over examples with a rationale.

    Example:
        >>> metric = TokenIOU()
        >>> tokens = torch.tensor([[True, True]])
        >>> metric.update(torch.tensor([[0.1, 0.9]]), torch.tensor([[True, True]]), players=tokens)
        >>> metric.compute()
        tensor(1.)
    """

    def of_each(self, scores: Tensor, rationales: Tensor, players: Tensor) -> Tensor:
        return token_iou(scores, rationales, players)
