"""Notebooks, executed as a person would who opens them in their folder, without network."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from unittest.mock import patch

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode, from_dict

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
_CLOCK = "import time; print(time.process_time())"
_WITHOUT_NETWORK = {
    "HF_HUB_OFFLINE": "1",
    "HTTPS_PROXY": "http://127.0.0.1:9",  # where nothing listens
    "OMP_NUM_THREADS": "1",
}


def executed(path, seconds_a_cell=600):
    """A notebook with the outputs of a fresh kernel, and the processor's seconds that this took.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
        nbclient.exceptions.CellTimeoutError: a cell takes longer.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(_CLOCK))
    here = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **_WITHOUT_NETWORK}
    with patch.dict(os.environ, here):
        folder = {"metadata": {"path": str(Path(path).parent)}}
        NotebookClient(notebook, timeout=seconds_a_cell, kernel_name="python3", resources=folder).execute()
    clock = notebook.cells.pop()
    return notebook, float(clock.outputs[0].text)


def tidied(notebook):
    """A copy to store, which changes where the notebook does: no progress, no times, no traces of a machine."""
    notebook = deepcopy(notebook)
    for number, cell in enumerate(notebook.cells, 1):
        cell.id, cell.metadata = f"cell-{number:02}", NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.get("outputs", ()):
            if "metadata" in output:
                output.metadata = NotebookNode()
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    return notebook
