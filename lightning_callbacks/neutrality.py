"""Do something in the middle of training, and leave no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn


@contextmanager
def without_trace(module: nn.Module, seed: int) -> Iterator[None]:
    """Gradients can be taken inside, in whatever mode the loop is; random states and modes are put back afterwards.

    Nothing inside may call ``.backward()``, which would add to gradients that are being accumulated.

    Args:
        module: whose parts' train and eval modes are kept.
        seed: of what draws random numbers inside.
    """
    modes = [(part, part.training) for part in module.modules()]
    problem: BaseException | None = None
    with isolate_rng(), torch.inference_mode(False), torch.enable_grad():
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        torch.cuda.manual_seed_all(seed)  # not torch.manual_seed: isolate_rng knows no other devices
        try:
            yield
        except BaseException as error:  # past which isolate_rng puts nothing back
            problem = error
    for part, training in modes:
        part.training = training
    try:
        if problem is not None:
            raise problem
    finally:
        del problem


def forget_module(callback: Callback) -> None:
    """Let a callback hold nothing of a run that is over: Lightning binds the module's log functions to each of them."""
    for name in ("log", "log_dict"):
        vars(callback).pop(name, None)
