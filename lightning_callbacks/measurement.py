"""What can be followed while a model is trained: one interface for our measurements and for users' own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from captum_attn import OnePassAttribution, TokenAttributions
from captum_attn.core import ObservedForward, ReadoutGradients, States
from captum_attn.core.states import module_named
from lightning_callbacks.history import ExplainedExample, Group
from lightning_callbacks.history_figures import Panel
from lightning_callbacks.probe_set import ProbeBatch, ProbeSet

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class SharedPass:
    """What one measurement sees of a batch: its part of the pass that all of them share.

    Attributes:
        run: the observed forward pass. Attention can be looked at once more (``run.influence(None, ...)``), gradients
            cannot.
        batch: the examples; ``inputs`` on the model's device, ``labels`` and ``rows`` on the CPU.
        targets: int64 (B,), the classes whose logits are explained.
        attributions: of each of the measurement's ``methods``.
        states: of its ``modules``, in the order in which these returned; ``hidden`` is (B, N, D).
        readout: (B, N), weights of the tokens that the explained scores are read from; None without ``modules``.
        gradients: of the states; None unless the measurement ``needs_gradients``.
    """

    run: ObservedForward
    batch: ProbeBatch
    targets: Tensor
    attributions: Sequence[TokenAttributions]
    states: Sequence[States]
    readout: Tensor | None
    gradients: ReadoutGradients | None


def gradients_of(gradients: ReadoutGradients, states: Sequence[States], wanted: Sequence[States]) -> ReadoutGradients:
    """Of the gradients of states, those of some of them."""
    places = [next(place for place, state in enumerate(states) if state is one) for one in wanted]
    return gradients._replace(
        gradients=[gradients.gradients[place] for place in places],
        attention=[gradients.attention[place] for place in places],
    )


class Measurement(ABC):
    """Something to follow at each validation, for :class:`lightning_callbacks.ExplanationMonitor`.

    A subclass says in :meth:`prepare` what it logs, and what it needs of the one forward and backward pass that all
    measurements share; in :meth:`numbers`, what it computes of each example; in :meth:`metrics`, what it makes of those
    of all examples, on however many processes these were. Everything else has a default.

    Each run measures with a copy, made when it begins, so that nothing of its model is left when it is over.

    Attributes:
        names: of the metrics, known once it is prepared; what comes before the first slash is their group.
        width: how many numbers there are of each example; None for as many as names.
        modules: names of the model's modules whose hidden states are wanted.
        methods: attributions of the explained scores that are wanted, of one pass each.
        needs_gradients: whether gradients of the hidden states are wanted, which takes a backward pass.
        inputs: how many inputs of its own it reads in :meth:`begin`, for the progress bar.
        examples: single examples to look at, explained in the last validation, as
            :class:`lightning_callbacks.ExplainedExample` has them; in figures, those of the first measurement that has
            any.
        groups: by name, the groups that :meth:`panels` takes care of, and how :class:`lightning_callbacks.Group` shows
            them in the summary. Others are drawn in a panel each, and summarized.

    Example:
        >>> from captum_attn import AttentionRollout
        >>> from lightning_callbacks import ExplanationMonitor, Measurement
        >>> class RolloutEntropy(Measurement):
        ...     names = ("rollout_entropy",)
        ...
        ...     def prepare(self, model, probe):
        ...         self.methods = [AttentionRollout(model)]
        ...
        ...     def numbers(self, seen):
        ...         scores = seen.attributions[0].values
        ...         return torch.special.entr(scores / scores.sum(1, keepdim=True)).sum(1, keepdim=True)
        >>> monitor = ExplanationMonitor(measurements=[RolloutEntropy()], processor=tokenizer)

        One that is drawn with bands of two standard errors, which are logged and not summarized:

        >>> from lightning_callbacks import Group, Panel
        >>> class Confidence(Measurement):
        ...     names = ("confidence", "confidence_error")
        ...     width = 1
        ...     groups = {"confidence": Group(), "confidence_error": Group(summarized=False)}
        ...
        ...     def numbers(self, seen):
        ...         return seen.run.output.softmax(-1).amax(-1, keepdim=True)
        ...
        ...     def metrics(self, numbers, labels):
        ...         error = numbers.std() / len(numbers) ** 0.5
        ...         return {"confidence": float(numbers.mean()), "confidence_error": float(error)}
        ...
        ...     def panels(self, frame):
        ...         lines, errors = {"mean": "confidence"}, {"mean": "confidence_error"}
        ...         return [[Panel("confidence", lines, errors=errors)]] if "confidence" in frame else []
        >>> import pandas as pd
        >>> [[panel]] = Confidence().panels(pd.DataFrame({"confidence": [0.7], "confidence_error": [0.1]}))
        >>> panel.lines, panel.errors
        ({'mean': 'confidence'}, {'mean': 'confidence_error'})
    """

    names: Sequence[str] = ()
    width: int | None = None
    modules: Collection[str] = ()
    methods: Sequence[OnePassAttribution] = ()
    needs_gradients = False
    inputs = 0
    examples: Sequence[ExplainedExample] = ()
    groups: Mapping[str, Group] = {}

    def prepare(self, model: nn.Module, probe: ProbeSet) -> None:  # noqa: B027
        """Get to know the model and the probe set, before training goes on.

        Args:
            model: in whatever mode and precision it is; to be left so.
            probe: the examples: ``labels``, int64 (n,) or None, and an :meth:`~ProbeSet.example` to try things on.

        Raises:
            Exception: whatever is wrong; it stops the run.
        """

    def begin(self, done: Callable[[int], object]) -> None:  # noqa: B027
        """Begin a validation, on each process by itself; ``done`` is told how many of the ``inputs`` are read."""

    def concerns(self, batch: ProbeBatch) -> Tensor:
        """bool (B,): the examples whose numbers count; by default, all."""
        return torch.ones(len(batch.rows), dtype=torch.bool)

    def targets(self, batch: ProbeBatch, predicted: Tensor) -> Tensor:
        """int64 (B,): the classes that are explained; by default, the predicted ones, as most measurements share."""
        return predicted

    @abstractmethod
    def numbers(self, seen: SharedPass) -> Tensor:
        """What is kept of each example, (B, width); kept in float64. Must not call ``.backward()``."""

    def metrics(self, numbers: Tensor, labels: Tensor | None) -> Mapping[str, float]:
        """A value for each name; by default, means of the numbers.

        Args:
            numbers: float64 (m, width) on the CPU, of the m > 0 examples that are known, in the order of the probe set.
            labels: of these, int64 (m,); None if there are none.
        """
        return dict(zip(self.names, numbers.mean(0).tolist(), strict=True))

    def panels(self, frame: pd.DataFrame) -> list[list[Panel]]:
        """Rows of panels for the figure of all validations, of its ``groups``; asked of what was never prepared, too.

        Args:
            frame: of :meth:`lightning_callbacks.ExplanationMonitor.frame`; panels are of columns that are there.
        """
        return []

    def figures(self) -> dict[str, Figure]:
        """Other figures of the last validation, by names such as ``"tcav/map"`` under which loggers show them."""
        return {}


def check_prepared(measurement: Measurement, model: nn.Module) -> None:
    """Raise ``MisconfigurationException`` for names that are one string, modules that are not there, other methods."""
    kind = type(measurement).__name__
    if isinstance(measurement.names, str) or isinstance(measurement.modules, str):
        raise MisconfigurationException(f"{kind}: names and modules are lists of strings, got a string alone")
    strangers = [type(one).__name__ for one in measurement.methods if not shares_passes(one)]
    if strangers:
        raise MisconfigurationException(
            f"{kind}.methods holds {', '.join(strangers)}, expected attributions of one pass by plain gradients, "
            "such as ShapleyGradAttention(model); others can be measured as faithfulness="
        )
    for name in (*measurement.modules, *(name for method in measurement.methods for name in method.modules)):
        try:
            module_named(model, name)
        except ValueError as error:
            raise MisconfigurationException(f"{kind}.modules: {error}") from error


def shares_passes(method: Any) -> bool:
    """Whether a method's values come from the one pass that all measurements share, by plain gradients."""
    return isinstance(method, OnePassAttribution) and method.propagation.is_plain


def check_mask(measurement: Measurement, mask: Tensor, count: int) -> Tensor:
    """Which of ``count`` examples count, on the CPU; ``ValueError`` unless it is bool (B,)."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (count,):
        raise ValueError(f"{type(measurement).__name__}.concerns returned {_shown(mask)}, expected bool ({count},)")
    return mask.cpu()


def check_targets(measurement: Measurement, targets: Tensor, output: Tensor) -> Tensor:
    """Classes on the output's device; ``ValueError`` unless they are int64 (B,), each one of its scores."""
    fit = isinstance(targets, Tensor) and targets.dtype == torch.long and targets.shape == output.shape[:1]
    if not fit or not ((targets >= 0) & (targets < output.shape[1])).all():
        raise ValueError(
            f"{type(measurement).__name__}.targets returned {_shown(targets)}, expected int64 ({len(output)},), "
            f"classes from 0 to {output.shape[1] - 1}"
        )
    return targets.to(output.device)


def checked_numbers(measurement: Measurement, seen: SharedPass, shape: tuple[int, int]) -> Tensor:
    """A measurement's numbers of a batch.

    Raises:
        RuntimeError, TypeError, ValueError: it fails, or returns something else than a tensor (B, width) = ``shape``.
    """
    kind = type(measurement).__name__
    try:
        numbers = measurement.numbers(seen)
    except Exception as error:
        raise RuntimeError(f"{kind}.numbers: {type(error).__name__}: {error}") from error
    if not isinstance(numbers, Tensor):
        raise TypeError(f"{kind}.numbers returned a {type(numbers).__name__}, expected a tensor of the shape {shape}")
    if numbers.shape != shape:
        raise ValueError(
            f"{kind} computed numbers of the shape {tuple(numbers.shape)}, expected {shape}: a row for each example, "
            "as wide as it said"
        )
    return numbers


def _shown(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
