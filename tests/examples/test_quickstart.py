"""The quickstart as a user runs it: from another folder, without a network."""

from __future__ import annotations

import sys

import pytest
import quickstart
from pages import assert_self_contained, views_of
from scripts import run_alone


def test_without_arguments_it_explains_a_text_and_an_image_in_a_process_of_its_own(tmp_path):
    printed = run_alone("quickstart.py", folder=tmp_path)
    page = (tmp_path / "found" / "index.html").read_text(encoding="utf-8")
    assert "beautiful" in printed
    assert_self_contained(page)
    text, image = views_of(page)
    strongest = max(zip(text["methods"][0]["values"][0], text["tokens"], strict=True))
    assert strongest[1].strip() == "beautiful"
    assert image["classes"][0] == "zebra"


@pytest.mark.parametrize("own_model", [True, False])
def test_with_arguments_it_is_the_command(tmp_path, monkeypatch, own_model):
    monkeypatch.chdir(tmp_path)
    model = ["--model", str(quickstart.TEXT_MODEL)] if own_model else []
    options = [*model, "--text", "a <i>gripping</i> film", "--target", "NEGATIVE", "--method", "ShapleyAttention"]
    monkeypatch.setattr(sys, "argv", ["quickstart.py", *options])
    with pytest.raises(SystemExit, match="0"):
        quickstart.main()
    (view,) = views_of((tmp_path / "out" / "quickstart" / "index.html").read_text(encoding="utf-8"))
    assert view["classes"] == ["negative"]
    assert [method["name"] for method in view["methods"]] == ["ShapleyAttention"]
