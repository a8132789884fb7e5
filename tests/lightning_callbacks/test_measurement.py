"""Users' own measurements: the same numbers as by other ways, from the same passes, logged and kept like ours."""

from __future__ import annotations

import math
from copy import deepcopy
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from fine_tuning import Failing, FineTuned, Texts, concepts, fit, monitored, tokenizer, trainer_of
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from own_measurements import ProbingAccuracy, RolloutEntropy
from scipy.stats import sem
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from torch.utils.data import DataLoader

from captum_attn import MaskTunnel, NormAttention, ShapleyAttention, ShapleyGradAttention
from lightning_callbacks import ExplanationMonitor, Group, Measurement, Panel, SharedPass

OWN = {"concepts": None, "target": None, "faithfulness": None}
DATA = Texts(30, seed=1)


def validated(*measurements, module=None, **arguments):
    """A monitor of these alone after ``trainer.validate``."""
    monitor = ExplanationMonitor(**monitored(**{**OWN, "measurements": measurements, **arguments}))
    trainer_of([monitor]).validate(module or FineTuned().eval(), DataLoader(DATA, 10), verbose=False)
    return monitor


def outputs_of(model):
    """What transformers itself says of all examples, attention and hidden states."""
    eager = deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        return eager(DATA.ids, output_attentions=True, output_hidden_states=True)


def test_rollout_entropy():
    module = FineTuned().eval()
    (found,) = validated(RolloutEntropy(), module=module).frame().to_dict("records")
    product = torch.eye(8)
    for layer, attention in enumerate(outputs_of(module.model).attentions):
        product = (0.5 * torch.eye(8) + 0.5 * attention.mean(1)) @ product
        shares = product[:, 0, 1:7].double()  # what [CLS] has of the words
        shares = shares / shares.sum(1, keepdim=True)
        entropy = -(shares * shares.log()).sum(1).mean()
        assert found[f"rollout_entropy/layer_{layer}"] == pytest.approx(float(entropy), abs=1e-6)
        assert entropy < math.log(6)


def test_probing_accuracy():
    module = FineTuned().eval()
    (found,) = validated(ProbingAccuracy(), module=module).frame().to_dict("records")
    for layer, hidden in enumerate(outputs_of(module.model).hidden_states[1:]):
        predicted = cross_val_predict(LogisticRegression(max_iter=1000), hidden[:, 0].double(), DATA.labels, cv=3)
        accuracy = (torch.tensor(predicted) == DATA.labels).double().mean()  # three parts of the same size
        assert found[f"probing_accuracy/layer_{layer}"] == pytest.approx(float(accuracy))


class InputGradient(Measurement):
    """How far a class's logit depends on the words' states behind the first layer, to first order."""

    modules = ("bert.encoder.layer.0",)
    needs_gradients = True

    def __init__(self, explained):
        self.explained, self.names = explained, [f"of_{explained}"]

    def targets(self, batch, predicted):
        return torch.full_like(predicted, self.explained)

    def numbers(self, seen):
        assert seen.targets.eq(self.explained).all()
        assert seen.readout[:, 0].eq(1).all()
        return (seen.gradients.gradients[0] * seen.states[0].hidden).sum((1, 2))[:, None]


def test_gradients_of_classes_of_its_own():
    module = FineTuned().eval()
    own = [RolloutEntropy(), InputGradient(0), InputGradient(1), ProbingAccuracy()]
    monitor = validated(*own, module=module, faithfulness=ShapleyGradAttention)
    (found,) = monitor.frame().to_dict("records")
    output = module.model(DATA.ids, output_hidden_states=True)
    for explained in (0, 1):
        hidden = output.hidden_states[1]
        (gradient,) = torch.autograd.grad(output.logits[:, explained].sum(), hidden, retain_graph=True)
        expected = (gradient * hidden).detach().sum((1, 2)).mean()
        assert found[f"of_{explained}"] == pytest.approx(float(expected), abs=1e-6)
    alone = validated(RolloutEntropy(), ProbingAccuracy(), module=module).frame()
    for name in (name for name in alone if name.startswith(("rollout", "probing"))):
        assert found[name] == pytest.approx(alone[name][0], abs=1e-6)


def passes_of(monkeypatch, *measurements, **arguments):
    """Forward and backward passes of a validation, without those of the preparation."""
    module, counted, begun = FineTuned().eval(), [0, 0], []

    class Begun(Measurement):
        """Counts from the first batch on."""

        names = ("begun",)

        def begin(self, done):
            counted[:] = 0, 0
            begun.append(1)

        def numbers(self, seen):
            return torch.zeros(len(seen.batch.rows), 1)

    def count(place, function):
        def counting(*args, **kwargs):
            counted[place] += 1
            return function(*args, **kwargs)

        return counting

    validated(module=module, faithfulness=ShapleyGradAttention)  # the first time, a model is looked at
    monkeypatch.setattr(module.model, "forward", count(0, module.model.forward))
    monkeypatch.setattr(torch.autograd, "grad", count(1, torch.autograd.grad))
    validated(*measurements, Begun(), module=module, **arguments)
    assert begun
    return tuple(counted)


def test_all_measurements_share_the_same_passes(monkeypatch):
    ours = {"faithfulness": ShapleyGradAttention, "concepts": concepts()}
    forward, backward = passes_of(monkeypatch, **ours)
    assert backward == 3  # one for each batch
    assert passes_of(monkeypatch, RolloutEntropy(), ProbingAccuracy(), **ours) == (forward, backward)
    assert passes_of(monkeypatch, RolloutEntropy(), ProbingAccuracy())[0] == 3
    several = ([ShapleyGradAttention, other] for other in (ShapleyAttention, NormAttention))
    attention, norms = (passes_of(monkeypatch, faithfulness=methods)[0] for methods in several)
    assert attention == norms  # which want what follows the attention


class OfStates(ShapleyGradAttention):
    """A method that looks at hidden states, as it has to: of all that are there, at its own."""

    modules = ("bert.encoder.layer.1",)

    def solve(self, explained, observer):
        (states,) = (states for states in explained.run.states if states.module in self.modules)
        return explained.attributions(states.hidden.detach()[..., 0])

    def attribute_tokens(self, batch, **_):  # beside the monitor's pass
        return SimpleNamespace(values=torch.ones(batch["input_ids"].shape))


def test_methods_that_look_at_hidden_states_share_the_pass():
    module = FineTuned().eval()
    scores = outputs_of(module.model).hidden_states[2][..., 0]

    def known(batch, targets):
        return scores[[(ids == DATA.ids).all(1).nonzero().item() for ids in batch["input_ids"]]]

    name = "faithfulness/comprehensiveness"
    found = validated(ProbingAccuracy(), module=module, faithfulness=OfStates).frame()[name][0]
    expected = validated(module=module, faithfulness={"known": lambda model: known}).frame()[name][0]
    assert found == pytest.approx(expected, abs=1e-6)


# --- as ours ----------------------------------------------------------------------------------------------------------


def test_they_can_be_monitored_are_kept_drawn_and_summarized(tmp_path):
    arguments = monitored(measurements=[RolloutEntropy(), ProbingAccuracy()], log_prefix="own/")
    best = ModelCheckpoint(tmp_path, monitor="own/rollout_entropy/layer_1", save_last=True)
    first = ExplanationMonitor(**arguments)
    fit([first, best], enable_checkpointing=True)
    assert float(best.best_model_score) == pytest.approx(first.frame()["rollout_entropy/layer_1"].min())
    again = ExplanationMonitor(**arguments)
    trainer = trainer_of([again], max_epochs=3)
    trainer.fit(FineTuned(), DataLoader(Texts(24), 4), DataLoader(Texts(11, seed=1), 4), ckpt_path=best.last_model_path)
    assert again.frame()["epoch"].tolist() == [0, 1, 2]
    assert again.frame()[:2].equals(first.frame())
    assert "rollout_entropy/layer_2" in again.summary()
    assert "faithfulness_error" not in again.summary()
    titles = [axes.get_title() for axes in again.plot().axes]
    assert {"rollout entropy", "probing accuracy", "sufficiency (lower is better)"} <= {*titles}
    assert not {"tcav p", "explanations", "faithfulness"} & {*titles}
    loaded = ExplanationMonitor(**arguments)
    loaded.load_state_dict(again.state_dict())  # of which nothing was prepared
    assert [axes.get_title() for axes in loaded.plot().axes] == titles


def test_misspelt_names_are_named(tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="rollout_entropy/layer_7")
    monitor = ExplanationMonitor(**monitored(measurements=[RolloutEntropy()]))
    with pytest.raises(MisconfigurationException, match="did you mean 'rollout_entropy/layer_"):
        fit([monitor, best], enable_checkpointing=True)


def test_fast_dev_run_and_a_time_limit():
    monitor = ExplanationMonitor(**monitored(**OWN, measurements=[RolloutEntropy(), ProbingAccuracy()]))
    with pytest.warns(UserWarning, match="not defined in validation 0, logged as NaN: probing_accuracy/layer_0"):
        fit([monitor], fast_dev_run=True)
    assert monitor.frame()["samples"].tolist() == [2]
    limited = validated(RolloutEntropy(), max_seconds=1e-9, batch_size=4)
    assert limited.frame()["samples"].tolist() == [4]
    assert limited.frame()["rollout_entropy/layer_0"].notna().all()


class OfTheLast(Measurement):
    """Something that concerns the last example alone."""

    names = ("of_the_last",)

    def concerns(self, batch):
        return (batch.inputs.features == DATA.ids[-1]).all(1)

    def numbers(self, seen):
        return seen.batch.rows[:, None]


def test_examples_that_do_not_count():
    assert validated(RolloutEntropy(), OfTheLast()).frame()["of_the_last"].tolist() == [29.0]
    assert validated(OfTheLast(), max_seconds=1e-9, batch_size=4).frame()["of_the_last"].isna().all()
    monitor = ExplanationMonitor(**monitored(**OWN, measurements=[OfTheLast()]))
    loader = DataLoader(DATA, 10)
    trainer_of([monitor], fast_dev_run=True).validate(FineTuned().eval(), loader, verbose=False)
    assert monitor.frame()["of_the_last"].tolist() == [1.0]  # of two examples


def test_nothing_of_a_run_is_left_in_what_was_given():
    own = [RolloutEntropy(), ProbingAccuracy()]
    fit([ExplanationMonitor(**monitored(measurements=own))], max_epochs=1)
    assert [vars(one) for one in own] == [{}, {}]


def test_when_one_fails_all_are_nan():
    with pytest.warns(UserWarning, match="validation 0 was not explained, its scores are NaN: RuntimeError: no luck"):
        monitor = validated(RolloutEntropy(), faithfulness=Failing)
    assert monitor.frame()[["rollout_entropy/layer_0", "faithfulness/sufficiency"]].isna().all(None)


class Confidence(Measurement):
    """Drawn in a panel of its own, with bands."""

    names = ("confidence", "confidence_error")
    width = 1
    groups: ClassVar = {"confidence": Group(), "confidence_error": Group(summarized=False)}

    def numbers(self, seen: SharedPass):
        return seen.run.output.softmax(-1).amax(-1, keepdim=True)

    def metrics(self, numbers, labels):
        error = numbers.std() / len(numbers) ** 0.5
        return {"confidence": float(numbers.mean()), "confidence_error": float(error)}

    def panels(self, frame):
        lines, errors = {"mean": "confidence"}, {"mean": "confidence_error"}
        return [[Panel("how sure", lines, errors=errors, limits=(0, 1))]] if "confidence" in frame else []


def test_panels_and_groups_of_its_own():
    module = FineTuned().eval()
    monitor = validated(Confidence(), RolloutEntropy(), module=module)
    expected = outputs_of(module.model).logits.softmax(-1).amax(-1).double().numpy()
    (found,) = monitor.frame()[["confidence", "confidence_error"]].to_numpy()
    assert found == pytest.approx([expected.mean(), sem(expected)], abs=1e-6)
    axes = {one.get_title(): one for one in monitor.plot().axes}
    assert {*axes} == {"how sure", "rollout entropy"}
    assert axes["how sure"].get_ylim() == (0, 1)
    (band,) = axes["how sure"].collections
    assert band.get_paths()[0].get_extents().height == pytest.approx(4 * sem(expected), abs=1e-6)
    assert "confidence " in monitor.summary()
    assert "confidence_error" not in monitor.summary()
    with pytest.raises(ValueError, match="nothing was measured yet"):
        ExplanationMonitor(**monitored(**OWN, measurements=[Confidence()])).plot()


class Wrong(Measurement):
    names = ("a/b", "a/c")

    def numbers(self, seen):
        return torch.zeros(len(seen.batch.rows), 3)


class Returnless(Wrong):
    def numbers(self, seen):
        pass


class Silent(Wrong):
    width = 3

    def metrics(self, numbers, labels):
        return {"a/b": 1.0, "d": 2.0}


WRONG = {
    "too wide": (Wrong, r"Wrong computed numbers of the shape \(10, 3\), expected \(10, 2\): a row for each example"),
    "no tensor": (Returnless, r"Returnless.numbers returned a NoneType, expected a tensor of the shape \(10, 2\)"),
    "other names": (Silent, "Silent found a/b, d, expected a/b, a/c"),
}


@pytest.mark.parametrize(("kind", "message"), WRONG.values(), ids=WRONG)
def test_what_is_not_as_it_said_is_a_failure(kind, message):
    with pytest.raises(RuntimeError, match=message):
        validated(kind(), on_error="raise")


def test_what_is_wrong_is_found_before_anything_is_measured():
    with pytest.raises(TypeError, match="abstract"):
        Measurement()
    with pytest.raises(MisconfigurationException, match=r"RolloutEntropy.*, expected objects of classes derived from"):
        ExplanationMonitor(measurements=[RolloutEntropy])
    with pytest.raises(MisconfigurationException, match="several metrics would be logged as 'rollout_entropy/layer_0'"):
        validated(RolloutEntropy(), RolloutEntropy())
    with pytest.raises(MisconfigurationException, match="a probe learns from labels"):
        validated(ProbingAccuracy(), probe=DATA.ids, processor=tokenizer())


class Faulty(RolloutEntropy):
    """A measurement with one thing that is wrong."""

    def __init__(self, **wrong):
        self.wrong = wrong

    def prepare(self, model, probe):
        super().prepare(model, probe)
        vars(self).update(
            {name: value for name, value in self.wrong.items() if name in ("names", "modules", "methods")}
        )

    def concerns(self, batch):
        return self.wrong.get("concerns", super().concerns(batch))

    def targets(self, batch, predicted):
        return self.wrong.get("targets", predicted)

    def numbers(self, seen):
        return super().numbers(seen) / self.wrong.get("divisor", 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"names": "entropy"}, "Faulty: names and modules are lists of strings"),
        (
            {"modules": ["bert.encoder.layers.0"]},
            r"Faulty.modules: .* no module 'bert.encoder.layers.0'; sim",
        ),
        ({"methods": [MaskTunnel]}, "Faulty.methods holds type, expected attributions of one pass"),
        ({"names": ["epoch", "b", "c"]}, "several metrics would be logged as 'epoch'"),
    ],
)
def test_what_a_measurement_asks_for_is_checked_before_training(wrong, message):
    with pytest.raises(MisconfigurationException, match=message):
        validated(Faulty(**wrong))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"concerns": torch.ones(10).long()}, r"Faulty.concerns returned torch.int64 \(10,\), expected bool \(10,\)"),
        ({"targets": torch.ones(1).long()}, r"Faulty.targets returned torch.int64 \(1,\), expected int64 \(10,\)"),
        ({"targets": torch.full((10,), -1)}, r"expected int64 \(10,\), classes from 0 to 2"),
        ({"divisor": "none"}, "Faulty.numbers: TypeError: unsupported operand"),
    ],
)
def test_what_a_measurement_returns_is_checked(wrong, message):
    with pytest.raises(Exception, match=message):
        validated(Faulty(**wrong), on_error="raise")
