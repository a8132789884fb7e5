"""The script that counts rooms, on a house of a few files."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".github" / "count_rooms.py"
HOUSE = {
    "captum_attn/__init__.py": '''
        """Says what it is."""

        from typing import TYPE_CHECKING

        if TYPE_CHECKING:
            from captum_attn.methods.one import One

        __all__ = ["One"]
    ''',
    "captum_attn/functional/__init__.py": "from captum_attn.functional.games import game\n__all__ = ['game']",
    "captum_attn/functional/games.py": "def game():\n    from captum_attn.core import tiles  # up\n",
    "captum_attn/core/__init__.py": "",
    "captum_attn/core/tiles.py": "import captum_attn.core.calls\n",
    "captum_attn/core/calls.py": "def call():\n    from .tiles import tile  # a circle\n    return tile\n",
    "captum_attn/methods/__init__.py": "",
    "captum_attn/methods/one.py": "from captum_attn.functional.games import game  # past the face\n",
    "captum_attn/inspection.py": '''
        from __future__ import annotations  # counts
        import json, torch

        class Found:
            """What it is.

            Not code.
            """
            many: int = (
                1  # one
                + 2
            )
            """Nor this."""
            text = """this
            is"""
    ''',
    "shap_attn/__init__.py": "",
    "shap_attn/plots.py": """
        from captum_attn.functional import game
        from captum_attn.methods.one import One  # past the face of captum_attn
        from captum_attn.methods import one  # the same once more
        from shap_attn import texts
    """,
    "shap_attn/texts.py": """
        import typing
        if typing.TYPE_CHECKING:
            import shap_attn.plots
    """,
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("count_rooms", SCRIPT)
    sys.modules["count_rooms"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["count_rooms"]


@pytest.fixture
def checkout(tmp_path):
    for name, source in HOUSE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(line.removeprefix(" " * 8) for line in source.splitlines()))
    return tmp_path


def test_each_count_by_hand(script, checkout):
    house = script.count(checkout)
    assert dict(house.lines) == {
        "captum_attn": 4 + 9,
        "captum_attn.functional": 2 + 2,
        "captum_attn.core": 0 + 1 + 3,
        "captum_attn.methods": 0 + 1,
        "shap_attn": 0 + 4 + 3,
    }
    assert dict(house.files) == {
        "captum_attn": 2,
        "captum_attn.functional": 2,
        "captum_attn.core": 3,
        "captum_attn.methods": 2,
        "shap_attn": 3,
    }
    assert list(map(str, house.up)) == ["captum_attn.functional.games → captum_attn.core.tiles"]
    assert [(face, str(edge)) for face, edge in house.past] == [
        ("captum_attn.functional", "captum_attn.methods.one → captum_attn.functional.games"),
        ("captum_attn", "shap_attn.plots → captum_attn.methods.one"),
    ]
    assert dict(house.types) == {"captum_attn": 1, "shap_attn": 1}
    assert house.circles == [["captum_attn.core.calls", "captum_attn.core.tiles"]]
    assert house.circles_of_types == [*house.circles, ["shap_attn.plots", "shap_attn.texts"]]


def test_circles_against_reachability(script):
    import networkx as nx

    for seed in range(20):
        graph = nx.gnp_random_graph(15, 0.1, seed=seed, directed=True)
        names = {node: f"{node:02}" for node in graph}
        found = script.circles(names.values(), [script.Import(names[a], names[b]) for a, b in graph.edges])
        groups = (sorted(map(names.get, group)) for group in nx.strongly_connected_components(graph))
        assert found == sorted(group for group in groups if len(group) > 1)


def test_the_table_of_two_commits(checkout):
    def git(*arguments):
        subprocess.run(["git", "-C", checkout, "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True)

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    (checkout / "captum_attn/core/calls.py").write_text("call = 1\n")
    command = [sys.executable, SCRIPT, checkout, "--against", "HEAD", "--list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "| captum_attn.core | 4 → 2 | 3 → 3 | 0 → 0 | 0 → 0 | 0 → 0 |" in lines
    assert "| **all** | 29 → 27 | 12 → 12 | 1 → 1 | 2 → 2 | 2 → 2 |" in lines
    assert "Circles: 1 → 0; with imports for types: 2 → 1" in lines
    assert "up: captum_attn.functional.games → captum_attn.core.tiles" in lines


def test_this_house_stands(script):
    house = script.count(SCRIPT.parents[1])
    assert not house.up
    assert not house.circles
    assert not house.circles_of_types
    assert not [edge for face, edge in house.past if face not in ("captum_attn", "captum_attn.core")]
    assert len(house.past) <= 93
