"""A LightningModule that explains: the same scores as without Lightning, for all that data loaders give."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from functools import partial
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers as hf
from families import FAMILIES, image_batch, text_batch
from helpers.small_models import digits, load_image_model, load_text_model
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from models import PlainClassifier, left_untouched
from own_heads import OWN_HEADS
from predictions import TEXTS, predict, text_loader
from signal_models import batch, build
from torch.utils.data import DataLoader, TensorDataset

from captum_attn import ShapleyAttention, ShapleyGradAttention
from captum_attn.core.models import config_of
from lightning_callbacks.attribution_module import AttributionModule

MODEL, TOKENIZER = load_text_model()


def rows_of(tables):
    return pa.concat_tables(tables).to_pylist()


@pytest.mark.parametrize("method", [ShapleyGradAttention, ShapleyAttention, partial(ShapleyGradAttention, game="cls")])
def test_scores_are_those_of_each_sentence_alone(method):
    rows = rows_of(predict(AttributionModule(MODEL, method, processor=TOKENIZER), text_loader(TOKENIZER, TEXTS)))
    for text, row in zip(TEXTS, rows, strict=True):
        batch = TOKENIZER(text, return_tensors="pt")
        alone = method(MODEL, tokenizer=TOKENIZER).attribute_tokens(batch)
        assert row["ids"] == batch["input_ids"][0].tolist()
        assert row["tokens"] == TOKENIZER.convert_ids_to_tokens(row["ids"])
        assert row["scores"] == pytest.approx(alone.values[0].tolist(), abs=1e-6)
        assert row["players"] == alone.players[0].tolist()
        assert row["target"] == alone.targets.item()
        assert row["target_name"] == MODEL.config.id2label[row["target"]]
        assert row["logit"] == pytest.approx(alone.scores.item(), abs=1e-5)
        assert row["probability"] == pytest.approx(MODEL(**batch).logits.softmax(-1).max().item(), abs=1e-6)
        assert row["label"] is row["rows"] is row["columns"] is row["positions"] is row["image_height"] is None


@pytest.mark.parametrize("head", OWN_HEADS)
def test_a_configuration_of_other_classes_names_nothing(head):
    model = head()
    rows = rows_of(predict(AttributionModule(model, processor=TOKENIZER), text_loader(TOKENIZER, TEXTS)))
    assert [row["target_name"] for row in rows] == [None] * len(TEXTS)
    config_of(model).id2label = dict(enumerate("abcde"))
    rows = rows_of(predict(AttributionModule(model, processor=TOKENIZER), text_loader(TOKENIZER, TEXTS)))
    assert [row["target_name"] for row in rows] == ["abcde"[row["target"]] for row in rows]


def test_images_with_labels_from_a_tensor_data_set():
    model = load_image_model()
    _, _, images, labels = digits()
    loader = DataLoader(TensorDataset(images[:5], labels[:5]), batch_size=3)
    rows = rows_of(predict(AttributionModule(model), loader))
    expected = ShapleyGradAttention(model).attribute_tokens(images[:5])
    assert [row["label"] for row in rows] == labels[:5].tolist()
    assert {(row["rows"], row["columns"]) for row in rows} == {(expected.grid.rows, expected.grid.columns)}
    assert {tuple(row["positions"]) for row in rows} == {expected.grid.positions}
    sizes = ("patch_height", "patch_width", "top", "left", "image_height", "image_width")
    place = (*expected.grid.sizes, *(side.first for side in expected.grid.sides))
    assert {tuple(row[name] for name in sizes) for row in rows} == {(*place, *images.shape[2:])}
    assert all(row["ids"] is None and row["tokens"] is None for row in rows)
    torch.testing.assert_close(torch.tensor([row["scores"] for row in rows]), expected.values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["label", "labels"])
def test_labels_of_a_mapping_are_kept_and_can_be_explained(name):
    batch = {**TOKENIZER(TEXTS[:2], padding=True, return_tensors="pt"), name: torch.tensor([0, 1])}
    table = AttributionModule(MODEL, processor=TOKENIZER, target="label").predict_step(batch)
    assert table["label"].to_pylist() == table["target"].to_pylist() == [0, 1]
    assert table["target_name"].to_pylist() == ["negative", "positive"]
    with pytest.raises(ValueError, match="the batch has no labels"):
        AttributionModule(MODEL, target="label").predict_step(text_batch())


def test_other_batches_by_a_function_and_bare_tensors():
    ids = TOKENIZER(TEXTS[0], return_tensors="pt")["input_ids"]
    bare = AttributionModule(MODEL, processor=TOKENIZER).predict_step(ids)
    own = AttributionModule(MODEL, processor=TOKENIZER, batch_inputs=lambda batch: {"input_ids": batch["x"]})
    assert own.predict_step({"x": ids}).equals(bare)


def test_a_fixed_class_and_a_class_of_a_token():
    table = AttributionModule(MODEL, processor=TOKENIZER, target=0).predict_step(
        TOKENIZER(TEXTS[0], return_tensors="pt")
    )
    assert table["target"].to_pylist() == [0]
    assert table["probability"][0].as_py() < 0.5
    config = hf.BertConfig(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_labels=3)
    model = hf.BertForTokenClassification(config).eval()
    table = AttributionModule(model, target=(-1, 2)).predict_step(text_batch("left"))
    of_numpy = AttributionModule(model, target=(np.int64(-1), np.int64(2)))
    assert of_numpy.predict_step(text_batch("left")).equals(table)
    assert AttributionModule(MODEL, target=np.int64(1)).target == 1
    assert table["target"].to_pylist() == [[8, 2], [5, 2], [3, 2]]  # texts of 9, 6 and 4 tokens, padding not counted
    assert [len(scores) for scores in table["scores"].to_pylist()] == [9, 6, 4]
    assert table["probability"].null_count == 3


@pytest.mark.parametrize("family", ["gpt2", "t5", "vit"])
def test_families_and_double_precision(family):
    model = FAMILIES[family].build(torch.float64)
    batch = image_batch(torch.float64) if FAMILIES[family].vision else text_batch()
    table = AttributionModule(model).predict_step(batch)
    expected = ShapleyGradAttention(model).attribute_tokens(batch)
    assert table["scores"].type == pa.list_(pa.float64())
    sums = [sum(scores) for scores in table["scores"].to_pylist()]
    torch.testing.assert_close(torch.tensor(sums, dtype=torch.double), expected.values.sum(-1))


def test_a_text_without_words_gets_zeros_and_the_others_their_own_scores():
    with_empty = ["", *TEXTS[:2]]
    rows = rows_of(predict(AttributionModule(MODEL, processor=TOKENIZER), text_loader(TOKENIZER, with_empty)))
    others = rows_of(predict(AttributionModule(MODEL, processor=TOKENIZER), text_loader(TOKENIZER, TEXTS[:2])))
    assert rows[0]["scores"] == [0, 0]
    assert rows[0]["players"] == [False, False]
    assert rows[0]["target"] in (0, 1)
    for row, other in zip(rows[1:], others, strict=True):
        assert row["scores"] == pytest.approx(other["scores"], abs=1e-6)
        assert row["players"] == other["players"]


def test_only_wanted_inputs_are_explained_once():
    module = AttributionModule(MODEL, processor=TOKENIZER)
    batch = {**TOKENIZER(TEXTS[:3], padding=True, return_tensors="pt"), "label": ["x", "y", "z"]}
    module.wanted = [True, False, True]
    assert module.predict_step(batch)["label"].to_pylist() == ["x", "z"]
    assert module.predict_step(batch)["label"].to_pylist() == ["x", "y", "z"]
    module.wanted = [False, False, False]
    assert len(module.predict_step(None)) == 0


def test_the_model_is_left_untouched_in_inference_mode():
    model, tokenizer = load_text_model()
    model.train()
    next(model.parameters()).requires_grad_(False)
    module = AttributionModule(model, processor=tokenizer)
    with torch.inference_mode():
        batch = {name: part.clone() for name, part in tokenizer(TEXTS, padding=True, return_tensors="pt").items()}
        with left_untouched(model):
            table = module.predict_step(batch)
    assert len(table) == len(TEXTS)
    gradients = [parameter.requires_grad for parameter in model.parameters()]
    predict(module, text_loader(tokenizer, TEXTS))
    assert all(part.training for part in model.modules())
    assert gradients == [parameter.requires_grad for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(pickle.loads(pickle.dumps(module)).predict_step(batch)) == len(TEXTS)


def test_settings_tell_methods_apart_however_they_are_given():
    built = AttributionModule(MODEL, ShapleyGradAttention(MODEL, tokenizer=TOKENIZER), processor=TOKENIZER).settings()
    assert built == AttributionModule(MODEL, processor=TOKENIZER).settings()
    others = [
        AttributionModule(MODEL, partial(ShapleyGradAttention, game="cls"), processor=TOKENIZER),
        AttributionModule(MODEL, partial(ShapleyGradAttention, sign="rectified"), processor=TOKENIZER),
        AttributionModule(MODEL, ShapleyAttention, processor=TOKENIZER),
        AttributionModule(MODEL, processor=TOKENIZER, target=1),
        AttributionModule(FAMILIES["bert"].build(), processor=TOKENIZER),
    ]
    assert all(other.settings() != built for other in others)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AttributionModule(lambda ids: ids), "model must be an nn.Module, got function"),
        (lambda: AttributionModule(MODEL, 3), "method is 3, expected a class or function"),
        (lambda: AttributionModule(MODEL, lambda model, tokenizer: "x"), "makes a str, which has no attribute_tokens"),
        (lambda: AttributionModule(MODEL, ShapleyGradAttention(load_image_model())), "of another model"),
        (lambda: AttributionModule(MODEL, target=True), "target is True, expected a class"),
        (lambda: AttributionModule(MODEL, target=(True, 1)), r"target is \(True, 1\), expected a class"),
        (lambda: AttributionModule(MODEL, target=[0, 1]), r"target is \[0, 1\], expected a class"),
        (lambda: AttributionModule(MODEL, target="great"), r"unknown target 'great'.*'negative', 'positive'"),
        (lambda: AttributionModule(MODEL, batch_inputs={}), "batch_inputs must be a function"),
    ],
)
def test_arguments_that_do_not_fit(build, message):
    with pytest.raises(MisconfigurationException, match=message):
        build()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ("a film", r"the batch is 'a film' \(str\), expected the mapping"),
        (["a", "b"], r"a list of 2: str, str, .*batch_inputs="),
    ],
)
def test_batches_of_another_form(batch, message):
    with pytest.raises(TypeError, match=message):
        AttributionModule(MODEL).predict_step(batch)


def test_columns_that_the_model_does_not_take_are_left_out():
    batch = {"inputs_embeds": torch.rand(2, 4, 16), "src_key_padding_mask": torch.zeros(2, 4).bool()}
    module = AttributionModule(PlainClassifier().eval())
    table = module.predict_step(batch)
    assert table["ids"].null_count == table["target_name"].null_count == 2
    assert module.predict_step({**batch, "sentence": ["a", "b"], "row": torch.arange(2)}).equals(table)


def test_inputs_and_a_mask_without_names():
    batch = TOKENIZER(TEXTS[:2], padding=True, return_tensors="pt")
    labels = torch.tensor([0, 1])
    module = AttributionModule(MODEL, processor=TOKENIZER)
    named = module.predict_step({**batch, "labels": labels})
    assert module.predict_step([batch["input_ids"], batch["attention_mask"], labels]).equals(named)


def test_strategies_that_spread_the_weights_are_refused():
    module = AttributionModule(MODEL)
    module.trainer = SimpleNamespace(strategy=object.__new__(FSDPStrategy))
    with pytest.raises(MisconfigurationException, match=r"AttributionModule does not work under FSDPStrategy"):
        module.setup("predict")


class Forwarding(torch.nn.Module):
    """Takes whatever its model takes."""

    def __init__(self):
        super().__init__()
        self.inner = MODEL

    def forward(self, **batch):
        return self.inner(**batch)


def test_a_module_that_takes_anything_gets_everything_but_labels():
    batch = {**TOKENIZER(TEXTS[:2], padding=True, return_tensors="pt"), "labels": torch.tensor([0, 1])}
    expected = AttributionModule(MODEL, processor=TOKENIZER).predict_step(batch)
    assert AttributionModule(Forwarding(), processor=TOKENIZER).predict_step(batch)["scores"].equals(expected["scores"])


def test_a_class_by_its_name():
    batch = TOKENIZER(TEXTS[:2], padding=True, return_tensors="pt")
    by_name, by_number = (AttributionModule(MODEL, target=target).predict_step(batch) for target in ("positive", 1))
    assert by_name.equals(by_number)


def test_functions_without_a_name_are_told_apart():
    first, second = (AttributionModule(MODEL, partial(ShapleyGradAttention, game=game)).settings() for game in GAMES)
    assert first != second


GAMES = (lambda influence, members: influence.sum() * members.sum(1), lambda influence, members: -members.sum(1))


def test_a_class_by_its_name_alone_or_of_a_token():
    batch = {name: part.clone() for name, part in TOKENIZER(TEXTS[:2], padding=True, return_tensors="pt").items()}
    for name in ("positive", "Positive"):
        module = AttributionModule(MODEL, target=name, processor=TOKENIZER)
        assert module.predict_step(batch)["target"].to_pylist() == [1, 1]
    tagger = hf.BertForTokenClassification(MODEL.config).eval()
    rows = AttributionModule(tagger, target=(1, "positive"), processor=TOKENIZER)
    assert rows.target == (1, 1)
    with pytest.raises(MisconfigurationException, match=r"unknown target 'postive'.*did you mean 'positive'"):
        AttributionModule(tagger, target=(1, "postive"))


def test_names_of_another_number_of_classes_are_refused():
    class OwnHead(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = MODEL.bert
            self.head = torch.nn.Linear(MODEL.config.hidden_size, 5)

        def forward(self, input_ids, attention_mask=None):
            return self.head(self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state[:, 0])

    module = AttributionModule(OwnHead(), target="positive", processor=TOKENIZER)
    batch = TOKENIZER(TEXTS[:2], padding=True, return_tensors="pt", return_token_type_ids=False)
    with pytest.raises(MisconfigurationException, match="names 2 classes and the output has 5"):
        module.predict_step(dict(batch))


@pytest.mark.parametrize("name", ["wav2vec2", "whisper", "videomae"])
def test_sounds_and_videos_have_the_sides_along_which_their_patches_lie(name):
    model = build(name)
    ((key, features),) = batch(name).items()
    rows = rows_of(predict(AttributionModule(model), DataLoader(TensorDataset(features, torch.tensor([1, 0])), 2)))
    expected = ShapleyGradAttention(model).attribute_tokens({key: features})
    for row, values in zip(rows, expected.values, strict=True):
        torch.testing.assert_close(torch.tensor(row["scores"]), values, rtol=1e-4, atol=1e-7)
        assert row["sides"] == [asdict(side) for side in expected.grid.sides]
        assert row["positions"] == list(expected.grid.positions)
        assert row["rows"] is row["image_height"] is None
    assert [row["label"] for row in rows] == [1, 0]
