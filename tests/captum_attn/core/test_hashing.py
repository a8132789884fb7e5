"""Fingerprints of functions do not depend on the process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch

from captum_attn.core.hashing import code_fingerprint

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


def test_what_is_bound_is_told_apart_whatever_was_bound_before_it():
    first, second, third = (torch.nn.Linear(2, 2) for _ in range(3))
    long = np.arange(5000.0)
    changed = np.where(long == 2500, -1, long)

    def bound(*values):
        return lambda x: [values, x]

    pairs = [((first, second), (first, third)), ((long,), (changed,)), ((first, first), (first, second))]
    for one, other in pairs:
        assert code_fingerprint(bound(*one)) == code_fingerprint(bound(*one))
        assert code_fingerprint(bound(*one)) != code_fingerprint(bound(*other))


def test_a_name_that_is_not_bound_yet_is_passed_over():
    def outer():
        def inner(x):
            return later(x)

        fingerprint = code_fingerprint(inner)
        later = str
        return fingerprint, code_fingerprint(inner), later

    before, after, _ = outer()
    assert before != after
