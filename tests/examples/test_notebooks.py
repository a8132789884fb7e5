"""The notebooks run, on one processor within seconds, and are stored as they run, with pictures."""

from __future__ import annotations

import nbformat
import pytest
from notebooks import NOTEBOOKS, executed

MOST_SECONDS = 20


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


def test_it_is_a_valid_notebook(stored):
    nbformat.validate(stored)


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
