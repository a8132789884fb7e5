"""The page to explore: what it holds, and what a browser shows of it, by clicking and typing."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small_models import digits, load_image_model, load_text_model
from hierarchical_models import build, pixels
from pages import assert_self_contained, shown, views_of
from torch import Tensor

from captum_attn import MaskTunnel, RawAttention, ShapleyAttention, ShapleyGradAttention
from captum_attn.visualization import Exploration, explore

TEXT = "An unspeakably gripping film,\n<script>alert(1)</script> though a slow start"
RTL = "مرحبا بالعالم good film"


@pytest.fixture(scope="module")
def text_model() -> Any:
    return load_text_model()


@pytest.fixture(scope="module")
def explored(text_model: Any) -> Exploration:
    model, tokenizer = text_model
    return explore(model, [TEXT, RTL], tokenizer=tokenizer, propagation="gradient")


def unpacked(packed: dict[str, Any], layers: int, heads: int) -> Tensor:
    steps = np.frombuffer(base64.b64decode(packed["data"]), "<i2").astype(np.float64)
    count = round((len(steps) / layers / heads) ** 0.5)
    matrices = torch.tensor(steps).view(layers, heads, count, count)
    return matrices * torch.tensor(packed["scales"]).view(layers, heads, 1, 1)


def merged(matrices: Tensor, groups: list[int]) -> Tensor:
    """Sums over the pieces of words, one by one."""
    count = max(groups) + 1
    found = matrices.new_zeros(*matrices.shape[:-2], count, count)
    for query, first in enumerate(groups):
        for key, second in enumerate(groups):
            found[..., first, second] += matrices[..., query, key]
    return found


def test_it_holds_the_influence_of_every_layer_and_head_in_words(text_model: Any, explored: Exploration) -> None:
    model, tokenizer = text_model
    view, _ = views_of(explored.page())
    influence = view["influence"]
    assert [variant["name"] for variant in influence["variants"]] == [
        "signed influence",
        "only what raises",
        "attention alone",
    ]
    (_, groups), pieces = explored.results["attention game"][0].shown[0].in_words(), view["tokens"]
    assert "".join(pieces) == f"[CLS]{TEXT}[SEP]"
    assert " unspeakably" in pieces
    for place, target in enumerate((1, 0) if view["classes"] == ["positive", "negative"] else (0, 1)):
        signed = ShapleyGradAttention(model, tokenizer=tokenizer).influence(TEXT, target, per="head")[0].double()
        found = unpacked(influence["variants"][0]["of"][place], 4, 4)
        raising = unpacked(influence["variants"][1]["of"][place], 4, 4)  # of a word, what its pieces raise
        for own, one in ((found, signed), (raising, signed.relu())):
            expected = merged(one, groups.tolist())
            torch.testing.assert_close(own, expected, rtol=0, atol=4e-5 * float(expected.abs().max()))
    attention = ShapleyAttention(model, tokenizer=tokenizer).influence(TEXT, per="head")[0].double()
    (of,) = influence["variants"][2]["of"]
    torch.testing.assert_close(unpacked(of, 4, 4), merged(attention, groups.tolist()), rtol=0, atol=2e-4)


def test_values_are_those_of_the_methods(text_model: Any, explored: Exploration) -> None:
    model, tokenizer = text_model
    view, _ = views_of(explored.page())
    game = ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens(TEXT, view["classes"][1]).words()
    values = next(method["values"][1] for method in view["methods"] if method["name"] == "attention game")
    torch.testing.assert_close(torch.tensor(values), game.values[0], rtol=1e-3, atol=1e-6)
    assert view["classes"] == [result.target_name(0) for result in explored.results["attention game"]]


@pytest.mark.parametrize(("budget", "shape"), [(8_000_000, (4, 4)), (9_000, (4, 1)), (2_000, (1, 1))])
def test_of_long_inputs_heads_and_layers_are_averaged(
    text_model: Any, monkeypatch: pytest.MonkeyPatch, budget: int, shape: tuple[int, int]
) -> None:
    model, tokenizer = text_model
    monkeypatch.setattr("captum_attn.exploration._MOST_NUMBERS", budget)
    found = explore(model, TEXT, tokenizer=tokenizer, targets=["positive"], words=False, propagation="gradient")
    (view,) = views_of(found.page())
    influence = view["influence"]
    assert (len(influence["layers"]), influence["heads"]) == shape
    each = ShapleyGradAttention(model, tokenizer=tokenizer).influence(TEXT, "positive", per="head")[0].double()
    kept = tuple(dim for dim, own in enumerate(shape) if own == 1)
    variants = {variant["name"]: variant for variant in influence["variants"]}
    for name, own in (("signed influence", each), ("only what raises", each.relu())):
        if "of" in variants[name]:
            expected = own.mean(kept, keepdim=True) if kept else own
            found_ = unpacked(variants[name]["of"][0], *shape)
            torch.testing.assert_close(found_, expected, rtol=0, atol=4e-5 * float(expected.abs().max()))
    heads = ShapleyAttention(model, tokenizer=tokenizer).influence(TEXT, per="head")[0].double()
    (of,) = variants["attention alone"]["of"]
    torch.testing.assert_close(
        unpacked(of, *shape), heads.mean(kept, keepdim=True) if kept else heads, rtol=0, atol=1e-4
    )
    monkeypatch.setattr("captum_attn.exploration._MOST_NUMBERS", 1)
    assert "more than a page can hold" in explore(model, TEXT, tokenizer=tokenizer).page()
    averaged = {(4, 4): "", (4, 1): "heads are averaged", (1, 1): "layers and heads are averaged"}[shape]
    assert averaged in found.page()


def test_windows_have_values_without_influence() -> None:
    model, images = build("swin"), pixels("swin", 1)
    found = explore(model, images, {"game": ShapleyGradAttention(model)})
    (view,) = views_of(found.page())
    assert view["influence"] is None
    assert view["picture"] is not None
    assert "Without influence of tokens on each other" in found.page()


def test_methods_of_ones_own_stand_side_by_side(text_model: Any) -> None:
    model, tokenizer = text_model
    methods = {
        "<b>raw</b>": RawAttention(model, tokenizer=tokenizer),
        "masked": MaskTunnel(ShapleyGradAttention(model, tokenizer=tokenizer), tokenizer),
    }
    found = explore(model, "a slow start", methods, tokenizer=tokenizer, targets=["positive"])
    assert_self_contained(found.page())
    (view,) = views_of(found.page())
    assert [(method["name"], method["signed"]) for method in view["methods"]] == [
        ("<b>raw</b>", False),
        ("masked", True),
    ]


def test_in_a_browser(text_model: Any, explored: Exploration, tmp_path: Path) -> None:
    view, other = views_of(explored.page())
    signed, raising = (unpacked(view["influence"]["variants"][variant]["of"][0], 4, 4) for variant in (0, 1))
    tokens = [token.strip() for token in view["tokens"]]

    with shown(explored.page(), tmp_path) as page:
        home = page.locator("#input-0-0")
        picks = home.locator(".pick")

        def listed(number: int) -> list[tuple[str, float]]:
            rows = home.locator(".lists ol").nth(number).locator("li:has(.value)").all()
            texts = [row.locator("span").all_inner_texts() for row in rows]
            return [(name.strip("“”"), float(value.replace("−", "-"))) for name, _, value in texts]

        def expected(values: Tensor) -> list[tuple[str, Any]]:
            order = values.abs().argsort(descending=True, stable=True)[:8].tolist()
            return [(tokens[one], pytest.approx(float(values[one]), rel=0.06, abs=6e-5)) for one in order]

        def said() -> str:
            text: str = home.locator(".said").inner_text()
            return text

        assert picks.all_text_contents() == tokens
        assert listed(0) == expected(torch.tensor(view["methods"][0]["values"][0]))
        gripping = tokens.index("gripping")
        picks.nth(gripping).click()
        page.mouse.move(1, 1)
        assert said().startswith("What “gripping” takes from each token (mean of all layers and heads; signed")
        mean = signed.mean((0, 1))
        assert listed(0) == expected(mean[gripping])
        assert listed(1) == expected(mean[:, gripping])
        home.get_by_role("button", name="gives to").click()
        assert "“gripping” gives to" in said()
        home.get_by_label("layer", exact=True).last.select_option("1")
        home.get_by_label("head", exact=True).last.select_option("2")
        assert "layer 1, head 2" in said()
        assert listed(0) == expected(signed[1, 2, gripping])
        home.get_by_role("button", name="only what raises").click()
        assert listed(1) == [row for row in expected(raising[1, 2, :, gripping]) if row[1].expected]
        picks.nth(gripping).press("ArrowRight")
        assert "“film”" in said()
        page.keyboard.press("Escape")
        assert said().startswith("What all tokens take from each (layer 1, head 2; only what raises)")
        home.get_by_label("layer 3, head 0", exact=True).click()
        assert "layer 3, head 0" in said()
        home.locator(".tools").first.get_by_role("button", name="attention game").click()
        assert said().startswith("attention game")
        home.get_by_role("button", name=view["classes"][1], exact=True).click()
        assert listed(0) == expected(torch.tensor(view["methods"][1]["values"][1]))
        assert page.evaluate("window.hacked") is None
        assert page.locator("b, i.hostile").count() == 0
        boxes = [box.bounding_box() for box in page.locator("#input-0-1 .pick").all()]
        first, second = (boxes[other["tokens"].index(one)] for one in other["tokens"][1:3])
        assert second["x"] < first["x"]  # from right to left


@pytest.mark.parametrize("width", [1000, 400])
def test_an_image_in_a_browser(tmp_path: Path, width: int) -> None:
    model, image = load_image_model(), digits()[2][13:14]
    found = explore(model, image, propagation="gradient")
    (view,) = views_of(found.page())
    with shown(found.page(), tmp_path, width) as page:
        patches = page.locator("#input-0-0 .patches").first.locator(".patch")
        assert patches.count() == 64
        frame, patch = page.locator(".picture").nth(1).bounding_box(), patches.nth(9).bounding_box()
        assert (patch["x"] - frame["x"]) / frame["width"] == pytest.approx(1 / 8, abs=0.02)
        assert (patch["y"] - frame["y"]) / frame["height"] == pytest.approx(1 / 8, abs=0.02)
        patches.nth(9).click()
        page.mouse.move(1, 1)
        assert "What patch 2, 2 takes from" in page.locator(".said").inner_text()
        patches.nth(9).press("ArrowDown")
        assert "What patch 3, 2 takes from" in page.locator(".said").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert view["picture"]["rows"] == view["picture"]["columns"] == 8
