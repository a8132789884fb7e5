"""What the monitor logs, when, and what it says of mistakes."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import ClassVar

import pytest
import torch
import transformers
from captum.concept import Concept
from families import FAMILIES
from fine_tuning import CONCEPTS, QUICK, Failing, FineTuned, Texts, concepts, fit, monitored, tokenizer, trainer_of
from helpers.reviews import made_up_reviews
from helpers.small_models import load_text_model
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
    TQDMProgressBar,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from readers_of_images import llava, photograph
from scipy.stats import sem
from torch.utils.data import DataLoader

from captum_attn import (
    TTCAV,
    AttentionRollout,
    AttnLRP,
    GenericRelevance,
    IntegratedAttnLRP,
    NormAttention,
    ShapleyAttention,
    ShapleyGradAttention,
)
from captum_attn.generation import ResponseClassifier, response_inputs
from captum_attn.metrics import Metric, evaluate
from lightning_callbacks import ExplanationMonitor


def validated(module=None, loader=None, **arguments):
    """A monitor after ``trainer.validate``, and the trainer."""
    monitor = ExplanationMonitor(**monitored(**arguments))
    trainer = trainer_of([monitor])
    loader = loader or DataLoader(Texts(11, seed=1), 4)
    trainer.validate(module or FineTuned().eval(), loader, verbose=False)
    return monitor, trainer


class Silent(FineTuned):
    def validation_step(self, batch, _):
        pass


# --- the numbers ------------------------------------------------------------------------------------------------------


def test_faithfulness_is_that_of_evaluate():
    module, data = FineTuned().eval(), Texts(11, seed=1)
    methods = {
        "gradients": ShapleyGradAttention,
        "attention": ShapleyAttention,
        "relevance": GenericRelevance,
        "norms": NormAttention,
        "rollout": AttentionRollout,
        "rules": partial(ShapleyGradAttention, propagation="attnlrp"),
        "input": AttnLRP,
        "integrated": partial(IntegratedAttnLRP, passes=3),
    }
    monitor, _ = validated(module, concepts=None, target=None, faithfulness=methods)
    built = {name: method(module.model, tokenizer=tokenizer()) for name, method in methods.items()}
    result = evaluate(
        module.model,
        {"input_ids": data.ids},
        built,
        tokenizer=tokenizer(),
        labels=data.labels,
        replacement=0,
        show_progress=False,
    )
    table = result.table(scale="eraser").query("ranking == 'scores'").set_index(["method", "metric"])["mean"]
    (found,) = monitor.frame().to_dict("records")
    prefixes = {name: f"{name}/" for name in (*methods, "random")} | {"gradients": ""}
    for name, prefix in prefixes.items():
        for metric in ("comprehensiveness", "sufficiency", "f1_macro", "f1_weighted"):
            assert found[f"faithfulness/{prefix}{metric}"] == pytest.approx(table[name, metric], abs=1e-6)


def test_texts_and_a_trained_model():
    model, words = load_text_model()
    texts = made_up_reviews()[:14]
    labels = [row % 2 for row in range(14)]
    module = Silent()
    module.model = model
    monitor, _ = validated(module, probe=texts, labels=labels, processor=words, concepts=None, target=None)
    built = {"gradients": ShapleyGradAttention(model, tokenizer=words)}
    result = evaluate(model, texts, built, tokenizer=words, labels=labels, show_progress=False)
    table = result.table(scale="eraser").query("method == 'gradients' and ranking == 'scores'").set_index("metric")
    for metric in ("comprehensiveness", "sufficiency", "f1_macro", "f1_weighted"):
        found = monitor.frame()[f"faithfulness/{metric}"][0]
        assert found == pytest.approx(table.loc[metric, "mean"], abs=1e-5)
        assert 0.01 < abs(found) < 1


@pytest.mark.parametrize("faithfulness", [None, ShapleyGradAttention])
def test_concept_scores_are_those_of_interpret_on_inputs_of_the_class(faithfulness):
    module, data = FineTuned().eval(), Texts(11, seed=1)
    monitor, _ = validated(module, faithfulness=faithfulness)
    inputs = {"input_ids": data.ids[data.labels == 1]}
    predicted = module.model(**inputs).logits.argmax(-1)
    assert (predicted != 1).any()  # of such inputs, concepts and faithfulness explain different classes
    ttcav = TTCAV(module.model, processor=tokenizer(), **QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = ttcav.interpret(inputs, concepts(), target=1, show_progress=False).table()
    (found,) = monitor.frame().to_dict("records")
    for row in table.to_dict("records"):
        name = f"{row['concept']}/layer_{row['layer']}"
        for group, column in {"tcav": "score", "tcav_effect": "effect", "tcav_p": "p_holm"}.items():
            assert found[f"{group}/{name}"] == pytest.approx(row[column], abs=1e-5)
    assert len(table) == 9


def test_without_a_target_each_input_is_scored_by_its_predicted_class():
    module, data = FineTuned().eval(), Texts(11, seed=1)
    monitor, _ = validated(module, target=None, layers=[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ttcav = TTCAV(module.model, layers=[-1], processor=tokenizer(), **QUICK)
        scores = ttcav.interpret({"input_ids": data.ids}, concepts(), show_progress=False)
    assert torch.equal(scores.targets, monitor.scores.targets)
    assert monitor.frame()["tcav/first/layer_2"][0] == pytest.approx(float(scores.table().score[0]), abs=1e-6)
    assert {name.split("/")[2] for name in monitor.frame() if name.startswith("tcav/")} == {"layer_2"}


def test_one_forward_and_one_backward_pass_serve_concepts_and_faithfulness(monkeypatch):
    module = FineTuned().eval()
    passes = []
    original = torch.autograd.grad

    def counted(*args, **kwargs):
        passes.append(1)
        return original(*args, **kwargs)

    validated(module, target=None, faithfulness=None, concepts=concepts())  # the first time, a model is looked at
    monkeypatch.setattr(torch.autograd, "grad", counted)
    validated(module, target=None, faithfulness=[ShapleyGradAttention, ShapleyAttention], concepts=concepts())
    in_both = len(passes)
    passes.clear()
    validated(module, target=None, faithfulness=None)
    assert in_both == len(passes) + 1  # the method is tried on one example beforehand


# --- when and where ---------------------------------------------------------------------------------------------------


def test_scalars_can_be_monitored_from_the_first_validation_on(tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="tcav/first/layer_1", mode="max", filename="{epoch}")
    stopping = EarlyStopping("faithfulness/comprehensiveness", mode="max", patience=9)
    monitor = ExplanationMonitor(**monitored())
    fit([monitor, best, stopping], enable_checkpointing=True)
    frame = monitor.frame()
    assert float(best.best_model_score) == pytest.approx(frame["tcav/first/layer_1"].max())
    assert float(stopping.best_score) == pytest.approx(frame["faithfulness/comprehensiveness"].max())


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3]), (2, [0, 2]), (3, [0, 3])])
def test_it_counts_validations_and_begins_with_the_first(every, expected):
    monitor = ExplanationMonitor(**monitored(every_n_validations=every, concepts=None, target=None))
    fit([monitor], val_check_interval=0.5)
    assert monitor.frame()["validation"].tolist() == expected


def test_a_run_begins_with_scores_even_if_it_is_none_of_every_n(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    arguments = monitored(every_n_validations=2, concepts=None, target=None)
    fit([ExplanationMonitor(**arguments), checkpoint], enable_checkpointing=True, max_epochs=1)
    again = ExplanationMonitor(**arguments)
    best = ModelCheckpoint(tmp_path / "best", monitor="faithfulness/comprehensiveness")
    trainer = trainer_of([again, best], max_epochs=4, enable_checkpointing=True)
    path = checkpoint.last_model_path
    trainer.fit(FineTuned(), DataLoader(Texts(24), 4), DataLoader(Texts(11, seed=1), 4), ckpt_path=path)
    assert again.frame()["validation"].tolist() == [0, 1, 2]


def test_validation_alone_works_in_inference_mode():
    _, trainer = validated()
    assert torch.isfinite(trainer.callback_metrics["faithfulness/comprehensiveness"])
    assert torch.isfinite(trainer.callback_metrics["tcav/first/layer_0"])


def test_images_and_tuples():
    module = FineTuned("vit").eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(13, 3, 12, 12, generator=generator)
    labels = torch.arange(13) % 3
    loader = DataLoader(list(zip(images, labels, strict=True)), 4)
    module.validation_step = lambda batch, batch_idx: None
    sets = {"dark": images[:6] / 2, "bright": images[6:] / 2 + 0.5}
    monitor, _ = validated(module, loader, concepts=sets, target=2, processor=None, max_samples=9)
    (found,) = monitor.frame().to_dict("records")
    assert found["samples"] == 9
    assert found["tcav/dark/layer_0"] + found["tcav/bright/layer_0"] == pytest.approx(1)
    assert -1 <= found["faithfulness/sufficiency"] <= 1


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true"])
def test_half_precision_gives_nearly_the_same(precision):
    def run(module, **arguments):
        monitor = ExplanationMonitor(**monitored(**arguments))
        trainer_of([monitor], precision=precision).validate(module, DataLoader(Texts(11, seed=1), 4), verbose=False)
        (found,) = monitor.frame().to_dict("records")
        return found

    exact, _ = validated()
    (expected,) = exact.frame().to_dict("records")
    for autocast in (False, True):
        found = run(FineTuned().eval(), autocast=autocast)
        tolerance = 1e-6 if precision != "bf16-true" and not autocast else 0.05
        assert found["faithfulness/comprehensiveness"] == pytest.approx(
            expected["faithfulness/comprehensiveness"], abs=tolerance
        )
        assert found["tcav_effect/first/layer_0"] == pytest.approx(expected["tcav_effect/first/layer_0"], abs=tolerance)


def test_the_first_samples_of_the_loader_are_explained_whatever_its_order():
    module = FineTuned().eval()
    in_order, _ = validated(module, max_samples=7)
    shuffled, _ = validated(module, DataLoader(Texts(11, seed=1), 3, shuffle=True), max_samples=7)
    assert in_order.frame()["samples"].tolist() == [7]
    names = [name for name in in_order.frame() if "seconds" not in name]
    for name in names:
        assert shuffled.frame()[name][0] == pytest.approx(in_order.frame()[name][0], abs=1e-5)


def test_no_more_than_the_first_samples_of_a_batch():
    monitor, _ = validated(loader=DataLoader(Texts(11, seed=1), 4), max_samples=6, batch_size=3)
    alone, _ = validated(probe={"input_ids": Texts(11, seed=1).ids[:6], "labels": Texts(11, seed=1).labels[:6]})
    assert monitor.frame()["samples"].tolist() == [6]
    name = "faithfulness/comprehensiveness"
    assert monitor.frame()[name][0] == pytest.approx(alone.frame()[name][0], abs=1e-6)


def test_labels_of_more_examples_than_are_taken():
    data = Texts(9, seed=1)
    for probe in ({"input_ids": data.ids}, data.ids):
        monitor, _ = validated(probe=probe, labels=data.labels, max_samples=6, target=None)
        assert monitor.frame()["samples"].tolist() == [6]
        assert "faithfulness/f1_macro" in monitor.frame()


@pytest.mark.parametrize("labels", [torch.rand(8), torch.rand(8, 3), list("abcdefgh")])
def test_labels_that_are_no_classes_leave_out_f1(labels):
    rows = list(zip(Texts(8).ids, labels, strict=True))
    with pytest.warns(UserWarning, match="no numbers of classes, one for each example, so there is no F1"):
        monitor, _ = validated(Silent().eval(), DataLoader(rows, 4), target=None)
    assert monitor.frame()["faithfulness/comprehensiveness"].notna().all()
    assert "faithfulness/f1_macro" not in monitor.frame()


def test_a_text_without_words_is_left_out():
    data = Texts(9, seed=1)
    data.ids[4, 1:-1] = 1
    with pytest.warns(UserWarning, match=r"the examples \[4\] of the probe set have no tokens but special ones"):
        monitor, _ = validated(probe={"input_ids": data.ids, "attention_mask": (data.ids != 1).long()}, target=None)
    assert monitor.frame()["samples"].tolist() == [8]
    assert monitor.frame()["faithfulness/comprehensiveness"].notna().all()


def test_a_tokenizer_that_was_bound_to_a_method_stays():
    given = []

    class Watched(ShapleyGradAttention):
        def __init__(self, model, *, tokenizer=None):
            given.append(tokenizer)
            super().__init__(model, tokenizer=tokenizer)

    own, other = tokenizer(), tokenizer()
    validated(faithfulness=partial(Watched, tokenizer=own), processor=other)
    assert given == [own]


def test_each_run_reads_its_own_examples():
    monitor = ExplanationMonitor(**monitored(concepts=None, target=None))
    for count in (5, 9):
        loader = DataLoader(Texts(count, seed=1), 4)
        trainer_of([monitor]).validate(FineTuned().eval(), loader, verbose=False)
    assert monitor.frame()["samples"].tolist() == [5, 9]


def test_half_precision_images():
    module, images = FineTuned("vit").eval(), torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    module.validation_step = lambda batch, batch_idx: None
    sets = {"dark": images / 2, "bright": images / 2 + 0.5}
    monitor = ExplanationMonitor(sets, concept_options=QUICK, figures=False)
    trainer_of([monitor], precision="bf16-true").validate(module, DataLoader(images, 3), verbose=False)
    assert monitor.frame()["tcav/dark/layer_1"].notna().all()


def test_tests_without_power_are_warned_of_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit([ExplanationMonitor(**monitored())])
    assert sum("no p-value can be below" in str(one.message) for one in caught) == 1


def test_a_probe_set_of_ones_own():
    own = Texts(9, seed=3)
    module = FineTuned().eval()
    batch = {"input_ids": own.ids, "labels": own.labels}
    forms = {"mapping": batch, "data set": own, "loader": DataLoader(own, 2)}
    found = {name: validated(module, probe=form)[0].frame() for name, form in forms.items()}
    apart, _ = validated(module, probe={"input_ids": own.ids}, labels=own.labels)
    for frame in (*found.values(), apart.frame()):
        assert frame["samples"].tolist() == [9]
        expected = found["mapping"]["faithfulness/comprehensiveness"][0]
        assert frame["faithfulness/comprehensiveness"][0] == pytest.approx(expected, abs=1e-6)


def test_when_the_time_is_up_no_further_batch_is_begun():
    monitor, _ = validated(max_seconds=1e-9, batch_size=4, concepts=None, target=None)
    assert monitor.frame()["samples"].tolist() == [4]


def test_a_single_example_has_scores():
    monitor, _ = validated(max_samples=1, target=None, on_error="raise")
    assert monitor.frame()["tcav/first/layer_0"].notna().all()
    assert monitor.frame()["faithfulness_error/comprehensiveness"].isna().all()


def test_fast_dev_run_explains_two_samples():
    monitor = ExplanationMonitor(**monitored(target=None))
    fit([monitor], fast_dev_run=True)
    assert monitor.frame()["samples"].tolist() == [2]


class Elsewhere(FineTuned):
    """A LightningModule whose model has another name, and a part that is none."""

    def __init__(self):
        super().__init__()
        self.backbone = self.model
        del self.model
        self.other = torch.nn.Linear(2, 2)

    def validation_step(self, batch, _):
        pass


@pytest.mark.parametrize("model", [None, "backbone", lambda module: module.backbone])
def test_the_model_is_found_or_named(model):
    monitor, _ = validated(Elsewhere().eval(), model=model)
    assert len(monitor.frame()) == 1


def test_batches_of_ones_own():
    class Odd(FineTuned):
        def validation_step(self, batch, _):
            pass

    loader = DataLoader(
        [{"document": {"ids": ids}, "gold": gold} for ids, gold in zip(Texts(8).ids, Texts(8).labels, strict=True)], 4
    )
    monitor, _ = validated(
        Odd().eval(), loader, batch_inputs=lambda batch: (batch["document"]["ids"], batch["gold"]), target=None
    )
    assert "faithfulness/f1_macro" in monitor.frame()
    with pytest.raises(MisconfigurationException, match=r"a dict of document: dict, gold: int64 .*batch_inputs="):
        validated(Odd().eval(), loader)
    with pytest.raises(MisconfigurationException, match=r"the batch is a list of 2: str, str,.*batch_inputs="):
        validated(Odd().eval(), DataLoader(["a", "b"], 2))


# --- history, figures, progress ---------------------------------------------------------------------------------------


def test_the_history_goes_on_after_a_crash(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    first = ExplanationMonitor(**monitored())
    fit([first, checkpoint], enable_checkpointing=True)
    again = ExplanationMonitor(**monitored())
    trainer = trainer_of([again], max_epochs=3)
    path = checkpoint.last_model_path
    trainer.fit(FineTuned(), DataLoader(Texts(24), 4), DataLoader(Texts(11, seed=1), 4), ckpt_path=path)
    assert again.frame()["validation"].tolist() == [0, 1, 2]
    assert again.frame()["epoch"].tolist() == [0, 1, 2]
    assert again.frame()[:2].equals(first.frame())
    assert plain(torch.load(path, weights_only=True)["callbacks"][first.state_key])


def test_checkpoints_know_monitors_by_their_prefix():
    assert ExplanationMonitor(log_prefix="a/").state_key == "ExplanationMonitor{'log_prefix': 'a/'}"


def plain(value):
    """Whether it is made of plain Python types alone."""
    if isinstance(value, dict):
        return all(map(plain, [*value.keys(), *value.values()]))
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    return type(value) in (int, float, str, bool, type(None))


def test_a_summary_is_printed_at_the_end(capsys):
    fit([ExplanationMonitor(**monitored())])
    printed = capsys.readouterr().out
    assert "ExplanationMonitor: 2 of 2 validations explained" in printed
    assert "% of the training" in printed
    for name in ("faithfulness/comprehensiveness", "faithfulness/random/sufficiency", "tcav_effect/control/layer_2"):
        assert name in printed


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_progress_is_shown_in_the_bar(bar, capsys):
    monitor = ExplanationMonitor(**monitored())
    fit([monitor, bar(refresh_rate=1)], enable_progress_bar=True, max_epochs=1)
    assert ("Explaining" in capsys.readouterr().out) or bar is RichProgressBar
    assert len(monitor.frame()) == 1


def test_figures_go_to_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    fit([ExplanationMonitor(**monitored(figures=True, examples=2))], logger=[logger, CSVLogger(tmp_path)])
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    examples = [f"explanations/example_{row}" for row in (0, 1)]
    assert sorted(events.Tags()["images"]) == sorted(["tcav/map", "explanations/trajectories", *examples])
    assert len(events.Images("tcav/map")) == 2
    assert "tcav/first/layer_0" in events.Tags()["scalars"]


def test_figures_go_to_a_logger_like_that_of_weights_and_biases(tmp_path):
    class Gallery(CSVLogger):
        pictures: ClassVar = []

        def log_image(self, key, images, step=None, **kwargs):
            self.pictures += [(key, image.size, step) for image in images]

    fit([ExplanationMonitor(**monitored(figures=True, examples=0))], logger=Gallery(tmp_path), max_epochs=1)
    assert [(key, step) for key, _, step in Gallery.pictures] == [("tcav/map", 6), ("explanations/trajectories", 6)]
    assert all(width > 300 for _, (width, _), _ in Gallery.pictures)
    assert not list(tmp_path.rglob("*.png"))


def test_figures_are_files_where_no_logger_takes_them(tmp_path):
    fit([ExplanationMonitor(**monitored(figures=True, log_prefix="a/"))], default_root_dir=tmp_path, max_epochs=1)
    names = sorted(path.name for path in (tmp_path / "explanations").iterdir())
    assert "a_tcav_map_00000006.png" in names
    assert len(names) == 5


def test_figures_of_images(tmp_path):
    module, images = FineTuned("vit").eval(), torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    module.validation_step = lambda batch, batch_idx: None
    monitor = ExplanationMonitor(examples=1)
    trainer_of([monitor], default_root_dir=tmp_path).validate(module, DataLoader(images, 3), verbose=False)
    assert (tmp_path / "explanations" / "explanations_example_0_00000000.png").exists()
    monitor.plot()


def test_an_examples_attributions_are_those_of_the_method():
    module, data = FineTuned().eval(), Texts(11, seed=1)
    monitor, _ = validated(module, examples=2)
    expected = ShapleyGradAttention(module.model, tokenizer=tokenizer()).attribute_tokens({"input_ids": data.ids[:2]})
    kept = monitor.state_dict()["history"][0]["examples"]
    for row, example in enumerate(kept):
        assert example["row"] == row
        assert example["players"] == [1, 2, 3, 4, 5, 6]
        assert example["values"] == pytest.approx(expected.values[row, 1:7].tolist(), abs=1e-6)
    assert len(kept) == 2


def test_only_the_first_and_the_last_validations_keep_attributions():
    monitor = ExplanationMonitor(**monitored(concepts=None, target=None, examples=1))
    fit([monitor], max_epochs=9)
    kept = [bool(one["examples"]) for one in monitor.state_dict()["history"]]
    assert kept == [True, False, False, False, True, True, True, True, True]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_failure_is_a_warning_and_scores_are_nan(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor="faithfulness/comprehensiveness", mode="max", save_top_k=2)
    monitor = ExplanationMonitor(**monitored(faithfulness=Failing))
    with pytest.warns(UserWarning, match="validation 0 was not explained, its scores are NaN: RuntimeError: no luck"):
        fit([monitor, checkpoint], enable_checkpointing=True)
    assert monitor.frame()["faithfulness/comprehensiveness"].isna().all()
    assert monitor.frame()["samples"].tolist() == [0, 0]


def test_a_failure_stops_the_training_on_request():
    with pytest.raises(RuntimeError, match="no luck"):
        fit([ExplanationMonitor(**monitored(faithfulness=Failing, on_error="raise"))])


class Undefined(Callback):
    """Makes the first validation's scores undefined."""

    def __init__(self, monitor):
        self.monitor, self.original = monitor, monitor._measured
        monitor._measured = self.measured

    def measured(self, trainer):
        metrics, samples, examples = self.original(trainer)
        if not len(self.monitor.frame()):
            metrics = dict.fromkeys(metrics, math.nan)
        return metrics, samples, examples


@pytest.mark.parametrize("mode", ["max", "min"])
def test_nan_is_warned_of_and_never_the_best(tmp_path, mode):
    checkpoint = ModelCheckpoint(tmp_path, monitor="faithfulness/sufficiency", mode=mode)
    monitor = ExplanationMonitor(**monitored(concepts=None, target=None))
    with pytest.warns(UserWarning, match="not defined in validation 0, logged as NaN: faithfulness/comprehensiveness"):
        fit([monitor, Undefined(monitor), checkpoint], enable_checkpointing=True)
    assert float(checkpoint.best_model_score) == pytest.approx(monitor.frame()["faithfulness/sufficiency"][1])


def test_scores_without_a_gradient_are_nan():
    options = {**QUICK, "tokens": "players"}  # in the last layer, BERT reads [CLS] alone
    monitor = ExplanationMonitor(**monitored(concept_options=options))
    with pytest.warns(UserWarning, match="not defined in validation 0, logged as NaN: tcav/first/layer_2"):
        fit([monitor], max_epochs=1)
    assert math.isnan(monitor.frame()["tcav/first/layer_2"][0])
    assert not math.isnan(monitor.frame()["tcav/first/layer_1"][0])


def of(**arguments):
    return lambda: ExplanationMonitor(**arguments)


def doubt(name, of_all=False):
    function = (lambda whole: 1 - whole.mean()) if of_all else (lambda whole: 1 - whole)
    return Metric(name, False, ["whole"], function, of_all=of_all)


CONSTRUCTED = {
    "nothing": (of(faithfulness=None), "nothing to monitor"),
    "a target without concepts": (of(target=1), "give concepts"),
    "metrics without faithfulness": (of(concepts=CONCEPTS, faithfulness=None, metrics=["aopc"]), "give faithfulness"),
    "an unknown metric": (of(metrics=["sufficency"]), "unknown metric 'sufficency': expected some of"),
    "a metric that is none": (of(metrics=[3]), "metrics must be names or Metric records, got int"),
    "no metrics": (of(metrics=[]), "metrics is empty"),
    "metrics that collide": (of(metrics=[doubt("a/b"), doubt("a b")]), "names of metrics must differ .* logged as '_'"),
    "an instance": (
        of(faithfulness=ShapleyAttention(FineTuned().model)),
        "expected a class such as ShapleyGradAttention",
    ),
    "two of one name": (of(faithfulness=[ShapleyAttention, ShapleyAttention]), "different names"),
    "no methods": (of(faithfulness={}), "different names"),
    "names that collide": (of(faithfulness={"a/b": ShapleyAttention, "a b": ShapleyAttention}), "logged as '_'"),
    "a name that is taken": (of(faithfulness={"random": ShapleyAttention}), "taken by random scores"),
    "an unknown intervention": (of(intervention="prayer"), "'replacement' or 'knockout'.*'prayer'"),
    "an unknown answer to errors": (of(on_error="ignore"), "on_error='warn' or 'raise'"),
    "a name without a letter": (of(faithfulness={"": ShapleyAttention}), "the names of methods"),
    "a prefix that is none": (of(log_prefix=3), "log_prefix, a string"),
    "a name of a class": (of(faithfulness="ShapleyAttention"), "'ShapleyAttention', expected a class"),
    "no samples": (of(max_samples=0), "max_samples must be above 0, got 0"),
    "never": (of(every_n_validations=0), "every_n_validations must be above 0"),
}


def test_metrics_of_ones_own_have_lines_of_their_own():
    own = [doubt("a/doubt"), doubt("a/doubt_error", of_all=True), doubt("b c"), doubt("b c_error")]
    monitor = ExplanationMonitor(faithfulness=ShapleyGradAttention, metrics=own, processor=tokenizer(), figures=False)
    module, data = FineTuned().eval(), Texts(11, seed=1)
    trainer_of([monitor]).validate(module, DataLoader(data, 4), verbose=False)
    doubts = 1 - module.model(data.ids).logits.detach().double().softmax(-1).amax(-1).numpy()
    (found,) = monitor.frame().to_dict("records")
    for method in ("", "random/"):
        for name in ("a_doubt", "a_doubt_error", "b_c", "b_c_error"):
            assert found[f"faithfulness/{method}{name}"] == pytest.approx(doubts.mean(), abs=1e-6)
        for name in ("a_doubt", "b_c", "b_c_error"):
            assert found[f"faithfulness_error/{method}{name}"] == pytest.approx(sem(doubts), abs=1e-6)
    assert len([name for name in found if name.startswith("faithfulness")]) == 14
    drawn = [axes for axes in monitor.plot().axes if axes.get_title()]
    assert [[line.get_label() for line in axes.get_lines()] for axes in drawn] == 4 * [
        ["ShapleyGradAttention", "random"]
    ]
    assert [len(axes.collections) for axes in drawn] == [2, 0, 2, 2]  # bands


@pytest.mark.parametrize("metrics", [["f1_weighted"], ["f1_macro", "f1_weighted"]])
def test_one_f1_is_drawn(metrics):
    monitor = ExplanationMonitor(metrics=metrics, processor=tokenizer(), figures=False)
    trainer_of([monitor]).validate(FineTuned().eval(), DataLoader(Texts(11, seed=1), 4), verbose=False)
    assert len(monitor.plot().axes) == 1


@pytest.mark.parametrize(("construct", "message"), CONSTRUCTED.values(), ids=CONSTRUCTED)
def test_bad_arguments_are_named_at_once(construct, message):
    with pytest.raises(MisconfigurationException, match=message):
        construct()


class NoAttention(LightningModule):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Embedding(60, 4), torch.nn.Flatten(), torch.nn.Linear(32, 3))

    def validation_step(self, batch, _):
        pass


def unlabelled():
    return DataLoader([{"input_ids": ids} for ids in Texts(6).ids], 3)


one, two, three = (DataLoader(examples["input_ids"], 4) for examples in concepts().values())
PREPARED = {
    "no labels": (Silent, unlabelled(), {}, "target=1 needs labels of the probe set"),
    "no example of the class": (
        Silent,
        DataLoader(Texts(1), 1),
        {"target": (int(Texts(1).labels) + 1) % 3},
        "none of the 1 examples",
    ),
    "an unknown class": (Silent, None, {"target": "zebra"}, "unknown target 'zebra'.*LABEL_0"),
    "concepts that collide": (
        Silent,
        None,
        {"concepts": dict(zip(("sky/blue", "sky blue", "c"), concepts().values(), strict=True))},
        "names of concepts must differ",
    ),
    "a single concept": (Silent, None, {"concepts": {"first": concepts()["first"]}}, "at least two different concepts"),
    "too few examples": (Silent, None, {"concepts": concepts(examples=3)}, "too few examples, 3"),
    "no attention": (NoAttention, None, {"concepts": None, "target": None}, "no attention was seen"),
    "no model": (LightningModule, None, {}, "found no transformer in LightningModule.*Give model="),
    "no such part": (Silent, None, {"model": "backbone"}, "found no module 'backbone' in Silent"),
    "labels that do not fit": (
        Silent,
        None,
        {"probe": {"input_ids": Texts(4).ids}, "labels": [0, 1]},
        "2 labels for 4 examples: give one for each",
    ),
    "labels of the loader": (Silent, None, {"labels": [0]}, "labels= go with probe="),
    "no mask token": (
        Silent,
        None,
        {"processor": None},
        "faithfulness of texts needs processor=, the model's tokenizer",
    ),
    "several sets": (
        Silent,
        None,
        {"concepts": [[Concept(0, "a", one), Concept(1, "b", two)], [Concept(0, "a", one), Concept(2, "c", three)]]},
        "one experimental set, got 2: use a monitor for each, with another log_prefix",
    ),
    "labels of no class": (
        Silent,
        None,
        {"probe": {"input_ids": Texts(4).ids}, "labels": [0, 1, 2, 7]},
        "labels from 0 to 2, the classes of the model, got .*7",
    ),
    "a method that does not work": (
        Silent,
        None,
        {"faithfulness": {"mine": lambda model: lambda batch, targets: batch["pixels"]}},
        "KeyError: 'pixels'.*method 'mine'",
    ),
    "a module": (Silent, None, {"model": torch.nn.Linear(2, 2)}, "model= is a Linear, expected its name"),
    "concepts for another model": (
        Silent,
        None,
        {"concepts": {"a": torch.rand(6, 3, 8, 8), "b": torch.rand(6, 3, 8, 8)}},
        "first example of concept 'a'",
    ),
    "an odd layer": (Silent, None, {"layers": [7]}, r"layers \[7\] out of range"),
    "an unknown option": (Silent, None, {"concept_options": {"cavs": 3}}, "unexpected keyword argument 'cavs'"),
}


@pytest.mark.parametrize(("module", "loader", "arguments", "message"), PREPARED.values(), ids=PREPARED)
def test_bad_input_is_named_before_anything_is_explained(module, loader, arguments, message):
    built = module() if module is not LightningModule else LightningModule()
    built.validation_step = lambda batch, batch_idx: None
    with pytest.raises(MisconfigurationException, match=message):
        validated(built, loader, **arguments)


def test_outputs_for_each_token_are_refused():
    module = Silent()
    module.model = transformers.BertForTokenClassification(FAMILIES["bert"].config())
    for arguments in ({"faithfulness": None}, {"concepts": None}):
        with pytest.raises(MisconfigurationException, match=r"expected logits \(B, C\)"):
            validated(module, target=None, **{**arguments, "probe": {"input_ids": Texts(4).ids}})


def test_a_training_without_validation_is_warned_of():
    with pytest.warns(UserWarning, match="there is no validation in this training"):
        trainer_of([ExplanationMonitor(**monitored())], max_epochs=1).fit(FineTuned(), DataLoader(Texts(4), 4))


def test_labels_may_be_names():
    names = [f"LABEL_{label}" for label in Texts(9, seed=3).labels.tolist()]
    monitor, _ = validated(probe={"input_ids": Texts(9, seed=3).ids}, labels=names)
    assert "faithfulness/f1_macro" in monitor.frame()


def test_mistakes_are_found_before_the_first_training_step():
    module = FineTuned()
    before = [weight.clone() for weight in module.parameters()]
    with pytest.raises(MisconfigurationException, match="unknown target"):
        fit([ExplanationMonitor(**monitored(target="zebra"))], module, num_sanity_val_steps=0)
    assert all(map(torch.equal, before, module.parameters()))


@pytest.mark.parametrize("kind", [ModelCheckpoint, EarlyStopping])
def test_a_monitored_metric_that_will_never_be_logged_is_named(kind):
    waiting = kind(monitor="faithfulness/comprehensivenes")
    with pytest.raises(MisconfigurationException, match="did you mean 'faithfulness/comprehensiveness'"):
        fit([ExplanationMonitor(**monitored()), waiting], enable_checkpointing=True)


def test_metrics_of_other_monitors_and_of_the_user_are_none_of_its_business(tmp_path):
    first, second = (ExplanationMonitor(**monitored(log_prefix=f"val/{name}_", target=None)) for name in "ab")
    best = ModelCheckpoint(tmp_path, monitor="val/b_faithfulness/comprehensiveness")
    fit([first, second, best], enable_checkpointing=True, max_epochs=1)
    assert best.best_model_path


def test_other_callbacks_metrics_are_none_of_its_business(tmp_path):
    fit([ExplanationMonitor(**monitored()), ModelCheckpoint(tmp_path, monitor="loss")], enable_checkpointing=True)


def test_a_callback_that_averages_weights_comes_after_it():
    with pytest.warns(UserWarning, match="list it first"):
        fit([WeightAveraging(), ExplanationMonitor(**monitored())], max_epochs=1)


def test_two_monitors_need_two_prefixes():
    first, second = (ExplanationMonitor(**monitored(log_prefix=prefix)) for prefix in ("a/", "b/"))
    trainer = trainer_of([first, second])
    trainer.validate(FineTuned(), DataLoader(Texts(11, seed=1), 4), verbose=False)
    assert {"a/tcav/first/layer_0", "b/tcav/first/layer_0"} <= {*trainer.callback_metrics}
    with pytest.raises(RuntimeError, match="state_key"):
        trainer_of([ExplanationMonitor(), ExplanationMonitor()])


def test_every_family_of_models_can_be_followed():
    for family in ("gpt2", "llama", "albert"):
        monitor = ExplanationMonitor(concepts(), processor=tokenizer(), concept_options=QUICK, figures=False)
        module = FineTuned(family).eval()
        module.validation_step = lambda batch, batch_idx: None
        trainer_of([monitor]).validate(module, unlabelled(), verbose=False)
        assert {f"tcav/{name}/layer_1" for name in CONCEPTS} <= {*monitor.frame()}


def test_answers_to_prompts_with_images():
    model, processor = llava()
    prompts = [f"<image> the cat is {word} . is it ?" for word in ("old", "young", "old", "it")]
    images = [photograph(number) for number in range(4)]
    inputs = response_inputs(prompts, ["it is old"] * 4, processor, images=images, model=model)
    rows = [{name: value[row] for name, value in inputs.items()} | {"labels": 0} for row in range(4)]
    module = LightningModule()
    module.model, module.validation_step = ResponseClassifier(model), lambda batch, batch_idx: None
    methods = {"game": partial(ShapleyGradAttention, game="cls"), "relevance": AttnLRP}
    monitor = ExplanationMonitor(
        faithfulness=methods, processor=processor.tokenizer, replacement=5, figures=False, on_error="raise"
    )
    trainer_of([monitor]).validate(module, DataLoader(rows, 2), verbose=False)
    (found,) = monitor.frame().to_dict("records")
    expected = evaluate(
        module.model,
        inputs,
        {name: method(module.model) for name, method in methods.items()},
        tokenizer=processor.tokenizer,
        replacement=5,
        show_progress=False,
    ).table(["comprehensiveness"])
    expected = expected[expected.ranking == "scores"].set_index("method")["mean"]
    assert found["faithfulness/comprehensiveness"] == pytest.approx(expected["game"], rel=1e-3, abs=1e-9)
    assert found["faithfulness/relevance/comprehensiveness"] == pytest.approx(expected["relevance"], rel=1e-3, abs=1e-9)
