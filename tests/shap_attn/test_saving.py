"""Saved and loaded, or pickled: the same explainer."""

from __future__ import annotations

import inspect
import io
import json
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
from helpers.small_models import TEXT_MODEL, digits, load_image_model, load_text_model
from peft import LoraConfig
from tokenizers_of_every_kind import TOKENIZERS, classifier
from torch import nn

from captum_attn.functional import permutation_shapley
from shap_attn import AttentionExplainer
from shap_attn.saving import from_plain, to_plain

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


@pytest.mark.parametrize(
    "chain",
    [shap.Explanation.argsort.flip[:, :1], shap.Explanation.abs.mean(0), shap.Explanation.abs.max(axis=0)],
)
def test_an_operation_survives_with_its_arguments(chain):
    other = from_plain(to_plain({"outputs": chain}))["outputs"]
    assert repr(other) == repr(chain)
    values = shap.Explanation(np.array([[3.0, -4.0, 1.0], [0.0, 5.0, 2.0]]))
    np.testing.assert_array_equal(other.apply(values).values, chain.apply(values).values)


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


HEADER = {"format": 2, "settings": {}, "model": None, "reads": None}
FOREIGN = {
    "nothing": ("{}", "another kind of file"),
    "no JSON": ("explainer", "another kind of file"),
    "no text": (b"\xff\xfe\x00", "another kind of file"),
    "a list": ([2], "another kind of file"),
    "no settings": ({"format": 2, "model": None, "reads": None}, "another kind of file"),
    "settings of another kind": (HEADER | {"settings": [1]}, "another kind of file"),
    "a reader of another kind": (HEADER | {"reads": "feature extractor"}, "another kind of file"),
    "readers of another kind": (HEADER | {"reads": ["tokenizer"]}, "another kind of file"),
    "a later version": (HEADER | {"format": 3}, "format 3, expected 2"),
    "no version": (HEADER | {"format": {}}, "format {}, expected 2"),
    "a module of transformers": (HEADER | {"model": "logging"}, "'logging', which is no model of transformers"),
    "a function of transformers": (HEADER | {"model": "pipeline"}, "'pipeline', which is no model of transformers"),
    "a class that is no model": (HEADER | {"model": "BertConfig"}, "'BertConfig', which is no model of transformers"),
    "no class": (HEADER | {"model": "NoSuchModel"}, "'NoSuchModel', which is no model of transformers"),
    "no name": (HEADER | {"model": 3}, "a model 3, which is no model of transformers"),
}


@pytest.mark.parametrize(("header", "message"), FOREIGN.values(), ids=FOREIGN)
def test_archives_of_others_are_refused(header, message):
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("explainer.json", header if isinstance(header, str | bytes) else json.dumps(header))
    with pytest.raises(ValueError, match=message):
        AttentionExplainer.load(file)


# SHAP's savers and loaders


class WithMethod(Wrapped):
    """A model that knows how to write itself."""

    def to_stream(self, stream):
        torch.save(self.state_dict(), stream)

    @classmethod
    def from_stream(cls, stream):
        model = cls()
        model.load_state_dict(torch.load(stream))
        return model.eval()


def saved_by(explainer, **savers):
    file = io.BytesIO()
    explainer.save(file, **savers)
    size = len(file.getvalue())
    file.seek(0)
    return file, size


def without_weights(explainer, absent):
    """A file without some of its parts, and the error of loading it as it is."""
    file, size = saved_by(explainer, **{f"{part}_saver": None for part in absent})
    assert 0 < size < saved_by(explainer)[1]
    with pytest.raises(ValueError, match=rf"saved without its {absent[0]} \({absent[0]}_saver=None\): give it to "):
        AttentionExplainer.load(file, allow_pickle=True)
    return file


@pytest.mark.parametrize("wrapper", [lambda model: model, lambda model: Wrapped().eval()])
@pytest.mark.parametrize("absent", [["model"], ["masker"], ["model", "masker"]])
def test_parts_that_were_kept_out_of_the_file(wrapper, absent):
    model, tokenizer = load_text_model()
    model = wrapper(model)
    explainer = AttentionExplainer(model, tokenizer, game="mutual", outputs=["positive"])
    file = without_weights(explainer, absent)
    parts, streams = {"model": model, "masker": tokenizer}, []

    def loader(part):
        return lambda stream: (streams.append(stream.read()), parts[part])[1]

    loaders = {f"{part}_loader": loader(part) for part in absent}
    other = AttentionExplainer.load(file, **loaders, allow_pickle="model" not in absent and type(model) is Wrapped)
    assert other._settings["game"] == "mutual"
    assert streams == [b""] * len(absent)
    assert ("model" not in absent) or other.model is model
    assert_same(other(TEXTS), explainer(TEXTS))


def test_a_file_without_weights_is_small_and_not_pickled():
    _, tokenizer = load_text_model()
    file, size = saved_by(AttentionExplainer(Wrapped().eval(), tokenizer), model_saver=None, masker_saver=None)
    assert size < 2000
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["explainer.json"]


SAVERS = {
    "a function": lambda model, stream: model.to_stream(stream),
    "a method's name": ".to_stream",
    "without a dot": "to_stream",
}


@pytest.mark.parametrize("saver", SAVERS.values(), ids=SAVERS)
@pytest.mark.parametrize("place", ["keyword", "position"])
def test_savers_of_ones_own(saver, place):
    explainer = AttentionExplainer(WithMethod().eval(), load_text_model()[1], words=True)
    file = io.BytesIO()
    explainer.save(file, saver) if place == "position" else explainer.save(file, model_saver=saver)
    file.seek(0)
    with pytest.raises(ValueError, match="a model_saver wrote the model in a form of its own: give what reads that"):
        AttentionExplainer.load(file)
    loader = WithMethod.from_stream
    other = AttentionExplainer.load(file, loader) if place == "position" else None
    other = other or AttentionExplainer.load(file, model_loader=loader)
    assert_same(other(TEXTS), explainer(TEXTS))


def test_a_masker_of_ones_own_form():
    model, tokenizer = load_text_model()
    explainer = AttentionExplainer(model, tokenizer)
    file, _ = saved_by(explainer, masker_saver=lambda part, stream: pickle.dump(part, stream))
    with pytest.raises(ValueError, match=r"a masker_saver wrote the masker .* that returns the tokenizer or image"):
        AttentionExplainer.load(file)
    assert_same(AttentionExplainer.load(file, masker_loader=pickle.load)(TEXTS), explainer(TEXTS))


def test_shaps_defaults_mean_the_own_form():
    explainer = AttentionExplainer(*load_text_model())
    file, _ = saved_by(explainer, model_saver=".save", masker_saver=".save")
    assert_same(AttentionExplainer.load(file, None, None)(TEXTS), explainer(TEXTS))


def test_pixels_have_no_masker_to_save():
    _, _, images, _ = digits()
    model = load_image_model()
    file, _ = saved_by(AttentionExplainer(model), model_saver=None, masker_saver=None)
    other = AttentionExplainer.load(file, lambda stream: model)
    assert_same(other(images[:2]), AttentionExplainer(model)(images[:2]))


@pytest.mark.parametrize(
    ("savers", "error", "message"),
    [
        ({"model_saver": ".no_method"}, ValueError, "BertForSequenceClassification has no such method"),
        ({"masker_saver": "config"}, ValueError, "BertTokenizer.* has no such method"),
        ({"model_saver": 3}, TypeError, "model_saver is a int, expected a function"),
    ],
)
def test_what_is_no_saver(savers, error, message):
    with pytest.raises(error, match=message):
        AttentionExplainer(*load_text_model()).save(io.BytesIO(), **savers)


def test_what_is_no_loader():
    model, tokenizer = load_text_model()
    file, _ = saved_by(AttentionExplainer(model, tokenizer), model_saver=None)
    with pytest.raises(TypeError, match="model_loader is a BertForSequenceClassification, expected a function"):
        AttentionExplainer.load(file, model_loader=model)
    with pytest.raises(TypeError, match="masker_loader is a BertTokenizer"):
        AttentionExplainer.load(file, lambda stream: model, tokenizer)
    with pytest.raises(ValueError, match="the file holds the masker in AttentionExplainer's own form"):
        AttentionExplainer.load(file, lambda stream: model, lambda stream: tokenizer)
    with pytest.raises(TypeError, match="model is a NoneType, expected"):
        AttentionExplainer.load(file, lambda stream: None)


def test_a_failed_saver_leaves_the_older_file_alone(tmp_path):
    path = tmp_path / "explainer.zip"
    explainer = AttentionExplainer(*load_text_model())
    explainer.save(path)
    before = path.read_bytes()

    def fails(model, stream):
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        explainer.save(path, model_saver=fails)
    assert path.read_bytes() == before


def test_files_of_the_first_version_can_be_read():
    explainer = AttentionExplainer(*load_text_model())
    with zipfile.ZipFile(saved(explainer)) as archive, zipfile.ZipFile(older := io.BytesIO(), "w") as first:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "explainer.json":
                header = json.loads(content)
                content = json.dumps({"format": 1, **{key: header[key] for key in ("settings", "model", "reads")}})
            first.writestr(name, content)
    assert_same(AttentionExplainer.load(older)(TEXTS), explainer(TEXTS))
