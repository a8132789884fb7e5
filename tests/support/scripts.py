"""Run an example as from the command line, without a network."""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(script: str, *arguments: str, folder: Path) -> str:
    """What the script prints; it runs in ``folder`` and writes into ``found`` there.

    It runs in this process, which has imported by then what takes the longest.
    """
    command = [script, *arguments, "--out", "found"]
    printed = io.StringIO()
    own_path = patch.object(sys, "path", list(sys.path))
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed), patch.object(sys, "argv", command), own_path:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    return printed.getvalue()


def run_alone(script: str, *arguments: str, folder: Path) -> str:
    """The same in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    command = [sys.executable, str(EXAMPLES / script), *arguments, "--out", "found"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
