"""Words of caution from tables made by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from captum_attn.comparison.cautions import Evidence, Gain, words_of_caution

CALM = {"a": 0.6, "b": 0.4, "c": 0.2, "random": 0.0}
"""Comprehensiveness of methods that are told apart."""


def evidence(
    drops=CALM,
    tau=0.8,
    magnitudes=None,
    same_top=0.9,
    signed=True,
    reverse=-0.2,
    noise=0.01,
    count=40,
    probability=0.9,
    reruns=None,
    paraphrases=None,
    same_prediction=np.nan,
    left_out=None,
    knockout=None,
):
    """What a comparison of ``count`` inputs would find; ``tau`` for all pairs, or by pair."""
    interventions = {"replacement": drops, **({"knockout": knockout} if knockout else {})}
    wobble = noise * np.cos(np.arange(count) * np.pi)  # up, down, up, ...
    each = [
        (method, ranking, intervention, example, value)
        for intervention, means in interventions.items()
        for place, (method, mean) in enumerate(means.items())
        for ranking, level in (("scores", mean), ("reversed", mean + reverse if method != "random" else 0.0))
        for example, value in enumerate(level + (place + 1) * wobble * (1 if ranking == "scores" else -1))
    ]
    pairs = [
        {
            "method": one,
            "other": other,
            "kendall_tau": tau.get(one + other, 0.8) if isinstance(tau, dict) else tau,
            "kendall_tau_of_magnitudes": magnitudes if magnitudes is not None else 0.0,
            "same_top": same_top,
            "standard_error": 0.03,
            "left_out": (left_out or {}).get(one, 0),
        }
        for one, other in combinations(drops, 2)
    ]
    order = sorted(drops, key=drops.get, reverse=True)
    table = pd.DataFrame(
        {
            "method": order,
            "signed": [signed if isinstance(signed, bool) else method in signed for method in order],
            "comprehensiveness": [drops[method] for method in order],
            "comprehensiveness_error": noise,
        }
    )
    stability = [
        {"method": method, "under": under, "kendall_tau": (found or {}).get(method, np.nan)}
        | {"same_prediction": same_prediction if under == "paraphrases" else np.nan}
        for method in drops
        for under, found in (("reruns", reruns), ("paraphrases", paraphrases))
    ]
    return Evidence(
        table,
        pd.DataFrame(pairs),
        pd.DataFrame(stability),
        pd.DataFrame(each, columns=["method", "ranking", "intervention", "example", "value"]),
        [probability] * count,
    )


def only(found, start):
    (sentence,) = (sentence for sentence in found if sentence.startswith(start))
    return sentence


def test_where_all_is_well_there_is_one_sober_sentence():
    assert words_of_caution(evidence()) == [
        "The methods agree: Kendall's τ is 0.80, about 90 % of pairs of tokens in the same order, on average; from "
        "0.80 (a and b) to 0.80 (a and b). That is no proof of truth: methods that compute alike err alike."
    ]


def test_disagreement_comes_first_with_its_extremes():
    tau = {"ab": -0.3, "ac": 0.1, "bc": 0.5}
    assert words_of_caution(evidence(tau=tau))[0] == (
        "The methods disagree: Kendall's τ is 0.10, about 55 % of pairs of tokens in the same order, on average; from "
        "−0.30 (a and b) to 0.50 (b and c). Which tokens matter depends on the method that is asked."
    )


def test_random_scores_do_not_count_as_a_method_that_disagrees():
    tau = {"arandom": 0.0, "brandom": 0.0, "crandom": 0.0}
    assert words_of_caution(evidence(tau=tau))[0].startswith("The methods agree: Kendall's τ is 0.80")


def test_two_methods_have_one_pair():
    found = words_of_caution(evidence({"a": 0.6, "b": 0.4, "random": 0.0}, tau=0.2))
    assert found[0].startswith("The methods disagree: Kendall's τ is 0.20, about 60 % of pairs of tokens in the same o")
    assert "on average" not in found[0]


def test_nothing_to_compare_is_said():
    assert words_of_caution(evidence(tau=np.nan))[0].startswith("No two methods can be compared")


def test_equally_faithful_methods_that_disagree_are_named():
    found = words_of_caution(evidence({**CALM, "b": 0.6}, tau={"ab": 0.1}, same_top=0.55, noise=0.1))
    assert only(found, "a is the most faithful") == (
        "a is the most faithful (0.600 ± 0.100), but not surely more than b: paired differences are below two standard "
        "errors, yet they disagree on the tokens: τ 0.10, another token on top in 45 % of inputs."
    )


def test_rankings_that_agree_but_for_the_first_token_are_told_apart():
    found = words_of_caution(evidence({**CALM, "b": 0.6}, tau=0.6, same_top=0.5, noise=0.1))
    assert only(found, "a is the most faithful").endswith(
        ", yet there is another token on top in 50 % of inputs (τ 0.60)."
    )


def test_equally_faithful_methods_that_agree_are_named_too():
    found = words_of_caution(evidence({**CALM, "b": 0.6}, noise=0.1))
    assert only(found, "a is the most faithful").endswith("On the tokens they agree: τ 0.80.")


def test_the_most_faithful_method_and_the_next_one_disagree():
    found = words_of_caution(evidence(tau={"ab": -0.2}))
    assert only(found, "a is the most faithful") == (
        "a is the most faithful, +0.200 ± 0.002 ahead of b, yet they disagree on the tokens: τ −0.20, another token on "
        "top in 10 % of inputs."
    )


def test_methods_no_better_than_random_or_their_reverse_are_named_with_their_differences():
    drops = {"a": 0.6, "b": 0.4, "c": 0.0005, "random": 0.0}
    found = words_of_caution(evidence(drops, reverse=0.001))
    assert only(found, "Not surely more faithful than random scores") == (
        "Not surely more faithful than random scores, by paired differences: c (+0.001 ± 0.002)."
    )
    assert only(found, "Not surely more faithful than their own reverse").endswith(
        ": a (−0.001 ± 0.003), b (−0.001 ± 0.006) and c (−0.001 ± 0.010)."
    )


def test_another_intervention_with_another_winner_is_named():
    found = words_of_caution(evidence(knockout={"a": 0.3, "b": 0.4, "c": 0.35, "random": 0.0}))
    assert only(found, "By replacement") == (
        "By replacement, a is the most faithful, but by knockout, b is: +0.100 ± 0.002 ahead."
    )
    assert not any("By replacement" in sentence for sentence in words_of_caution(evidence(knockout=CALM)))


def test_disagreement_about_sides_only_is_told_apart():
    found = words_of_caution(evidence(tau=0.2, magnitudes=0.6, signed=["a"]))
    assert only(found, "Without negative scores") == (
        "Without negative scores, b and c cannot say what speaks against the class. With signed methods, τ is 0.20, "
        "that of absolute scores 0.60: in part, they disagree about sides only."
    )
    for other in (evidence(tau=0.2, magnitudes=0.25, signed=["a"]), evidence(tau=0.2, magnitudes=0.9)):
        assert not any("Without negative scores" in sentence for sentence in words_of_caution(other))


def test_unstable_methods_are_named_random_scores_are_not():
    found = words_of_caution(
        evidence(reruns={"a": 0.9, "b": 0.6, "random": 0.0}, paraphrases={"a": 0.4, "b": 0.6}, same_prediction=1.0)
    )
    assert only(found, "Another seed") == "Another seed gives another ranking: b (τ 0.60). More samples would help."
    assert only(found, "A paraphrase") == "A paraphrase gives another ranking of the words that it keeps: a (τ 0.40)."
    assert not any("changes the predicted class" in sentence for sentence in found)


def test_paraphrases_that_change_the_prediction_are_counted():
    found = words_of_caution(evidence(paraphrases={"a": 0.9}, same_prediction=0.8))
    assert "The paraphrase changes the predicted class of 20 % of the texts: left out there." in found


def test_saturated_predictions_are_named():
    found = words_of_caution(evidence(probability=0.999))
    assert only(found, "The predicted class").startswith(
        "The predicted class has a probability above 0.99 in 100 % of inputs"
    )


def test_inputs_on_which_a_method_says_nothing_are_counted():
    found = words_of_caution(evidence(left_out={"b": 7}))
    assert only(found, "Some of the 40 inputs").endswith("are left out: b (7).")


def test_few_inputs_are_named_with_the_errors_that_they_leave():
    assert "There are only 12 inputs: the median standard error of τ is 0.03, that of comprehensiveness 0.010." in (
        words_of_caution(evidence(count=12))
    )
    assert "One input says nothing about others: nothing here has a standard error." in (
        words_of_caution(evidence(count=1))
    )


@pytest.mark.parametrize(
    ("gain", "sure"), [(Gain(0.3, 0.1), True), (Gain(0.1, 0.1), False), (Gain(0.1, np.nan), False)]
)
def test_a_gain_is_sure_above_two_standard_errors(gain, sure):
    assert gain.sure is sure
