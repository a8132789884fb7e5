"""Pictures and pages: what they show, and that tokens stay text."""

from __future__ import annotations

from html.parser import HTMLParser
from io import BytesIO

import pytest
import torch
from captum.attr import visualization
from cut_images import CUT, assert_over_its_pixels, read_by_each_token
from families import FAMILIES, text_batch
from PIL import Image, ImageChops

from captum_attn import ShapleyGradAttention
from captum_attn.core.patches import NoPatchGrid, PatchGrid
from captum_attn.drawing.figures import smaller
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
    patches = sign * torch.arange(9.0).view(3, 3)
    figure = plot_patches(torch.rand(channels, 12, 12), patches, "digit", grid=PatchGrid(3, 3, 4, 4))
    heat = figure.axes[1].images[-1]
    assert heat.get_array().shape == (3, 3)
    assert heat.get_clim()[0] == -heat.get_clim()[1]
    figure.canvas.draw()


@pytest.mark.parametrize("name", CUT)
def test_patches_lie_over_the_pixels_that_they_read(name):
    model, images = CUT[name]
    result = ShapleyGradAttention(model.eval()).attribute_tokens(images, target=1)
    read = read_by_each_token(model, images[1])
    figure = plot_patches(images[1], result.patches[1], grid=result.grid)
    assert_over_its_pixels(figure.axes[1].images[-1], result.values[1], read)
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()


def test_patches_without_a_grid_get_a_warning(recwarn):
    image, patches = torch.rand(3, 12, 12), torch.rand(3, 3)
    with pytest.warns(UserWarning, match=r"nothing says where .* give grid=result\.grid") as found:
        figure = plot_patches(image, patches)
    assert found[0].filename == __file__
    assert figure.axes[1].images[-1].get_extent() == [0, 12, 12, 0]
    recwarn.clear()
    plot_patches(image, torch.rand(12, 12))  # of pixels
    plot_patches(image, patches, grid=PatchGrid(3, 3, 4, 4))
    assert not recwarn.list


def test_another_image_than_the_models_or_another_grid():
    patches, grid = torch.rand(3, 3), PatchGrid(3, 3, 4, 4)
    for size in ((24, 32), (6, 10)):
        with pytest.warns(UserWarning, match="columns 0 to 12 and rows 0 to 12 .* as they were given to the model"):
            plot_patches(torch.rand(3, *size), patches, grid=grid)
    with pytest.raises(ValueError, match=r"got \(3, 3\) patches and a grid of 2 × 4"):
        plot_patches(torch.rand(3, 12, 12), patches, grid=PatchGrid(2, 4, 6, 3))
    with pytest.raises(ValueError, match="lost its way"):
        plot_patches(torch.rand(3, 12, 12), patches, grid=NoPatchGrid("it lost its way"))


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


def made_smaller(figure):
    """The share of bytes that are left, and the largest difference of a colour."""
    figure.savefig(saved := BytesIO(), format="png", dpi=110)
    small = smaller(saved.getvalue())
    pictures = (Image.open(BytesIO(png)).convert("RGB") for png in (small, saved.getvalue()))
    return len(small) / len(saved.getvalue()), max(most for _, most in ImageChops.difference(*pictures).getextrema())


def test_a_notebooks_figure_is_small_and_shows_the_same():
    share, difference = made_smaller(plot_tokens(TOKENS, VALUES, "title"))
    assert share < 0.6
    assert difference <= 5


def test_a_notebooks_photograph_keeps_its_colours():
    share, difference = made_smaller(
        plot_patches(torch.rand(3, 120, 120), torch.randn(4, 4), grid=PatchGrid(4, 4, 30, 30))
    )
    assert share < 1
    assert difference == 0
