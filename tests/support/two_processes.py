"""Runs on two processes, each of which writes what it saw: ``python two_processes.py FOLDER`` is one of them.

Lightning would start the second one itself, once; started by hand, both can train several times.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 150  # seconds, after which a run counts as hanging


def run_on_two(folder: Path) -> list[dict[str, Any]]:
    """What each process found in each scenario; both must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in (0, 1):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support", ROOT / "examples"))),
            "LOCAL_RANK": str(rank),
            "NODE_RANK": "0",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = [sys.executable, __file__, str(folder)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **streams))
    try:
        outputs = [process.communicate(timeout=DEADLINE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "".join(outputs)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def numbers() -> dict[str, Any]:
    """The metrics of eleven and of one example."""
    from fine_tuning import FineTuned, Texts, monitored, trainer_of
    from own_measurements import ProbingAccuracy, RolloutEntropy
    from torch.utils.data import DataLoader

    from lightning_callbacks import ExplanationMonitor

    found = {}
    for samples in (11, 1):
        target = int(Texts(11, seed=1).labels[0])
        own = [RolloutEntropy(), ProbingAccuracy()]
        monitor = ExplanationMonitor(**monitored(max_samples=samples, target=target, measurements=own))
        trainer = trainer_of([monitor], devices=2, strategy="ddp")
        trainer.validate(FineTuned().eval(), DataLoader(Texts(11, seed=1), 4), verbose=False)
        found[str(samples)] = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return found


def neutrality() -> dict[str, Any]:
    """Whether weights are the same with a monitor and without; with one that fails on the second process, too."""
    import torch
    from fine_tuning import FailingOnSecond, fit, monitored
    from models import same

    from lightning_callbacks import ExplanationMonitor

    kinds = {
        "plain": {},
        "accumulated": {"accumulate_grad_batches": 2, "val_check_interval": 1},
        "unused": {"strategy": "ddp_find_unused_parameters_true"},
    }
    found: dict[str, Any] = {}
    for kind, options in kinds.items():
        weights = []
        for faithfulness in (None, ..., FailingOnSecond):
            arguments = {} if faithfulness is ... else {"faithfulness": faithfulness}
            monitor = ExplanationMonitor(**monitored(**arguments))
            run = {"devices": 2, "strategy": "ddp", **options}
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                weights.append(fit([] if faithfulness is None else [monitor], **run).state_dict())
            if faithfulness is FailingOnSecond and kind == "plain":
                found["warned"] = [str(one.message) for one in caught if "was not explained" in str(one.message)]
                found["scores"] = str(monitor.frame()["faithfulness/comprehensiveness"].tolist())
        found[kind] = [same(weights[0], other) for other in weights[1:]]
    torch.distributed.barrier()
    return found


def sharded() -> dict[str, Any]:
    """The same under FSDP2: weights with a monitor and without, and the numbers."""
    import hashlib

    import torch
    from fine_tuning import FineTuned, Texts, monitored, trainer_of
    from lightning.pytorch.strategies import ModelParallelStrategy
    from torch.distributed.fsdp import fully_shard
    from torch.utils.data import DataLoader

    from lightning_callbacks import ExplanationMonitor

    class Sharded(FineTuned):
        def configure_model(self) -> None:
            if not hasattr(self.model, "set_requires_gradient_sync"):
                for layer in self.model.bert.encoder.layer:
                    fully_shard(layer, mesh=self.device_mesh["data_parallel"])
                fully_shard(self.model, mesh=self.device_mesh["data_parallel"])

    found: dict[str, Any] = {}
    for name, options in {"plain": {}, "accumulated": {"accumulate_grad_batches": 3, "val_check_interval": 2}}.items():
        hashes = []
        for monitor in (None, ExplanationMonitor(**monitored(on_error="raise"))):
            strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
            trainer = trainer_of([monitor] if monitor else [], devices=2, strategy=strategy, **options)
            torch.manual_seed(5)
            module = Sharded()
            trainer.fit(module, DataLoader(Texts(24), 4), DataLoader(Texts(11, seed=1), 4))
            weights = [getattr(weight, "full_tensor", lambda w=weight: w)() for weight in module.parameters()]
            hashes.append(hashlib.sha256(b"".join(w.detach().numpy().tobytes() for w in weights)).hexdigest())
        found[name] = hashes[0] == hashes[1]
        found[f"{name} scores"] = monitor.frame()["tcav_effect/first/layer_1"].tolist()
    return found


def different() -> str:
    """What is said where each process has validation data of its own."""
    from fine_tuning import FineTuned, Texts, monitored, trainer_of
    from torch.utils.data import DataLoader

    from lightning_callbacks import ExplanationMonitor

    trainer = trainer_of([ExplanationMonitor(**monitored(target=None))], devices=2, strategy="ddp")
    own = Texts(8, seed=int(os.environ["LOCAL_RANK"]))
    return said_by(lambda: trainer.validate(FineTuned().eval(), DataLoader(own, 4), verbose=False))


def raising() -> str:
    """What stops the training where a monitor fails on the second process, and may do so."""
    from fine_tuning import FailingOnSecond, fit, monitored

    from lightning_callbacks import ExplanationMonitor

    monitor = ExplanationMonitor(**monitored(faithfulness=FailingOnSecond, on_error="raise"))
    return said_by(lambda: fit([monitor], devices=2, strategy="ddp"))


def said_by(run: Callable[[], object]) -> str:
    """The error of a run; nothing where there is none."""
    try:
        run()
    except Exception as error:
        return str(error)
    return ""


SCENARIOS = (numbers, neutrality, sharded, different, raising)

if __name__ == "__main__":
    findings = {scenario.__name__: scenario() for scenario in SCENARIOS}
    Path(sys.argv[1], f"{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(findings))

    import torch

    torch.distributed.destroy_process_group()  # threads of gloo may abort a process that just ends
