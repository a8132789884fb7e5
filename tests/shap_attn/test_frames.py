"""Explanations from tables of token scores: the same as of the explainer, plots and pooling included."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import shap
import torch
from cut_images import CUT, assert_under_its_values, read_by_each_token
from helpers.small_models import digits, load_image_model, load_text_model
from predictions import TEXTS, predict, text_loader
from tokenizers_of_every_kind import CORPUS, TOKENIZERS, classifier
from torch.utils.data import DataLoader, TensorDataset

from captum_attn import ShapleyGradAttention
from lightning_callbacks.attribution_folder import read_attributions
from lightning_callbacks.attribution_module import AttributionModule
from shap_attn import AttentionExplainer, plots, pool
from shap_attn.frames import explanation_from_frame

MODEL, TOKENIZER = load_text_model()


def frame_of(folder, module, loader):
    predict(module, loader, folder)
    return read_attributions(folder, complete=True)


def text_frame(folder, texts=TEXTS, **options):
    return frame_of(folder, AttributionModule(MODEL, processor=TOKENIZER, **options), text_loader(TOKENIZER, texts))


def made_up(tokens, players=None, **columns):
    """A row of which every token's score is its place."""
    players = [True] * len(tokens) if players is None else players
    row = {"index": 0, "tokens": tokens, "scores": [*range(len(tokens))], "players": players}
    return {**row, "target": 1, "target_name": "positive", "rows": None, "columns": None, **columns}


def made_up_image(rows, columns, length=None, **place):
    """A row of an image whose patches are its last tokens, and have 2 × 2 pixels."""
    length = rows * columns if length is None else length
    row = made_up(["a"] * length, rows=rows, columns=columns)
    row |= {"positions": [*range(length - rows * columns, length)], "patch_height": 2.0, "patch_width": 2.0}
    row |= {"top": 0.0, "left": 0.0, "image_height": 2 * rows, "image_width": 2 * columns}
    return {**row, **place}


def segments_of(tokens, players=None):
    explanation = explanation_from_frame(pd.DataFrame([made_up(tokens, players)]))
    return list(explanation[0].data), list(explanation[0].values)


@pytest.mark.parametrize("outputs", ["positive", "predicted"])
def test_texts_are_explained_as_by_the_explainer(tmp_path, outputs):
    texts = [*TEXTS, ""]
    expected = AttentionExplainer(MODEL, TOKENIZER, outputs=outputs)(texts)
    explanation = explanation_from_frame(text_frame(tmp_path, texts, target=1 if outputs == "positive" else None))
    assert explanation.shape == expected.shape
    assert np.array_equal(explanation.output_names, expected.output_names)
    assert np.array_equal(explanation.base_values, expected.base_values)
    for row in range(len(texts)):
        assert list(explanation[row].data) == list(expected[row].data)
        assert explanation[row].feature_names == expected[row].feature_names
        np.testing.assert_allclose(explanation[row].values, expected[row].values, atol=1e-6)


def test_it_pools_and_plots(tmp_path):
    explanation = explanation_from_frame(text_frame(tmp_path, target=1))
    pooled = pool(explanation)
    np.testing.assert_allclose(pooled.values.sum(1), [row.sum() for row in explanation.values], atol=1e-12)
    plots.bar(pooled, show=False)
    assert "gripping" in plots.text(explanation, display=False)


def test_images_are_explained_as_by_the_explainer(tmp_path):
    model = load_image_model()
    _, _, images, _ = digits()
    module = AttributionModule(model)
    frame = frame_of(tmp_path, module, DataLoader(TensorDataset(images[:6]), batch_size=4))
    expected = AttentionExplainer(model, outputs="predicted")(images[:6])
    explanation = explanation_from_frame(frame, images)
    np.testing.assert_allclose(explanation.values, expected.values, atol=1e-6)
    assert np.array_equal(explanation.output_names, expected.output_names)
    assert explanation.data.shape == expected.data.shape
    last = explanation_from_frame(frame[4:], images)
    np.testing.assert_allclose(last.data[1], images[5].numpy().transpose(1, 2, 0).repeat(3, -1), atol=1e-7)
    assert np.ravel(last.output_names).tolist() == list(dict.fromkeys(frame["target_name"][4:]))
    plots.image(last, show=False)
    assert explanation_from_frame(frame).data is None


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokens_of_every_kind_make_up_the_text(kind, tmp_path):
    tokenizer = TOKENIZERS[kind]()
    module = AttributionModule(classifier(tokenizer), processor=tokenizer, target=1)
    frame = frame_of(tmp_path, module, text_loader(tokenizer, CORPUS, 1))
    explanation = explanation_from_frame(frame)
    for row, text in enumerate(CORPUS):
        whole = "".join(explanation[row].data)
        if kind in ("byte-level BPE", "SentencePiece", "byte fallback"):
            assert whole == text
        assert explanation[row].values.sum() == pytest.approx(sum(frame["scores"][row]), abs=1e-6)


def test_by_hand():
    assert segments_of(["un", "##fun", "##ny", "film", "##"]) == (["un", "fun", "ny ", "film ", "##"], [0, 1, 2, 3, 4])
    assert segments_of(["▁un", "funny", "▁", "film"]) == (["un", "funny", " ", "film"], [0, 1, 2, 3])
    assert segments_of(["a</w>", "fi", "lm</w>"]) == (["a ", "fi", "lm "], [0, 1, 2])
    assert segments_of(["Ã", "©", "tÃ©", "Ġx"]) == (["é", "té ", "x"], [1, 2, 3])
    assert segments_of(["<0xC3>", "<0xA9>", "t"]) == (["é", "t"], [1, 2])


def test_special_tokens_are_left_out_but_for_those_between_two_texts():
    tokens, players = ["[CLS]", "a", "[SEP]", "b", "[SEP]"], [False, True, False, True, False]
    assert segments_of(tokens, players) == (["a ", "[SEP] ", "b"], [1, 2, 3])
    assert segments_of(["[CLS]", "[SEP]"], [False, False]) == ([""], [0])


def test_names_of_outputs():
    def names(*rows):
        return explanation_from_frame(pd.DataFrame([made_up(["a"], **row) for row in rows])).output_names

    assert names({}) == "positive"
    assert names({"target_name": None}) == "Output 1"
    assert names({"target_name": None, "target": [3, 2]}) == "Output 2"
    assert names({"target_name": None, "target": None}) is None
    assert names({}, {"target_name": "negative"}).tolist() == [["positive"], ["negative"]]


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        ([made_up(["a"])], TypeError, "expected a pandas DataFrame.*got list"),
        (pd.DataFrame([{"prompt_length": 3}]), ValueError, "these are rows of GenerationModule"),
        (pd.DataFrame([{"tokens": ["a"]}]), ValueError, r"no columns \['index', 'scores'"),
        (pd.DataFrame([made_up(["a"])])[:0], ValueError, "has 0 rows"),
        (pd.DataFrame([made_up([]) | {"tokens": None}]), ValueError, "processor=tokenizer"),
        (pd.DataFrame([made_up(["a"]), made_up_image(1, 1)]), ValueError, "texts and images"),
        (pd.DataFrame([made_up_image(n, 2) for n in (1, 2)]), ValueError, "several sizes"),
        (
            pd.DataFrame([made_up(["a"] * 4, rows=2, columns=2)]),
            ValueError,
            r"no columns \['positions', .* former versions .* explain these images again",
        ),
        (
            pd.DataFrame([made_up(["a"] * 4, sides=[{"dim": 1, "count": 4, "size": 320.0, "first": 40.0}])]),
            ValueError,
            "rows of sounds or videos",
        ),
        (
            pd.DataFrame([made_up_image(2, 2)]).drop(columns=["left", "image_height"]),
            ValueError,
            r"no columns \['left', 'image_height'\]",
        ),
        (
            pd.DataFrame([made_up_image(2, 2), made_up_image(2, 2, positions=None, top=None)]),
            ValueError,
            "1 of 2 rows do not say where the scores belong",
        ),
        (
            pd.DataFrame([made_up_image(2, 2) | {"rows": None, "columns": None, "positions": None}]),
            ValueError,
            r"1 of 1 rows .* captum_attn\.inspect",
        ),
    ],
)
def test_what_is_no_such_table(frame, error, message):
    with pytest.raises(error, match=message):
        explanation_from_frame(frame)


@pytest.mark.parametrize("name", CUT)
def test_values_lie_over_the_pixels_that_their_patches_read(name, tmp_path):
    model, images = CUT[name]
    frame = frame_of(tmp_path, AttributionModule(model.eval(), target=1), DataLoader(list(images), batch_size=1))
    explanation = explanation_from_frame(frame, images)
    tokens = ShapleyGradAttention(model).attribute_tokens(images, target=1).values
    for image, values, data, each in zip(images, explanation.values, explanation.data, tokens, strict=True):
        read = read_by_each_token(model, image)
        assert_under_its_values(torch.tensor(values[..., 0, 0]), torch.tensor(data), image.double(), each, read)
    plots.image(explanation, show=False)


def test_values_by_hand():
    frame = pd.DataFrame([made_up_image(1, 2, 5, positions=[3, 1], top=1.0, left=1.0, image_height=4, image_width=6)])
    picture = np.arange(24, dtype=np.uint8).reshape(4, 6)
    explanation = explanation_from_frame(frame, [picture])
    assert explanation.values.tolist() == [[[[[3]], [[1]]]]]
    np.testing.assert_allclose(explanation.data[0, ..., 0], picture[1:3, 1:5] / 255)


def test_pictures_of_another_size_than_the_models_are_refused():
    frame = pd.DataFrame([made_up_image(2, 2)])
    for shape in ((8, 8), (4, 5)):  # resized, perhaps cut: nothing says how
        with pytest.raises(ValueError, match=r"image 0 has .* but the model was given 4 × 4, .* do_normalize=False"):
            explanation_from_frame(frame, [np.ones(shape)])
    assert explanation_from_frame(frame).data is None


def test_texts_of_former_versions_are_read(tmp_path):
    frame = text_frame(tmp_path, target=1)
    former = frame[[name for name in frame if not name.startswith(("position", "patch", "image", "top", "left"))]]
    assert len(former.columns) == len(frame.columns) - 7
    assert [*map(len, explanation_from_frame(former).values)] == [*map(len, explanation_from_frame(frame).values)]


def test_pictures_of_other_kinds():
    frame = pd.DataFrame([made_up_image(2, 2)])
    grey = explanation_from_frame(frame, [np.full((4, 4), 51, dtype=np.uint8)])
    assert isinstance(grey, shap.Explanation)
    assert grey.data.shape == (1, 4, 4, 3)
    assert grey.data[0, 0, 0].tolist() == [0.2] * 3
    assert explanation_from_frame(frame, torch.rand(1, 3, 4, 4)).data.shape == (1, 4, 4, 3)
    with pytest.raises(TypeError, match="an image is a str"):
        explanation_from_frame(frame, ["a.png"])
