"""On which models of transformers the attention-gradient core is right: every class, tiny and random, put to the test.

    python examples/benchmarks/model_families.py
    python examples/benchmarks/model_families.py --only 'bert|T5' --json found.json
    python examples/benchmarks/model_families.py --markdown

Each class of the mappings in ``TASKS`` is built with few, small layers and random weights (:mod:`shrunk_models`), and
``ShapleyGradAttention.influence`` of every layer and head is compared with eager attention times its gradient
(:mod:`attention_reference`). A class is

- *exact*: the largest difference is at most 1e-4 of the largest value, in float32;
- *refused*: the library says in an error of its own why it can't explain the model;
- *not buildable*: the class needs something that isn't here, or isn't built by the generic way;
- *wrong*: anything else.

Multiple choice is left out: its inputs, (B, choices, T), are refused before the model runs. Of models that read images
and text, the language tower is put to the test, with text alone.

Families run in processes of their own, without a network, one core. Runs on Linux.
"""

from __future__ import annotations

import argparse
import inspect
import json
import multiprocessing
import os
import re
import resource
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from attention_reference import Reference, reference
from shrunk_models import LABELS, tiny_inputs, tiny_model
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers.models.auto import modeling_auto

import captum_attn

Kind = Literal["exact", "refused", "not buildable", "wrong"]
KINDS: Sequence[Kind] = ("exact", "refused", "not buildable", "wrong")
TASKS: Mapping[str, str] = {
    "text classification": "SEQUENCE_CLASSIFICATION",
    "causal language modelling": "CAUSAL_LM",
    "masked language modelling": "MASKED_LM",
    "sequence to sequence": "SEQ_TO_SEQ_CAUSAL_LM",
    "token classification": "TOKEN_CLASSIFICATION",
    "question answering": "QUESTION_ANSWERING",
    "image classification": "IMAGE_CLASSIFICATION",
    "audio classification": "AUDIO_CLASSIFICATION",
    "speech recognition (CTC)": "CTC",
    "video classification": "VIDEO_CLASSIFICATION",
    "image and text to text": "IMAGE_TEXT_TO_TEXT",
}
TOLERANCE = 1e-4
SECONDS = 60.0
MEMORY = 8 << 30
TOKEN, CLASS = 5, 1


@dataclass(frozen=True)
class Outcome:
    """What became of one class.

    Attributes:
        model_class, family, task: which one.
        kind: see above.
        reason: why it isn't exact; empty if it is.
        error: the largest difference, in units of the largest value; None where there was nothing to compare.
        layers: how many the reference has.
        source: where the reference's attention comes from.
        recorded: how many attentions were recorded, whatever the reference has.
    """

    model_class: str
    family: str
    task: str
    kind: Kind
    reason: str = ""
    error: float | None = None
    layers: int | None = None
    source: str = ""
    recorded: int | None = None


@dataclass(frozen=True)
class Candidate:
    """A class to try, and the family (``model_type``) and task under which transformers lists it first."""

    model_class: str
    family: str
    task: str


def candidates() -> list[Candidate]:
    """Every class of the mappings, once, by family: the one whose name its own begins with, if several list it."""
    found: dict[str, Candidate] = {}
    for task, mapping in TASKS.items():
        for family, names in getattr(modeling_auto, f"MODEL_FOR_{mapping}_MAPPING_NAMES").items():
            for name in [names] if isinstance(names, str) else names:
                own = name.lower().startswith(re.sub("[-_]", "", family))
                if name not in found or (own and task == found[name].task):
                    found[name] = Candidate(name, family, task)
    return sorted(found.values(), key=lambda candidate: candidate.family)


def tried(candidate: Candidate) -> Outcome:
    """Build the model, explain one score of each of two examples, and compare."""

    def outcome(kind: Kind, reason: str = "", **also: Any) -> Outcome:
        return Outcome(candidate.model_class, candidate.family, candidate.task, kind, reason, **also)

    try:
        model = tiny_model(
            getattr(transformers, candidate.model_class), 2 if candidate.task == "question answering" else LABELS
        )
        inputs = tiny_inputs(model, candidate.task)
        run = partial(seeded, model, inputs)
        logits = logits_of(run())
    except Exception as error:
        return outcome("not buildable", summary(error))
    if logits is not None and not logits.isfinite().all():
        return outcome("not buildable", "the scores of the random model are not finite")
    target = (CLASS,) if logits is None or logits.dim() == 2 else (min(TOKEN, logits.shape[1] - 2), CLASS)
    try:
        influence = explained(model, inputs, target if len(target) > 1 else CLASS)
    except Exception as error:
        return outcome("refused" if is_refusal(error) else "wrong", summary(error))
    if logits is None:
        return outcome("wrong", "explained an output without scores")
    try:
        expected = reference(model, run, lambda output: logits_of(output)[(slice(None), *target)], TOLERANCE)
    except Exception as error:
        return outcome("not buildable", f"no reference: {summary(error)}")
    return outcome(**verdict(influence, expected))


def seeded(model: Any, inputs: Mapping[str, Tensor], **options: Any) -> Any:
    """What the model returns from one random state: some hash or sample in eval mode, too."""
    torch.manual_seed(0)
    if "use_cache" in inspect.signature(model.forward).parameters:
        options["use_cache"] = False
    return model(**inputs, **options)


def logits_of(output: Any) -> Any:
    """Scores (B, C) or (B, N, C); start and end of an answer stand side by side. None where there are none."""
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits
    if isinstance(getattr(output, "start_logits", None), Tensor):
        return torch.stack((output.start_logits, output.end_logits), -1)
    return None


def explained(model: Any, inputs: Mapping[str, Tensor], target: Any) -> Tensor:
    """Signed influence (B, L, H, N, N) of every layer and head."""
    torch.manual_seed(0)
    given: Any = dict(inputs)
    if not {"input_ids", "pixel_values"} & given.keys():  # sound: the model's first argument
        given = next(iter(given.values()))
    found: Tensor = captum_attn.ShapleyGradAttention(model).influence(given, target=target, per="head")
    return found


def verdict(influence: Tensor, expected: Reference) -> dict[str, Any]:
    """How the influence compares with the reference: the arguments of an outcome."""
    about = {"layers": len(expected.layers), "source": expected.source, "recorded": expected.recorded}
    shapes = Counter(tuple(layer.shape) for layer in expected.layers)
    ours = (len(influence), *influence.shape[2:])
    if set(shapes) != {ours} or len(expected.layers) != influence.shape[1]:
        there = ", ".join(f"{count} of {shape}" for shape, count in shapes.items()) or "none"
        return {"kind": "wrong", "reason": f"{influence.shape[1]} layers of {ours}, the reference has {there}", **about}
    reference = torch.stack(list(expected.layers), 1)
    largest = reference.abs().max()
    if not largest:
        return {"kind": "not buildable", "reason": "the score does not depend on the attention", **about}
    error = float((influence - reference).abs().max() / largest)
    if error <= TOLERANCE:
        return {"kind": "exact", "error": error, **about}
    layers = (influence - reference).abs().amax((0, 2, 3, 4)) / largest
    return {
        "kind": "wrong",
        "reason": f"differs by layer: {[round(value, 4) for value in layers.tolist()]}",
        "error": error,
        **about,
    }


def is_refusal(error: Exception) -> bool:
    """Whether the library itself raised the error on purpose."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(last.filename).is_relative_to(Path(captum_attn.__file__).parent)
    return isinstance(error, (TypeError, ValueError, RuntimeError)) and ours and (last.line or "").startswith("raise")


def summary(error: Exception) -> str:
    """The first sentence of an error, with its type unless it is one of our refusals."""
    text = " ".join(str(error).split())
    sentence = re.split(r"(?<=[.:;?!])\s|\. (?=[A-Z])", text, maxsplit=1)[0]
    return sentence if is_refusal(error) else f"{type(error).__name__}: {text[:200]}"


def outcomes(chosen: Sequence[Candidate], seconds: float) -> Iterator[Outcome]:
    """Try each class; a family shares a process, which is replaced when it crashes or takes too long."""
    for _, family in groupby(chosen, key=lambda candidate: candidate.family):
        left = list(family)
        while left:
            yield from tried_apart(left, seconds)


def tried_apart(left: list[Candidate], seconds: float) -> Iterator[Outcome]:
    """Try the classes in a process of their own until it fails; ``left`` is left with what was not tried."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    worker = context.Process(target=work, args=(list(left), there))
    worker.start()
    there.close()
    try:
        while left:
            candidate = left.pop(0)
            if not here.poll(seconds):
                yield failed(candidate, f"took more than {seconds:.0f} seconds")
                return
            try:
                yield here.recv()
            except EOFError:
                yield failed(candidate, "the process crashed")
                return
    finally:
        worker.kill()
        worker.join()


def work(chosen: Sequence[Candidate], there: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for candidate in chosen:
        there.send(tried(candidate))


def failed(candidate: Candidate, reason: str) -> Outcome:
    return Outcome(candidate.model_class, candidate.family, candidate.task, "not buildable", reason)


def main() -> None:
    options = arguments()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    chosen = [one for one in candidates() if re.search(options.only, f"{one.family} {one.model_class} {one.task}")]
    # Imported before the processes are started, which then need not do it.
    _ = transformers.LlavaForConditionalGeneration, transformers.Wav2Vec2ForCTC, torch._dynamo
    found = []
    for outcome in tqdm(outcomes(chosen, options.seconds), total=len(chosen), desc="Classes", leave=False):
        found.append(outcome)
        if options.json:  # each time: the run takes a while
            options.json.write_text(json.dumps([asdict(one) for one in found], indent=1), encoding="utf-8")
    print("\n".join(table_of_families(found) if options.markdown else [*lines(found), "", *counts(found)]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="classes in whose family, name or task this pattern is found")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="limit for a class (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for what became of each class")
    parser.add_argument("--markdown", action="store_true", help="print the documentation's table instead")
    return parser.parse_args()


def counts(found: Sequence[Outcome]) -> list[str]:
    """A table of kinds by task."""
    rows = [f"| | {' | '.join(KINDS)} | all |", "|---|" + "--:|" * (len(KINDS) + 1)]
    for task in [*TASKS, "all"]:
        of_task = Counter(outcome.kind for outcome in found if task in (outcome.task, "all"))
        if of_task:
            rows.append(f"| {task} | {' | '.join(str(of_task[kind]) for kind in KINDS)} | {of_task.total()} |")
    return rows


def lines(found: Sequence[Outcome]) -> list[str]:
    """A line for each family, and one for each of its classes that is not exact."""
    rows = []
    for family, own in groupby(found, key=lambda outcome: outcome.family):
        outcomes = list(own)
        kinds = Counter(outcome.kind for outcome in outcomes)
        rows.append(f"{family}: " + ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind]))
        rows += [f"    {o.model_class} {o.kind}: {o.reason}" for o in outcomes if o.kind != "exact"]
    return rows


def table_of_families(found: Sequence[Outcome]) -> list[str]:
    """What the documentation shows: families by what became of their classes, then the counts."""
    exact: list[str] = []
    others: dict[tuple[Kind, str], list[str]] = defaultdict(list)
    for family, own in groupby(found, key=lambda outcome: outcome.family):
        outcomes = list(own)
        reasons: set[tuple[Kind, str]] = {
            (outcome.kind, general(outcome.reason)) for outcome in outcomes if outcome.kind != "exact"
        }
        classes = Counter(outcome.kind for outcome in outcomes)
        if classes["exact"]:
            exact.append(f"{family} ({classes['exact']} of {classes.total()})" if reasons else family)
        for key in reasons:
            others[key].append(family)
    rows = ["| outcome | families |", "|---|---|", f"| exact ({len(exact)}) | {', '.join(exact)} |"]
    for kind, reason in sorted(others, key=lambda key: (KINDS.index(key[0]), -len(others[key]), key)):
        rows.append(f"| {kind}: {reason.replace('|', '/')} | {', '.join(others[kind, reason])} |")
    return ["## What it works on", "", *rows, "", *counts(found)]


def general(reason: str) -> str:
    """A reason without the names and numbers of one model."""
    reason = re.sub(r"'[^']*'", "…", reason)
    reason = re.sub(r"\b[A-Z]\w*For[A-Z]\w*", "…", reason)
    return re.sub(r"(\([\d, x×]+\)|\d+)", "…", reason)


if __name__ == "__main__":
    main()
