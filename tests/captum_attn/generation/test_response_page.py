"""The page of an explained response: its data, and what a browser shows of it, by clicking."""

from __future__ import annotations

import base64
import hashlib
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import chat_model
from pages import assert_self_contained, shown, views_of
from torch import Tensor

from captum_attn.generation import ExplainedResponse, GenerationAttention

HOSTILE = "the cat </script><b>is</b> & old . ünïcödé \N{SMILING FACE WITH OPEN MOUTH} dog .\n\nhow old ?"


@pytest.fixture(scope="module")
def explained() -> ExplainedResponse:
    messages = [{"role": "user", "content": HOSTILE}]
    return GenerationAttention(*chat_model()).explain(messages, "it is young")


def data_of(html: str) -> dict[str, Any]:
    (view,) = views_of(html)
    return view


def test_the_page_holds_the_values_and_nothing_runs_but_its_script(explained: ExplainedResponse) -> None:
    html = explained.page({"young, not old": explained.against("old", at="young")})
    data = data_of(html)
    assert "".join(text for text, *_ in data["prompt"]) == explained.prompt.text
    assert sorted(number for _, numbers, _ in data["prompt"] for number in numbers) == list(range(data["first"]))
    torch.testing.assert_close(torch.tensor(data["map"]), explained.map, rtol=1e-3, atol=0)
    torch.testing.assert_close(torch.tensor(data["values"]), explained.values, rtol=1e-3, atol=0)
    sums = [sum(data["values"][number] for number in source["tokens"]) for source in data["sources"]]
    torch.testing.assert_close(torch.tensor(sums), explained.source_values, rtol=1e-2, atol=1e-7)
    assert [one["name"] for one in data["contrasts"]] == ["young, not old"]
    asked = "".join(text for text, _, what in data["prompt"] if what == "no-source").strip()
    assert asked == HOSTILE[HOSTILE.index("how old") :]
    assert_self_contained(html)
    assert "<b>is" not in html
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)">', html)
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (code,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert f"{rule} 'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" in policy


def test_a_long_response_has_a_map_of_some_tokens_each(
    explained: ExplainedResponse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captum_attn.generation.explained_response._MAP_ENTRIES", 2 * len(explained.values))
    html = explained.page()
    data = data_of(html)
    assert data["parts"] == [[0, 2], [2, 3]]
    expected = torch.stack([explained.map[:2].sum(0), explained.map[2]])
    torch.testing.assert_close(torch.tensor(data["map"]), expected, rtol=1e-3, atol=1e-7)
    assert "behind 2 tokens of it at a time" in html


def test_contrasts_of_another_length_are_refused(explained: ExplainedResponse) -> None:
    with pytest.raises(ValueError, match="contrast 'a' must have shape"):
        explained.page({"a": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"contrast 'a' must have shape .* and be finite"):
        explained.page({"a": explained.values / 0})


def test_it_is_saved_and_shown_in_notebooks(explained: ExplainedResponse, tmp_path: Path) -> None:
    file = explained.to_html(tmp_path / "new" / "page.html")
    assert file.read_text(encoding="utf-8") == explained.page()
    shown = explained._repr_html_()
    assert unescape(re.findall(r'srcdoc="(.*?)"></iframe>', shown, re.DOTALL)[0]) == explained.page()


def test_in_a_browser(explained: ExplainedResponse, tmp_path: Path) -> None:
    against = explained.against("old", at="young")
    with shown(explained.page({"young, not old": against}), tmp_path) as page:

        def chosen() -> list[bool]:
            return [pick.get_attribute("aria-selected") == "true" for pick in page.locator(".pick").all()]

        def numbers() -> list[float]:
            return [float(text.replace("−", "-")) for text in page.locator(".value").all_inner_texts()]

        def ranked(sums: Tensor) -> Any:
            return pytest.approx(sorted(sums.tolist(), reverse=True), rel=0.06, abs=6e-5)

        picks, said = page.locator(".pick"), page.locator("#said")
        assert picks.all_text_contents() == list(explained.response_tokens)
        assert page.locator("#prompt").text_content() == explained.prompt.text
        assert chosen() == [True] * 3
        assert numbers() == ranked(explained.source_values)
        frame = explained.source_frame()
        rows = page.locator("#sources li > :first-child").all()
        assert [row.get_attribute("title") for row in rows] == frame.source.tolist()
        shares = [int(share[:-2]) for share in page.locator(".share").all_inner_texts()]
        assert shares == pytest.approx((100 * frame.share).tolist(), abs=0.51)
        picks.nth(2).click()
        assert chosen() == [False, False, True]
        assert f"probability {100 * explained.probabilities[2]:.1f} %" in said.inner_text()
        assert numbers() == ranked(explained.by_source(explained.map[2]))
        picks.nth(2).press("Shift+ArrowLeft")
        assert chosen() == [False, True, True]
        assert numbers() == ranked(explained.by_source(explained.map[1:].sum(0)))
        picks.nth(1).press("Escape")
        assert chosen() == [True] * 3
        page.get_by_role("button", name="young, not old").click()
        assert said.inner_text() == "young, not old: a difference of scores"
        assert numbers() == ranked(explained.by_source(against))
        assert "rgba" in (page.locator(".token").first.get_attribute("style") or "") or explained.values[0] == 0


def test_bars_are_of_the_whole_response_or_of_other_values(explained: ExplainedResponse) -> None:
    contrast = explained.against("old", at="young")
    for figure, expected in (
        (explained.plot(), explained.source_values),
        (explained.plot(contrast, "Why young?"), explained.by_source(contrast)),
    ):
        bars = [bar.get_width() for bar in figure.axes[0].patches]
        torch.testing.assert_close(torch.tensor(bars), expected, check_dtype=False)


def test_a_sentence_stands_whole_beside_its_bar() -> None:
    facts = ["the lighthouse of the old town was green .", "the dog is young ."]
    found = GenerationAttention(*chat_model()).explain("\n\n".join([*facts, "how old ?"]), "it is young")
    assert [name.get_text() for name in found.plot().axes[0].get_yticklabels()] == facts
