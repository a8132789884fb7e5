"""On two processes: the same numbers, the same weights, and nobody waits for one who failed."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import ClassVar

import pytest
from fine_tuning import FineTuned, Texts, monitored, trainer_of
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from own_measurements import ProbingAccuracy, RolloutEntropy
from torch.utils.data import DataLoader, IterableDataset
from two_processes import run_on_two

from lightning_callbacks import ExplanationMonitor


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    return run_on_two(tmp_path_factory.mktemp("two"))


def test_two_processes_find_what_one_finds(processes):
    first, second = (found["numbers"] for found in processes)
    target = int(Texts(11, seed=1).labels[0])
    for samples in (11, 1):  # six and five examples; one and none
        own = [RolloutEntropy(), ProbingAccuracy()]
        monitor = ExplanationMonitor(**monitored(max_samples=samples, target=target, measurements=own))
        trainer = trainer_of([monitor])
        trainer.validate(FineTuned().eval(), DataLoader(Texts(11, seed=1), 4), verbose=False)
        assert math.isfinite(first[str(samples)]["tcav/first/layer_1"])
        assert math.isfinite(first[str(samples)]["rollout_entropy/layer_1"])
        assert math.isfinite(first[str(samples)]["probing_accuracy/layer_1"]) == (samples == 11)
        assert first[str(samples)].keys() == {*trainer.callback_metrics}
        for name, value in trainer.callback_metrics.items():
            mine, theirs = first[str(samples)][name], second[str(samples)][name]
            assert mine == theirs or (math.isnan(mine) and math.isnan(theirs)), name
            if name not in ("explanations/seconds", "loss"):
                assert mine == pytest.approx(float(value), abs=1e-6, nan_ok=True), name


def test_two_processes_train_as_without_it_also_when_one_fails(processes):
    first, second = (found["neutrality"] for found in processes)
    for found in (first, second):
        assert found["plain"] == found["accumulated"] == found["unused"] == [True, True]
        assert found["scores"] == "[nan, nan]"
    assert "it failed on another process" in first["warned"][0]
    assert "RuntimeError: no luck" in second["warned"][0]


def test_processes_that_read_different_examples_are_told_so(processes):
    assert all("the processes read different validation examples" in found["different"] for found in processes)


def test_when_one_may_stop_the_training_both_stop(processes):
    first, second = (found["raising"] for found in processes)
    assert "it failed on another process" in first
    assert "no luck" in second


def test_processes_that_lightning_spawns():
    monitor = ExplanationMonitor(**monitored())
    module = FineTuned()
    trainer = trainer_of([monitor], devices=2, strategy="ddp_spawn")
    trainer.fit(module, DataLoader(Texts(24), 4), DataLoader(Texts(11, seed=1), 4))
    assert math.isfinite(trainer.callback_metrics["faithfulness/comprehensiveness"])
    assert math.isfinite(trainer.callback_metrics["tcav/first/layer_0"])


class Stream(IterableDataset):
    def __iter__(self):
        yield from Texts(8)


@pytest.mark.parametrize("workers", [{}, {"num_workers": 1, "persistent_workers": True}])
def test_a_stream_is_read_from_its_start(workers):
    monitor = ExplanationMonitor(**monitored(max_samples=6, target=None))
    trainer_of([monitor]).validate(FineTuned().eval(), DataLoader(Stream(), 4, **workers), verbose=False)
    assert monitor.frame()["samples"].tolist() == [6]


def test_sharded_weights_are_trained_as_without_it(processes):
    first, second = (found["sharded"] for found in processes)
    assert first == second
    assert first["plain"]
    assert first["accumulated"]
    assert all(map(math.isfinite, first["plain scores"]))


class TensorParallel(ModelParallelStrategy):
    """On two processes, each of which has a part of every layer."""

    device_mesh: ClassVar = {"tensor_parallel": SimpleNamespace(size=lambda: 2)}


@pytest.mark.parametrize(
    "strategy", [object.__new__(FSDPStrategy), object.__new__(DeepSpeedStrategy), TensorParallel()]
)
def test_weights_in_pieces_are_refused(strategy):
    name = type(strategy).__name__
    with pytest.raises(MisconfigurationException, match=rf"does not work under {name}.*strategy='ddp'.*\(FSDP2\)"):
        ExplanationMonitor().setup(SimpleNamespace(strategy=strategy), FineTuned(), "fit")
