"""After an exception, monitor and writer hold nothing of the run, and the next run is like any other."""

from __future__ import annotations

import contextlib
import gc
import pickle
import signal
import weakref

import pytest
from fine_tuning import Failing, FineTuned, Texts, monitored, trainer_of
from helpers.small_models import load_text_model
from lightning.pytorch import Callback
from own_measurements import ProbingAccuracy, RolloutEntropy
from predictions import text_loader
from torch.utils.data import DataLoader

from lightning_callbacks import AttributionModule, AttributionWriter, ExplanationMonitor, read_attributions
from lightning_callbacks.consensus import all_or_none

TRAIN, VALIDATION = DataLoader(Texts(12), 4), DataLoader(Texts(11, seed=1), 4)
MEASURED = ("_history", "scores", "_validations")
HOOKS = [
    "on_train_batch_end",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_fit_end",
    "setup",
]


class Raising(Callback):
    """Raises in a hook."""

    def __init__(self, hook, error):
        setattr(self, hook, lambda *args, **kwargs: self.fail(error))

    @staticmethod
    def fail(error):
        raise error("no luck")


@pytest.fixture(autouse=True)
def _interrupts():
    handler = signal.getsignal(signal.SIGINT)  # Lightning ignores them after the first one
    yield
    signal.signal(signal.SIGINT, handler)


def model_after(callback, hook=None, error=FloatingPointError, alone=False):
    """Run until it fails, or to the end; the model, if someone still holds it."""
    module = FineTuned()
    trainer = trainer_of([callback] if hook is None else [callback, Raising(hook, error)], max_epochs=1)
    model = weakref.ref(module.model)
    with contextlib.suppress(FloatingPointError, RuntimeError, SystemExit):
        if alone:
            trainer.validate(module, VALIDATION, verbose=False)
        else:
            trainer.fit(module, TRAIN, VALIDATION)
    assert trainer.interrupted == (hook is not None or callback.on_error == "raise")
    del module, trainer
    gc.collect()
    return model()


def size_of(monitor):
    """What it takes, without what it has measured."""
    return len(pickle.dumps({name: part for name, part in vars(monitor).items() if name not in MEASURED}))


@pytest.mark.parametrize(
    ("hook", "error"), [*((hook, FloatingPointError) for hook in HOOKS), (HOOKS[0], KeyboardInterrupt)]
)
def test_the_monitor_lets_go(hook, error):
    monitor = ExplanationMonitor(**monitored(target=None, measurements=[RolloutEntropy(), ProbingAccuracy()]))
    new = size_of(monitor)
    assert model_after(monitor, hook, error) is None
    assert size_of(monitor) < new + 100


def test_the_next_run_is_like_any_other():
    monitor = ExplanationMonitor(**monitored(target=None))
    model_after(monitor, "on_train_batch_end")
    assert model_after(monitor) is None
    assert monitor.frame()["samples"].tolist() == [11]


@pytest.mark.parametrize("hook", ["on_validation_batch_end", "on_validation_end"])
def test_the_monitor_lets_go_in_a_validation_alone(hook):
    monitor = ExplanationMonitor(**monitored(target=None))
    new = size_of(monitor)
    assert model_after(monitor, hook, alone=True) is None
    assert size_of(monitor) < new + 100


@pytest.mark.parametrize("alone", [False, True])
def test_the_monitor_lets_go_after_its_own_error(alone):
    monitor = ExplanationMonitor(**monitored(target=None, faithfulness=Failing, on_error="raise"))
    new = size_of(monitor)
    assert model_after(monitor, alone=alone) is None
    assert size_of(monitor) < new + 100
    assert monitor.frame().empty


def test_scores_of_a_validation_that_failed_are_none():
    monitor = ExplanationMonitor(**monitored(target=None))
    original, calls = monitor._measured, []

    def measured(trainer):
        calls.append(1)
        if len(calls) == 2:
            all_or_none(trainer, lambda: Raising.fail(RuntimeError))  # as the monitor's own parts do
        return original(trainer)

    monitor._measured = measured
    with pytest.warns(UserWarning, match="validation 1 was not explained"):
        trainer_of([monitor], max_epochs=2).fit(FineTuned(), TRAIN, VALIDATION)
    assert monitor.scores is None


@pytest.mark.parametrize("error", [FloatingPointError, KeyboardInterrupt])
@pytest.mark.parametrize("hook", ["on_predict_batch_start", "on_predict_batch_end"])
def test_the_writer_lets_go_and_the_module_explains_all_of_the_next_batch(hook, error, tmp_path):
    model, words = load_text_model()
    texts = ["a gripping , funny film", "not good at all", "so dull"]
    module, writer = AttributionModule(model, processor=words), AttributionWriter(tmp_path)
    new = len(pickle.dumps(writer))
    with pytest.raises((error, SystemExit)):
        trainer_of([writer, Raising(hook, error)]).predict(module, text_loader(words, texts), return_predictions=False)
    assert len(pickle.dumps(writer)) < new + 500  # the model takes more than that
    batch = words(texts[:2], padding=True, return_tensors="pt")
    assert len(module.predict_step(batch)) == 2
    trainer_of([writer]).predict(module, text_loader(words, texts), return_predictions=False)
    assert len(read_attributions(tmp_path, complete=True)) == 3
