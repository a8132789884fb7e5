"""The quickstart as a user runs it: in a process of its own, from another folder, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_models
from PIL import Image

EXAMPLES = Path(small_models.__file__).parent


def quickstart(folder, *arguments):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / "quickstart.py"), "--out", "found", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def files(folder):
    return sorted(path.name for path in (folder / "found").iterdir())


def test_without_arguments_it_explains_a_text_and_an_image(tmp_path):
    done = quickstart(tmp_path)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == ["image.png", "index.html", "text.png"]
    assert "beautiful" in done.stdout
    page = (tmp_path / "found" / "index.html").read_text(encoding="utf-8")
    assert ">beautiful</span>" in page
    assert "src='image.png'" in page
    assert Image.open(tmp_path / "found" / "text.png").size[0] > 500


def test_a_model_a_text_and_a_target_of_ones_own(tmp_path):
    model = str(EXAMPLES / "models" / "bert-sst2")
    options = ("--model", model, "--text", "a <i>gripping</i> film", "--target", "NEGATIVE", "--game", "mutual")
    done = quickstart(tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == ["index.html", "text.png"]
    assert "explained negative" in done.stdout
    page = (tmp_path / "found" / "index.html").read_text(encoding="utf-8")
    assert "<i>" not in page
    assert "game mutual" in page


def test_an_image_of_ones_own(tmp_path):
    Image.new("RGB", (20, 20), "white").save(tmp_path / "white.png")
    done = quickstart(tmp_path, "--image", "white.png", "--sign", "rectified")
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == ["image.png", "index.html"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--text", "fine", "--target", "great"), "expected one of negative, positive"),
        (("--text", "fine", "--game", "chess"), "invalid choice: 'chess'"),
        (("--image", "missing.png"), "missing.png: there is no such file"),
        (("--text", " "), "--text is empty"),
        (("--model", str(EXAMPLES / "models" / "bert-sst2"), "--image", "white.png"), "classifies text"),
        (("--model", str(EXAMPLES / "models" / "vit-digits"), "--text", "fine"), "classifies images"),
        (("--model", str(EXAMPLES / "models" / "vit-digits"), "--image", "white.png"), "no image processor"),
    ],
)
def test_mistakes_are_explained(tmp_path, arguments, message):
    Image.new("RGB", (20, 20), "white").save(tmp_path / "white.png")
    done = quickstart(tmp_path, *arguments)
    assert done.returncode != 0
    assert message in done.stderr
