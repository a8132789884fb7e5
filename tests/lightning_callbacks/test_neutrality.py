"""A run with the monitor ends with the very same weights as one without."""

from __future__ import annotations

import pickle
import random
import warnings

import numpy as np
import pytest
import torch
from fine_tuning import Failing, FineTuned, Texts, fit, monitored, trainer_of
from lightning.pytorch.callbacks import ModelCheckpoint
from models import left_untouched, same
from own_measurements import ProbingAccuracy, RolloutEntropy
from torch.utils.data import DataLoader

from captum_attn import MaskTunnel, ShapleyGradAttention
from lightning_callbacks import ExplanationMonitor
from lightning_callbacks.neutrality import without_trace

RUNS = {
    "epochs": {},
    "gradients that are being accumulated": {"accumulate_grad_batches": 3, "val_check_interval": 2},
    "validations within an epoch": {"val_check_interval": 0.5},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    "no sanity check": {"num_sanity_val_steps": 0},
}
MONITORS = {
    "both": {},
    "concepts alone": {"faithfulness": None},
    "faithfulness alone": {"concepts": None, "target": None},
    "several methods": {
        "faithfulness": {
            "signed": ShapleyGradAttention,
            "tunnel": lambda model, tokenizer: MaskTunnel(ShapleyGradAttention(model, tokenizer=tokenizer), tokenizer),
            "random inside": lambda model: lambda batch, targets: torch.rand(batch["input_ids"].shape),
        }
    },
    "failing": {"faithfulness": Failing},
    "own measurements": {"measurements": [RolloutEntropy(), ProbingAccuracy()], "faithfulness": None},
}


def weights(**options):
    return fit([], **options).state_dict()


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_the_weights_are_those_of_a_run_without_it(options):
    monitor = ExplanationMonitor(**monitored())
    assert same(fit([monitor], **options).state_dict(), weights(**options))
    assert len(monitor.frame()) >= 2
    assert monitor.frame()["faithfulness/comprehensiveness"].notna().all()


@pytest.mark.parametrize("arguments", MONITORS.values(), ids=MONITORS)
def test_whatever_is_monitored(arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = fit([ExplanationMonitor(**monitored(**arguments))], accumulate_grad_batches=3, val_check_interval=2)
    assert same(module.state_dict(), weights(accumulate_grad_batches=3, val_check_interval=2))


def test_the_model_is_as_it_was_and_pickles():
    module = fit([ExplanationMonitor(**monitored())])
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert all(part.training for part in module.model.modules())
    copy = pickle.loads(pickle.dumps(module.model))
    assert same(copy.state_dict(), module.model.state_dict())


def test_a_checkpoint_loads_without_the_callback(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    trained = fit([ExplanationMonitor(**monitored()), checkpoint], enable_checkpointing=True)
    module = FineTuned()
    trainer_of([]).validate(module, DataLoader(Texts(8), 4), ckpt_path=checkpoint.last_model_path, verbose=False)
    assert same(module.state_dict(), trained.state_dict())


def test_modes_and_random_states_come_back_after_an_error():
    module = FineTuned()
    module.model.classifier.eval()

    def disturb():
        with without_trace(module, seed=0):
            module.eval()
            torch.rand(3)
            raise RuntimeError

    with left_untouched(module), pytest.raises(RuntimeError):
        disturb()


def test_what_is_drawn_inside_is_always_the_same():
    drawn = []
    for _ in range(2):
        with without_trace(FineTuned(), seed=3):
            drawn.append((float(torch.rand(())), float(np.random.rand()), random.random()))
        torch.rand(3), np.random.rand(3), random.random()
    assert drawn[0] == drawn[1]
