"""The catalogue: what each metric is called, which way is better, what it needs, and how it is computed.

Tables, arrows, the torchmetrics classes, the page of a comparison and the monitor follow from these records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score

from captum_attn.functional import (
    PERCENTAGES,
    area_under_curve,
    check_probabilities,
    log_odds,
    mean_drop,
    token_auprc,
    token_f1,
    token_iou,
)

Need = Literal[
    "whole",
    "without_top",
    "top_alone",
    "predictions",
    "percentages",
    "scale",
    "labels",
    "scores",
    "players",
    "rationales",
    "ask",
    "seconds",
]
"""What a metric's function may ask for; :class:`Metric` says what each is."""

NEEDS: tuple[Need, ...] = get_args(Need)
AT_ONCE: frozenset[Need] = frozenset({"scores", "players", "rationales", "ask"})
"""What is there only while an example is explained: what needs any of it is computed then, and its values are kept."""

_OF_EACH: tuple[Need, ...] = (
    "whole",
    "without_top",
    "top_alone",
    "predictions",
    "labels",
    "scores",
    "players",
    "rationales",
    "seconds",
)

ReportScale = Literal["eraser", "paper", "all"]
"""Over which percentages a table averages: ERASER's, the paper's, or all that were evaluated."""

Percentages = Literal["all", "scale", "from 0 to 100"]


@dataclass(frozen=True)
class Metric:
    """One number for each example, by which explanations are measured.

    Args:
        name: what it is called, in tables and logs.
        higher_is_better: which way is better.
        needs: what ``function`` takes, in this order, of B examples of N tokens, at K percentages:

            - ``"whole"``: p of the predicted class on the whole input, float (B,);
            - ``"without_top"``, ``"top_alone"``: p of that class on the inputs without their top k % of tokens, and
              with these alone, (B, K);
            - ``"predictions"``: the classes predicted from the top k % alone, int64 (B, K);
            - ``"percentages"``: k, a tuple of K numbers; ``"scale"``: ``"eraser"`` or ``"paper"``;
            - ``"labels"``: the gold classes, int64 (B,);
            - ``"scores"``: the explanation (B, N); ``"players"``: bool (B, N), the tokens that it ranks;
              ``"rationales"``: bool (B, N), those of them that people chose;
            - ``"ask"``: a function from bool (..., B, N), players to take away, to p of the predicted class (..., B);
            - ``"seconds"``: that the explanation of each example took, (B,).
        function: to float (B,), NaN for an example that does not count. Functions that need scores, players, rationales
            or ``"ask"`` are called while examples are explained, and their values are kept; others when a table is
            made, and for the reversed ranking, too, where ``"without_top"`` is all that they need of the tokens.
        percentages: at which k: ``"all"`` that are evaluated; those of the report's ``"scale"``; all, if they go
            ``"from 0 to 100"``; or some numbers, among those that are evaluated.
        of_all: whether ``function`` makes one number () of all examples together instead; its standard error is that
            of a bootstrap.
        bounds: the least and the greatest value, for plots.
        vectorized: of all examples: whether ``function`` takes (R, B) for (B,) and makes (R,), so that a bootstrap is
            one call.

    Raises:
        ValueError: a need that is none of these; nothing that there is of each example.

    Example:
        >>> from captum_attn import ShapleyGradAttention
        >>> from captum_attn.metrics import Metric, evaluate
        >>> survives = Metric("survives", False, ["without_top"], lambda p: (p > 0.5).float().mean(-1))
        >>> methods = {"gradients": ShapleyGradAttention(model, tokenizer=tokenizer)}
        >>> texts = ["a gripping film", "not good at all"]
        >>> result = evaluate(
        ...     model, texts, methods, tokenizer=tokenizer, metrics=["comprehensiveness", survives], show_progress=False
        ... )
        >>> list(result.table().metric.unique())
        ['comprehensiveness', 'survives']
    """

    name: str
    higher_is_better: bool
    needs: Sequence[Need]
    function: Callable[..., Tensor]
    percentages: Percentages | Sequence[float] = "all"
    of_all: bool = False
    bounds: tuple[float, float] | None = None
    vectorized: bool = False

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"metric {self.name!r}: function must be one, got {self.function!r}")
        unknown = [need for need in self.needs if need not in NEEDS]
        if unknown or isinstance(self.needs, str) or {*_OF_EACH}.isdisjoint(self.needs):
            raise ValueError(
                f"metric {self.name!r} needs {self.needs!r}, expected some of {', '.join(NEEDS)}; and among them "
                f"something that each example has: {', '.join(_OF_EACH)}"
            )
        follows_scale = "scale" in self.needs or self.percentages == "scale"
        if self.at_once and (self.of_all or "seconds" in self.needs or follows_scale):
            what = "all examples" if self.of_all else "a report's scale" if follows_scale else "seconds"
            at_once = ", ".join(need for need in self.needs if need in AT_ONCE)
            raise ValueError(
                f"metric {self.name!r} needs {at_once}, which is there only while an example is explained, but also "
                f"{what}, which comes later"
            )
        if self.vectorized and not self.of_all:
            raise ValueError(f"metric {self.name!r}: vectorized= is for a metric of all examples, of_all=True")
        if "seconds" in self.needs and (self.of_all or self.takes_tokens):
            raise ValueError(f"metric {self.name!r}: 'seconds' goes with 'whole' and 'labels', of one example, alone")
        object.__setattr__(self, "needs", tuple(self.needs))
        object.__setattr__(self, "percentages", _checked_percentages(self.name, self.percentages))

    @property
    def at_once(self) -> bool:
        """Whether it is computed while examples are explained, and its values are kept."""
        return not AT_ONCE.isdisjoint(self.needs)

    @property
    def takes_tokens(self) -> bool:
        """Whether it is about inputs from which tokens are taken away, by one intervention or another."""
        return not {"without_top", "top_alone", "predictions", "ask"}.isdisjoint(self.needs)

    @property
    def title(self) -> str:
        """Its name in words."""
        return self.name.replace("_", " ")

    @property
    def arrow(self) -> str:
        """The way that is better."""
        return "↑" if self.higher_is_better else "↓"

    @property
    def better(self) -> str:
        """The same in words."""
        return "higher is better" if self.higher_is_better else "lower is better"

    def shares(self, evaluated: Sequence[float], scale: ReportScale) -> tuple[float, ...]:
        """The percentages that it is about, of those that are evaluated."""
        if not isinstance(self.percentages, str):
            return tuple(self.percentages)
        return shares_of(scale if self.percentages == "scale" else "all", evaluated)

    def of(self, known: Mapping[Any, Any]) -> Tensor:
        """What ``function`` makes of what it needs, by name: float (B,), or () of all examples.

        Raises:
            ValueError: it makes something else.
        """
        given = [part.clone() if isinstance(part, Tensor) else part for part in (known[need] for need in self.needs)]
        try:
            found = self.function(*given)
        except Exception as error:
            error.add_note(f"This happened in metric {self.name!r}.")
            raise
        found = torch.as_tensor(found) if self.of_all and isinstance(found, float) else found
        count = next((len(known[need]) for need in self.needs if need in _OF_EACH), 0)
        expected = () if self.of_all else (count,)
        if not isinstance(found, Tensor) or found.shape != expected:
            shown = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            what = "one number () of all examples" if self.of_all else f"one for each of {count} examples, {expected}"
            raise ValueError(f"metric {self.name!r} returned {shown}, expected a tensor: {what}")
        return found.detach() if found.is_floating_point() else found.double()

    def of_draws(self, known: Mapping[Any, Any], draws: Tensor) -> Tensor:
        """What a metric of all examples is, float (R,), for each of R draws of them, int64 (R, B)."""

        def drawn(rows: Tensor) -> list[Any]:
            return [known[need][rows] if isinstance(known[need], Tensor) else known[need] for need in self.needs]

        if self.vectorized:
            found = self.function(*drawn(draws))
            if not isinstance(found, Tensor) or found.shape != draws.shape[:1]:
                shown = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(f"metric {self.name!r} returned {shown} of {len(draws)} draws, expected one of each")
            return found
        return torch.stack([self.of(dict(zip(self.needs, drawn(rows), strict=True))) for rows in draws])


def shares_of(scale: ReportScale, evaluated: Sequence[float]) -> tuple[float, ...]:
    """The percentages over which a scale averages."""
    return tuple(evaluated) if scale == "all" else PERCENTAGES[scale]


def known_metrics(given: Iterable[str | Metric], own: Mapping[str, Metric] | None = None) -> list[Metric]:
    """Metrics by name, of the catalogue or one's own, or as they are.

    Raises:
        TypeError: what is neither.
        ValueError: an unknown name, or a metric of one's own with the name of another.
    """
    known, found = CATALOGUE | dict(own or {}), dict[str, Metric]()
    for one in [given] if isinstance(given, str | Metric) else given:
        if not isinstance(one, str | Metric):
            raise TypeError(f"metrics must be names or Metric records, got {type(one).__name__}")
        if isinstance(one, str) and one not in known:
            raise ValueError(f"unknown metric {one!r}: expected some of {', '.join(known)}, or a Metric")
        metric = known[one] if isinstance(one, str) else one
        if CATALOGUE.get(metric.name, metric) != metric or found.setdefault(metric.name, metric) != metric:
            raise ValueError(f"there is another metric {metric.name!r}: give yours a name of its own")
    return list(found.values())


def _checked_percentages(name: str, given: Any) -> Percentages | tuple[float, ...]:
    if given in get_args(Percentages):
        return given  # type: ignore[no-any-return]
    shares = tuple(map(float, given)) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if not shares or not all(0 <= share <= 100 for share in shares):
        expected = ", ".join(map(repr, get_args(Percentages)))
        raise ValueError(f"metric {name!r}: percentages must be {expected} or numbers from 0 to 100, got {given!r}")
    return shares


def f1_score(predictions: Tensor, labels: Tensor, average: Literal["macro", "weighted"]) -> Tensor:
    """F1 (...) of predictions int64 (..., n) or (..., n, 1), labels (..., n): classes that are nowhere do not count."""
    predicted, given = predictions.reshape(-1, labels.shape[-1]), labels.reshape(-1, labels.shape[-1])
    classes = int(torch.cat((predicted, given)).max()) + 1
    found = multiclass_f1_score(predicted, given, max(classes, 2), average, multidim_average="samplewise")
    return found.reshape(labels.shape[:-1])


def _area(whole: Tensor, perturbed: Tensor, percentages: Sequence[float]) -> Tensor:
    check_probabilities(whole, perturbed)
    return area_under_curve(perturbed, percentages)


def _as_it_is(values: Tensor) -> Tensor:
    return values


F1_PERCENTAGE = 20.0
"""F1 is that of predictions from the top 20 % of tokens alone, as in arXiv 2508.08966."""

_RATIONALES: tuple[Need, ...] = ("scores", "rationales", "players")
_F1: dict[str, Any] = {"percentages": (F1_PERCENTAGE,), "of_all": True, "vectorized": True, "bounds": (0.0, 1.0)}

COMPREHENSIVENESS = Metric(
    "comprehensiveness", True, ("whole", "without_top", "scale"), mean_drop, "scale", bounds=(-1.0, 1.0)
)
SUFFICIENCY = Metric("sufficiency", False, ("whole", "top_alone", "scale"), mean_drop, "scale", bounds=(-1.0, 1.0))
LOG_ODDS = Metric("log_odds", False, ("whole", "without_top"), log_odds, "scale")
DELETION = Metric("deletion", False, ("whole", "without_top", "percentages"), _area, "from 0 to 100", bounds=(0.0, 1.0))
INSERTION = Metric("insertion", True, ("whole", "top_alone", "percentages"), _area, "from 0 to 100", bounds=(0.0, 1.0))
F1_MACRO = Metric("f1_macro", True, ("predictions", "labels"), partial(f1_score, average="macro"), **_F1)
F1_WEIGHTED = Metric("f1_weighted", True, ("predictions", "labels"), partial(f1_score, average="weighted"), **_F1)
TOKEN_AUPRC = Metric("token_auprc", True, _RATIONALES, token_auprc, bounds=(0.0, 1.0))
TOKEN_F1 = Metric("token_f1", True, _RATIONALES, token_f1, bounds=(0.0, 1.0))
TOKEN_IOU = Metric("token_iou", True, _RATIONALES, token_iou, bounds=(0.0, 1.0))
SECONDS = Metric("seconds", False, ("seconds",), _as_it_is)

CATALOGUE = {
    metric.name: metric
    for metric in (
        COMPREHENSIVENESS,
        SUFFICIENCY,
        LOG_ODDS,
        DELETION,
        INSERTION,
        F1_MACRO,
        F1_WEIGHTED,
        TOKEN_AUPRC,
        TOKEN_F1,
        TOKEN_IOU,
        SECONDS,
    )
}
"""By name, in the order of tables."""
