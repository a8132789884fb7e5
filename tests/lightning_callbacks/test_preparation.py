"""What is found before anything is explained: a trial run, parts that are no classifier, data that are not there."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers
from families import FAMILIES, PAD
from fine_tuning import FineTuned, Texts, concepts, fit, monitored, tokenizer, trainer_of
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_callbacks import AttributionModule, AttributionWriter, ExplanationMonitor
from lightning_callbacks.concept_measurement import ConceptMeasurement


def tried(fast, probe=None, loader=None, **arguments):
    """The history of a run, a trial run or a whole one."""
    monitor = ExplanationMonitor(**monitored(probe=probe, on_error="raise", **arguments))
    loader = loader or DataLoader(Texts(11, seed=1), 4)
    options = {"fast_dev_run": fast} if fast else {"max_epochs": 1}
    trainer_of([monitor], **options).fit(FineTuned(), DataLoader(Texts(8), 4), loader)
    return monitor.frame()


# --- fast_dev_run -----------------------------------------------------------------------------------------------------


def sorted_texts(last):
    """Texts of which one class comes last."""
    data = Texts(12, seed=1)
    order = (data.labels == last).long().argsort(stable=True)
    data.ids, data.labels = data.ids[order], data.labels[order]
    assert last not in data.labels[:2]
    return data


@pytest.mark.parametrize(("fast", "target"), [(True, 2), (3, "LABEL_1")])
def test_a_trial_run_has_an_example_of_the_class(fast, target):
    data = sorted_texts(int(str(target)[-1]))
    batch = {"input_ids": data.ids}
    forms = [
        {"loader": DataLoader(data, 4)},
        {"probe": data},
        {"probe": batch, "labels": data.labels},
        {"probe": batch, "labels": [f"LABEL_{label}" for label in data.labels.tolist()]},
    ]
    for form in forms[: 4 if fast is True else 1]:
        assert tried(False, target=target, **form)["samples"].tolist() == [12]
        found = tried(fast, target=target, **form)
        assert set(found["samples"]) == {2}
        assert found["tcav/first/layer_0"].notna().all()
        assert found["faithfulness/comprehensiveness"].notna().all()


def test_a_trial_run_gets_past_texts_without_words():
    data = Texts(9, seed=1)
    data.ids[:3, 1:-1] = PAD
    probe = {"input_ids": data.ids, "attention_mask": (data.ids != PAD).long()}
    for fast, expected in ((False, 6), (True, 2)):
        with pytest.warns(UserWarning, match=r"the examples \[0, 1, 2\] of the probe set have no tokens but special"):
            assert tried(fast, probe, target=None)["samples"].tolist() == [expected]


def test_a_trial_run_finds_what_a_whole_run_would():
    data = sorted_texts(2)
    for fast in (False, True):
        with pytest.raises(MisconfigurationException, match="none of the 2 examples of the probe set is labelled"):
            tried(fast, data, target=2, max_samples=2)
        wrong = data.labels.clone()
        wrong[-1] = 7
        with pytest.raises(MisconfigurationException, match=r"labels from 0 to 2.*7"):
            tried(fast, {"input_ids": data.ids}, labels=wrong, target=None)
    assert tried(True, data, target=None, max_samples=1)["samples"].tolist() == [1]


# --- a model without a head -------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """A transformer of which one state is read, so that its output (B, D) looks like scores."""

    def __init__(self):
        super().__init__()
        self.encoder = transformers.BertModel(FAMILIES["bert"].config())

    def forward(self, input_ids, attention_mask=None):
        return self.encoder(input_ids, attention_mask).last_hidden_state[:, 0]


class Unconfigured(nn.Module):
    """The like, which has no configuration to tell its widths."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(60, 32)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 48, batch_first=True), 2)

    def forward(self, input_ids):
        return self.encoder(self.embeddings(input_ids))[:, 0]


class Classifier(nn.Module):
    def __init__(self, encoder, head):
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, input_ids, attention_mask=None):
        output = self.encoder(input_ids, attention_mask)
        return self.head(output if isinstance(output, torch.Tensor) else output.last_hidden_state[:, 0])


class Apart(FineTuned):
    """Holds a backbone under some name, and its head beside it."""

    def __init__(self, backbone, name="model", head=True):
        super().__init__()
        del self.model
        setattr(self, name, backbone)
        self.config = None  # the only configuration is that of the backbone
        if head:
            self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(32, 3))

    def validation_step(self, batch, _):
        pass


def validated(module, probe=None, **arguments):
    monitor = ExplanationMonitor(**monitored(probe=probe, **arguments))
    trainer_of([monitor]).validate(module.eval(), DataLoader(Texts(5, seed=1), 4), verbose=False)
    return monitor.frame()


def backbone(kind):
    return getattr(transformers, kind)(FAMILIES[kind.removesuffix("Model").lower()].config())


@pytest.mark.parametrize("arguments", [{"concepts": None}, {"faithfulness": None}])
@pytest.mark.parametrize(("kind", "name"), [("BertModel", "model"), ("GPT2Model", "encoder"), ("ViTModel", "model")])
def test_hidden_states_of_tokens_are_refused(kind, name, arguments):
    if kind == "ViTModel":
        images = {"dark": torch.rand(6, 3, 12, 12) / 2, "bright": torch.rand(6, 3, 12, 12)}
        arguments = {"probe": images["dark"], "processor": None, **({"concepts": images} | arguments)}
    message = rf"shape \(1, \d+, 32\), expected logits \(B, C\) .*{kind} has hidden states.*'classifier.1'.*model="
    with pytest.raises(MisconfigurationException, match=message):
        validated(Apart(backbone(kind), name), target=None, **arguments)


@pytest.mark.parametrize(
    ("module", "seen"),
    [
        (lambda: Apart(Encoder()), "Encoder has hidden states of this width, and 3 classes and 'classifier.1'"),
        (lambda: Apart(Encoder(), head=False), "Encoder has hidden states of this width"),
        (lambda: Apart(Unconfigured()), "'classifier.1' of Apart reads 32 features"),
    ],
)
def test_a_hidden_state_that_looks_like_scores_is_warned_of(module, seen):
    with pytest.warns(UserWarning, match=rf"shape \(1, 32\).*scores of 32 classes. But .*{seen}.*model="):
        validated(module(), target=None, concepts=None)


def test_a_backbone_and_its_head_can_be_put_together():
    for encoder in (Encoder(), backbone("BertModel")):
        module = Apart(encoder)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            frame = validated(module, model=lambda module: Classifier(module.model, module.classifier))
        assert not any("head" in str(one.message) for one in caught)
        assert frame["tcav/first/layer_0"].notna().all()
        assert frame["faithfulness/f1_macro"].notna().all()


# --- no data ----------------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


EMPTY = {
    "a data set": (DataLoader(Texts(0), 4), {}),
    "a stream": (DataLoader(Stream()), {}),
    "a data set, examples of one's own": (DataLoader(Texts(0), 4), {"probe": {"input_ids": Texts(4).ids}}),
    "a data set, a target": (DataLoader(Texts(0), 4), {"concepts": concepts(), "target": 1}),
}


@pytest.mark.parametrize("run", ["fit", "fit without a sanity check", "validate"])
@pytest.mark.parametrize(("loader", "arguments"), EMPTY.values(), ids=EMPTY)
def test_an_empty_loader_is_a_warning(loader, arguments, run):
    monitor = ExplanationMonitor(**monitored(**{"concepts": None, "target": None, **arguments}))
    options = {"num_sanity_val_steps": 0} if "without" in run else {}
    trainer, module = trainer_of([monitor], max_epochs=1, **options), FineTuned()
    before = [weight.clone() for weight in module.parameters()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if run == "validate":
            trainer.validate(module, loader, verbose=False)
        else:
            trainer.fit(module, DataLoader(Texts(8), 4), loader)
            assert not all(map(torch.equal, before, module.parameters()))
    said = [str(one.message) for one in caught if "so nothing is explained" in str(one.message)]
    assert len(said) == 1
    assert monitor.frame().empty


def test_a_loader_that_is_looked_into_late_is_warned_of_too():
    monitor = ExplanationMonitor(**monitored(concepts=None, target=None))
    trainer = trainer_of([monitor], max_epochs=2, check_val_every_n_epoch=2, num_sanity_val_steps=0)
    with pytest.warns(UserWarning, match="its data are empty, so nothing is explained"):
        trainer.fit(FineTuned(), DataLoader(Texts(8), 4), DataLoader(Texts(0), 4))


def test_a_validation_is_not_warned_of():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit([ExplanationMonitor(**monitored(concepts=None, target=None))])
    assert not any("nothing is explained" in str(one.message) for one in caught)


def test_an_empty_probe_is_an_error():
    with pytest.raises(MisconfigurationException, match="the probe set is empty: there are no examples in probe="):
        validated(FineTuned(), Texts(0), concepts=None, target=None)


def test_an_empty_loader_of_predict_is_a_warning(tmp_path):
    module = AttributionModule(FAMILIES["bert"].build(), processor=tokenizer())
    trainer = trainer_of([AttributionWriter(tmp_path / "explained")])
    with pytest.warns(UserWarning, match="the data loader is empty, so nothing was written"):
        trainer.predict(module, DataLoader(Texts(0), 4), return_predictions=False)
    assert not (tmp_path / "explained").exists()


def test_rules_for_concepts_are_refused_where_their_pass_has_none():
    with pytest.raises(MisconfigurationException, match="propagation='attnlrp': the monitor's pass"):
        ConceptMeasurement({}, None, {"propagation": "attnlrp"}).prepare(FAMILIES["bert"].build(), None)
