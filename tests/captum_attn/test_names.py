"""The public names: one list a package, and old paths that still lead to them."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import pytest

import captum_attn
from captum_attn._moved import MOVED

PACKAGES = (
    "captum_attn",
    *(
        f"captum_attn.{name}"
        for name in (
            "bench",
            "comparison",
            "concepts",
            "controls",
            "core",
            "core.observers",
            "functional",
            "methods",
            "metrics",
        )
    ),
    "lightning_callbacks",
    "shap_attn",
)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_shows_its_public_names_alone(name):
    package = import_module(name)
    assert {*dir(package)} == {*package.__all__} | ({"__version__"} if name == "captum_attn" else set())
    assert all(hasattr(package, public) for public in package.__all__)


def test_the_version_is_that_of_the_distribution():
    assert captum_attn.__version__ == version("captum-attn")


@pytest.mark.parametrize("old", MOVED)
def test_a_module_that_moved_is_still_found_and_says_where_it_is(old):
    sys.modules.pop(old, None)
    with pytest.warns(FutureWarning, match=f"{old} moved: import from {MOVED[old]}") as warned:
        module = import_module(old)
    home = import_module(MOVED[old])
    assert all(getattr(module, name) is getattr(home, name) for name in home.__all__)
    with pytest.raises(AttributeError, match="has no public name 'nothing'"):
        _ = module.nothing
    assert sum("moved" in str(one.message) for one in warned) == 1


@pytest.mark.parametrize(
    ("old", "name"), [("captum_attn.core.games", "shapley_values"), ("shap_attn.baselines", "PartitionBaseline")]
)
def test_the_warning_names_the_line_that_imports_it(tmp_path, old, name):
    script = tmp_path / "old.py"
    script.write_text(f"import torch\nfrom {old} import {name}\nprint({name})\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert f"{script}:2: FutureWarning: {old} moved" in done.stderr


def test_a_name_that_moved_is_still_found_in_the_package():
    import captum_attn.core
    from captum_attn.functional import shapley_values

    with pytest.warns(FutureWarning, match="captum_attn.core.shapley_values moved: import it from captum_attn.functi"):
        assert captum_attn.core.shapley_values is shapley_values
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = captum_attn.core.nothing


def test_a_function_that_moved_is_still_found_in_its_module():
    from captum_attn.concepts import sensitivity_maps
    from captum_attn.functional import token_sensitivity

    with pytest.warns(FutureWarning, match="token_sensitivity moved: import it from captum_attn.functional"):
        assert sensitivity_maps.token_sensitivity is token_sensitivity
