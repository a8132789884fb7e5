"""What a monitor has measured so far, in plain Python types, so that every checkpoint can hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from captum_attn.functional import SIGNIFICANT

if TYPE_CHECKING:
    import pandas as pd

SHOWN_VALIDATIONS = 6
"""Of so many validations, an example's attributions are kept: of the first, and of the last ones."""


FRAME_COLUMNS = ("validation", "epoch", "step", "samples", "seconds", "figure_seconds")
"""What a frame says of each validation beside its metrics."""


@dataclass(frozen=True)
class ExplainedExample:
    """The attributions of one example, to be looked at.

    Attributes:
        row: its number in the probe set.
        values: of its players.
        players: where these stand among its tokens.
        target: the explained class.
        probability: of that class.
        grid: rows and columns of an image's patches; None for text.
        outputs: how many classes the model tells apart; 0 where that was not kept.
        extent: left, right, bottom and top edge of the patches in the image, in pixels; None where that is not known.
    """

    row: int
    values: list[float]
    players: list[int]
    target: int
    probability: float
    grid: tuple[int, int] | None
    outputs: int = 0
    extent: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Group:
    """How a history shows the metrics that are named ``group/...``.

    Attributes:
        summarized: whether they are rows of the summary.
        p_values: the group of their p-values, if they have some.
    """

    summarized: bool = True
    p_values: str | None = None


@dataclass
class Validation:
    """One validation.

    Attributes:
        validation: its number, from 0; not counting Lightning's sanity check.
        epoch, step: when it was.
        samples: how many examples were explained, on all processes.
        seconds: what that took.
        metrics: what was logged, without prefix.
        probe: the fingerprint of the probe set.
        examples: attributions to look at.
        figure_seconds: what figures took.
    """

    validation: int
    epoch: int
    step: int
    samples: int
    seconds: float
    metrics: dict[str, float]
    probe: str
    examples: list[ExplainedExample] = field(default_factory=list)
    figure_seconds: float = 0.0


class History:
    """All validations."""

    def __init__(self) -> None:
        self.validations: list[Validation] = []

    def __len__(self) -> int:
        return len(self.validations)

    def add(self, validation: Validation) -> None:
        """Add the last one, and let go of attributions in between."""
        self.validations.append(validation)
        for forgotten in self.validations[1 : -SHOWN_VALIDATIONS + 1]:
            forgotten.examples = []

    @property
    def names(self) -> list[str]:
        """The names of all metrics that were logged at some time."""
        return list(dict.fromkeys(name for one in self.validations for name in one.metrics))

    def seconds(self, since: int = 0) -> float:
        """What explanations and figures took, from a place in the history on."""
        return sum(one.seconds + one.figure_seconds for one in self.validations[since:])

    def frame(self) -> pd.DataFrame:
        """A row for each validation, as :meth:`lightning_callbacks.ExplanationMonitor.frame` says."""
        import pandas as pd

        rows = [{**asdict(one), **one.metrics} for one in self.validations]
        return pd.DataFrame(rows, columns=[*FRAME_COLUMNS, *self.names])

    def summary(self, groups: Mapping[str, Group]) -> pd.DataFrame:
        """A row for each metric of groups that are summarized: first, last, least and greatest, with their steps.

        ``significant`` says in how many validations an effect was, its p-value below ``SIGNIFICANT``.
        """
        import pandas as pd

        frame, rows = self.frame().set_index("step"), {}
        for name in self.names:
            group, values = groups.get(group_of(name), Group()), frame[name].dropna()
            if not group.summarized or not len(values):
                continue
            p_values = frame.get(name.replace(group_of(name), group.p_values, 1)) if group.p_values else None
            rows[name] = {
                "first": values.iloc[0],
                "last": values.iloc[-1],
                "least": values.min(),
                "step of least": values.idxmin(),
                "greatest": values.max(),
                "step of greatest": values.idxmax(),
                "significant": "" if p_values is None else f"{(p_values < SIGNIFICANT).sum()} of {len(values)}",
            }
        return pd.DataFrame(rows).T.convert_dtypes()

    def state(self) -> list[dict[str, Any]]:
        """Everything, in plain types."""
        return [asdict(one) for one in self.validations]

    @classmethod
    def of_state(cls, state: list[Mapping[str, Any]]) -> History:
        """The history of a :meth:`state`."""
        history = cls()
        for one in state:
            examples = [ExplainedExample(**example) for example in one["examples"]]
            history.validations.append(Validation(**{**one, "examples": examples}))
        return history


def group_of(name: str) -> str:
    """What a metric's name says before the first slash."""
    return name.partition("/")[0]
