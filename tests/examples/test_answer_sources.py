"""Cases of planted facts, as the benchmark makes them."""

from __future__ import annotations

import argparse

import answer_sources
import answer_tokens
import pytest
from chat_models import chat_model
from helpers import planted_cases


@pytest.mark.parametrize("kind", planted_cases.KINDS)
def test_facts_are_planted_once_among_eight_paragraphs(kind):
    cases = planted_cases.made(30, [kind], seed=1)
    assert cases == planted_cases.made(30, [kind], seed=1)
    for case in cases:
        assert len(set(case.paragraphs)) == len(case.paragraphs) == 8
        assert len(case.planted) == {"two-hop": 2, "unanswerable": 0}.get(kind, 1)
        holding = [number for number, text in enumerate(case.paragraphs) if case.answer in text]
        assert holding == [number for number in case.planted if case.answer in case.paragraphs[number]]
    assert kind == "unanswerable" or len({case.planted for case in cases}) > 4


def test_a_response_is_measured_by_every_way(monkeypatch):
    case, *others = planted_cases.made(5, ["plain"], seed=0)
    answers = [(other, f"it is {other.answer} .") for other in others]
    monkeypatch.setattr(answer_sources.Asked, "_cases_for_weights", lambda _: answers)
    options = argparse.Namespace(subsets=4, slow=1, tokens=3, seed=0)
    asked = answer_sources.Asked(*chat_model(), options)
    ways = [way for way in [*asked.ours(), *asked.rivals(0)] if not way.name.startswith("Captum LLMG")]
    rows = asked.measured(case, f"it is {case.answer} .", 0, ways)
    by_name = {row["way"]: row for row in rows}
    assert by_name["leave-one-out"]["r, log_odds"] == pytest.approx(1)
    captums = by_name["Captum LLMAttribution(FeatureAblation)"]  # the same truth, by another library
    assert captums["r, log_prob"] > 0.9
    assert {"signed, attnlrp, log_odds", "AttnLRP, logit", "rollout", "random"} < set(by_name)
    assert all(-1 <= row["LDS, log_prob"] <= 1 for row in rows)
    table = answer_sources.markdown(answer_sources.pd.DataFrame(rows))
    assert "**plain**, 1 cases" in table


def test_tokens_of_prompts_are_ranked_by_every_way(monkeypatch, capsys):
    model, tokenizer = chat_model()
    monkeypatch.setattr(answer_tokens.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: model)
    monkeypatch.setattr(answer_tokens.AutoTokenizer, "from_pretrained", lambda *_: tokenizer)
    monkeypatch.setattr("sys.argv", ["", "--model", "", "--made", "1", "--kinds", "plain", "--tokens", "3"])
    answer_tokens.main()
    assert "one cached pass, signed, attnlrp" in capsys.readouterr().out
