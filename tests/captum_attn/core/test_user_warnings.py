"""A warning names the line of the user's code, through decorators, context managers, captum and SHAP."""

from __future__ import annotations

import inspect
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from families import FAMILIES, text_batch
from helpers.small_models import load_text_model

from captum_attn import RawAttention
from captum_attn.core.encoding import warn_of_cut
from captum_attn.core.user_warnings import warn_user
from shap_attn import AttentionExplainer


def here():
    """The place of the caller's line."""
    frame = inspect.currentframe().f_back
    return frame.f_code.co_filename, frame.f_lineno


def warned(text, call):
    """The place that the warning names, of the only one with this text."""
    with pytest.warns(UserWarning, match=text) as caught:
        call()
    (one,) = [one for one in caught if text in str(one.message)]
    return one.filename, one.lineno


def test_the_line_that_calls_is_named():
    assert warned("beware", lambda: warn_user("beware")) == here()


def test_functions_in_between_are_passed_over():
    assert warned("1 of 2 texts", lambda: warn_of_cut(1, 2, 5, "so it is")) == here()


def test_shaps_call_is_passed_over():
    explainer = AttentionExplainer(*load_text_model(), max_length=5)
    assert warned("were cut", lambda: explainer(["good " * 9])) == here()


def test_captums_decorator_and_context_managers_are_passed_over():
    model = torch.ao.quantization.quantize_dynamic(FAMILIES["bert"].build(), {torch.nn.Linear}, dtype=torch.qint8)
    method, inputs = RawAttention(model), text_batch()
    assert warned("readout cannot be found", lambda: method.attribute(inputs, target=0)) == here()


def test_each_line_is_told_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            warn_user("again and again")
        warn_user("again and again")
    assert len(caught) == 2


def test_without_a_line_of_the_users_there_is_a_warning_all_the_same():
    with ThreadPoolExecutor(1) as pool:
        assert warned("in a thread", lambda: pool.submit(warn_user, "in a thread").result())[0].endswith("thread.py")
