"""Seconds and model evaluations per text: AttentionExplainer beside SHAP's own explainers.

Real or made-up texts of 8, 32, 128 and 512 tokens (special tokens included) are explained one by one, all classes of
each, on one model, by

- ``AttentionExplainer(pipe)``;
- ``shap.Explainer(pipe)`` with its defaults, and with larger batches, of which the fastest counts;
- ``shap.PermutationExplainer`` with its defaults, where its budget of 500 evaluations is enough;
- ``shap.KernelExplainer`` with its defaults, on masks of tokens, up to ``--kernel-tokens``.

After a first call that does not count, explainers take turns on each text. An evaluation is one text through the
model. The values of the first two are compared, too: Kendall's τ, and how many of the three tokens of highest value for
the predicted class they have in common. The two explain different games, so that is information and no target.

Writes ``shap_speed.md`` and ``shap_speed.png``::

    python examples/benchmarks/shap_speed.py
    python examples/benchmarks/shap_speed.py --model FOLDER --texts dev.tsv --tokens 8,32,128,512 --count 5
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import numpy.typing as npt
import shap
import torch
from matplotlib.figure import Figure
from scipy.stats import kendalltau
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import Pipeline, pipeline
from transformers.utils.logging import disable_progress_bar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.reviews import made_up_reviews, read_texts
from helpers.small_models import TEXT_MODEL

from shap_attn import AttentionExplainer

OURS, DEFAULT, BATCHED = "AttentionExplainer", "shap.Explainer", "shap.Explainer, best batches"
PERMUTATION, KERNEL = "PermutationExplainer", "KernelExplainer"
BATCH_SIZES = (20, 50, 100)
PERMUTATION_BUDGET = 500  # PermutationExplainer's default
SENTENCE = "a good film"
Explain = Callable[[str], Any]


@dataclass(frozen=True)
class Run:
    """One explainer on one text."""

    seconds: float
    evaluations: int
    explanation: Any


def main() -> None:
    options = arguments()
    disable_progress_bar()
    pipe = pipeline("text-classification", model=options.model, top_k=None, dtype=torch.float32)
    limit = min(pipe.tokenizer.model_max_length, pipe.model.config.max_position_embeddings)
    lengths = [length for length in options.tokens if length <= limit]
    texts = {length: texts_of_length(pipe, options, length) for length in lengths}
    runs: dict[tuple[int, str], list[Run]] = defaultdict(list)
    with tqdm(total=sum(len(part) for part in texts.values()), unit="text") as bar:
        for length, part in texts.items():
            explainers = explainers_for(pipe, length, options)
            for explain in explainers.values():  # compiles what is compiled
                explain(SENTENCE)
            for text in part:
                for name, explain in explainers.items():
                    bar.set_postfix_str(f"{length} tokens: {name}")
                    runs[length, name].append(measured(pipe, explain, text))
                bar.update()
    report = markdown(options, lengths, runs)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "shap_speed.md").write_text(report, encoding="utf-8")
    draw(lengths, runs, options.out / "shap_speed.png")
    print(report)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(TEXT_MODEL), help="folder or hub name (default: the shipped classifier)")
    parser.add_argument("--texts", type=Path, help="a file with a text in each line, up to a tab (default: made up)")
    parser.add_argument("--tokens", type=numbers, default=[8, 32, 128, 512], help="default: 8,32,128,512")
    parser.add_argument("--count", type=int, default=3, help="texts of each length (default: %(default)s)")
    parser.add_argument("--kernel-tokens", type=int, default=32, help="longest for KernelExplainer (default: 32)")
    parser.add_argument("--out", type=Path, default=Path("out/shap_speed"), help="default: %(default)s")
    return parser.parse_args()


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def texts_of_length(pipe: Pipeline, options: argparse.Namespace, length: int) -> list[str]:
    """Texts that make that many tokens: sentences joined and cut."""
    sentences = cycle(read_texts(options.texts) if options.texts else made_up_reviews())
    texts: list[str] = []
    while len(texts) < options.count:
        text = next(sentences)
        while len(pipe.tokenizer(text)["input_ids"]) < length:
            text += " " + next(sentences)
        cut = pipe.tokenizer(text, truncation=True, max_length=length, return_offsets_mapping=True)
        text = text[: max(end for _, end in cut["offset_mapping"])]
        if len(pipe.tokenizer(text)["input_ids"]) == length:
            texts.append(text)
    return texts


def explainers_for(pipe: Pipeline, length: int, options: argparse.Namespace) -> dict[str, Explain]:
    """What is compared at that length."""
    model, masker = shap.models.TransformersPipeline(pipe), shap.maskers.Text(pipe.tokenizer)
    explainers: dict[str, Explain] = {
        OURS: partial(one_by_one, AttentionExplainer(pipe)),
        DEFAULT: partial(one_by_one, shap.Explainer(pipe)),
    }
    for size in BATCH_SIZES:
        batched = pipeline(pipe.task, model=pipe.model, tokenizer=pipe.tokenizer, top_k=None, batch_size=size)
        explainers[f"{BATCHED} ({size})"] = partial(one_by_one, shap.Explainer(batched), batch_size=size)
    if 2 * length + 1 <= PERMUTATION_BUDGET:
        explainers[PERMUTATION] = partial(one_by_one, shap.explainers.PermutationExplainer(model, masker))
    if length <= options.kernel_tokens:
        explainers[KERNEL] = partial(kernel_values, model, masker)
    return explainers


def one_by_one(explainer: shap.Explainer, text: str, **options: Any) -> Any:
    return explainer([text], silent=True, **options)


def kernel_values(model: Any, masker: Any, text: str) -> Any:
    """KernelExplainer takes tables, so a text becomes a row of ones, and zeros mask its tokens."""
    size = masker.shape(text)[1]

    def scores(masks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        masked = [masker(mask.astype(bool), text)[0][0] for mask in masks]
        return np.concatenate([model(masked[start : start + 50]) for start in range(0, len(masked), 50)])

    return shap.KernelExplainer(scores, np.zeros((1, size))).shap_values(np.ones((1, size)), silent=True)


def measured(pipe: Pipeline, explain: Explain, text: str) -> Run:
    """Seconds of one call, and as many evaluations as the model sees texts."""
    rows = 0

    def count(_module: object, _arguments: object, inputs: dict[str, torch.Tensor], _output: object) -> None:
        nonlocal rows
        rows += len(inputs["input_ids"])

    handle = pipe.model.register_forward_hook(count, with_kwargs=True)
    start = time.perf_counter()
    explanation = explain(text)
    seconds = time.perf_counter() - start
    handle.remove()
    return Run(seconds, rows, explanation)


# What is shown


def best_name(runs: dict[tuple[int, str], list[Run]], length: int) -> str:
    """The fastest of the larger batches."""
    names = [name for at, name in runs if at == length and name.startswith(BATCHED)]
    return min(names, key=lambda name: median(run.seconds for run in runs[length, name]))


def compared(runs: dict[tuple[int, str], list[Run]], length: int) -> dict[str, list[Run]]:
    found = {name: runs[length, name] for at, name in runs if at == length and not name.startswith(BATCHED)}
    return {OURS: found.pop(OURS), DEFAULT: found.pop(DEFAULT), BATCHED: runs[length, best_name(runs, length)], **found}


def agreement(ours: Sequence[Run], theirs: Sequence[Run]) -> tuple[float, float]:
    """Mean Kendall's τ and mean share of the top three, for the predicted class and without special tokens."""
    taus, overlaps = [], []
    for one, other in zip(ours, theirs, strict=True):
        scores = other.explanation.values[0].sum(0) + other.explanation.base_values[0]
        left, right = one.explanation.values[0][:, scores.argmax()], other.explanation.values[0][1:-1, scores.argmax()]
        taus.append(kendalltau(left, right).statistic)
        overlaps.append(len({*left.argsort()[-3:]} & {*right.argsort()[-3:]}) / 3)
    return mean(taus), mean(overlaps)


def markdown(options: argparse.Namespace, lengths: Sequence[int], runs: dict[tuple[int, str], list[Run]]) -> str:
    lines = [
        "# Speed beside SHAP",
        "",
        f"`{Path(options.model).name}`, {options.count} texts of each length, {platform.machine()} CPU, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, shap {shap.__version__}. Medians per text.",
        "",
        "| tokens | explainer | seconds | evaluations | times ours |",
        "|--:|---|--:|--:|--:|",
    ]
    for length in lengths:
        ours = median(run.seconds for run in runs[length, OURS])
        for name, found in compared(runs, length).items():
            seconds, evaluations = median(run.seconds for run in found), median(run.evaluations for run in found)
            if name == BATCHED:
                name = best_name(runs, length)
            lines.append(f"| {length} | {name} | {seconds:.3g} | {evaluations:g} | {seconds / ours:.0f} |")
    lines += ["", "| tokens | Kendall's τ with shap.Explainer | top three in common |", "|--:|--:|--:|"]
    for length in lengths:
        tau, overlap = agreement(runs[length, OURS], runs[length, DEFAULT])
        lines.append(f"| {length} | {tau:.2f} | {overlap:.2f} |")
    return "\n".join(lines) + "\n"


def draw(lengths: Sequence[int], runs: dict[tuple[int, str], list[Run]], path: Path) -> None:
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for length in lengths:
        for name, found in compared(runs, length).items():
            curves[name].append((length, median(run.seconds for run in found)))
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name, linewidth=2.5 if name == OURS else 1.2)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.set_xlabel("tokens")
    axes.set_ylabel("seconds per text")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
