"""Faithfulness as ``torchmetrics.Metric``s over probabilities, each with its standard error.

They know no model: what perturbs the inputs feeds them. Batches, processes and ``merge_state`` add up exactly.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from captum_attn.functional import (
    Scale,
    aopc,
    area_under_curve,
    check_percentages,
    check_probabilities,
    check_scale,
    log_odds,
    mean_drop,
)
from captum_attn.metrics.means import MeanOverExamples


class FaithfulnessMetric(MeanOverExamples):
    """Subclasses say in :meth:`of_each` what is averaged."""

    @abstractmethod
    def of_each(self, whole: Tensor, perturbed: Tensor) -> Tensor:
        """The number of each example, (B,) or (B, K), of probabilities (B,) and (B, K)."""

    def update(self, whole: Tensor, perturbed: Tensor) -> None:
        """Take in a batch.

        Args:
            whole: float (B,), the predicted class's probability on the whole inputs.
            perturbed: float (B, K), on the perturbed inputs.
        """
        self.add(self.of_each(whole, perturbed))


class MeanDrop(FaithfulnessMetric):
    """The mean of :func:`~captum_attn.functional.mean_drop`."""

    plot_lower_bound, plot_upper_bound = -1.0, 1.0

    def __init__(self, scale: Scale = "eraser", **kwargs: Any) -> None:
        check_scale(scale)
        super().__init__(settings=f"_{scale}", **kwargs)
        self.scale = scale

    def of_each(self, whole: Tensor, perturbed: Tensor) -> Tensor:
        return mean_drop(whole, perturbed, self.scale)


class Comprehensiveness(MeanDrop):
    """How far the probability falls without the highest tokens: are they needed? Higher is better.

    ``update(whole, perturbed)`` takes p(x) (B,), and p (B, K) of the inputs without their top k %, at K percentages.

    Args:
        scale: ``"eraser"``, the mean over the K percentages, for which ERASER takes (0, 1, 5, 10, 20, 50); or
            ``"paper"``, arXiv 2508.08966's sum over (0, 10, 20, 50) divided by 5.
        kwargs: of ``torchmetrics.Metric``.

    Raises:
        ValueError: an unknown scale; in ``update``, as :func:`~captum_attn.functional.mean_drop`.

    Example:
        >>> metric = Comprehensiveness()
        >>> metric.update(torch.tensor([0.9, 0.8]), torch.tensor([[0.9, 0.5], [0.8, 0.2]]))
        >>> metric.compute(), metric.standard_error
        (tensor(0.2500), tensor(0.0500))

    Source: DeYoung et al. 2020, ERASER, section 4.2.
    """

    higher_is_better = True


class Sufficiency(MeanDrop):
    """How far the probability falls with the highest tokens only: do they suffice? Lower is better.

    ``update(whole, perturbed)`` takes p(x) (B,), and p (B, K) of the inputs with only their top k %. At 0 %, nothing is
    left.

    Args:
        scale, kwargs: as in :class:`Comprehensiveness`.

    Raises:
        ValueError: as :class:`Comprehensiveness`.

    Example:
        >>> metric = Sufficiency()
        >>> metric.update(torch.tensor([0.9, 0.8]), torch.tensor([[0.5, 0.9], [0.6, 0.8]]))
        >>> metric.compute()
        tensor(0.1500)

    Source: DeYoung et al. 2020, ERASER, section 4.2.
    """

    higher_is_better = False


class LogOdds(FaithfulnessMetric):
    """The mean of :func:`~captum_attn.functional.log_odds` of inputs without their top k %. Lower is better.

    Example:
        >>> metric = LogOdds()
        >>> metric.update(torch.tensor([0.8]), torch.tensor([[0.8, 0.4, 0.2]]))
        >>> metric.compute()
        tensor(-0.6931)
    """

    higher_is_better = False

    def of_each(self, whole: Tensor, perturbed: Tensor) -> Tensor:
        return log_odds(whole, perturbed)


class AOPC(FaithfulnessMetric):
    """The curve (K,) of :func:`~captum_attn.functional.aopc`. Higher is better.

    Args:
        steps: K, with the whole input as the first.
        kwargs: of ``torchmetrics.Metric``.

    Example:
        >>> metric = AOPC(steps=3)
        >>> metric.update(torch.tensor([0.9]), torch.tensor([[0.9, 0.5, 0.3]]))
        >>> metric.compute()
        tensor([0.0000, 0.2000, 0.3333])
    """

    higher_is_better = True
    plot_lower_bound, plot_upper_bound, plot_legend_name = -1.0, 1.0, "Step"

    def __init__(self, steps: int, **kwargs: Any) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        super().__init__((steps,), settings=f"_{steps}", **kwargs)
        self.steps = steps

    def of_each(self, whole: Tensor, perturbed: Tensor) -> Tensor:
        if perturbed.shape[1:] != (self.steps,):
            raise ValueError(f"expected probabilities (B, {self.steps}), got {tuple(perturbed.shape)}")
        return aopc(whole, perturbed)


class AreaUnderCurve(FaithfulnessMetric):
    """The mean of :func:`~captum_attn.functional.area_under_curve`."""

    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    def __init__(self, percentages: Sequence[float], **kwargs: Any) -> None:
        super().__init__(settings="".join(f"_{share}" for share in percentages), **kwargs)
        check_percentages(percentages)
        self.percentages = tuple(percentages)

    def of_each(self, whole: Tensor, perturbed: Tensor) -> Tensor:
        check_probabilities(whole, perturbed)
        return area_under_curve(perturbed, self.percentages)


class Deletion(AreaUnderCurve):
    """The area under p of inputs without their top k %, k from 0 to 100. Lower is better.

    Args:
        percentages: K of them, ascending from 0 to 100.
        kwargs: of ``torchmetrics.Metric``.

    Example:
        >>> metric = Deletion([0, 50, 100])
        >>> metric.update(torch.tensor([0.9]), torch.tensor([[0.9, 0.5, 0.1]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = False


class Insertion(AreaUnderCurve):
    """The area under p of inputs with only their top k %, k from 0 to 100. Higher is better.

    Args:
        percentages, kwargs: as in :class:`Deletion`.

    Example:
        >>> metric = Insertion([0, 50, 100])
        >>> metric.update(torch.tensor([0.9]), torch.tensor([[0.1, 0.8, 0.9]]))
        >>> metric.compute()
        tensor(0.6500)
    """

    higher_is_better = True
