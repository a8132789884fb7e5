"""Images in every form: arrays, tensors, PIL images, files, pipelines."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import shap
import torch
import transformers as hf
from cut_images import CUT, assert_under_its_values, read_by_each_token
from families import FAMILIES
from helpers.small_models import digits, load_image_model
from models import left_untouched
from PIL import Image
from torch import nn

from captum_attn import ShapleyGradAttention
from shap_attn import AttentionExplainer, plots


@pytest.fixture(scope="module")
def vit():
    return FAMILIES["vit"].build()


@pytest.fixture(scope="module")
def processor():
    return hf.ViTImageProcessorPil(
        size={"height": 12, "width": 12}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3]
    )


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(vit, processor, photos):
    return AttentionExplainer(vit, processor)(photos)


FORMS = {
    "array of bytes": lambda photos: photos,
    "list of arrays": list,
    "floats to 255": lambda photos: photos.astype(np.float64),
    "floats to 1": lambda photos: photos / 255,
    "tensor": lambda photos: torch.from_numpy(photos).movedim(-1, 1),
    "tensor of floats": lambda photos: torch.from_numpy(photos).movedim(-1, 1) / 255,
    "list of tensors": lambda photos: list(torch.from_numpy(photos).movedim(-1, 1)),
    "PIL images": lambda photos: [Image.fromarray(photo) for photo in photos],
    "PIL images with transparency": lambda photos: [Image.fromarray(photo).convert("RGBA") for photo in photos],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_of_images(form, vit, processor, photos, expected):
    explanation = AttentionExplainer(vit, processor)(form(photos))
    np.testing.assert_allclose(explanation.values, expected.values, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(explanation.data, expected.data, atol=1e-6)


def test_files_and_single_images(vit, processor, photos, expected, tmp_path):
    Image.fromarray(photos[0]).save(tmp_path / "photo.png")
    for single in (tmp_path / "photo.png", str(tmp_path / "photo.png"), photos[0], Image.fromarray(photos[0])):
        explanation = AttentionExplainer(vit, processor)(single)
        np.testing.assert_allclose(explanation.values, expected.values[:1], rtol=1e-4, atol=1e-7)


def test_series_and_arrays_of_paths(vit, processor, photos, expected, tmp_path):
    pandas = pytest.importorskip("pandas")
    paths = [str(tmp_path / f"{index}.png") for index in range(3)]
    for path, photo in zip(paths, photos, strict=True):
        Image.fromarray(photo).save(path)
    for given in (paths, np.array(paths), pandas.Series(paths)):
        explanation = AttentionExplainer(vit, processor)(given)
        np.testing.assert_allclose(explanation.values, expected.values, rtol=1e-4, atol=1e-7)


def test_rotated_photographs_are_turned_as_in_pipelines(vit, processor, photos, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    Image.fromarray(photos[0]).save(tmp_path / "photo.png", exif=exif)
    explainer = AttentionExplainer(vit, processor)
    turned = explainer(np.rot90(photos[0], -1).copy())
    for given in (tmp_path / "photo.png", Image.open(tmp_path / "photo.png")):
        np.testing.assert_allclose(explainer(given).values, turned.values, rtol=1e-4, atol=1e-7)


def test_images_of_bytes_and_of_floats_together(vit, processor, photos, expected):
    explanation = AttentionExplainer(vit, processor)([photos[0], photos[1] / 255, photos[2]])
    np.testing.assert_allclose(explanation.values, expected.values, rtol=1e-4, atol=1e-7)


def test_channels_are_those_of_the_first_convolution():
    config = hf.CLIPConfig(
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
            "image_size": 8, "patch_size": 4, "num_channels": 1,
        },
        num_labels=2,
    )  # fmt: skip
    explanation = AttentionExplainer(hf.CLIPForImageClassification(config).eval())(torch.rand(2, 1, 8, 8))
    assert explanation.shape == (2, 2, 2, 1, 2)


def test_wrapped_models_need_no_processor_either(vit):
    pixels = torch.rand(2, 3, 12, 12)
    expected = AttentionExplainer(vit)(pixels)
    for wrapped in (torch.compile(vit), torch.nn.DataParallel(vit)):
        np.testing.assert_allclose(AttentionExplainer(wrapped)(pixels).values, expected.values, rtol=1e-4, atol=1e-7)


def test_settings_of_texts_are_refused(vit):
    with pytest.raises(ValueError, match="for texts, but the model takes no text"):
        AttentionExplainer(vit, words=True)
    with pytest.raises(TypeError, match="got 2 positional arguments, expected images"):
        AttentionExplainer(vit)(torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12))


def test_values_are_the_cores_on_the_grid_of_patches(vit, processor, photos, expected):
    assert expected.shape == (3, 3, 3, 1, 3)
    assert expected.base_values.shape == (3, 3)
    batch = processor(list(photos), return_tensors="pt")
    core = ShapleyGradAttention(vit)
    for target in range(3):
        patches = core.attribute_tokens(batch, target=target).patches
        np.testing.assert_allclose(expected.values[..., 0, target], patches, rtol=1e-4, atol=1e-7)


def test_pictures_are_what_the_model_sees(processor, photos, expected):
    assert expected.data.shape == (3, 12, 12, 3)
    small = np.stack([np.asarray(Image.fromarray(photo).resize((12, 12), processor.resample)) for photo in photos])
    np.testing.assert_allclose(expected.data, small / 255, atol=1e-6)


def test_pipelines(vit, processor, photos, expected):
    pipe = hf.pipeline("image-classification", model=vit, image_processor=processor)
    np.testing.assert_allclose(AttentionExplainer(pipe)(photos).values, expected.values, rtol=1e-4, atol=1e-7)


def test_a_models_own_pixels_need_no_processor():
    model = load_image_model()
    _, _, images, labels = digits()
    explainer = AttentionExplainer(model)
    explanation = explainer(images[:4], outputs="predicted")
    assert [int(names[0]) for names in explanation.output_names] == labels[:4].tolist()
    patches = ShapleyGradAttention(model).attribute_tokens(images[:4]).patches
    np.testing.assert_allclose(explanation.values[..., 0, 0], patches, rtol=1e-4, atol=1e-7)
    assert explanation.data.shape == (4, 8, 8, 3)
    assert explanation.data.min() == 0
    assert explanation.data.max() == 1
    channels_last = images[:4].movedim(1, -1).numpy()
    np.testing.assert_allclose(explainer(channels_last, outputs="predicted").values, explanation.values)
    grey = [image.squeeze(-1) for image in channels_last]
    np.testing.assert_allclose(explainer(grey, outputs="predicted").values, explanation.values)


def test_explain_row(vit, processor, photos, expected):
    row = AttentionExplainer(vit, processor).explain_row(photos[1])
    np.testing.assert_allclose(row["values"], expected.values[1], rtol=1e-4, atol=1e-7)
    assert row["mask_shapes"] == [(3, 3, 1)]


@pytest.mark.parametrize("plot", [shap.plots.image, plots.image])
@pytest.mark.parametrize("outputs", [None, 1, [0, 2], "predicted", shap.Explanation.argsort.flip[:2]])
def test_image_plots(vit, processor, photos, plot, outputs):
    explanation = AttentionExplainer(vit, processor)(photos, outputs=outputs)
    plot(explanation, show=False)
    assert len(plt.gcf().axes) == 3 * (1 + explanation.shape[-1]) + 1
    if plot is plots.image:
        copy, patches = plt.gcf().axes[1].images
        assert list(copy.get_extent()) == list(patches.get_extent())
    plot(explanation[0], show=False)
    plt.close("all")


def test_the_model_stays_as_it_was(vit, processor, photos):
    explainer = AttentionExplainer(vit, processor)
    with left_untouched(vit):
        explainer(photos)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (lambda p: p[..., :1], ValueError, r"image 0 has shape \(20, 30, 1\) .* takes 3 channels"),
        (lambda p: p[0, ..., 0], ValueError, r"image 0 has shape \(20, 30\)"),
        (lambda p: np.moveaxis(p, -1, 1), ValueError, "channels last"),
        (lambda p: np.concatenate([p, p[..., :1]], -1), ValueError, r"\(20, 30, 4\)"),
        (lambda p: p / 255.0 - 0.5, ValueError, "values from -0.5 to 0.5, expected 0 to 255"),
        (lambda p: p.astype(int) * 2, ValueError, "expected 0 to 255"),
        (lambda p: [p[0], None], TypeError, "image 1 is a NoneType"),
        (lambda p: [p[0], 3], TypeError, "image 1 is a int"),
        (lambda p: "no/such.png", FileNotFoundError, "there is no file 'no/such.png'"),
        (lambda p: {"image": p}, TypeError, "image 0 is a dict"),
        (lambda p: np.where(p > 9, p, np.nan), ValueError, "values from nan"),
        (lambda p: [], ValueError, "no images"),
    ],
)
def test_what_is_no_image_for_the_model(vit, processor, photos, images, error, message):
    explainer = AttentionExplainer(vit, processor)
    with left_untouched(vit), pytest.raises(error, match=message):
        explainer(images(photos))


def test_without_a_processor_pixels_must_be_the_models_own(vit, photos):
    with pytest.raises(TypeError, match="uint8, expected the model's own floating-point values"):
        AttentionExplainer(vit)(photos)
    with pytest.raises(ValueError, match="several sizes"):
        AttentionExplainer(vit)([np.zeros((12, 12, 3)), np.zeros((16, 16, 3))])


class VisionTransformer(nn.Module):
    """As timm and torchvision write it: no configuration, an input ``x``, a convolution that cuts patches."""

    def __init__(self, channels=3, position=None):
        super().__init__()
        self.patch_embed = nn.Conv2d(channels, 16, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 16))
        self.pos_embed = nn.Embedding(10, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.blocks = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        tokens = self.patch_embed(x).flatten(2).mT
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed.weight
        return self.head(self.blocks(tokens)[:, 0])


class WithOptions(VisionTransformer):
    """As some libraries write it."""

    def forward(self, img, **options):
        return super().forward(img)


class NamedAsText(VisionTransformer):
    """An argument of a name that means nothing here, and another one beside it."""

    def forward(self, samples, return_features=False):
        return super().forward(samples)


@pytest.mark.parametrize("kind", [VisionTransformer, WithOptions, NamedAsText])
@pytest.mark.parametrize("channels", [3, 1])
def test_a_vision_transformer_without_a_configuration(kind, channels):
    model = kind(channels).eval()
    pixels = torch.randn(2, channels, 12, 12)
    explainer = AttentionExplainer(model)
    with left_untouched(model):
        explanation = explainer(pixels)
    assert explanation.shape == (2, 3, 3, 1, 4)
    assert explanation.output_names == ["Output 0", "Output 1", "Output 2", "Output 3"]
    assert explanation.data.shape == (2, 12, 12, 3)
    for target in range(4):
        expected = ShapleyGradAttention(model).attribute_tokens(pixels, target=target).patches
        np.testing.assert_allclose(explanation.values[..., 0, target], expected, rtol=1e-4, atol=1e-7)
    named = AttentionExplainer(model, output_names=list("abcd"), outputs="predicted")(pixels)
    assert set(np.ravel(named.output_names)) == {"abcd"[index] for index in model(pixels).argmax(-1)}
    plots.image(explanation, show=False)


def test_a_processor_with_a_vision_transformer_without_a_configuration(processor, photos):
    model = VisionTransformer().eval()
    pixels = processor(photos, return_tensors="pt")["pixel_values"]
    explanation = AttentionExplainer(model, processor, outputs=[1])(photos)
    expected = AttentionExplainer(model, outputs=[1])(pixels)
    np.testing.assert_allclose(explanation.values, expected.values, rtol=1e-4, atol=1e-7)


def test_what_a_vision_transformer_without_a_configuration_needs(photos):
    model = VisionTransformer().eval()
    with pytest.raises(TypeError, match=r"give the image processor .* or, for a model without one, apply its own"):
        AttentionExplainer(model)(photos)
    with pytest.raises(TypeError, match=r"masker is a function, .* transform of images goes over them beforehand"):
        AttentionExplainer(model, lambda image: image)
    model.patch_embed = nn.Linear(48, 16)
    with pytest.raises(ValueError, match=r"needs its tokenizer.* nor a Conv2d .*attribute_tokens\(pixels\)"):
        AttentionExplainer(model)


@pytest.mark.parametrize("name", CUT)
def test_data_are_the_pixels_that_patches_read(name):
    model, images = CUT[name]
    explanation = AttentionExplainer(model.eval())(images, outputs=[1, 2])
    for target in (1, 2):
        tokens = ShapleyGradAttention(model).attribute_tokens(images, target=target).values[1]
        values, data = (torch.tensor(part[1]) for part in (explanation.values[..., 0, target - 1], explanation.data))
        assert_under_its_values(values, data, images[1].double(), tokens, read_by_each_token(model, images[1]))
    plots.image(explanation, show=False)
