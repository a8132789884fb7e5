"""The notebooks run, on one processor within seconds, and are stored as they run, with pictures."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from notebooks import NOTEBOOKS, ROOT, executed, tidied

MOST_SECONDS = 60  # .ci/notebooks says how many it is; beside other work, and with cold caches, it is three times that
MOST_BYTES, MOST_BYTES_TOGETHER = 400_000, 1_500_000


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def path(request):
    return request.param


@pytest.fixture(scope="module")
def stored(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def fresh(path):
    """The notebook, executed, and the seconds that this took."""
    return executed(path)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """Which kinds of output a cell has, in their order; a stream that comes in pieces is one; progress is none."""
    found = []
    for output in cell.outputs:
        if output.get("name") == "stderr":
            continue
        kind = (output.output_type, *sorted(output.get("data", {})))
        if found[-1:] != [kind] or output.output_type != "stream":
            found.append(kind)
    return found


def test_it_is_a_valid_notebook_stored_in_small_diffs(path, stored):
    nbformat.validate(stored)
    assert tidied(stored) == stored
    assert path.read_text(encoding="utf-8") == nbformat.writes(stored) + "\n"


def test_it_is_small(path):
    assert path.stat().st_size < MOST_BYTES


def test_all_of_them_are_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS) < MOST_BYTES_TOGETHER


def test_it_finds_the_examples_from_its_folder_and_from_the_projects(path, stored, monkeypatch):
    (line,) = {line for cell in code_cells(stored) for line in cell.source.split("\n") if "Path.cwd()" in line}
    for folder in (path.parent, ROOT):
        monkeypatch.chdir(folder)
        found = {"Path": Path}
        exec(line, found)
        assert found["examples"] == ROOT / "examples"


def test_it_leads_to_the_next_one_and_to_the_documents(path, stored):
    links = re.findall(r"\]\(([^)#]+)", stored.cells[-1].source)
    assert any(link.endswith(".ipynb") for link in links)
    assert "../../captum_attn/README.md" in links


def test_it_runs_in_seconds(fresh):
    assert fresh[1] <= MOST_SECONDS


def test_what_is_stored_is_what_it_shows(stored, fresh):
    cells = list(zip(code_cells(stored), code_cells(fresh[0]), strict=True))
    assert [(old.source, kinds(old)) for old, _ in cells] == [(new.source, kinds(new)) for _, new in cells]


def test_no_error_is_stored_and_something_can_be_seen(stored):
    outputs = [output for cell in code_cells(stored) for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert any({"image/png", "text/html"} & {*output.get("data", {})} for output in outputs)


def test_figures_come_without_pyplot(stored):
    assert not [cell.source for cell in code_cells(stored) if "pyplot" in cell.source or "%matplotlib" in cell.source]
