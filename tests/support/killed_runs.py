"""Explain a data set, kill it again and again with SIGKILL, resume it, and compare with a run that nothing disturbed.

    export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONPATH=.:examples
    python tests/support/killed_runs.py FOLDER --kills 10 --data train.tsv --count 2000

Each run is a process of its own, forked before any tensor is made. It is killed after a random number of files and a
random moment more, or, every second time, when it is seen to write one. With ``--devices 2`` only the first process is
killed, and the second one is left behind until the end.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import pyarrow.dataset as parquet
from explain_dataset import explain, read_rows
from helpers.reviews import made_up_reviews
from helpers.small_models import TEXT_MODEL
from transformers.utils.logging import disable_progress_bar

from lightning_callbacks.attribution_folder import AttributionFolder

WORKER = "KILLED_RUNS_FOLDER"


def main() -> None:
    logging.disable(logging.WARNING)
    disable_progress_bar()
    options = parse_arguments()
    if WORKER in os.environ:  # Lightning starts this script again for the second process
        run(Path(os.environ[WORKER]), options)
        return
    calm, shaken = options.folder / "calm", options.folder / "shaken"
    start = time.perf_counter()
    wait(started(calm, options))
    files, kills = len(visible(calm)), 0
    print(f"undisturbed: {files} files in {time.perf_counter() - start:.1f} s")
    shaken.mkdir()
    random, groups = Random(options.seed), list[int]()
    for left in range(options.kills, 0, -1):
        process, before = started(shaken, options), len(visible(shaken))
        await_moment(shaken, before + random.randint(0, (files - before) // (left + 1)), in_write=left % 2 == 0)
        time.sleep(0 if left % 2 == 0 else random.uniform(0, 0.02))
        os.kill(process, signal.SIGKILL)
        kills += wait(process) == -signal.SIGKILL
        groups.append(process)
        print(f"killed at {len(visible(shaken))} files, {len(unfinished(shaken))} unfinished")
    wait(started(shaken, options))
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    rows = parquet.dataset(shaken).count_rows()
    same = AttributionFolder(calm).read().equals(AttributionFolder(shaken).read())
    print(f"killed {kills} times, then resumed: {rows} rows, the same as undisturbed: {same}")


def run(folder: Path, options: argparse.Namespace) -> None:
    rows = read_rows(options.data) if options.data else [{"text": text, "label": 0} for text in made_up_reviews()]
    explain(
        rows[: options.count],
        folder,
        model_name=str(TEXT_MODEL),
        devices=options.devices,
        batch_size=options.batch_size,
    )


def visible(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if not name.startswith(".")]


def unfinished(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".tmp")]


def await_moment(folder: Path, files: int, *, in_write: bool) -> None:
    """Wait until there are so many files, and then perhaps until another one is being written."""
    end = time.monotonic() + 60
    while len(visible(folder)) < files and time.monotonic() < end:
        time.sleep(0.0005)
    old = {*unfinished(folder)}
    while in_write and not {*unfinished(folder)} - old and time.monotonic() < end:
        pass


def started(folder: Path, options: argparse.Namespace) -> int:
    """The id of a new process that explains into the folder."""
    process = os.fork()
    if process:
        return process
    os.setsid()  # a group of its own, with the second process in it
    os.environ[WORKER] = str(folder)
    status = 1
    try:
        run(folder, options)
        status = 0
    finally:
        os._exit(status)


def wait(process: int) -> int:
    """The process's exit code, or less the signal that ended it."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code > 0:
        raise SystemExit(f"a run failed with exit code {code}")
    return code


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an empty folder")
    parser.add_argument("--data", type=Path, help="texts (default: made-up reviews)")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
