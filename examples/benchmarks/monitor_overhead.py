"""What following explanations costs: epochs of a fine-tuning run with and without a monitor, by the size of its probe.

Each round trains one epoch without a monitor and one with each size of the probe set, in random order; the sizes share
model, data and loggers (TensorBoard, so that figures are drawn). ``measuring`` and ``figures`` are the monitor's own
clocks, and ``share`` is their sum in percent of the epoch without it; ``epochs apart`` is the difference of whole
epochs, which on a machine with other work says more about that. Medians over the rounds; the concepts' examples are
part of every size.

The second table is of ``AttributionWriter``: seconds of ``explain_dataset.py`` from the loading of the model to the end
of reading all results, on one process and on two, of one thread each.

Writes ``monitor_overhead.md``::

    python examples/benchmarks/monitor_overhead.py --data ../shared/data/sst2
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import warnings
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune_with_monitor import Task, Training, text_task
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger

EXAMPLES = Path(__file__).resolve().parents[1]


def main() -> None:
    options = parse_arguments()
    warnings.filterwarnings("ignore")
    options.out.mkdir(parents=True, exist_ok=True)
    report = (monitor_table(options) + "\n" if options.rounds else "") + writer_table(options)
    (options.out / "monitor_overhead.md").write_text(report)
    print(report)


def monitor_table(options: argparse.Namespace) -> str:
    """Seconds of epochs by the size of the probe set."""
    sizes = [0, *options.samples]
    epochs: dict[int, list[float]] = {size: [] for size in sizes}
    costs: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
    one_epoch(options, sizes[-1], 200)  # imports and caches
    for turn in range(options.rounds):
        for size in Random(turn).sample(sizes, len(sizes)):
            seconds, cost = one_epoch(options, size, options.examples)
            epochs[size].append(seconds)
            costs[size].append(cost)
            print(f"round {turn + 1}, {size} examples: epoch {seconds:.1f} s, monitor {sum(cost):.2f} s", flush=True)
    plain = median(epochs[0])
    lines = [
        f"{options.examples or 'all'} texts, {torch.get_num_threads()} threads, {options.rounds} rounds; an epoch "
        f"without takes {plain:.1f} s\n",
        "| probe | measuring, s | figures, s | share of the epoch | epochs apart |",
        "|---|---|---|---|---|",
    ]
    for size in sizes[1:]:
        measuring, figures = (median(each) for each in zip(*costs[size], strict=True))
        apart = median(epochs[size]) / plain - 1
        share = (measuring + figures) / plain
        lines.append(f"| {size} | {measuring:.2f} | {figures:.2f} | {share:.1%} | {apart:+.1%} |")
    return "\n".join(lines) + "\n"


def one_epoch(options: argparse.Namespace, size: int, examples: int | None) -> tuple[float, tuple[float, float]]:
    """Seconds of an epoch with its validation; of these, what the monitor measured and drew for."""
    seed_everything(0, verbose=False)
    task: Task = text_task(argparse.Namespace(data=options.data, model=options.model, examples=examples))
    task.monitor.max_samples = size or None
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=TensorBoardLogger(options.out, "", "logs"),
        callbacks=[task.monitor] if size else [],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = Training(task)
    start = time.perf_counter()
    trainer.fit(module, task.train, task.validation)
    seconds = time.perf_counter() - start
    frame = task.monitor.frame()
    return seconds, (float(frame["seconds"].sum()), float(frame["figure_seconds"].sum()))


def writer_table(options: argparse.Namespace) -> str:
    """Seconds of explaining a data set on one process and on two."""
    texts = options.out / "texts.tsv"
    with (options.data / "train.tsv").open(encoding="utf-8") as file:
        texts.write_text("".join(islice(file, 1 + options.written)), encoding="utf-8")
    lines = ["| processes | texts | seconds | against one |", "|---|---|---|---|"]
    found = {}
    for devices in (1, 2):
        folder = options.out / f"written_{devices}_{time.time_ns()}"
        command = [sys.executable, str(EXAMPLES / "explain_dataset.py"), "--data", str(texts)]
        command += ["--devices", str(devices), "--batch-size", "16", "--out", str(folder)]
        command += ["--model", options.model] if options.model else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        match = re.search(r"Explained (\d+) texts in ([\d.]+) s", printed)
        if match is None:
            raise RuntimeError(f"explain_dataset.py printed no time: {printed}")
        found[devices] = float(match[2])
        lines.append(f"| {devices} | {match[1]} | {found[devices]:.1f} | {found[1] / found[devices]:.2f} × |")
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--model", help="a folder or a name on the hub; default: the small one")
    parser.add_argument("--examples", type=int, help="how many texts to train on; default: all")
    parser.add_argument("--samples", type=int, nargs="+", default=[64, 256, 872], help="sizes of the probe set")
    parser.add_argument("--written", type=int, default=20_000, help="texts that are written")
    parser.add_argument("--rounds", type=int, default=3, help="0 for the second table alone")
    parser.add_argument("--out", type=Path, default=Path("out/monitor_overhead"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
