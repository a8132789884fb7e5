"""The wheel and the sdist hold the packages and what is said of them, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string, policy
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("captum_attn", "lightning_callbacks", "shap_attn")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STEM = f"captum_attn-{PROJECT['version']}"


def built(source, folder, *kinds):
    """The files that hatchling makes of a source tree, without network."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder), *kinds]
    subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    return folder


def wheel_files(folder):
    """What is in the wheel in a folder, by path."""
    with zipfile.ZipFile(folder / f"{STEM}-py3-none-any.whl") as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


def files_in_packages(*left_out):
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in {".pyc", *left_out}
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return built(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(folder):
    return wheel_files(folder)


@pytest.fixture(scope="module")
def metadata(wheel):
    return message_from_string(wheel[f"{STEM}.dist-info/METADATA"].decode(), policy=policy.default)


@pytest.fixture(scope="module")
def sdist(folder, tmp_path_factory):
    """The sdist, unpacked."""
    unpacked = tmp_path_factory.mktemp("sdist")
    with tarfile.open(folder / f"{STEM}.tar.gz") as files:
        files.extractall(unpacked, filter="data")
    return unpacked / STEM


def test_the_wheel_holds_the_packages_alone(wheel):
    about = {name for name in wheel if name.startswith(f"{STEM}.dist-info/")}
    assert {*wheel} - about == files_in_packages(".md")
    assert {PurePosixPath(name).name for name in about} >= {"METADATA", "LICENSE", "RECORD", "entry_points.txt"}


def test_the_wheel_has_types_stylesheet_and_script(wheel):
    wanted = {
        *(f"{package}/py.typed" for package in PACKAGES),
        "captum_attn/pages/page.css",
        "captum_attn/pages/page.js",
    }
    assert {*wheel} >= wanted


def test_the_sdist_holds_what_it_takes_to_build(sdist, wheel, tmp_path):
    held = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    beside = {".github/CHANGELOG.md", ".gitignore", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert held == files_in_packages() | beside
    assert wheel_files(built(sdist, tmp_path, "--target", "wheel")) == wheel


def test_the_metadata_say_what_this_is(metadata):
    assert metadata["Name"] == "captum-attn"
    assert metadata["Summary"] == PROJECT["description"]
    assert metadata["Author"] == "the captum-attn authors"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text().strip()


def test_every_extra_is_there_with_what_it_builds_on(metadata):
    needed = {}
    for requirement in metadata.get_all("Requires-Dist"):
        name, _, marker = requirement.partition(";")
        needed.setdefault(marker.partition("'")[2].rstrip("'"), set()).add(name)
    assert {*needed} == {"", *PROJECT["optional-dependencies"]}
    assert needed["transformers"] < needed["shap"] < needed["examples"]
    assert needed["concepts"] | needed["metrics"] < needed["lightning"] < needed["examples"]
    assert not needed[""] & set.union(*(those for extra, those in needed.items() if extra))
