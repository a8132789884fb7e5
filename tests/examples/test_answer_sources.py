"""Cases of planted facts, as the benchmark makes them."""

from __future__ import annotations

import answer_sources
import pytest
from chat_models import chat_model


@pytest.mark.parametrize("kind", answer_sources.KINDS)
def test_facts_are_planted_once_among_eight_paragraphs(kind):
    cases = answer_sources.made(30, [kind], seed=1)
    assert cases == answer_sources.made(30, [kind], seed=1)
    for case in cases:
        assert len(set(case.paragraphs)) == len(case.paragraphs) == 8
        assert len(case.planted) == {"two-hop": 2, "unanswerable": 0}.get(kind, 1)
        holding = [number for number, text in enumerate(case.paragraphs) if case.answer in text]
        assert holding == [number for number in case.planted if case.answer in case.paragraphs[number]]
    assert kind == "unanswerable" or len({case.planted for case in cases}) > 4


def test_a_response_is_measured_by_every_way():
    case = answer_sources.made(1, ["plain"], seed=0)[0]
    rows = answer_sources.measured(case, f"it is {case.answer} .", 0, *chat_model(), subsets=4)
    ways = {row["way"]: row for row in rows}
    assert ways["leave-one-out"]["r, log_odds"] == pytest.approx(1)
    assert {"signed, attnlrp, log_odds", "rectified, gradient, log_prob", "random"} < set(ways)
    assert all(-1 <= row["LDS, log_prob"] <= 1 for row in rows)
    table = answer_sources.markdown(answer_sources.pd.DataFrame(rows))
    assert "**plain**, 1 cases" in table
