"""Explaining whole data sets: written as it comes, resumed where it stopped, the same on one process and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch
from helpers.reviews import made_up_reviews
from helpers.small_models import load_text_model
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from predictions import TEXTS, predict, text_loader
from scripts import EXAMPLES, run_alone
from torch.utils.data import DataLoader, IterableDataset

from captum_attn import ShapleyAttention, ShapleyGradAttention
from captum_attn.functional import kernel_shapley, permutation_shapley
from lightning_callbacks.attribution_folder import AttributionFolder, read_attributions
from lightning_callbacks.attribution_module import AttributionModule
from lightning_callbacks.attribution_writer import AttributionWriter
from lightning_callbacks.plain_settings import with_present_names

MODEL, TOKENIZER = load_text_model()
KILLED_RUNS = Path(__file__).resolve().parents[1] / "support" / "killed_runs.py"


class Counting(ShapleyGradAttention):
    """Notes how many inputs it explains at a time."""

    sizes: ClassVar[list[int]] = []

    def attribute_tokens(self, inputs, **options):
        self.sizes.append(len(inputs["input_ids"]))
        return super().attribute_tokens(inputs, **options)


class Plain(LightningModule):
    def forward(self, batch):
        return batch


class Stream(IterableDataset):
    def __iter__(self):
        return iter(TEXTS)


def explainer(**options):
    return AttributionModule(MODEL, processor=TOKENIZER, **options)


def assert_same(frame, other, tolerance=0.0):
    """Scores and what follows from them up to a tolerance, all else exactly."""
    for name in ("scores", "logit", "probability"):
        for value, expected in zip(frame[name], other[name], strict=True):
            assert value == pytest.approx(expected, abs=tolerance, rel=0)
    rest = [name for name in frame.columns if name not in ("scores", "logit", "probability")]
    pd.testing.assert_frame_equal(frame[rest], other[rest])


def test_a_data_set_is_written_batch_by_batch_and_read_in_order(tmp_path):
    loader = DataLoader(TEXTS, 4, shuffle=True, collate_fn=partial(TOKENIZER, padding=True, return_tensors="pt"))
    assert predict(explainer(), loader, tmp_path) is None
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    frame = read_attributions(tmp_path, complete=True)
    for text, row in zip(TEXTS, frame.to_dict("records"), strict=True):
        batch = TOKENIZER(text, return_tensors="pt")
        alone = ShapleyGradAttention(MODEL, tokenizer=TOKENIZER).attribute_tokens(batch)
        assert row["tokens"].tolist() == TOKENIZER.convert_ids_to_tokens(batch["input_ids"][0])
        assert row["scores"] == pytest.approx(alone.values[0].numpy(), abs=1e-6)


def test_a_second_run_explains_only_what_is_missing(tmp_path):
    predict(explainer(), text_loader(TOKENIZER, TEXTS, 2), tmp_path / "found", limit_predict_batches=1)
    with pytest.warns(UserWarning, match="4 of 6 samples"):
        assert len(read_attributions(tmp_path / "found")) == 2
    Counting.sizes.clear()
    module = explainer(method=Counting)
    module.settings = explainer().settings
    predict(module, text_loader(TOKENIZER, TEXTS, 3), tmp_path / "found")
    assert Counting.sizes == [1, 3]
    predict(module, text_loader(TOKENIZER, TEXTS, 6), tmp_path / "found")
    assert Counting.sizes == [1, 3]
    predict(explainer(), text_loader(TOKENIZER, TEXTS, 2), tmp_path / "whole")
    assert_same(read_attributions(tmp_path / "found", complete=True), read_attributions(tmp_path / "whole"), 1e-6)


def test_several_data_loaders_are_kept_apart(tmp_path):
    loaders = [text_loader(TOKENIZER, TEXTS[:3]), text_loader(TOKENIZER, TEXTS[2:])]
    predict(explainer(), loaders, tmp_path)
    frame = read_attributions(tmp_path, complete=True)
    assert frame["dataloader"].tolist() == [0] * 3 + [1] * 4
    first, again = (frame[frame["dataloader"] == place].set_index("index") for place in (0, 1))
    assert (
        first["tokens"][2].tolist()
        == again["tokens"][0].tolist()
        == TOKENIZER.tokenize(TEXTS[2], add_special_tokens=True)
    )


def test_workers_load_the_data_too(tmp_path):
    loader = DataLoader(
        TEXTS, 2, collate_fn=partial(TOKENIZER, padding=True, return_tensors="pt"), num_workers=1, prefetch_factor=3
    )
    predict(explainer(), loader, tmp_path)
    assert [len(ids) for ids in read_attributions(tmp_path, complete=True)["ids"]] == [
        len(TOKENIZER(text)["input_ids"]) for text in TEXTS
    ]


@pytest.mark.parametrize(
    "changed",
    [
        lambda: AttributionModule(MODEL, partial(ShapleyGradAttention, game="cls"), processor=TOKENIZER),
        lambda: explainer(target=1),
        lambda: AttributionModule(MODEL),
    ],
)
def test_a_run_with_other_settings_is_refused(tmp_path, changed):
    predict(explainer(), text_loader(TOKENIZER, TEXTS), tmp_path, limit_predict_batches=1)
    with pytest.raises(MisconfigurationException, match=r"begun with other settings.* there, .* here"):
        predict(changed(), text_loader(TOKENIZER, TEXTS), tmp_path)
    predict(explainer(), text_loader(TOKENIZER, TEXTS), tmp_path)
    assert len(read_attributions(tmp_path, complete=True)) == len(TEXTS)


def test_runs_from_before_names_moved_are_resumed(tmp_path):
    def module(estimator):
        return explainer(method=partial(ShapleyAttention, game="mutual", estimator=partial(estimator, permutations=4)))

    loader, path = text_loader(TOKENIZER, TEXTS, 2), tmp_path / ".manifest.json"
    predict(module(permutation_shapley), loader, tmp_path, limit_predict_batches=1)
    recorded = json.loads(path.read_text())
    assert recorded["method"]["class"] == "captum_attn.ShapleyAttention"
    assert recorded["method"]["estimator"]["function"] == "captum_attn.functional.permutation_shapley"
    recorded["method"]["class"] = "captum_attn.methods.shapley.ShapleyAttention"
    recorded["method"]["estimator"]["function"] = "captum_attn.core.estimators.permutation_shapley"
    path.write_text(json.dumps(recorded))
    with pytest.raises(
        MisconfigurationException, match=r"function: '\S+permutation_shapley' there, '\S+kernel_shapley'"
    ):
        predict(module(kernel_shapley), loader, tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "captum_attn", FutureWarning)
        predict(module(permutation_shapley), loader, tmp_path)
    assert len(read_attributions(tmp_path, complete=True)) == len(TEXTS)


def test_names_that_mean_nothing_any_more_stay_as_they_are():
    for name in (
        "captum_attn.core.estimators.sorcery",
        "captum_attn.gone.f",
        "captum_attn.core",
        "os.path.join",
        "a b",
    ):
        assert with_present_names({"names": [name, 1]}) == {"names": [name, 1]}


def test_data_of_another_size_and_foreign_folders_are_refused(tmp_path):
    predict(explainer(), text_loader(TOKENIZER, TEXTS), tmp_path / "found")
    with pytest.raises(MisconfigurationException, match=r"samples: \[6\] there, \[5\] here"):
        predict(explainer(), text_loader(TOKENIZER, TEXTS[:5]), tmp_path / "found")
    with pytest.raises(MisconfigurationException, match="holds found, which belongs to no run"):
        predict(explainer(), text_loader(TOKENIZER, TEXTS), tmp_path)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (DataLoader(Stream(), 2), "Stream is an iterable data set.*expected a data set with __getitem__"),
        (DataLoader(TEXTS, batch_size=None), "without batches of its own.*batch_size"),
        ([TOKENIZER(TEXTS[0], return_tensors="pt")], "a data loader is a BatchEncoding"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_data_without_sample_indices_are_refused(tmp_path, loader, message):
    with pytest.raises(MisconfigurationException, match=message):
        predict(explainer(), loader, tmp_path)


def test_other_modules_and_two_writers_are_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"got a Plain: call trainer.predict"):
        predict(Plain(), text_loader(TOKENIZER, TEXTS), tmp_path)
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[AttributionWriter("a"), AttributionWriter("b")])
    with pytest.raises(MisconfigurationException, match="several AttributionWriters"):
        trainer.predict(explainer(), text_loader(TOKENIZER, TEXTS))


def test_samples_left_out_while_collating_are_found_out(tmp_path):
    def some(texts):
        return TOKENIZER(texts[1:], padding=True, return_tensors="pt")

    with pytest.raises(ValueError, match=r"holds 3 inputs, but 4 samples .* were drawn") as caught:
        predict(explainer(), DataLoader(TEXTS, 4, collate_fn=some), tmp_path)
    assert "samples [0, 1, 2, 3] of data loader 0" in caught.value.__notes__[0]


def test_keeping_everything_in_memory_as_well_gets_a_warning(tmp_path):
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=AttributionWriter(tmp_path / "found")
    )
    with pytest.warns(UserWarning, match="return_predictions=False"):
        tables = trainer.predict(explainer(), text_loader(TOKENIZER, TEXTS))
    assert [len(table) for table in tables] == [4, 2]


def test_two_processes_find_what_one_finds(tmp_path):
    texts = made_up_reviews()[:33]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    run_alone("explain_dataset.py", "--data", "texts.txt", "--devices", "2", "--batch-size", "4", folder=tmp_path)
    frame = read_attributions(tmp_path / "found" / "attributions", complete=True)
    ranks = {path.name[13:19] for path in (tmp_path / "found" / "attributions").glob("*.parquet")}
    assert ranks == {"r00000", "r00001"}
    predict(explainer(), text_loader(TOKENIZER, texts), tmp_path / "one")
    assert_same(frame, read_attributions(tmp_path / "one"), 1e-6)


def test_the_same_batches_give_the_same_bits(tmp_path):
    for name in ("one", "two"):
        predict(explainer(), text_loader(TOKENIZER, TEXTS), tmp_path / name)
    one, two = (AttributionFolder(tmp_path / name).read() for name in ("one", "two"))
    assert one.equals(two)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
def test_killed_runs_resume_to_what_an_undisturbed_one_finds(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{EXAMPLES.parent}{os.pathsep}{EXAMPLES}"}
    command = [sys.executable, str(KILLED_RUNS), str(tmp_path), "--kills", "3", "--count", "200"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert "killed 3 times, then resumed: 200 rows, the same as undisturbed: True" in done.stdout, done.stderr
    assert torch.get_num_threads() == 1


def test_other_texts_of_the_same_number_are_refused(tmp_path):
    predict(explainer(), text_loader(TOKENIZER, TEXTS, 4), tmp_path)
    others = ["another one", *TEXTS[1:]]
    with pytest.raises(MisconfigurationException, match=r"begun with other settings.*data: "):
        predict(explainer(), text_loader(TOKENIZER, others, 4), tmp_path)


def test_a_run_that_failed_before_its_first_result_does_not_bind(tmp_path):
    with pytest.raises(IndexError, match="target 7 is out of range"):
        predict(explainer(target=7), text_loader(TOKENIZER, TEXTS, 4), tmp_path)
    predict(explainer(target=1), text_loader(TOKENIZER, TEXTS, 4), tmp_path)
    assert len(read_attributions(tmp_path, complete=True)) == len(TEXTS)
