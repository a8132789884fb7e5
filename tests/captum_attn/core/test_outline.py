"""A forward-only pass keeps what the output is read from, and drops the rest."""

from __future__ import annotations

import pytest
import torch

from captum_attn.core.outline import Outline, UnkeptError


@pytest.fixture
def start():
    return torch.rand(3, requires_grad=True)


def kept(outline):
    """How many tensors each call still has."""
    return {number: sum(one.tensor is not None for one in saved) for number, saved in outline._saved.items()}


def test_what_a_later_call_read_is_dropped(start):
    outline = Outline()
    with outline.recording():
        before = start.exp()
        outline.begin(0, read=0)
        low = before.exp()
        outline.begin(1, read=0b1)
        high = low.sin().exp()
    assert kept(outline) == {1: 2}
    (gradient,) = torch.autograd.grad(high.sum(), low, retain_graph=True)
    torch.testing.assert_close(gradient, low.sin().exp() * low.cos())
    for below in (before, start):
        with pytest.raises(UnkeptError, match="no gradients below the last attention"):
            torch.autograd.grad(high.sum(), below, retain_graph=True)


def test_the_last_call_of_each_stack_is_kept(start):
    outline = Outline()
    with outline.recording():
        outline.begin(0, read=0)
        first = start.exp()
        outline.begin(1, read=0)
        second = (2 * start).exp()
        assert kept(outline).keys() == {0, 1}
        outline.begin(2, read=0b10)
        third = second.exp()
        assert kept(outline).keys() == {0, 2}
        outline.begin(5, read=0b101)
        both = (first * third).exp()
    assert kept(outline).keys() == {5}
    gradients = torch.autograd.grad(both.sum(), [first, third])
    torch.testing.assert_close(gradients, (both * third, both * first))


def test_a_call_may_turn_out_to_have_been_read_later(start):
    outline = Outline()
    with outline.recording():
        outline.begin(0, read=0)
        low = start.exp()
        outline.begin(1, read=0)
        high = low.exp()
    assert kept(outline).keys() == {0, 1}
    outline.drop(0b1)
    assert kept(outline).keys() == {1}
    torch.autograd.grad(high.sum(), low, retain_graph=True)
    with pytest.raises(UnkeptError):
        torch.autograd.grad(high.sum(), start)


def test_without_attention_nothing_is_dropped(start):
    outline = Outline()
    with outline.recording():
        result = start.exp()
    (gradient,) = torch.autograd.grad(result.sum(), start)
    assert torch.equal(gradient, result)
    assert kept(outline) == {}


def test_nothing_is_recorded_outside(start):
    outline = Outline()
    with outline.recording():
        outline.begin(0, read=0)
    start.exp()
    assert kept(outline) == {0: 0}
