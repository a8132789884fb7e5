"""Run an example as a user does, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import small_models

EXAMPLES = Path(small_models.__file__).parent


def run(script: str, *arguments: str, folder: Path) -> str:
    """What the script prints; it runs in ``folder`` and writes into ``found`` there."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / script), *arguments, "--out", "found"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
