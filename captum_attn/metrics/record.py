"""What an evaluation has measured so far, in memory and line by line in a file, so that an interrupted one goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from captum_attn._moved import moved_names
from captum_attn.bench import Intervention
from captum_attn.core import code_fingerprint
from captum_attn.metrics.catalogue import CATALOGUE, Metric

REMOVALS = TOP_REMOVED, TOP_KEPT, BOTTOM_REMOVED = "top removed", "top kept", "bottom removed"
"""Which players are taken away at k %: those with the top k % of scores; all others; those with the bottom k %.

The last is the ranking reversed, a check for which one intervention, the first, is enough.
"""

UNTOUCHED = "none"
"""The intervention of metrics for which nothing is taken away."""

_OF_RATIONALES = ("token_auprc", "token_f1", "token_iou")
"""The metrics of which earlier files hold a triple."""


def removals_for(metrics: Sequence[Metric]) -> tuple[str, ...]:
    """What must be taken away for some metrics."""
    needs = {need for metric in metrics if not metric.at_once for need in metric.needs}
    wanted = {
        TOP_REMOVED: "without_top" in needs,
        TOP_KEPT: not needs.isdisjoint({"top_alone", "predictions"}),
        BOTTOM_REMOVED: "without_top" in needs,
    }
    return tuple(removal for removal in REMOVALS if wanted[removal])


def kept_as(metric: Metric) -> dict[str, Any]:
    """What is written of a metric whose values are kept."""
    own = metric != CATALOGUE.get(metric.name)
    code = code_fingerprint((metric.function, metric.needs, metric.percentages)) if own else None
    return {"higher_is_better": metric.higher_is_better, "code": code}


@dataclass(frozen=True)
class EvaluationSettings:
    """What must be the same when an evaluation goes on.

    Attributes:
        percentages: K of them.
        interventions: I of them.
        replacement: what replaces a token, as text; None if nothing does.
        layers: of the knockout.
        seed: of the random scores.
        data, model, labels, rationales: fingerprints; None where there are none.
        count: their number.
        removals: what is taken away: some of ``REMOVALS``.
        kept: of the metrics that are computed at once, ``higher_is_better`` and, of one's own, the function's ``code``.
        wanted: the names of the metrics that were asked for, which may be others when it goes on; None for all.
    """

    percentages: tuple[float, ...]
    interventions: tuple[Intervention, ...]
    replacement: str | None
    layers: tuple[int, ...] | None
    seed: int
    data: str
    model: str | None
    labels: str | None
    count: int
    rationales: str | None
    removals: tuple[str, ...]
    kept: Mapping[str, Mapping[str, Any]]
    wanted: tuple[str, ...] | None = field(default=None, compare=False)

    @classmethod
    def read(cls, entry: dict[str, Any]) -> EvaluationSettings:
        """The settings in a file, which an earlier version may have written."""
        of_rationales = _OF_RATIONALES if entry.get("rationales") else ()
        entry = {"removals": REMOVALS, "kept": {name: kept_as(CATALOGUE[name]) for name in of_rationales}, **entry}
        return cls(**{name: _frozen(value) for name, value in entry.items()})


@dataclass(frozen=True)
class Example:
    """One whole input: its number in the data, of players, the predicted class, its probability, the gold label."""

    example: int
    players: int
    target: int
    probability: float
    label: int | None


@dataclass(frozen=True)
class Measured:
    """What was measured of one method on one example.

    Attributes:
        method, example: which.
        seconds: that its attributions took, its share of the batch's.
        probabilities: of the predicted class on perturbed inputs, [intervention][removal][percentage].
        predictions: the classes predicted from the top alone, [intervention][percentage]; empty where none are wanted.
        values: of the metrics that are computed at once, by intervention.
    """

    method: str
    example: int
    seconds: float
    probabilities: list[dict[str, list[float]]]
    predictions: list[list[int]]
    values: dict[str, dict[str, float]]

    @classmethod
    def read(cls, entry: dict[str, Any]) -> Measured:
        """An entry of a file, which an earlier version may have written."""
        if "plausibility" in entry:
            triple = entry.pop("plausibility") or ()
            entry["values"] = {name: {UNTOUCHED: value} for name, value in zip(_OF_RATIONALES, triple, strict=False)}
            entry["probabilities"] = [dict(zip(REMOVALS, one, strict=False)) for one in entry["probabilities"]]
            entry["predictions"] = [one[REMOVALS.index(TOP_KEPT)] for one in entry["predictions"]]
        return cls(**entry)


@dataclass
class Record:
    """All that was measured, and the file to which new measurements go.

    Attributes:
        settings: of the evaluation.
        examples: by their number.
        measured: by method and example.
        path: the file, JSON lines; None to keep all in memory.
    """

    settings: EvaluationSettings
    examples: dict[int, Example] = field(default_factory=dict)
    measured: dict[str, dict[int, Measured]] = field(default_factory=dict)
    path: Path | None = None

    def missing(self, method: str, rows: Sequence[int]) -> tuple[int, ...]:
        """The examples among ``rows`` that the method has not been measured on."""
        return tuple(row for row in rows if row not in self.measured.get(method, {}))

    def add(self, examples: Sequence[Example], measured: Sequence[Measured]) -> None:
        """Take in measurements, and write them to the file.

        Raises:
            ValueError: an example that the model now sees otherwise than before.
        """
        new = [example for example in examples if not self._knows(example)]
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                for example in new:
                    _write(file, asdict(example))
                for entry in measured:
                    _write(file, asdict(entry))
        self.examples.update({example.example: example for example in new})
        for entry in measured:
            self.measured.setdefault(entry.method, {})[entry.example] = entry

    def write(self, path: Path) -> None:
        """Write everything to a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            _write(file, asdict(self.settings))
            for example in self.examples.values():
                _write(file, asdict(example))
            for of_method in self.measured.values():
                for measured in of_method.values():
                    _write(file, asdict(measured))

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a file; a last line that was cut off by an interruption is left out.

        Raises:
            FileNotFoundError: there is no file.
            ValueError: no file of an evaluation.
        """
        return cls._parsed(path, _complete_lines(path))

    @classmethod
    def _parsed(cls, path: Path, lines: bytes) -> Record:
        try:
            header, *entries = map(json.loads, lines.splitlines())
            record = cls(EvaluationSettings.read(header), path=path)
            for entry in entries:
                if "method" in entry:
                    record.measured.setdefault(entry["method"], {})[entry["example"]] = Measured.read(entry)
                else:
                    record.examples[entry["example"]] = Example(**entry)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is not the file of an evaluation: {error}") from error
        return record

    @classmethod
    def open(cls, path: Path | None, settings: EvaluationSettings) -> Record:
        """The record in a file, to go on with; a new one if there is no file.

        Raises:
            ValueError: the file's settings are others.
        """
        if path is None:
            return cls(settings)
        if not path.exists() or not path.stat().st_size:
            record = cls(settings, path=path)
            record.write(path)
            return record
        lines = _complete_lines(path)
        record = cls._parsed(path, lines)
        if record.settings != settings:
            then, now = asdict(replace(record.settings, wanted=None)), asdict(replace(settings, wanted=None))
            prints = ("data", "model", "labels", "rationales")
            others = [name for name in now if then[name] != now[name]]
            shown = ", ".join(f"{n}" if n in prints else f"{n} {then[n]!r}, now {now[n]!r}" for n in others)
            raise ValueError(f"{path} holds an evaluation with other settings ({shown}): give another file")
        os.truncate(path, len(lines))
        return record

    def _knows(self, example: Example) -> bool:
        known = self.examples.get(example.example)
        if known is None:
            return False
        same = replace(known, probability=example.probability) == example
        if not same or abs(known.probability - example.probability) > 1e-3:
            raise ValueError(
                f"{self.path} was written with another model or other labels: it says {known}, now it is {example}. "
                "Give another file"
            )
        return True


def _complete_lines(path: Path) -> bytes:
    """The file up to its last line break: what follows was cut off."""
    text = path.read_bytes()
    return text[: text.rfind(b"\n") + 1]


def _write(file: IO[str], entry: dict[str, Any]) -> None:
    file.write(json.dumps(entry) + "\n")


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


__getattr__ = moved_names(__name__, __name__, {"Settings": "EvaluationSettings"})
