"""Which tensor of a model's output is explained, and what is refused in its place."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from families import FAMILIES, batch, text_batch
from models import left_untouched
from torch import nn

from captum_attn import RawAttention, ShapleyGradAttention
from captum_attn.core.scores import output_scores, sign_of_hidden_states, warn_of_hidden_states

SCORES = torch.randn(3, 5)
LOSS, HIDDEN, ATTENTION = torch.tensor(0.7), torch.randn(3, 9, 32), torch.rand(3, 4, 9, 9)

TAKEN = {
    "a tensor": SCORES,
    "an object": SimpleNamespace(loss=LOSS, logits=SCORES),
    "a mapping": {"hidden": HIDDEN, "logits": SCORES, "loss": LOSS},
    "a list of one": [SCORES],
    "a tuple with a loss": (LOSS, SCORES),
    "a tuple with a count": (torch.tensor(3), SCORES),
    "a tuple with attention": (SCORES, ATTENTION),
    "a tuple of tuples": (SCORES, (HIDDEN, HIDDEN), (ATTENTION,)),
    "a tuple with classes": (SCORES.argmax(-1), SCORES),
}


@pytest.mark.parametrize("output", TAKEN.values(), ids=TAKEN)
def test_the_scores_are_found(output):
    assert output_scores(output, 3) is SCORES


def test_start_and_end_logits_of_an_object_and_a_mapping():
    pair = {"start_logits": HIDDEN[..., 0], "end_logits": HIDDEN[..., 1]}
    for output in (pair, SimpleNamespace(**pair)):
        assert torch.equal(output_scores(output, 3), HIDDEN[..., :2])


def test_one_score_of_each_example_and_one_example():
    assert output_scores(torch.ones(3), 3).shape == (3,)
    assert output_scores(torch.ones(1), 1).shape == (1,)
    assert output_scores(torch.ones(1, 1), 1).shape == (1, 1)


REFUSED = {
    "a squeezed single example": (SCORES[0], 1, ValueError, r"\(5,\) for a batch of 1.*squeeze"),
    "squeezed tokens of a single example": (HIDDEN[0], 1, ValueError, r"\(9, 32\) for a batch of 1.*squeeze"),
    "classes first": (SCORES.T, 3, ValueError, r"\(5, 3\) for a batch of 3.*second dimension"),
    "tokens first": (HIDDEN.transpose(0, 1), 3, ValueError, r"\(9, 3, 32\).*second dimension"),
    "the first example alone": (SCORES[:1], 3, ValueError, r"\(1, 5\) for a batch of 3.*rows are not the examples"),
    "a mean over the batch": (SCORES.mean(0), 3, ValueError, r"\(5,\) for a batch of 3.*rows are not the examples"),
    "rows of several beams": (SCORES.repeat(4, 1), 3, ValueError, r"4 rows for each \(beams"),
    "logits of other rows": ({"logits": SCORES.T}, 3, ValueError, r"returned logits, a tensor of shape \(5, 3\)"),
    "one number": (SCORES.mean(), 3, ValueError, r"one number, a tensor of shape \(\).*no dimension of examples"),
    "one number of one example": (SCORES[0, 0], 1, ValueError, r"one number.*for a batch of 1.*squeeze"),
    "predicted classes": (SCORES.argmax(-1), 3, TypeError, r"an int64 tensor of shape \(3,\), which has no gradient"),
    "a loss alone": ((LOSS,), 3, TypeError, r"a tuple of 1: float32 \(\), which holds no tensor of scores"),
    "features and scores": (
        (HIDDEN[:, 0], SCORES),
        3,
        TypeError,
        r"tuple of 2: float32 \(3, 32\), float32 \(3, 5\).*cannot be told",
    ),
    "attention first": (
        [ATTENTION, SCORES],
        3,
        TypeError,
        r"list of 2: float32 \(3, 4, 9, 9\), float32 \(3, 5\).*cannot be told",
    ),
    "two maps": ((ATTENTION, ATTENTION), 3, TypeError, "cannot be told"),
    "a tuple of other rows": (
        (LOSS, SCORES.T),
        3,
        ValueError,
        r"tuple of 2: float32 \(\), float32 \(5, 3\).*rows are not the examples",
    ),
    "another name": (
        {"probabilities": SCORES},
        3,
        TypeError,
        r"dict of probabilities: float32 \(3, 5\), in which there are no",
    ),
    "nothing": (None, 3, TypeError, "returned None, in which there are no scores"),
    "an array": (SCORES.numpy(), 3, TypeError, r"returned an array of shape \(3, 5\), in which there are no scores"),
    "no tensor": ("positive", 3, TypeError, r"returned 'positive' \(str\), in which there are no scores"),
    "hidden states": (
        {"last_hidden_state": HIDDEN},
        3,
        TypeError,
        r"last_hidden_state: float32 \(3, 9, 32\): hidden states",
    ),
}


@pytest.mark.parametrize(("output", "examples", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_was_returned_is_named(output, examples, error, message):
    with pytest.raises(error, match=message):
        output_scores(output, examples)


def test_hidden_states_do_for_attention_alone_if_their_rows_are_examples():
    assert output_scores({"last_hidden_state": HIDDEN}, 3, hidden_states=True) is HIDDEN
    with pytest.raises(ValueError, match=r"hidden states, a tensor of shape \(9, 3, 32\).*second dimension"):
        output_scores({"last_hidden_state": HIDDEN.transpose(0, 1)}, 3, hidden_states=True)


class Pooled(nn.Module):
    """A backbone that returns one state of each text, ``(pooled,)``, as a classifier does its scores."""

    def __init__(self, kind):
        super().__init__()
        self.encoder = getattr(hf, kind)(FAMILIES[kind.removesuffix("Model").lower()].config()).eval()

    def forward(self, input_ids, attention_mask=None):
        return (self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state[:, 0],)


@pytest.mark.parametrize("kind", ["BertModel", "DistilBertModel", "GPT2Model"])
def test_a_pooled_state_is_told_by_its_width(kind):
    model = Pooled(kind)
    scores = output_scores(model(**text_batch()), 3)
    with pytest.warns(
        UserWarning, match=r"shape \(3, 32\).*scores of 32 classes. But Pooled has hidden states"
    ) as caught:
        warn_of_hidden_states(model, scores)
    assert caught[0].filename == __file__


def test_scores_that_are_no_hidden_states_are_not_warned_of():
    bert = FAMILIES["bert"].build()
    as_many = hf.BertForSequenceClassification(
        hf.BertConfig(**FAMILIES["bert"].config().to_dict() | {"num_labels": 32})
    )
    words = SimpleNamespace(model_type="own", hidden_size=32, vocab_size=32, num_labels=2)
    language_model = nn.Identity()
    language_model.config = words
    pooled = Pooled("BertModel")
    given = [
        (bert, 3),
        (as_many, 32),
        (language_model, 32),
        (lambda **inputs: pooled(**inputs)[0], 32),
        (nn.Identity(), 32),
    ]
    assert [sign_of_hidden_states(*one) for one in given] == [None] * 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_hidden_states(pooled, torch.zeros(32))  # one score of each example


FORMS = {
    "mapping": lambda scores: {"logits": scores},
    "list": lambda scores: [scores],
    "loss first": lambda scores: (scores.mean(), scores),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_is_explained_as_the_tensor_is(form):
    model, inputs = FAMILIES["bert"].build(), text_batch()
    expected = ShapleyGradAttention(model).attribute(inputs, target=2)
    of_form = ShapleyGradAttention(lambda **given: form(model(**given).logits))
    assert torch.equal(of_form.attribute(inputs, target=2), expected)


def scores_of(example):
    """The scores of the classes of one example alone."""
    return lambda scores: scores[example]


def outer(scores):
    """Examples that see each other, as under a contrastive loss: (B, B)."""
    return scores @ scores.T


AS_MANY = {
    "classes": lambda scores: scores.T,
    "a mean": lambda scores: scores.mean(0),
    "the first": scores_of(0),
    "the last": scores_of(-1),
    "pairs": outer,
}


@pytest.mark.parametrize("name", ["bert", "vit", "t5"])
@pytest.mark.parametrize("form", AS_MANY.values(), ids=AS_MANY)
def test_rows_that_are_no_examples_are_found_where_sizes_agree(name, form):
    family = FAMILIES[name]
    model, inputs = family.build(), batch(family)
    explainer = ShapleyGradAttention(lambda **given: form(model(**given).logits))
    target = None if form(torch.ones(3, 3)).dim() == 1 else 0
    with (
        left_untouched(model),
        pytest.raises(ValueError, match=r"output \(3,.*depends on other examples of the 3"),
    ):
        explainer.attribute(inputs, target=target)


@pytest.mark.parametrize("form", AS_MANY.values(), ids=AS_MANY)
def test_two_classes_of_two_examples(form):
    model, inputs = FAMILIES["bert"].build(), {name: part[:2] for name, part in text_batch().items()}
    explainer = ShapleyGradAttention(lambda **given: form(model(**given).logits[:, :2]))
    target = None if form(torch.ones(2, 2)).dim() == 1 else 0
    with pytest.raises(ValueError, match=r"output \(2,.*depends on other examples of the 2"):
        explainer.attribute(inputs, target=target)


def test_tokens_first_are_found_where_sizes_agree():
    model = hf.BertForTokenClassification(FAMILIES["bert"].config()).eval()
    inputs = {name: part.repeat(3, 1) for name, part in text_batch().items()}  # 9 texts of 9 tokens
    expected = ShapleyGradAttention(model).attribute(inputs, target=(1, 2))
    explainer = ShapleyGradAttention(lambda **given: model(**given).logits.transpose(0, 1))
    with pytest.raises(ValueError, match=r"output \(9, 9, 3\).*depends on other examples"):
        explainer.attribute(inputs, target=(1, 2))
    mean = ShapleyGradAttention(lambda **given: model(**given).logits.mean(0))
    with pytest.raises(ValueError, match=r"output \(9, 3\).*depends on other examples"):
        mean.attribute(inputs, target=1)
    for part in (slice(0, 3), slice(0, 1)):
        of_part = ShapleyGradAttention(model).attribute({name: t[part] for name, t in inputs.items()}, target=(1, 2))
        torch.testing.assert_close(of_part, expected[part])


@pytest.mark.parametrize("name", ["bert", "vit", "t5"])
def test_the_look_at_rows_changes_nothing(name):
    family = FAMILIES[name]
    model, inputs = family.build(), batch(family)
    explainer = ShapleyGradAttention(model, game="cls")  # as many classes as texts, and a readout that gradients tell
    whole = explainer.attribute(inputs, target=2)
    one_score = ShapleyGradAttention(lambda **given: model(**given).logits[:, 2], game="cls").attribute(inputs)
    torch.testing.assert_close(one_score, whole)
    first_two = {name: part[:2] for name, part in inputs.items()}
    torch.testing.assert_close(explainer.attribute(first_two, target=2), whole[:2])


@pytest.mark.parametrize("method", [ShapleyGradAttention, RawAttention])
def test_a_refusal_leaves_the_model_as_it_was(method):
    model, inputs = FAMILIES["bert"].build(), {name: part[:2] for name, part in text_batch().items()}
    explainer = method(lambda **given: model(**given).logits.T)
    with left_untouched(model), pytest.raises(ValueError, match="rows are not the examples"):
        explainer.attribute(inputs, target=0)
