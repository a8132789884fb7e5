"""How many examples would show an effect: against the noncentral t distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import FAMILIES
from scipy import stats

from captum_attn import TTCAV
from captum_attn.concepts.power import MULTIPLES, PowerCurve, power_curve
from captum_attn.functional import cauchy_combination

QUIET = {"show_progress": False}
LEVEL = 0.05


def effects(own: int, others: int, shift: float, layers: int = 1) -> torch.Tensor:
    """Normal ones of exactly that difference of means, in standard deviations, the same in all layers."""
    sides = [stats.norm.ppf((np.arange(count) + 0.5) / count) for count in (own, others)]
    sides[0] += shift
    return torch.from_numpy(np.concatenate(sides)).expand(layers, -1)


def of_the_t_test(count: int, shift: float) -> float:
    """The power of a two-sided t-test of twice so many normal variables."""
    freedom, distance = 2 * count - 2, shift * np.sqrt(count / 2)
    bound = stats.t.isf(LEVEL / 2, freedom)
    return float(stats.nct.sf(bound, freedom, distance) + stats.nct.cdf(-bound, freedom, distance))


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("layers", [1, 5])
def test_power_is_that_of_a_t_test(shift: float, layers: int) -> None:
    own = torch.arange(400) < 200
    found = power_curve(effects(200, 200, shift, layers), own, LEVEL, 0, multiples=(0.1, 0.2, 0.5))
    assert found.examples == [20, 40, 100]
    assert found.power == pytest.approx([of_the_t_test(count, shift) for count in found.examples], abs=0.1)


def test_what_is_needed_is_the_fewest_beyond_those_at_hand() -> None:
    curve = PowerCurve([5, 10, 20], [0.3, 0.85, 0.9])
    assert (curve.needed(), curve.needed(10), curve.needed(20)) == (10, 20, None)
    assert power_curve(torch.zeros(2, 60), torch.arange(60) < 30, LEVEL, 0) == PowerCurve([], [])


def test_more_examples_do_not_make_up_for_too_few_random_splits() -> None:
    own = torch.arange(60) < 30
    assert max(power_curve(effects(30, 30, 2.0), own, 0.01, 0).power) == 1
    assert max(power_curve(effects(30, 30, 2.0), own, 0.01, 0, least=0.02).power) == 0


def test_what_is_not_significant_says_how_many_examples_it_would_take() -> None:
    torch.manual_seed(0)
    vit = FAMILIES["vit"].build()
    sets = {
        name: torch.rand(8, 3, 12, 12) + shift for name, shift in {"bright": 0.02, "dark": -0.02, "plain": 0}.items()
    }
    scores = TTCAV(vit, n_cavs=2).interpret(torch.rand(6, 3, 12, 12), sets, 0, **QUIET)
    table = scores.concepts().set_index("concept")
    assert not table.significant.any()
    curves = scores.power()
    assert curves.examples.tolist() == [round(8 * multiple) for multiple in MULTIPLES[2:]] * 3  # 5 at least
    one = scores.sets[0]
    direction = dict(zip(sets, cauchy_combination(one.p_values.direction).tolist(), strict=True))
    for k, (concept, rows) in enumerate(curves.groupby("concept", sort=False)):
        enough = rows[(rows.power >= 0.8) & (rows.examples > 8)]
        expected = f"takes some {enough.examples.iloc[0]} examples" if len(enough) else "not even with 8 times the"
        if direction[concept] >= LEVEL / 3:
            expected = "the gradient's direction could be chance (p = "
        assert (expected in table.note[concept]) == one.separates(int(one.p_values.surest[k]), k)
    (axes,) = scores.plot_power().axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(sets)
    drawn = {line.get_label(): line.get_ydata() for line in axes.get_lines() if line.get_label() in sets}
    assert drawn["dark"] == pytest.approx(curves[curves.concept == "dark"].power.tolist())
