"""The page of a comparison: everything escaped, nothing from elsewhere."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import torch
from cut_images import CUT
from helpers.small_models import digits, load_image_model, load_text_model
from PIL import Image

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


class Read(HTMLParser):
    """The tags, attributes and texts of a page, and whether its tags are balanced."""

    VOID = ("meta", "img", "br")

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.attributes, self.open = [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_hostile_tokens_methods_and_classes_stay_text(comparison):
    page = comparison.to_html()
    read = Read(page)
    assert "<script" not in page
    assert "script" not in read.tags
    assert HOSTILE in read.texts  # as a method and as a token
    assert any(HOSTILE in text and text.startswith("Input") for text in read.texts)  # as a class
    assert any(HOSTILE in text and text.startswith("The methods") for text in read.texts)  # in a caution
    assert any(HOSTILE in value for name, value in read.attributes if name == "title")
    assert not any(name.startswith("on") for name, _ in read.attributes)


def test_the_page_needs_nothing_else(comparison):
    page = comparison.to_html()
    names = {name for name, _ in Read(page).attributes}
    assert not names & {"href", "action", "srcset"}
    assert "http" not in page
    assert "@import" not in page
    assert "url(" not in page


def test_the_cautions_stand_on_top(comparison):
    page = Read(comparison.to_html())
    texts = [text.strip() for text in page.texts if text.strip()]
    first = texts.index(comparison.cautions()[0])
    assert first < texts.index("Who agrees with whom") < texts.index("Who is faithful, and at what cost")
    assert set(comparison.cautions()) <= set(texts)


def test_the_numbers_are_those_of_the_tables(comparison):
    texts = Read(comparison.to_html()).texts
    tau = comparison.matrix().loc["ids", HOSTILE]
    assert f"{tau:.2f}".replace("-", "−").replace("0.", ".") in texts
    for method in comparison.table().itertuples():
        numbers = f"{method.comprehensiveness:.3f} ± {method.comprehensiveness_error:.3f}".replace("-", "−")
        assert numbers in texts
        assert f"{method.sufficiency_knockout:.3f} ± {method.sufficiency_knockout_error:.3f}" in texts


@pytest.mark.parametrize(("asked", "shown"), [(0, 0), (1, 1), (2, 2), (9, 3)])
def test_as_many_inputs_are_shown_as_asked_for(comparison, asked, shown):
    page = comparison.to_html(examples=asked)
    assert page.count("<table class='tokens'>") == shown
    numbers = [int(number) for number in re.findall(r"<h3>Input (\d+)", page)]
    assert len(set(numbers)) == shown
    order = comparison.by_agreement()
    assert numbers == sorted(numbers, key=order.index)


def test_a_notebook_shows_the_page_apart_from_its_own(comparison):
    frame = Read(comparison._repr_html_())
    assert frame.tags == ["iframe"]
    assert dict(frame.attributes)["srcdoc"] == comparison.to_html()


def test_the_page_is_written_into_a_new_folder(comparison, tmp_path):
    comparison.save(tmp_path / "new" / "page.html", examples=1)
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == comparison.to_html(examples=1)


def test_a_page_of_images_holds_them_itself():
    def brightness(batch, targets):
        return batch["pixel_values"]

    methods = {HOSTILE: brightness, "dark": lambda batch, targets: -batch["pixel_values"]}
    found = compare(load_image_model(), digits()[2][:2], methods, show_progress=False)
    read = Read(found.to_html())
    images = [value for name, value in read.attributes if name == "src"]
    assert len(images) == 2 * 4
    assert all(image.startswith("data:image/png;base64,") for image in images)
    assert [value for name, value in read.attributes if name == "alt"].count(HOSTILE) == 2


def test_of_an_image_the_page_shows_what_patches_cover():
    model, images = CUT["cut out"]
    methods = {"ours": ShapleyGradAttention(model.eval()), "raw": ShapleyAttention(model)}
    found = compare(model, images, methods, show_progress=False)
    pictures = [
        np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("RGB"))
        for data in re.findall("base64,([^']*)' alt='input, as far as patches cover it'", found.to_html())
    ]
    assert len(pictures) == 2
    for image in images:
        covered = image[:, 4:28, 2:26]
        expected = (covered - covered.min()) / (covered.max() - covered.min())
        assert any(np.abs(one / 255 - expected.movedim(0, -1).numpy()).max() < 0.01 for one in pictures)
