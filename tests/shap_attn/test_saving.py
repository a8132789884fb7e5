"""Saved and loaded, or pickled: the same explainer."""

from __future__ import annotations

import inspect
import io
import pickle
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import shap
import torch
import transformers as hf
from families import FAMILIES
from peft import LoraConfig
from small_models import TEXT_MODEL, digits, load_image_model, load_text_model
from tokenizers_of_every_kind import TOKENIZERS, classifier
from torch import nn

from captum_attn.core.estimators import permutation_shapley
from shap_attn import AttentionExplainer

TEXTS = ["a gripping , funny film", "unwatchable drivel"]
SETTINGS = {
    "defaults": {},
    "every plain argument": {
        "game": "max_mutual",
        "sign": "rectified",
        "layers": (0, -1),
        "heads": [1, 2],
        "readout": 1,
        "outputs": ["good"],
        "output_names": ["bad", "good"],
        "words": True,
        "special_tokens": True,
        "max_length": 5,
        "batch_size": 3,
    },
    "an operation": {"outputs": shap.Explanation.argsort.flip[:1]},
    "NumPy's numbers": {"layers": np.array([1, 2]), "outputs": np.int64(1)},
}


def saved(explainer):
    file = io.BytesIO()
    explainer.save(file)
    file.seek(0)
    return file


def assert_same(left, right):
    """SHAP's serialization check, able to fail: values, names and arguments."""
    for one, other in zip(left.values, right.values, strict=True):  # memory is laid out anew: not bit for bit
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)
    for one, other in zip(left.data, right.data, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.array_equal(left.output_names, right.output_names)


@pytest.mark.filterwarnings("ignore:.*were cut")
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_argument_survives(settings):
    explainer = AttentionExplainer(*load_text_model(), **settings)
    expected = explainer(TEXTS)
    for other in (AttentionExplainer.load(saved(explainer)), pickle.loads(pickle.dumps(explainer))):
        assert_same(other(TEXTS), expected)
        for name, value in explainer._settings.items():
            if name == "outputs":
                assert repr(other._settings[name]) == repr(value) or other._settings[name] == value
            else:
                assert np.array_equal(other._settings[name], value), name


def test_settings_are_all_of_the_constructors_arguments():
    keywords = {
        name
        for name, parameter in inspect.signature(AttentionExplainer.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert AttentionExplainer(*load_text_model())._settings.keys() == keywords


def test_nothing_is_pickled_that_need_not_be():
    file = saved(AttentionExplainer(*load_text_model(), outputs=shap.Explanation.argsort.flip[:1]))
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        assert "pickled" not in names
        assert {Path(name).suffix for name in names} <= {"", ".json", ".safetensors"}


def worth(influence, coalitions):
    return coalitions.to(influence) @ influence.sum(0)


@pytest.mark.parametrize(
    "settings",
    [{"game": worth}, {"game": lambda m, c: worth(m, c) ** 2}, {"estimator": partial(permutation_shapley, seed=3)}],
)
def test_functions_survive_where_pickling_is_allowed(settings):
    explainer = AttentionExplainer(*load_text_model(), **settings)
    with pytest.raises(ValueError, match="allow_pickle=True"):
        AttentionExplainer.load(saved(explainer))
    other = AttentionExplainer.load(saved(explainer), allow_pickle=True)
    assert_same(other(TEXTS), explainer(TEXTS))
    np.testing.assert_allclose(other(TEXTS).error_std[0], explainer(TEXTS).error_std[0], rtol=1e-3)


class Wrapped(nn.Module):
    """A model that transformers does not have."""

    def __init__(self):
        super().__init__()
        self.inner, _ = load_text_model()

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        return 2 * self.inner(input_ids, attention_mask, token_type_ids).logits


def test_other_models_survive_where_pickling_is_allowed():
    explainer = AttentionExplainer(Wrapped().eval(), load_text_model()[1])
    with pytest.raises(ValueError, match="allow_pickle=True"):
        AttentionExplainer.load(saved(explainer))
    assert_same(AttentionExplainer.load(saved(explainer), allow_pickle=True)(TEXTS), explainer(TEXTS))


def test_a_pipelines_length_limit_survives():
    pipe = hf.pipeline("text-classification", model=str(TEXT_MODEL), max_length=5, truncation=True)
    assert AttentionExplainer.load(saved(AttentionExplainer(pipe)))._reader.limit == 5


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_kind_of_tokenizer(kind):
    tokenizer = TOKENIZERS[kind]()
    explainer = AttentionExplainer(classifier(tokenizer), tokenizer)
    assert_same(AttentionExplainer.load(saved(explainer))(TEXTS), explainer(TEXTS))


def replaced_head(model):
    model.classifier = nn.Sequential(nn.Linear(128, 8), nn.Tanh(), nn.Linear(8, 2))
    return model


def with_adapter(model):
    model.add_adapter(LoraConfig(target_modules=["query"], init_lora_weights=False))
    return model


def of_two_precisions(model):
    model.bert.pooler.to(torch.float64)
    model.bert.pooler.register_forward_pre_hook(to_double)
    model.classifier.to(torch.float64)
    return model


def to_double(module, arguments):
    return tuple(argument.double() for argument in arguments)


@pytest.mark.parametrize("change", [replaced_head, with_adapter, of_two_precisions])
def test_changed_models_are_not_taken_for_their_originals(change):
    explainer = AttentionExplainer(change(load_text_model()[0]), load_text_model()[1])
    with pytest.raises(ValueError, match="allow_pickle=True"):
        AttentionExplainer.load(saved(explainer))
    assert_same(AttentionExplainer.load(saved(explainer), allow_pickle=True)(TEXTS), explainer(TEXTS))


def test_a_failed_save_leaves_the_older_file_alone(tmp_path):
    path = tmp_path / "explainer.zip"
    AttentionExplainer(*load_text_model()).save(path)
    before = path.read_bytes()
    with pytest.raises((TypeError, pickle.PicklingError)), open(path, "rb") as unpicklable:
        AttentionExplainer(*load_text_model(), game=lambda m, c: (unpicklable, c.sum(-1).to(m))[1]).save(path)
    assert path.read_bytes() == before


def test_images():
    _, _, images, _ = digits()
    explainer = AttentionExplainer(load_image_model())
    assert_same(AttentionExplainer.load(saved(explainer))(images[:3]), explainer(images[:3]))
    processor = hf.ViTImageProcessorPil(size={"height": 12, "width": 12}, image_mean=[0.4] * 3, image_std=[0.2] * 3)
    explainer = AttentionExplainer(FAMILIES["vit"].build(), processor)
    photos = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    loaded = AttentionExplainer.load(saved(explainer))(photos)
    np.testing.assert_allclose(loaded.values, explainer(photos).values, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(loaded.data, explainer(photos).data)


def test_weights_keep_their_precision():
    model, tokenizer = load_text_model()
    explainer = AttentionExplainer(model.to(torch.float64), tokenizer)
    loaded = AttentionExplainer.load(saved(explainer))
    assert next(loaded.model.parameters()).dtype == torch.float64
    assert_same(loaded(TEXTS), explainer(TEXTS))


def test_another_process_loads_it_from_a_path(tmp_path):
    path = tmp_path / "explainer.zip"
    explainer = AttentionExplainer(*load_text_model(), game="mutual", outputs="positive")
    explainer.save(path)
    script = (
        "import sys; from shap_attn import AttentionExplainer; "
        "print(float(AttentionExplainer.load(sys.argv[1])('a gripping film').values.sum()))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert float(printed) == pytest.approx(explainer("a gripping film").values.sum(), rel=1e-4)


def test_other_files_are_refused():
    with pytest.raises(ValueError, match="got another kind of file"):
        AttentionExplainer.load(io.BytesIO(b"no explainer"))
    with zipfile.ZipFile(other := io.BytesIO(), "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(ValueError, match="got another kind of file"):
        AttentionExplainer.load(other)
