"""What must be known before concepts are believed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from captum_attn.concepts.concept_scores import ConceptScores, SetScores
from captum_attn.concepts.experimental_sets import FEWEST_EXAMPLES
from captum_attn.core import warn_user
from captum_attn.functional import SIGNIFICANT


def warn_of_weak_tests(found: Sequence[SetScores]) -> None:
    """Warn if no p-value can survive the correction."""
    tests = sum(len(one.tested) for one in found)
    splits = [math.comb(sum(one.examples), count) for one in found for count in one.examples]
    least = max(2 / min(splits), *(one.p_values.least for one in found))
    if least * tests >= SIGNIFICANT:
        warn_user(
            f"no p-value can be below {least:.2g}, so that after a correction for {tests} tests nothing is "
            f"significant: take more than permutations={found[0].p_values.permutations}, more examples, or fewer "
            "concepts"
        )


def warn_of_several_classes(found: ConceptScores) -> None:
    """Warn of inputs that are explained for different outputs, of whatever token."""
    names = Counter(found.target_names)
    if len(found.targets[:, -1].unique()) > 1:
        each = ", ".join(f"{name} ({count})" for name, count in names.most_common(5))
        warn_user(
            f"the inputs are explained for several outputs, {each}: effects are means over them, and nothing can tell "
            "whether a concept is the class in disguise; give inputs of one class, or target="
        )


def warn_of_cropped(processor: Any) -> None:
    """Warn of masks beside an image processor that crops."""
    if getattr(processor, "do_center_crop", False):
        warn_user("the image processor crops images: masks must be of what is left of them, resized and cropped alike")


def warn_of_confounds(found: Sequence[SetScores]) -> None:
    """Warn of concepts that may be the explained class in disguise, and of copies."""
    for one in found:
        confounds = one.confounds
        more_often, shares = confounds.predicted_more_often(), confounds.predicted_shares()
        for k, (concept, copies) in enumerate(zip(one.concepts, confounds.copies_of_each(), strict=True)):
            if copies:
                warn_user(
                    f"concept {concept.name!r} (set {one.key}): {copies} of its {one.examples[k]} examples are "
                    "copies of explained inputs, or of other examples before them: see scores.suspicious()"
                )
            if more_often[k]:
                own, others = shares[k]
                left = one.examples[k] - int(confounds.suspicious[confounds.concepts == k].sum())
                layer, near = one.layers[int(one.p_values.surest[k])].index, float(confounds.near[k])
                lie = f", and {near:.0%} lie on the inputs' side of what tells these from the others in layer {layer}"
                warn_user(
                    f"concept {concept.name!r} (set {one.key}): the model takes {own:.0%} of its examples for what is "
                    f"explained ({others:.0%} of the others)"
                    + ("" if math.isnan(near) else lie)
                    + ". It may be a piece of the class: look at the examples, and "
                    + (
                        "see what is left without them, interpret(..., leave_out=scores.suspicious())"
                        if left >= FEWEST_EXAMPLES
                        else f"take others, of which it is not, for without them {left} would be left"
                    )
                )


def warn_of_inseparable(found: Sequence[SetScores]) -> None:
    """Warn of concepts whose vectors separate nothing."""
    for scores in found:
        for name, where in scores.inseparable().items():
            warn_user(
                f"concept {name!r} (set {scores.key}): in the layers {where}, its vectors separate held-out "
                "examples no better than chance, as those of a concept without a meaning should; its scores mean "
                "little there"
            )
