"""What an explanation costs, as the benchmark measures it."""

from __future__ import annotations

import math
import os
import signal
from multiprocessing import get_context

import pytest
import response_cost
from chat_models import chat_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("chat")
    for part in chat_model():
        part.save_pretrained(path)
    return path


@pytest.mark.parametrize("way", response_cost.WAYS)
def test_each_way_takes_time(folder, way):
    cost = response_cost.measured(way, folder, 12, 4, 1)
    assert cost.seconds > 0
    assert (cost.ratio is not None) == (way == "map")


def killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def out_of_memory(*_: object) -> None:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


def broken(*_: object) -> None:
    raise RuntimeError("shapes do not fit")


def test_only_for_want_of_memory_the_others_go_on(folder, monkeypatch, capsys):
    monkeypatch.setattr(response_cost, "get_context", lambda _: get_context("fork"))
    for ends in (killed, out_of_memory):
        monkeypatch.setattr(response_cost, "measured", ends)
        assert math.isnan(response_cost.measured_alone("map", folder, 12, 4, 1).seconds)
        assert "map, 12 and 4 tokens" in capsys.readouterr().out
    monkeypatch.setattr(response_cost, "measured", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        response_cost.measured_alone("map", folder, 12, 4, 1)
