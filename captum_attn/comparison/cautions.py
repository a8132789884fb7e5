"""Words of caution: what a comparison's numbers ask a reader to keep in mind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from captum_attn.bench import RANDOM
from captum_attn.formatting import listed, number, percent, with_error
from captum_attn.metrics import Gain, PairedDifferences

AGREE = 0.5
"""The mean τ from which methods are said to agree: three of four pairs of tokens in the same order."""

STABLE = 0.7
"""The τ from which a method is said to agree with itself under another seed: 85 % of pairs."""

SATURATED = 0.99
"""The probability of a prediction above which gradients all but vanish."""

FEW = 30
"""With fewer inputs than these, standard errors are named."""

_OFTEN = 0.25  # of inputs
_MUCH = 0.1  # of τ


@dataclass(frozen=True)
class Evidence:
    """What cautions are drawn from.

    Attributes:
        table, agreement, stability: as :class:`~captum_attn.comparison.Comparison` has them.
        faithfulness: the comprehensiveness of each input, as :meth:`~captum_attn.metrics.Evaluation.scores` has it.
        probabilities: of the predicted classes.
    """

    table: pd.DataFrame
    agreement: pd.DataFrame
    stability: pd.DataFrame
    faithfulness: pd.DataFrame
    probabilities: Sequence[float]

    @property
    def methods(self) -> list[str]:
        """All but random scores, the most faithful first."""
        return [method for method in self.table.method if method != RANDOM]

    def pairs(self, methods: Iterable[str]) -> pd.DataFrame:
        """The agreement among some methods."""
        some = set(methods)
        return self.agreement[self.agreement.method.isin(some) & self.agreement.other.isin(some)]

    def gain(self, method: str, other: str, ranking: str = "scores", intervention: str | None = None) -> Gain:
        """By how much a method is more faithful than another one, or than a reversed ranking."""
        return self._differences.gain(method, other, ranking, intervention)

    @property
    def interventions(self) -> list[str]:
        return self._differences.interventions

    def no_better_than_chance(self) -> list[str]:
        """Which methods are not surely more faithful than random scores, or than their own reverse."""
        return self._differences.no_better_than_chance(self.methods)

    @cached_property
    def _differences(self) -> PairedDifferences:
        return PairedDifferences(self.faithfulness)


def words_of_caution(evidence: Evidence) -> list[str]:
    """The cautions that the evidence asks for, with its numbers; what concerns all methods first."""
    if len(evidence.probabilities) == 1:
        return ["One input says nothing about others: nothing here has a standard error."]
    return [
        *_few(evidence),
        *_overall(evidence),
        *_among_the_faithful(evidence),
        *evidence.no_better_than_chance(),
        *_interventions(evidence),
        *_signs(evidence),
        *_unstable(evidence),
        *_saturated(evidence),
        *_without_ranking(evidence),
    ]


def _overall(evidence: Evidence) -> list[str]:
    """Whether methods agree."""
    pairs = evidence.pairs(evidence.methods).dropna(subset="kendall_tau")
    if pairs.empty:
        return ["No two methods can be compared: their scores are all equal, or no input has two tokens."]
    mean = pairs.kendall_tau.mean()
    numbers = f"Kendall's τ is {number(mean)}, about {percent(0.5 + mean / 2)} of pairs of tokens in the same order"
    if len(pairs) > 1:
        ends = [pairs.loc[place] for place in (pairs.kendall_tau.idxmin(), pairs.kendall_tau.idxmax())]
        lowest, highest = (f"{number(pair.kendall_tau)} ({pair.method} and {pair.other})" for pair in ends)
        numbers += f", on average; from {lowest} to {highest}"
    if mean < AGREE:
        return [f"The methods disagree: {numbers}. Which tokens matter depends on the method that is asked."]
    return [f"The methods agree: {numbers}. That is no proof of truth: methods that compute alike err alike."]


def _among_the_faithful(evidence: Evidence) -> list[str]:
    """What the methods say that are the most faithful, or that faithfulness does not tell from the most faithful."""
    best, *others = evidence.methods
    level = [best, *(other for other in others if not evidence.gain(best, other).sure)]
    faithful = level if len(level) > 1 else evidence.methods[:2]
    pairs = evidence.pairs(faithful).dropna(subset="kendall_tau")
    if pairs.empty:
        return []
    tau, differ = pairs.kendall_tau.mean(), 1 - pairs.same_top.mean()
    agree = tau >= AGREE and differ < _OFTEN
    if len(level) > 1:
        first = evidence.table.set_index("method").loc[best]
        drop = with_error(first.comprehensiveness, first.comprehensiveness_error)
        who = (
            f"{best} is the most faithful ({drop}), but not surely more than {listed(level[1:])}: paired differences "
            "are below two standard errors"
        )
    elif agree:
        return []
    else:
        who = f"{best} is the most faithful, {evidence.gain(best, faithful[1])} ahead of {faithful[1]}"
    if agree:
        return [f"{who}. On the tokens they agree: τ {number(tau)}."]
    tops = f"another token on top in {percent(differ)} of inputs"
    if tau < AGREE:
        return [f"{who}, yet they disagree on the tokens: τ {number(tau)}, {tops}."]
    return [f"{who}, yet there is {tops} (τ {number(tau)})."]


def _interventions(evidence: Evidence) -> list[str]:
    """Whether another intervention finds another method more faithful."""
    best, (usual, *others), found = evidence.methods[0], evidence.interventions, []
    for other in others:
        gains = {method: evidence.gain(method, best, intervention=other) for method in evidence.methods}
        ahead = max(gains, key=lambda method: gains[method].mean)
        if gains[ahead].sure:
            found.append(f"By {usual}, {best} is the most faithful, but by {other}, {ahead} is: {gains[ahead]} ahead.")
    return found


def _signs(evidence: Evidence) -> list[str]:
    """Whether methods that do not know signs look as if they disagreed with those that do."""
    signed = evidence.table.set_index("method").signed.loc[evidence.methods]
    without = list(signed.index[~signed])
    pairs = evidence.pairs(evidence.methods)
    mixed = pairs[pairs.method.isin(without) != pairs.other.isin(without)]
    tau, magnitudes = mixed.kendall_tau.mean(), mixed.kendall_tau_of_magnitudes.mean()
    if not magnitudes - tau > _MUCH:
        return []
    return [
        f"Without negative scores, {listed(without)} cannot say what speaks against the class. With signed methods, τ "
        f"is {number(tau)}, that of absolute scores {number(magnitudes)}: in part, they disagree about sides only."
    ]


def _unstable(evidence: Evidence) -> list[str]:
    """Which methods disagree with themselves."""
    own = evidence.stability[evidence.stability.method != RANDOM]
    reruns, paraphrases = (own[own.under == under] for under in ("reruns", "paraphrases"))
    by_seed, by_wording = (
        [f"{row.method} (τ {number(row.kendall_tau)})" for row in found[found.kendall_tau < least].itertuples()]
        for found, least in ((reruns, STABLE), (paraphrases, AGREE))
    )
    found = []
    if by_seed:
        found.append(f"Another seed gives another ranking: {listed(by_seed)}. More samples would help.")
    if by_wording:
        found.append(f"A paraphrase gives another ranking of the words that it keeps: {listed(by_wording)}.")
    changed = 1 - paraphrases.same_prediction.max()
    if changed > 0:
        found.append(f"The paraphrase changes the predicted class of {percent(changed)} of the texts: left out there.")
    return found


def _saturated(evidence: Evidence) -> list[str]:
    """Whether many predictions leave gradients nothing to say."""
    share = sum(probability > SATURATED for probability in evidence.probabilities) / len(evidence.probabilities)
    if share < _OFTEN:
        return []
    return [
        f"The predicted class has a probability above {SATURATED} in {percent(share)} of inputs: gradients nearly "
        "vanish there, and rankings by gradients are of tiny values."
    ]


def _without_ranking(evidence: Evidence) -> list[str]:
    """Which methods say nothing about some inputs."""
    with_random = evidence.agreement[evidence.agreement.other == RANDOM]  # who has a ranking wherever there are tokens
    silent = [f"{row.method} ({row.left_out})" for row in with_random.itertuples() if row.left_out]
    if not silent:
        return []
    count = len(evidence.probabilities)
    return [f"Some of the {count} inputs have one token or equal scores for all, and are left out: {listed(silent)}."]


def _few(evidence: Evidence) -> list[str]:
    """How sure numbers from few inputs are."""
    count = len(evidence.probabilities)
    if count >= FEW:
        return []
    tau, drop = evidence.agreement.standard_error.median(), evidence.table.comprehensiveness_error.median()
    errors = f"the median standard error of τ is {number(tau)}, that of comprehensiveness {number(drop, 3)}"
    return [f"There are only {count} inputs: {errors}."]
