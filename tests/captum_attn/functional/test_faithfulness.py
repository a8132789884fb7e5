"""Faithfulness of one explanation, against loops and hand-worked numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import auc

from captum_attn.functional import PERCENTAGES, aopc, area_under_curve, log_odds, mean_drop

PROBABILITY = st.floats(0, 1, width=32)
CASES = st.integers(1, 5).flatmap(
    lambda steps: st.lists(
        st.tuples(PROBABILITY, st.lists(PROBABILITY, min_size=steps, max_size=steps)), min_size=1, max_size=4
    )
)


def tensors(cases):
    return torch.tensor([whole for whole, _ in cases]), torch.tensor([perturbed for _, perturbed in cases])


@given(CASES)
def test_drops_are_those_of_a_loop(cases):
    eraser, paper = mean_drop(*tensors(cases)), mean_drop(*tensors(cases), scale="paper")
    for place, (whole, perturbed) in enumerate(cases):
        total = sum(whole - p for p in perturbed)
        assert eraser[place].item() == pytest.approx(total / len(perturbed), abs=1e-6)
        assert paper[place].item() == pytest.approx(total / (len(perturbed) + 1), abs=1e-6)


@given(CASES)
def test_the_area_over_the_curve_is_that_of_a_loop(cases):
    found = aopc(*tensors(cases))
    for place, (whole, perturbed) in enumerate(cases):
        for step in range(len(perturbed)):
            expected = sum(whole - p for p in perturbed[: step + 1]) / (step + 1)
            assert found[place, step].item() == pytest.approx(expected, abs=1e-6)


@given(CASES)
def test_log_odds_are_those_of_a_loop_and_finite(cases):
    found, tiny = log_odds(*tensors(cases)), torch.finfo(torch.float32).tiny
    for place, (whole, perturbed) in enumerate(cases):
        expected = [math.log(max(p, tiny)) - math.log(max(whole, tiny)) for p in perturbed]
        assert found[place].item() == pytest.approx(sum(expected) / len(expected), rel=1e-4, abs=1e-4)


@given(st.lists(st.tuples(st.integers(1, 99), PROBABILITY), max_size=6, unique_by=lambda pair: pair[0]))
def test_areas_are_scikit_learns(points):
    points = sorted([(0, 0.5), *points, (100, 0.25)])
    percentages, curve = zip(*points, strict=True)
    found = area_under_curve(torch.tensor([curve]), percentages)
    assert found.item() == pytest.approx(auc([p / 100 for p in percentages], curve), abs=1e-6)


def test_the_papers_scale_is_four_fifths_of_the_mean_over_its_percentages():
    whole, perturbed = torch.tensor([0.9]), torch.tensor([[0.9, 0.7, 0.5, 0.3]])
    assert PERCENTAGES["paper"] == (0, 10, 20, 50)
    assert mean_drop(whole, perturbed).item() == pytest.approx(0.3)  # (0 + .2 + .4 + .6) / 4
    assert mean_drop(whole, perturbed, "paper").item() == pytest.approx(0.24)  # (0 + .2 + .4 + .6) / 5


def test_erasers_scale_counts_the_empty_rationale():
    assert PERCENTAGES["eraser"] == (0, 1, 5, 10, 20, 50)


def test_doubles_stay_doubles():
    whole, perturbed = torch.tensor([0.5]).double(), torch.tensor([[0.25]]).double()
    for found in (
        mean_drop(whole, perturbed),
        log_odds(whole, perturbed),
        area_under_curve(perturbed.expand(1, 2), [0, 100]),
    ):
        assert found.dtype == torch.float64


@pytest.mark.parametrize(
    ("whole", "perturbed", "message"),
    [
        (torch.rand(2), torch.rand(3, 1), r"got \(2,\) and \(3, 1\)"),
        (torch.rand(2), torch.rand(2), r"got \(2,\) and \(2,\)"),
        (torch.rand(2), torch.rand(2, 0), r"got \(2,\) and \(2, 0\)"),
        (torch.tensor([3.0]), torch.rand(1, 1), "such as logits.softmax"),
        (torch.rand(1), torch.tensor([[-0.5]]), "between 0 and 1"),
        (torch.rand(1), torch.tensor([[math.nan]]), "others or NaN"),
        (torch.tensor([1]), torch.tensor([[1]]), "between 0 and 1"),
    ],
)
@pytest.mark.parametrize("function", [mean_drop, log_odds, aopc])
def test_what_is_no_probability_is_refused(function, whole, perturbed, message):
    with pytest.raises(ValueError, match=message):
        function(whole, perturbed)


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="unknown scale 'percent': expected 'eraser' or 'paper'"):
        mean_drop(torch.rand(1), torch.rand(1, 2), "percent")


@pytest.mark.parametrize("percentages", [[0, 50], [10, 50, 100], [0, 50, 90], [0, 100, 50], [0, 0, 100]])
def test_areas_need_percentages_from_none_to_all(percentages):
    with pytest.raises(ValueError, match=r"ascend from 0 to 100|one for each column"):
        area_under_curve(torch.rand(1, 3), percentages)
