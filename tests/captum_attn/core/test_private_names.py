"""Private names are there, mean what we think, and are missed loudly."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES
from torch import nn

from captum_attn.core.models import check_observable, unwrapped
from captum_attn.core.private_names import (
    OPERATOR,
    attention_implementation,
    base_of,
    compiled_from,
    is_compiled,
    version_of,
)


def test_they_mean_what_we_think():
    tensor = torch.zeros(4)
    assert version_of(tensor) == 0
    assert base_of(tensor) is None
    assert base_of(tensor[:2].add_(1)) is tensor
    assert version_of(tensor) == 1
    with torch.inference_mode():
        assert version_of(torch.zeros(1)) == 0
    module = nn.Sequential(nn.Linear(2, 2))
    compiled = torch.compile(module)
    assert compiled_from(compiled) is module
    assert compiled_from(module) is module
    assert is_compiled(compiled)
    assert not is_compiled(module)
    module[0].compile()
    assert is_compiled(module[0])
    exported = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)).module()
    assert any(isinstance(node.target, OPERATOR) for node in exported.graph.nodes)
    config = FAMILIES["bert"].build(implementation="eager").config
    assert attention_implementation(config) == "eager"
    assert attention_implementation(None) is None
    assert attention_implementation(SimpleNamespace(hidden=3)) is None


class Gone:
    """A tensor, a module or a configuration of a version that we do not know."""

    get_text_config = None

    def is_inference(self):
        return False


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (version_of, "Gone._version"),
        (base_of, "Gone._base"),
        (is_compiled, "Gone._compiled_call_impl"),
        (attention_implementation, "Gone._attn_implementation"),
        (check_observable, "Gone._attn_implementation"),
    ],
)
def test_what_is_gone_is_missed_loudly(ask, name):
    with pytest.raises(RuntimeError, match=f"{name} is gone in this version of its library .torch .*please report it"):
        ask(Gone())


def test_a_compiled_model_that_hides_its_module_is_refused():
    hiding = type("OptimizedModule", (nn.Module,), {})()
    with pytest.raises(RuntimeError, match=r"OptimizedModule._orig_mod is gone"):
        unwrapped(hiding)
