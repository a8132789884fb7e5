"""What values look like in messages."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch

from captum_attn.core.descriptions import described

DESCRIBED = {
    "scores": (torch.zeros(2, 3), "a tensor of shape (2, 3)"),
    "classes": (torch.zeros(2).int(), "an int32 tensor of shape (2,)"),
    "a mask": (torch.zeros(2) > 0, "a bool tensor of shape (2,)"),
    "one number": (torch.tensor(0.5), "one number, a tensor of shape ()"),
    "an array": (np.zeros((2, 1)), "an array of shape (2, 1)"),
    "an array of objects": (np.array([None]), "an object array of shape (1,)"),
    "a tuple": ((torch.zeros(2), torch.zeros(3).long(), "x"), "a tuple of 3: float32 (2,), int64 (3,), str"),
    "nothing": ([], "a list of nothing"),
    "a long list": ([0] * 9, "a list of 9: int, int, int, int, int, int, ..."),
    "a mapping": (OrderedDict(a=torch.zeros(1), b=None), "an OrderedDict of a: float32 (1,), b: NoneType"),
    "an empty mapping": ({}, "a dict of nothing"),
    "a long text": ("x" * 99, f"'{'x' * 56}... (str)"),
    "a text of NumPy": (np.str_("x"), "np.str_('x') (str_)"),
    "a number": (3.5, "3.5 (float)"),
    "None": (None, "None"),
    "a set": ({1}, "set"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "words"), DESCRIBED.values(), ids=DESCRIBED)
def test_what_it_looks_like(value, words):
    assert described(value) == words
