"""What a monitor has measured so far, in plain Python types, so that every checkpoint can hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from captum_attn.functional import SIGNIFICANT
from lightning_callbacks.probing import ExplainedExample

if TYPE_CHECKING:
    import pandas as pd

SHOWN_VALIDATIONS = 6
"""Of so many validations, an example's attributions are kept: of the first, and of the last ones."""


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

    def seconds(self, since: int = 0) -> float:
        """What explanations and figures took, from a place in the history on."""
        return sum(one.seconds + one.figure_seconds for one in self.validations[since:])

    def frame(self) -> pd.DataFrame:
        """A row for each validation, as :meth:`lightning_callbacks.ExplanationMonitor.frame` says."""
        import pandas as pd

        rows = [{**asdict(one), **one.metrics} for one in self.validations]
        named = ["validation", "epoch", "step", "samples", "seconds", "figure_seconds"]
        return pd.DataFrame(rows, columns=[*named, *dict.fromkeys(name for one in rows for name in one["metrics"])])

    def summary(self) -> pd.DataFrame:
        """A row for each metric of faithfulness and each effect: first, last, least and greatest, with their steps.

        ``significant`` says in how many validations an effect was (Holm, 5 %).
        """
        import pandas as pd

        frame, rows = self.frame().set_index("step"), {}
        for name in frame.columns:
            values = frame[name].dropna() if name.startswith(("faithfulness/", "tcav_effect/")) else frame[name][:0]
            if len(values):
                p_values = frame.get(name.replace("tcav_effect/", "tcav_p/", 1)) if "tcav" in name else None
                rows[name] = {
                    "first": values.iloc[0],
                    "last": values.iloc[-1],
                    "least": values.min(),
                    "at step": values.idxmin(),
                    "greatest": values.max(),
                    "at step ": values.idxmax(),
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
