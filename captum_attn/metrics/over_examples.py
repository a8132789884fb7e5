"""The metrics as ``torchmetrics.Metric``s: means over examples, each with its standard error.

They know no model: what perturbs the inputs feeds them. Batches, processes and ``merge_state`` add up exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor
from torchmetrics import Metric as TorchMetric

from captum_attn.functional import Scale, aopc, check_percentages, check_scale
from captum_attn.metrics import catalogue
from captum_attn.metrics.catalogue import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class MeanOverExamples(TorchMetric):
    """The mean over examples of a number, or of K numbers, for each. Batches and processes add up exactly.

    Subclasses call :meth:`add` in their ``update``.

    Args:
        shape: of what each example has: () or (K,).
        settings: what tells metrics of one class apart. A ``MetricCollection`` shares states of the same name.
        kwargs: of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, shape: tuple[int, ...] = (), settings: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        name = f"{type(self).__name__}{settings}".replace(".", "_")
        self._total, self._squares, self._count = (f"{name}_{part}" for part in ("total", "squares", "count"))
        self.add_state(self._total, torch.zeros(shape, dtype=torch.double), dist_reduce_fx="sum")
        self.add_state(self._squares, torch.zeros(shape, dtype=torch.double), dist_reduce_fx="sum")
        self.add_state(self._count, torch.tensor(0), dist_reduce_fx="sum")
        self._error = torch.full(shape, torch.nan)

    def add(self, values: Tensor) -> None:
        """Take in the numbers (B, ...) of a batch, of this metric's shape."""
        values = values.detach().double()
        self._add_to(self._total, values.sum(0))
        self._add_to(self._squares, values.square().sum(0))
        self._add_to(self._count, len(values))

    def compute(self) -> Tensor:
        """The mean, float32; NaN without examples."""
        total, squares, count = (getattr(self, name) for name in (self._total, self._squares, self._count))
        mean: Tensor = total / count
        variance = (squares - count * mean.square()).clamp(min=0) / (count - 1).clamp(min=0)
        self._error = (variance / count).sqrt().float()
        return mean.float()

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Axes | None = None) -> tuple[Figure | None, Axes]:
        """Draw one value, or several as they evolve, as every metric of torchmetrics does.

        Args:
            val: what ``compute`` or ``forward`` returned, or a list of such. Default: the value now.
            ax: where to draw. Default: a new figure.

        Returns:
            The figure (None if ``ax`` was given) and the axes.
        """
        return cast("tuple[Figure | None, Axes]", self._plot(val, ax))

    @property
    def standard_error(self) -> Tensor:
        """Of the mean, over the same examples; NaN for fewer than two. Of several processes, all must read it."""
        self.compute()
        return self._error

    def _add_to(self, state: str, value: Tensor | int) -> None:
        setattr(self, state, getattr(self, state) + value)


class OverExamples(MeanOverExamples):
    """The mean of a metric of the catalogue, or of one's own: ``class Mine(OverExamples, metric=mine)``.

    ``update`` takes what the metric needs, in its order, but for percentages and scale. Examples that do not count,
    where the metric is NaN, are left out.

    Args:
        scale: for metrics that need it, ``"eraser"`` or ``"paper"``.
        percentages: for metrics that need them.
        kwargs: of ``torchmetrics.Metric``.

    Raises:
        ValueError: an unknown scale; a metric of all examples, or that needs percentages and has none.

    Example:
        >>> from captum_attn.metrics import Metric, OverExamples
        >>> survives = Metric("survives", False, ["without_top"], lambda p: (p > 0.5).float().mean(-1))
        >>> class Survives(OverExamples, metric=survives):
        ...     pass
        >>> meter = Survives()
        >>> meter.update(torch.tensor([[0.9, 0.6, 0.1], [0.9, 0.3, 0.1]]))
        >>> meter.compute(), meter.higher_is_better
        (tensor(0.5000), False)
    """

    metric: ClassVar[Metric]

    def __init_subclass__(cls, *, metric: Metric | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if metric is None:
            return
        if metric.of_all:
            raise ValueError(f"{metric.name} is one number of all examples, of which no mean is taken")
        cls.metric, cls.higher_is_better = metric, metric.higher_is_better
        cls.plot_lower_bound, cls.plot_upper_bound = metric.bounds or (None, None)

    def __init__(self, scale: Scale = "eraser", percentages: Sequence[float] | None = None, **kwargs: Any) -> None:
        if not hasattr(type(self), "metric"):
            raise TypeError("OverExamples has no metric: derive a class, class Mine(OverExamples, metric=mine)")
        check_scale(scale)
        of_scale = [scale] if "scale" in self.metric.needs else []
        shares = self.metric.shares(percentages or (), "all") if "percentages" in self.metric.needs else ()
        if self.metric.percentages == "from 0 to 100":
            check_percentages(shares)
        elif "percentages" in self.metric.needs and not shares:
            raise ValueError(f"{self.metric.name} needs percentages=")
        if percentages is not None and "percentages" not in self.metric.needs:
            raise ValueError(f"{self.metric.name} takes no percentages=: it is about those of the probabilities given")
        own = (self.metric.name, *of_scale, *shares)
        super().__init__(settings="".join(f"_{setting}" for setting in own), **kwargs)
        self.scale, self.percentages = scale, shares

    def update(self, *values: Any, **named: Any) -> None:
        """Take in a batch of what the metric needs, in its order or by name, such as ``whole`` and ``without_top``."""
        settings = {"scale": self.scale, "percentages": self.percentages}
        names = [need for need in self.metric.needs if need not in settings]
        given = {**dict(zip(names, values, strict=False)), **named}
        if len(values) > len(names) or not {*names} <= given.keys():
            raise TypeError(
                f"{type(self).__name__}.update takes {', '.join(names)}, got {len(values)} and {list(named)}"
            )
        each = self.metric.of({**given, **settings})
        self.add(each[~each.isnan()])


class _OfProbabilities(OverExamples):
    def update(self, whole: Tensor, perturbed: Tensor) -> None:
        """Take in a batch.

        Args:
            whole: float (B,), the predicted class's probability on the whole inputs.
            perturbed: float (B, K), on the perturbed inputs.
        """
        super().update(whole, perturbed)


class Comprehensiveness(_OfProbabilities, metric=catalogue.COMPREHENSIVENESS):
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


class Sufficiency(_OfProbabilities, metric=catalogue.SUFFICIENCY):
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


class LogOdds(_OfProbabilities, metric=catalogue.LOG_ODDS):
    """The mean of :func:`~captum_attn.functional.log_odds` of inputs without their top k %. Lower is better.

    Example:
        >>> metric = LogOdds()
        >>> metric.update(torch.tensor([0.8]), torch.tensor([[0.8, 0.4, 0.2]]))
        >>> metric.compute()
        tensor(-0.6931)
    """


class _Area(_OfProbabilities):
    def __init__(self, percentages: Sequence[float], **kwargs: Any) -> None:
        super().__init__(percentages=percentages, **kwargs)


class Deletion(_Area, metric=catalogue.DELETION):
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


class Insertion(_Area, metric=catalogue.INSERTION):
    """The area under p of inputs with only their top k %, k from 0 to 100. Higher is better.

    Args:
        percentages, kwargs: as in :class:`Deletion`.

    Example:
        >>> metric = Insertion([0, 50, 100])
        >>> metric.update(torch.tensor([0.9]), torch.tensor([[0.1, 0.8, 0.9]]))
        >>> metric.compute()
        tensor(0.6500)
    """


class AOPC(MeanOverExamples):
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

    def update(self, whole: Tensor, perturbed: Tensor) -> None:
        """Take in a batch: ``whole`` float (B,), ``perturbed`` float (B, K)."""
        if perturbed.shape[1:] != (self.steps,):
            raise ValueError(f"expected probabilities (B, {self.steps}), got {tuple(perturbed.shape)}")
        self.add(aopc(whole, perturbed))


class _OfRationales(OverExamples):
    def update(self, scores: Tensor, rationales: Tensor, players: Tensor) -> None:
        """Take in a batch: ``scores`` float (B, N), ``rationales`` bool (B, N), ``players`` bool (B, N)."""
        super().update(scores, rationales, players)


class TokenAUPRC(_OfRationales, metric=catalogue.TOKEN_AUPRC):
    """The mean of :func:`~captum_attn.functional.token_auprc` (average precision), over examples with a rationale.

    Example:
        >>> metric = TokenAUPRC()
        >>> tokens = torch.tensor([[True, True]])
        >>> metric.update(torch.tensor([[0.1, 0.9]]), torch.tensor([[False, True]]), players=tokens)
        >>> metric.compute()
        tensor(1.)
    """


class TokenF1(_OfRationales, metric=catalogue.TOKEN_F1):
    """The mean of :func:`~captum_attn.functional.token_f1`, over examples with a rationale.

    Example:
        >>> metric = TokenF1()
        >>> tokens = torch.tensor([[True, True]])
        >>> metric.update(torch.tensor([[0.1, 0.9]]), torch.tensor([[True, False]]), players=tokens)
        >>> metric.compute()
        tensor(0.)
    """


class TokenIOU(_OfRationales, metric=catalogue.TOKEN_IOU):
    """The mean of :func:`~captum_attn.functional.token_iou`, over examples with a rationale.

    Example:
        >>> metric = TokenIOU()
        >>> tokens = torch.tensor([[True, True]])
        >>> metric.update(torch.tensor([[0.1, 0.9]]), torch.tensor([[True, True]]), players=tokens)
        >>> metric.compute()
        tensor(1.)
    """
