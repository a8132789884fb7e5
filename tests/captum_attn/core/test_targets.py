"""Classes by name, wherever a target is taken."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from families import FAMILIES, text_batch
from models import PlainClassifier, left_untouched

import captum_attn
from captum_attn import MaskTunnel, ShapleyAttention, ShapleyGradAttention
from captum_attn.concepts import TTCAV
from captum_attn.core import mapping_inputs, observed_forward
from captum_attn.core.targets import target_of_each
from captum_attn.methods.one_pass import explain_in_one_pass

NAMES = ["negative", "neutral", "positive"]
METHODS = (
    "ShapleyGradAttention",
    "ShapleyAttention",
    "RawAttention",
    "GradSAM",
    "AttentionRollout",
    "GenericRelevance",
    "GradientAttentionRollout",
    "NormAttention",
    "IntegratedAttention",
)


def bert(kind=hf.BertForSequenceClassification, names=NAMES):
    model = FAMILIES["bert"].build()
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}}
    torch.manual_seed(0)
    other = kind(hf.BertConfig(**{**model.config.to_dict(), **labels})).eval()
    other.bert.load_state_dict(model.bert.state_dict(), strict=False)
    return other


@pytest.mark.parametrize("name", METHODS)
def test_a_name_is_its_number_in_every_method(name):
    model, inputs = bert(), text_batch()
    attribution = getattr(captum_attn, name)(model)
    expected = attribution.attribute_tokens(inputs, target=2)
    with left_untouched(model):
        found = attribution.attribute_tokens(inputs, target="positive")
    assert found.targets.tolist() == expected.targets.tolist() == [[2]] * 3
    assert torch.equal(found.values, expected.values)
    assert torch.equal(attribution.attribute(inputs, target="Positive"), expected.values)


EACH = ["negative", "positive", "neutral"]
FORMS = {
    "list": EACH,
    "array": np.array(EACH),
    "array of objects": np.array(EACH, dtype=object),
    "series": pd.Series(EACH),
    "list of tuples": [(name,) for name in EACH],
    "mixed": ["negative", 2, "neutral"],
}


@pytest.mark.parametrize("target", FORMS.values(), ids=FORMS)
def test_a_name_for_each_example(target):
    attribution, inputs = ShapleyGradAttention(bert()), text_batch()
    expected = attribution.attribute(inputs, target=[0, 2, 1])
    assert torch.equal(attribution.attribute(inputs, target=target), expected)
    assert torch.allclose(attribution.attribute(inputs, target=target, internal_batch_size=2), expected, atol=1e-6)


def test_one_name_of_an_array():
    assert target_of_each(np.str_("positive"), 2) == target_of_each(np.array("positive"), 2) == [("positive",)] * 2


def test_several_targets_by_name():
    attribution, inputs = ShapleyGradAttention(bert()), text_batch()
    found = attribution.attribute_targets(inputs, ["positive", 0, EACH])
    assert [result.targets.flatten().tolist() for result in found] == [[2, 2, 2], [0, 0, 0], [0, 2, 1]]
    with pytest.raises(TypeError, match="targets must be a list of targets or a function, got 'positive'"):
        attribution.attribute_targets(inputs, "positive")


def test_a_function_has_the_names_of_the_model_that_it_calls():
    model, inputs = bert(), text_batch()
    attribution = ShapleyGradAttention(lambda **given: model(**given).logits)
    assert torch.equal(attribution.attribute(inputs, "positive"), attribution.attribute(inputs, 2))


def test_default_names():
    attribution, inputs = ShapleyGradAttention(FAMILIES["bert"].build()), text_batch()
    assert torch.equal(attribution.attribute(inputs, "LABEL_1"), attribution.attribute(inputs, 1))


def test_a_token_and_a_name():
    model, inputs = bert(hf.BertForTokenClassification, ["O", "B-PER", "I-PER"]), text_batch()
    attribution = ShapleyGradAttention(model)
    found = attribution.attribute_tokens(inputs, target=(-1, "B-PER"))
    assert found.targets.tolist() == [[8, 1], [5, 1], [3, 1]]
    each = [(1, "O"), (2, "I-PER"), (-1, 1)]
    assert attribution.attribute_tokens(inputs, target=each).targets.tolist() == [[1, 0], [2, 2], [3, 1]]
    for target in ("B-PER", ("B-PER", 1), (1, 2, "O")):
        with pytest.raises(ValueError, match=r"a name is a class's, .* as \(token, name\) for outputs \(B, N, C\)"):
            attribution.attribute(inputs, target=target)


@pytest.mark.parametrize("tokens", ["players", "readout"])
def test_concepts(tokens):
    model, inputs = bert(), text_batch()
    ids = torch.randint(5, 20, (12, 6), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    concepts = {
        name: {"input_ids": ids[rows], "attention_mask": mask[rows]}
        for name, rows in (("a", slice(6)), ("b", slice(6, 12)))
    }
    scorer = TTCAV(model, layers=[1], tokens=tokens, n_cavs=3, permutations=19)
    with pytest.warns(UserWarning, match="p-value"):
        found = [scorer.interpret(inputs, concepts, target, show_progress=False) for target in (2, "positive")]
    assert found[0].targets.tolist() == found[1].targets.tolist()
    pd.testing.assert_frame_equal(found[0].table(), found[1].table())


def test_masked_copies_and_methods_in_one_pass():
    model, inputs = bert(), text_batch()
    tunnel = MaskTunnel(ShapleyGradAttention(model), replacement=4)
    assert torch.equal(tunnel.attribute(inputs, "positive"), tunnel.attribute(inputs, 2))
    batch = mapping_inputs(model, inputs)
    methods = [ShapleyGradAttention(model), ShapleyAttention(model)]
    with observed_forward(model, batch) as run:
        by_name, _ = explain_in_one_pass(run, batch, methods, target="positive", retain_graph=True)
        by_number, _ = explain_in_one_pass(run, batch, methods, target=2)
    assert all(torch.equal(one.values, other.values) for one, other in zip(by_name, by_number, strict=True))


def test_names_of_another_output_are_refused():
    model, inputs = bert(), text_batch()
    head = torch.nn.Linear(3, 5)
    attribution = ShapleyGradAttention(lambda **given: head(model(**given).logits))
    with pytest.raises(ValueError, match="names 3 classes and the output has 5"):
        attribution.attribute(inputs, target="positive")
    with pytest.raises(ValueError, match=r"'postive' is no class.*did you mean 'positive'.*'negative', 'neutral'"):
        ShapleyGradAttention(model).attribute(inputs, target="postive")
    with pytest.raises(ValueError, match="no configuration that names its classes"):
        ShapleyGradAttention(PlainClassifier().eval()).attribute(torch.randn(2, 5, 16), target="positive")
    with pytest.raises(ValueError, match=r"from the output \(3,\): a name is a class's"):
        ShapleyGradAttention(lambda **given: model(**given).logits[:, 0]).attribute(inputs, target="positive")
