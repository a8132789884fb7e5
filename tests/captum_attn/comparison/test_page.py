"""The page of a comparison: everything escaped, nothing from elsewhere."""

from __future__ import annotations

import re

import pytest
import torch
from cut_images import CUT
from helpers.small_models import digits, load_image_model, load_text_model
from pages import Tags, assert_self_contained, views_of

from captum_attn import ShapleyAttention, ShapleyGradAttention
from captum_attn.comparison import Comparison, compare
from captum_attn.comparison.compared_inputs import ComparedInput

HOSTILE = "<script>alert('&\"')</script>"
TEXTS = ["a gripping , funny film", "not good at all", "the cast is a delight"]


def by_id(batch, targets):
    return ((batch["input_ids"] * 7919) % 5).float()


def by_place(batch, targets):
    return 3.0 - torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])


@pytest.fixture(scope="module")
def comparison():
    model, tokenizer = load_text_model()
    methods = {"ids": by_id, HOSTILE: by_place, "backwards": lambda batch, targets: -by_place(batch, targets)}
    interventions = ["replacement", "knockout"]
    found = compare(model, TEXTS, methods, tokenizer=tokenizer, interventions=interventions, show_progress=False)
    hostile = [
        ComparedInput([HOSTILE, *one.tokens[1:]], one.target, one.probability, None, one.scores, one.reruns)
        for one in found.inputs
    ]
    return Comparison(found.evaluation, hostile, found.top_k, None, [HOSTILE, HOSTILE])


def test_hostile_tokens_methods_and_classes_stay_text(comparison):
    page = comparison.page()
    read = Tags(page)
    assert HOSTILE not in page
    assert HOSTILE in read.texts  # as a method
    assert all(view["tokens"][0] == HOSTILE for view in views_of(page))
    assert all(HOSTILE in [method["name"] for method in view["methods"]] for view in views_of(page))
    assert any(HOSTILE in text and text.startswith("Input") for text in read.texts)  # as a class
    assert any(HOSTILE in text and text.startswith("The methods") for text in read.texts)  # in a caution
    assert any(HOSTILE in value for name, value in read.attributes if name == "title")
    assert not any(name.startswith("on") for name, _ in read.attributes)


def test_the_page_needs_nothing_else(comparison):
    assert_self_contained(comparison.page())


def test_the_cautions_stand_on_top(comparison):
    page = Tags(comparison.page())
    texts = [text.strip() for text in page.texts if text.strip()]
    first = texts.index(comparison.cautions()[0])
    assert first < texts.index("Who agrees with whom") < texts.index("Who is faithful, and at what cost")
    assert set(comparison.cautions()) <= set(texts)


def test_the_numbers_are_those_of_the_tables(comparison):
    texts = Tags(comparison.page()).texts
    tau = comparison.matrix().loc["ids", HOSTILE]
    assert f"{tau:.2f}".replace("-", "−").replace("0.", ".") in texts
    for method in comparison.table().itertuples():
        numbers = f"{method.comprehensiveness:.3f} ± {method.comprehensiveness_error:.3f}".replace("-", "−")
        assert numbers in texts
        assert f"{method.sufficiency_knockout:.3f} ± {method.sufficiency_knockout_error:.3f}" in texts


@pytest.mark.parametrize(("asked", "shown"), [(0, 0), (1, 1), (2, 2), (9, 3)])
def test_as_many_inputs_are_shown_as_asked_for(comparison, asked, shown):
    page = comparison.page(examples=asked)
    assert len(views_of(page)) == shown
    numbers = [int(number) for number in re.findall(r"<h3>Input (\d+)", page)]
    assert len(set(numbers)) == shown
    order = comparison.by_agreement()
    assert numbers == sorted(numbers, key=order.index)


def test_a_notebook_shows_the_page_apart_from_its_own(comparison):
    frame = Tags(comparison._repr_html_())
    assert frame.tags == ["iframe"]
    assert dict(frame.attributes)["srcdoc"] == comparison.page()


def test_the_page_is_written_into_a_new_folder(comparison, tmp_path):
    comparison.to_html(tmp_path / "new" / "page.html", examples=1)
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == comparison.page(examples=1)


def test_a_page_of_images_holds_them_itself():
    def brightness(batch, targets):
        return batch["pixel_values"]

    methods = {HOSTILE: brightness, "dark": lambda batch, targets: -batch["pixel_values"]}
    images = digits()[2][:2]
    found = compare(load_image_model(), images, methods, show_progress=False)
    images = images[found.by_agreement()]
    assert_self_contained(found.page())
    for view, image in zip(views_of(found.page()), images, strict=True):
        assert view["picture"]["source"].startswith("data:image/png;base64,")
        own = next(method["values"][0] for method in view["methods"] if method["name"] == HOSTILE)
        assert own == pytest.approx(image.flatten().tolist(), rel=1e-3)


def test_of_an_image_the_page_says_what_patches_cover():
    model, images = CUT["cut out"]
    methods = {"ours": ShapleyGradAttention(model.eval()), "raw": ShapleyAttention(model)}
    found = compare(model, images, methods, show_progress=False)
    for view in views_of(found.page()):
        places = {name: view["picture"][name] * 32 for name in ("left", "top", "width", "height")}
        assert places == {"left": 2, "top": 4, "width": 24, "height": 24}
