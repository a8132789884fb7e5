"""Every page is true: its Python runs, its links lead somewhere, its commands exist."""

from __future__ import annotations

import contextlib
import io
import re
import webbrowser

import matplotlib.pyplot as plt
import pytest
from documents import (
    ROOT,
    blocks,
    calls_of_command,
    commands,
    files_named,
    is_dead,
    links,
    options_of_command,
    options_of_script,
    pages,
)

PAGES = pages()
IN_ORDER = "captum_attn/EXTENDING.md"  # its blocks follow on each other: tests/captum_attn/test_how_to.py runs them
BLOCKS = [block for page in PAGES if page != ROOT / IN_ORDER for block in blocks(page)]


def name(page):
    return str(page.relative_to(ROOT))


def without_numbers(text):
    return re.sub(r"[\d.]+", "#", " ".join(text.split()))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a reader is: the root, with the shipped models, and none of what blocks write."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_runs_on_its_own(block, folder, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda *places, **_: opened.append(places) or True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.code, str(block), "exec"), {"__name__": "document"})
    assert {path.name for path in folder.iterdir()} <= {"examples", "out"}, "what is written goes into out/"
    if block.printed is not None:
        assert without_numbers(printed.getvalue()) == without_numbers(block.printed)
    if block.is_first:
        seen = printed.getvalue() or opened or (folder / "out").exists() or plt.get_fignums()
        assert seen, "a page begins with something to see"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    assert [link for link in links(page) if is_dead(page, link)] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_scripts_and_their_options_exist(page):
    for script, options in commands(page):
        assert (ROOT / script).is_file(), script
        assert [option for option in options if option not in options_of_script(ROOT / script)] == [], script
    for asked, options in calls_of_command(page):
        assert [option for option in options if option not in options_of_command()[asked]] == [], asked
    if page.name != "CHANGELOG.md":  # which names files as they were called then
        assert [file for file in files_named(page) if not (ROOT / file).exists()] == []


def test_every_script_and_notebook_has_its_place():
    examples, text = ROOT / "examples", (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert [one.name for one in examples.glob("*.py") if f"python examples/{one.name}" not in text] == []
    assert [one.name for one in examples.glob("notebooks/*.ipynb") if f"(notebooks/{one.name})" not in text] == []
    measured = (examples / "benchmarks" / "README.md").read_text(encoding="utf-8")
    scripts = (examples / "benchmarks").glob("*.py")
    assert [one.name for one in scripts if f"python examples/benchmarks/{one.name}" not in measured] == []


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 10_240


def test_dead_links_are_found():
    page = ROOT / "README.md"
    assert is_dead(page, "nowhere.md")
    assert is_dead(page, "#no-such-heading")
    assert is_dead(page, "../elsewhere.md")
    assert not is_dead(page, "LICENSE")
    assert not is_dead(page, "README.md#try-it")
