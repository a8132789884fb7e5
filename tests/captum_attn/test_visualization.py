"""Pictures and pages: what they show, and that tokens stay text."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
import torch
from captum.attr import visualization
from families import FAMILIES, text_batch

from captum_attn import ShapleyGradAttention
from captum_attn.visualization import RAISES, captum_record, colours, plot_patches, plot_tokens, tokens_html

TOKENS = ["<b>", "a & b", '"quoted"', "$x$"]
VALUES = torch.tensor([0.5, -1.0, 0.0, 0.25])


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    return reader


def test_every_token_is_escaped_in_html():
    page = read(tokens_html(TOKENS, VALUES))
    assert [text for text in page.text if text != " "] == TOKENS
    assert [tag for tag, _ in page.tags] == ["span"] * 4
    assert [attributes["title"] for _, attributes in page.tags] == ["+0.500000", "-1.000000", "+0.000000", "+0.250000"]


def test_colours_tell_sign_and_strength():
    strongest, zero, lowered = colours(torch.tensor([2.0, 0.0, -1.0]))
    assert strongest == RAISES
    assert zero == (255, 255, 255)
    assert lowered[2] > lowered[0]
    assert colours(torch.zeros(2)) == [(255, 255, 255)] * 2


def test_a_bar_for_each_token():
    figure = plot_tokens(TOKENS, VALUES, "cost: $5 or $6")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == VALUES.tolist()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["<b>", "a & b", '"quoted"', "$x$"]
    figure.canvas.draw()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_patches_over_the_image(channels, sign):
    figure = plot_patches(torch.rand(channels, 12, 12), sign * torch.arange(9.0).view(3, 3), "digit")
    heat = figure.axes[1].images[0]
    assert heat.get_array().shape == (3, 3)
    assert heat.get_clim()[0] == -heat.get_clim()[1]
    figure.canvas.draw()


def test_captums_record_of_a_result():
    model, inputs = FAMILIES["bert"].build(), text_batch()
    result = ShapleyGradAttention(model, sign="signed").attribute_tokens(inputs, target=2)
    tokens = [str(token) for token in inputs["input_ids"][1].tolist()]
    record = captum_record(tokens, result, 1, labels=model.config.id2label, true_class=0)
    probabilities = model(**inputs).logits[1].detach().softmax(-1)
    assert record.pred_prob == pytest.approx(float(probabilities.max()))
    assert (record.attr_class, record.true_class) == ("LABEL_2", "LABEL_0")
    assert record.attr_score == pytest.approx(float(result.values[1].sum()))
    assert record.word_attributions.abs().max() == 1
    assert tokens[1] in visualization.visualize_text([record]).data


@pytest.mark.parametrize("show", [tokens_html, plot_tokens])
def test_one_value_for_each_token(show):
    with pytest.raises(ValueError, match=r"each of the 4 tokens, got shape \(2,\)"):
        show(TOKENS, torch.zeros(2))
