"""The page of an explained response: its data, and what a browser shows of it, by clicking."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import chat_model
from torch import Tensor

from captum_attn.generation import ExplainedResponse, GenerationAttention

HOSTILE = "the cat </script><b>is</b> & old . ünïcödé \N{SMILING FACE WITH OPEN MOUTH} dog .\n\nhow old ?"


@pytest.fixture(scope="module")
def explained() -> ExplainedResponse:
    messages = [{"role": "user", "content": HOSTILE}]
    return GenerationAttention(*chat_model()).explain(messages, "it is young")


def data_of(html: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html)
    data: dict[str, Any] = json.loads(text)
    return data


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
    assert html.count("<script") == 2
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
    file = explained.save(tmp_path / "new" / "page.html")
    assert file.read_text(encoding="utf-8") == explained.page()
    shown = explained._repr_html_()
    assert unescape(re.findall(r'srcdoc="(.*?)"></iframe>', shown, re.DOTALL)[0]) == explained.page()


@pytest.fixture
def browser(explained: ExplainedResponse, tmp_path: Path) -> Any:
    """A browser that shows the page."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("there is no chromium with chromedriver")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=900,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = chromium
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    file = explained.save(tmp_path / "page.html", {"young, not old": explained.against("old", at="young")})
    running.get(file.as_uri())
    yield running
    assert running.get_log("browser") == []
    running.quit()


def test_in_a_browser(browser: Any, explained: ExplainedResponse) -> None:
    def elements(css: str) -> list[Any]:
        found: list[Any] = browser.find_elements("css selector", css)
        return found

    def chosen() -> list[bool]:
        return [pick.get_attribute("aria-selected") == "true" for pick in elements(".pick")]

    def numbers() -> list[float]:
        return [float(value.text) for value in elements(".value")]

    def ranked(sums: Tensor) -> Any:
        return pytest.approx(sorted(sums.tolist(), reverse=True), rel=0.06, abs=6e-5)

    def said() -> str:
        (status,) = elements("#said")
        return str(status.text)

    picks, escape, shift_left = elements(".pick"), "\ue00c", "\ue008\ue012"
    assert [pick.get_property("textContent") for pick in picks] == list(explained.response_tokens)
    assert elements("#prompt")[0].get_property("textContent") == explained.prompt.text
    assert chosen() == [True] * 3
    assert numbers() == ranked(explained.source_values)
    frame = explained.source_frame()
    assert [row.get_attribute("title") for row in elements("#sources li > :first-child")] == frame.source.tolist()
    shares = [int(share.text[:-2]) for share in elements(".share")]
    assert shares == pytest.approx((100 * frame.share).tolist(), abs=0.51)
    picks[2].click()
    assert chosen() == [False, False, True]
    assert f"probability {100 * explained.probabilities[2]:.1f} %" in said()
    assert numbers() == ranked(explained.by_source(explained.map[2]))
    picks[2].send_keys(shift_left)
    assert chosen() == [False, True, True]
    assert numbers() == ranked(explained.by_source(explained.map[1:].sum(0)))
    picks[1].send_keys(escape)
    assert chosen() == [True] * 3
    elements("#tools button")[1].click()
    assert said() == "young, not old: a difference of scores"
    assert numbers() == ranked(explained.by_source(explained.against("old", at="young")))
    assert "rgba" in (elements(".token")[0].get_attribute("style") or "") or explained.values[0] == 0
