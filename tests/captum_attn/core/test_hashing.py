"""Fingerprints of functions do not depend on the process."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import torch
from functools import partial
from captum_attn.core.hashing import code_fingerprint
weight = torch.arange(3.0)
def chosen(x): return x in {"a", "b", "c"} and weight
def recursive(x): return inner(x)
def outer():
    def inner(x): return inner(x - 1) + weight.sum() if x else 0
    return inner
print([code_fingerprint(one) for one in (chosen, torch.sub, partial(chosen, x=chosen), outer(), torch.nn.Tanh())])
"""


def test_another_process_finds_the_same():
    found = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert len(set(eval(found.pop()))) == 5
