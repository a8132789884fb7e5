"""What an inspection says of models that are right, of models whose gradients are falsified, and of refused ones."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from families import FAMILIES, batch, image_batch, text_batch
from fine_tuning import tokenizer
from models import PlainClassifier, left_untouched
from replaced_attention import logits_with
from stacked_models import WAYS, Attend, Own, embeddings, straight
from torch import nn
from torch.utils.checkpoint import checkpoint

from captum_attn import ShapleyGradAttention, inspect
from captum_attn.core.gradient_check import LayerCheck
from captum_attn.core.propagation import ATTNLRP, constant

LAYERS = ("fused", "eager", "fused")


def falsified(gradient):
    """The identity, with a backward pass of one's own."""

    class Falsified(torch.autograd.Function):
        @staticmethod
        def forward(ctx, states):
            return states.clone()

        @staticmethod
        def backward(ctx, grad):
            return gradient(grad)

    return Falsified.apply


def between(change, after=0):
    """A model of three layers whose states are changed after one of them."""

    def forward(model, states):
        for place, layer in enumerate(model.layers):
            states = layer(states)
            states = change(states) if place == after else states
        return model.head(states[:, 0])

    return Own(forward, *LAYERS)


def errors_by_layer(found):
    return [call.error for call in found.calls]


# --- Gradients that are false, and right ones ----------------------------------------------------------------------

FALSE = {
    "halved": falsified(lambda grad: grad / 2),
    "another sign": falsified(lambda grad: -grad),
    "another order of features": falsified(lambda grad: grad.flip(2)),
    "clipped": falsified(lambda grad: grad.clamp(-1e-3, 1e-3)),
    "straight-through rounding": lambda states: states + (states.round() - states).detach(),
    "straight-through signs": lambda states: states + (states.sign() - states).detach(),
    "a branch that is detached": lambda states: states - 2 * (0.7 * states).tanh().detach(),
}


@pytest.mark.parametrize("examples", [2, 3])
@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("kind", FALSE)
def test_layers_below_a_false_gradient_are_not_to_be_believed(kind, after, examples):
    model = between(FALSE[kind], after)
    with left_untouched(model):
        found = inspect(model, embeddings(examples), 1)
    assert not found.trusted
    assert found.verdict.startswith("do not believe it")
    assert found.verdict.endswith(f"the layers {list(range(after + 1))}")
    errors = errors_by_layer(found)
    assert min(errors[: after + 1]) > 0.1
    assert max(errors[after + 1 :]) < 0.01


def test_a_gradient_that_goes_to_other_tokens_is_refused():
    model = between(falsified(lambda grad: grad.flip(1)))
    found = inspect(model, embeddings(), 1)
    assert found.verdict.startswith("refused: states of tokens in Own do not depend on their own tokens, but on others")
    assert not found.trusted
    assert len(found.calls) == 3


def detached_deviation(states, detach=torch.detach):
    return (states - states.mean(-1, keepdim=True)) / detach(states.std(-1, keepdim=True))


def detached_gate(states, detach=torch.detach):
    return states * (3 * detach(states)).sigmoid()


@pytest.mark.parametrize(
    ("change", "examples", "seed"),
    [(detached_deviation, 1, 1), (detached_deviation, 2, 0), (detached_deviation, 3, 0), (detached_gate, 2, 0)],
)
def test_factors_that_are_detached_are_found(change, examples, seed):
    inputs = embeddings(examples, seed=seed)
    false, right = (
        ShapleyGradAttention(between(one)).influence(inputs, 1, per="head")[:, 0].flatten(1)
        for one in (change, lambda states: change(states, detach=lambda factor: factor))
    )
    assert ((false - right).norm(dim=1) / right.norm(dim=1)).max() > 0.15
    assert inspect(between(change), inputs, 1).verdict.startswith("do not believe it")


def test_layers_that_are_named_are_those_where_finite_differences_by_hand_disagree():
    """Probabilities A (1 ± h R) of one layer by a textbook attention, against A ⊙ G as it is explained."""
    inputs = text_batch()
    right = FAMILIES["bert"].build()
    false = copy.deepcopy(right)
    halve = falsified(lambda grad: grad / 2)
    handle = false.bert.encoder.layer[1].register_forward_hook(lambda module, args, output: halve(output))
    influences = [ShapleyGradAttention(model).influence(inputs, 1, per="head") for model in (right, false)]
    handle.remove()
    disagreeing: list[list[int]] = [[], []]
    for layer in range(3):
        direction = torch.randn(influences[0][:, layer].shape)

        def scores(step, layer=layer, direction=direction):
            moved = lambda call, a: a * (1 + step * direction) if call == layer else a  # noqa: E731
            return logits_with(right, inputs, moved)[0][:, 1]

        slope = (scores(0.01) - scores(-0.01)) / 0.02
        for named, influence in zip(disagreeing, influences, strict=True):
            predicted = (influence[:, layer] * direction).sum((1, 2, 3))
            if (slope - predicted).abs().max() > 0.02 * influence[:, layer].flatten(1).norm(dim=1).max():
                named.append(layer)
    assert disagreeing == [[], [0, 1]]
    assert inspect(right, inputs, 1).trusted
    false.bert.encoder.layer[1].register_forward_hook(lambda module, args, output: halve(output))
    assert inspect(false, inputs, 1).verdict.endswith("the layers [0, 1]")


@pytest.mark.parametrize("name", FAMILIES)
def test_models_of_every_family_are_trusted(name):
    family = FAMILIES[name]
    model = family.build()
    with left_untouched(model):
        found = inspect(model, batch(family, "left" if name == "llama" else "right"), 1)
    assert found.trusted, found
    assert found.verdict.startswith("ok")
    assert found.verdict.endswith("in all 3 layers")
    explained = [call for call in found.calls if call.role == "explained"]
    assert len(explained) == 3
    assert max(call.error for call in explained) < 0.1
    assert all(call.error is None for call in found.calls if call not in explained)
    assert ("causal" in found.facts["masks"]) == (name in ("gpt2", "llama", "qwen2", "gemma2"))
    assert found.facts["explained"] == f"3 layers of 4 heads, {explained[0].shape[-1]} tokens"


@pytest.mark.parametrize("name", ["bert", "llama", "bart", "vit"])
def test_eager_attention_is_seen_as_fused_attention_is(name):
    family = FAMILIES[name]
    model = family.build()
    fused = inspect(model, batch(family), 1)
    model.set_attn_implementation("eager")
    eager = inspect(model, batch(family), 1)
    assert eager.trusted
    assert ({call.code for call in fused.calls}, {call.code for call in eager.calls}) == ({"fused"}, {"eager"})
    assert fused.facts == eager.facts
    for one, other in zip(fused.calls, eager.calls, strict=True):
        assert (one.number, one.module, one.shape, one.role) == (other.number, other.module, other.shape, other.role)


def test_a_steep_model_that_is_right_is_trusted():
    model = FAMILIES["t5"].build()
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.2)
    assert inspect(model, text_batch(), 1).trusted


_RIGHT = {
    "fused": "explained",
    "eager": "explained",
    "rows": "explained",
    "five dimensions": "explained",
    "synthesized": "explained",
    "talking heads": "explained",
    "sink": "explained, a sink left out",
    "halves": "explained, 2 times with the same probabilities",
}


@pytest.mark.parametrize("way", _RIGHT)
def test_every_way_to_write_attention_is_trusted(way):
    model = Own(straight, way, "fused", way)
    with left_untouched(model):
        found = inspect(model, embeddings(), 1)
    assert found.trusted, found
    assert [call.role for call in found.calls] == [_RIGHT[way], "explained", _RIGHT[way]]
    assert {call.shape for call in found.calls} == {(3, 2, 5, 5)}
    assert max(errors_by_layer(found)) < 0.01


def test_a_sink_before_the_tokens_is_not_called_refused():
    model = Own(straight, "sink first", "fused")
    ShapleyGradAttention(model).attribute(embeddings(), target=1)
    assert not inspect(model, embeddings(), 1).verdict.startswith("refused")


def test_a_decoder_that_reads_the_tokens_is_listed_with_its_role():
    found = inspect(FAMILIES["t5"].build(), text_batch(), 1)
    assert [call.number for call in found.calls] == list(range(len(found.calls)))
    cross = [call for call in found.calls if "EncDecAttention" in call.module]
    own = [call for call in found.calls if "decoder" in call.module and call not in cross]
    assert {call.role for call in cross} == {"reads the tokens"}
    assert len(own) == len(cross) == 3
    assert not any(call.role.startswith("explained") for call in own)


def test_layers_that_change_nothing_are_told_apart_from_those_that_agree():
    def forward(model, states):
        weak = states + 1e-7 * (model.layers[0](states) - states)
        return model.head(model.layers[1](weak)[:, 0])

    found = inspect(Own(forward, "fused", "eager"), embeddings(), 1)
    assert found.trusted
    assert found.verdict.endswith("in 1 of 2 layers; [0] change the score by less than rounding")
    assert "too small" in str(found)
    weakest = inspect(Own(lambda m, x: straight(m, x) * 0 + 1, "fused"), embeddings(), 1)
    assert not weakest.trusted
    assert weakest.verdict.startswith("not checked: attention changes the score by less than rounding")


@pytest.mark.parametrize(("error", "agrees"), [(0.0, True), (0.1, True), (0.11, False), (float("nan"), None)])
def test_a_layer_agrees_within_the_tolerance_or_cannot_be_told(error, agrees):
    assert LayerCheck(0, error).agrees is agrees


# --- Examples that see each other ----------------------------------------------------------------------------------

MIXING = {
    "batch norm": lambda states: (states - states.mean(0)) / (states.var(0) + 1).sqrt(),
    "a mean over the batch": lambda states: states - 0.2 * states.mean(0),
    "a detached mean": lambda states: states - states.mean(0).detach(),
    "the example before": lambda states: torch.cat([states[:1], states[1:] + 0.5 * states[:-1]]),
    "the example behind": lambda states: torch.cat([states[:-1] + 0.5 * states[1:], states[-1:]]),
}


@pytest.mark.parametrize("examples", [3, 4])
@pytest.mark.parametrize("kind", MIXING)
def test_examples_that_see_each_other_are_told(kind, examples):
    model = between(MIXING[kind])
    with left_untouched(model):
        found = inspect(model, embeddings(examples), 1)
    assert not found.trusted
    assert found.verdict.startswith("do not believe it")
    assert "one example's attention changes another one's score; explain one at a time" in found.verdict
    assert len(found.calls) == 3


@pytest.mark.parametrize("kind", MIXING)
def test_as_many_examples_as_heads_that_see_each_other_are_refused(kind):
    """The first and the last example are run alone, to tell examples from heads, and differ if they see others."""
    found = inspect(between(MIXING[kind]), embeddings(2), 1)
    assert not found.trusted
    assert len(found.calls) == 3
    assert "the examples of a batch see each other. Explain one example at a time" in found.verdict


@pytest.mark.parametrize(
    ("change", "scale"),
    [(lambda x: torch.cat([x[:-1] + 0.1 * x[1:], x[-1:]]), 1), (MIXING["a mean over the batch"], 1e-4)],
)
def test_examples_that_see_each_other_a_little_are_told(change, scale):
    def forward(model, states):
        low = change(model.layers[0](states))
        return model.head(model.layers[1](low)[:, 0]) * scale

    found = inspect(Own(forward, "fused", "eager"), embeddings(4), 1)
    assert "one example's attention changes another one's score" in found.verdict


def test_one_example_of_them_is_explained():
    assert inspect(between(MIXING["a mean over the batch"]), embeddings(1), 1).trusted


# --- Tokens that mix by other ways -----------------------------------------------------------------------------------


class Beside(nn.Module):
    """Something beside attention that passes states from token to token."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.mix, self.recurrent = kind, nn.Conv1d(16, 16, 3, padding=1), nn.GRU(16, 16, batch_first=True)

    def forward(self, states):
        if self.kind == "a convolution":
            return states + self.mix(states.mT).mT
        if self.kind == "a recurrence":
            return states + self.recurrent(states)[0]
        if self.kind == "a mean":
            return states + 0.5 * states.mean(1, keepdim=True)
        return states + self.mix.weight[:, :, 0].mv(states.new_ones(16)).tanh()  # of each token alone


@pytest.mark.parametrize("kind", ["a convolution", "a recurrence", "a mean"])
def test_tokens_that_mix_by_other_ways_are_told(kind):
    model = Own(lambda m, x: m.head(m.layers[1](m.beside(m.layers[0](x)))[:, 0]), "fused", "eager", beside=Beside(kind))
    with left_untouched(model):
        found = inspect(model, embeddings(), 1)
    assert found.verdict.startswith("in part: tokens reach the score, or each other's states, by other ways, too")
    assert "as for the attention that is seen, ok: gradients agree" in found.verdict
    assert found.facts["tokens mix"] == "by other ways, too, which are not seen"
    assert not found.trusted


def test_tokens_that_mix_by_attention_alone_are_told():
    forward = lambda m, x: m.head(m.layers[1](m.beside(m.layers[0](x)))[:, 0])  # noqa: E731
    found = inspect(Own(forward, "fused", "eager", beside=Beside("nothing")), embeddings(), 1)
    assert found.trusted
    assert found.facts["tokens mix"] == "by the explained attention alone"


# --- Refusals --------------------------------------------------------------------------------------------------------


def longformer():
    config = hf.LongformerConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
        attention_window=4, num_labels=3,
    )  # fmt: skip
    ids = torch.randint(5, 50, (2, 16), generator=torch.Generator().manual_seed(0))
    return hf.LongformerForSequenceClassification(config).eval(), {"input_ids": ids}


def own(*ways, forward=straight):
    return lambda: (Own(forward, *ways), embeddings())


def bert():
    return FAMILIES["bert"].build(), text_batch()


def pooled(model, states):
    return model.head(model.layers[1](model.layers[0](states)[:, ::2])[:, 0])


def twice(model, states):
    return straight(model, states) + straight(model, states.flip(1))


def reentrant(model, states):
    return model.head(checkpoint(model.layers[0], states, use_reentrant=True)[:, 0])


def detached(model, states):
    low = model.layers[0](states)
    return model.head((low + model.layers[1](low.detach()))[:, 0])


def refused(error):
    """The verdict, which need not advise to inspect."""
    return f"refused: {str(error).partition(' captum_attn.inspect(')[0]}"


REFUSED = {  # a model and its inputs, a target, and how many calls there are to list
    "several sizes": (own("fused", "eager", forward=pooled), 1, 2),
    "twice": (own("fused", "eager", forward=twice), 1, 4),
    "over the queries": (own("eager", "sideways"), 1, 2),
    "of features": (own("fused", "of states"), 1, 2),
    "reentrant checkpoints": (own("fused", forward=reentrant), 1, 1),
    "windows": (longformer, 1, 4),
    "a class that is none": (bert, 7, 3),
    "a name that is none": (bert, "nothing", 3),
    "a token where there is one score": (bert, (2, 1), 3),
    "another number of targets": (bert, [1, 2], 3),
    "no target of a kind": (bert, 1.5, 3),
    "not finite": (own("fused", forward=lambda m, x: straight(m, x) * torch.inf), 1, 1),
    "detached": (own("fused", "eager", forward=detached), 1, 2),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_keep_their_message_and_list_all_calls(kind):
    build, target, calls = REFUSED[kind]
    model, inputs = build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((ValueError, RuntimeError, TypeError, IndexError)) as refusal:
            ShapleyGradAttention(model).attribute(inputs, target=target)
        with left_untouched(model):
            found = inspect(model, inputs, target)
    assert found.verdict == refused(refusal.value)
    assert not found.trusted
    assert [call.number for call in found.calls] == list(range(calls))
    assert found.calls[0].module in str(found)
    assert found.facts["model"] == type(model).__name__


def checkpointed(model, states):
    return model.head(checkpoint(model.layers[1], model.layers[0](states), use_reentrant=False)[:, 0])


IN_THE_PASS = {
    "no head": lambda: (FAMILIES["bert"].build().bert, text_batch()),
    "a loss alone": own("fused", forward=lambda m, x: straight(m, x).mean()),
    "no gradient": own("fused", "eager", forward=lambda m, x: m.head(m.layers[1](m.layers[0](x).round())[:, 0])),
    "checkpoints": own("fused", "fused", forward=checkpointed),
}


@pytest.mark.parametrize("kind", IN_THE_PASS)
def test_refusals_of_the_pass_keep_their_message(kind):
    model, inputs = IN_THE_PASS[kind]()
    with pytest.raises((ValueError, RuntimeError, TypeError)) as refusal:
        ShapleyGradAttention(model).attribute(inputs, target=1)
    with left_untouched(model):
        found = inspect(model, inputs, 1)
    assert found.verdict == refused(refusal.value)
    assert not found.trusted
    assert {"model", "input"} <= found.facts.keys()


@pytest.mark.xfail(strict=True, reason="refusals inside the pass list no calls")
@pytest.mark.parametrize("kind", ["no head", "no gradient"])
def test_refusals_of_the_pass_list_the_calls_that_were_seen(kind):
    assert inspect(*IN_THE_PASS[kind](), 1).calls


def test_a_model_without_attention_is_told_so():
    found = inspect(nn.Sequential(nn.Flatten(), nn.Linear(80, 3)), torch.randn(2, 5, 16), 1)
    assert found.verdict.startswith("refused: no attention was seen")
    assert found.calls == []
    assert str(found).count("\n") > 3


@pytest.mark.parametrize("inputs", ["a text", torch.zeros(3, dtype=torch.long), None, {}])
def test_inputs_that_are_none_are_errors(inputs):
    with pytest.raises((TypeError, ValueError)):
        inspect(FAMILIES["bert"].build(), inputs)


# --- Targets ---------------------------------------------------------------------------------------------------------


def named_bert():
    model = FAMILIES["bert"].build()
    model.config.id2label = {0: "bad", 1: "good", 2: "none"}
    model.config.label2id = {"bad": 0, "good": 1, "none": 2}
    return model


TARGETS = {
    "an int": (1, [1, 1, 1]),
    "from the end": (-1, [2, 2, 2]),
    "a tuple": ((1,), [1, 1, 1]),
    "a list": ([1, 0, 2], [1, 0, 2]),
    "a list of tuples": ([(1,), (0,), (2,)], [1, 0, 2]),
    "a tensor": (torch.tensor([1, 0, 2]), [1, 0, 2]),
    "a tensor of one": (torch.tensor(1), [1, 1, 1]),
    "an array": (np.array([1, 0, 2]), [1, 0, 2]),
    "a name": ("good", [1, 1, 1]),
    "names": (["good", "bad", "none"], [1, 0, 2]),
}


@pytest.mark.parametrize("form", TARGETS)
def test_targets_in_every_form_are_shown_with_their_scores(form):
    target, classes = TARGETS[form]
    model, inputs = named_bert(), text_batch()
    found = inspect(model, inputs, target)
    assert found.trusted
    assert found.facts["target"] == ", ".join(map(str, classes))
    scores = model(**inputs).logits[range(3), classes].tolist()
    assert [float(score) for score in found.facts["score"].split(", ")] == pytest.approx(scores, rel=1e-3)


def test_the_predicted_class_is_the_target_if_none_is_given():
    model, inputs = named_bert(), text_batch()
    predicted = model(**inputs).logits.argmax(-1).tolist()
    assert inspect(model, inputs).facts["target"] == ", ".join(map(str, predicted))


def test_the_only_score_needs_no_target():
    found = inspect(Own(lambda m, x: straight(m, x)[:, 1], "fused"), embeddings())
    assert found.trusted
    assert found.facts["target"] == "the only score, the only score, the only score"
    assert found.facts["output"] == "(3,)"


@pytest.mark.parametrize(
    ("target", "shown", "readout"),
    [((2, 1), "(2, 1), (2, 1), (2, 1)", "token 2"), ((-1, 0), "(8, 0), (5, 0), (3, 0)", "tokens 8 | 5 | 3")],
)
def test_tokens_that_have_scores_of_their_own(target, shown, readout):
    model = hf.BertForTokenClassification(FAMILIES["bert"].config()).eval()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.2)
    found = inspect(model, text_batch(), target)
    assert found.trusted
    assert found.facts["readout"] == readout
    assert found.facts["target"] == shown


def test_scores_of_tokens_without_a_target_are_seen_but_not_checked():
    found = inspect(hf.BertForTokenClassification(FAMILIES["bert"].config()).eval(), text_batch())
    assert found.verdict.startswith("not checked: the output has scores for each token")
    assert not found.trusted
    assert [call.role for call in found.calls] == ["explained"] * 3


def test_gradients_need_not_be_checked():
    model = FAMILIES["bert"].build()
    forwards = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    found = inspect(model, text_batch(), 1, check_gradients=False)
    assert found.verdict == "not checked: check_gradients=False"
    assert not found.trusted
    assert errors_by_layer(found) == [None] * 3
    assert len(forwards) == 2  # by plain gradients, and under rules


def test_functions_without_a_rule_are_named():
    class Own(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.model, self.function = FAMILIES["bert"].build(), function

        def forward(self, input_ids, attention_mask):
            return self.function(self.model(input_ids=input_ids, attention_mask=attention_mask).logits)

    def rules(function):
        return inspect(Own(function), text_batch(), 1, check_gradients=False).facts["AttnLRP"]

    def under(function, propagation):
        return inspect(Own(function), text_batch(), 1, propagation=propagation)

    mine, wrong = (ATTNLRP.with_rules("mine", {F.softplus: rule}) for rule in (constant, lambda *_: torch.zeros(2, 2)))
    assert under(F.softplus, mine).facts["rules"] == "a rule for all that bends"
    assert under(F.softplus, mine).trusted
    assert under(F.softplus, wrong).verdict.startswith(
        "refused: the rule for softplus returned torch.float32 (2, 2), where"
    )
    assert under(Hidden.apply, "attnlrp").verdict.startswith("refused, for nothing says what these do")
    assert not under(Hidden.apply, "attnlrp").trusted
    assert under(Hidden.apply, "gradient").trusted
    assert not {"AttnLRP", "rules"} & under(F.softplus, "gradient").facts.keys()
    assert rules(torch.tanh) == "a rule for all that bends"
    assert rules(F.softplus) == "no rule for 'softplus': plain gradients"
    assert rules(Hidden.apply) == "refused, for nothing says what these do: 'Hidden'"


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


# --- Facts -----------------------------------------------------------------------------------------------------------


def test_facts_of_a_text():
    model, inputs = FAMILIES["bert"].build(), text_batch()
    facts = inspect(model, inputs, 1, tokenizer=tokenizer()).facts
    words = [
        [f"w{token}" for token, real in zip(row, mask, strict=True) if real and token > 3]
        for row, mask in zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True)
    ]
    assert facts["model"] == "BertForSequenceClassification"
    assert facts["input"] == "input_ids (3, 9), attention_mask (3, 9)"
    assert facts["output"] == "(3, 3)"
    assert facts["padding"] == "tokens none | 6-8 | 4-8"
    assert facts["players"] == " | ".join(map(", ".join, words))
    assert facts["readout"] == "token 0"
    assert "patches" not in facts


def test_facts_of_a_decoder_that_is_padded_in_front():
    facts = inspect(FAMILIES["gpt2"].build(), text_batch("left"), 1).facts
    assert facts["padding"] == "tokens none | 0-2 | 0-4"
    assert facts["readout"] == "token 8"
    assert facts["masks"] == "causal: no token attends to a later one"


def test_no_padding_is_no_fact():
    inputs = {name: value[:1] for name, value in text_batch().items()}
    assert "padding" not in inspect(FAMILIES["bert"].build(), inputs, 1).facts


@pytest.mark.parametrize(
    ("name", "players", "readout"),
    [
        ("vit", "token 1-9", "token 0"),
        ("deit", "token 2-10", "token 0"),
        ("dinov2", "token 1-9", "all tokens"),
        ("dinov2_registers", "token 3-11", "token 0, 3-11"),
        ("beit", "token 1-9", "token 1-9"),
    ],
)
def test_facts_of_an_image(name, players, readout):
    facts = inspect(FAMILIES[name].build(), image_batch(), 1).facts
    assert facts["patches"] == "3 × 3, of 4 × 4 pixels"
    assert (facts["players"], facts["readout"]) == (players, readout)
    assert facts["input"] == "pixel_values (3, 3, 12, 12)"


def test_patches_whose_places_are_lost_are_said_to_be_unknown():
    class Linear(nn.Module):
        """Patches of 4 × 4 by a linear map."""

        def __init__(self):
            super().__init__()
            self.patches, self.inner = nn.Linear(48, 16), Own(straight, "fused")

        def forward(self, pixel_values):
            cut = pixel_values.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)
            return self.inner(self.patches(cut.flatten(3).flatten(1, 2).sort(-1).values))  # which loses their places

    model = Linear().eval()
    found = inspect(model, torch.rand(2, 3, 12, 12), 1)
    assert not found.trusted  # as an explanation would be
    assert found.verdict.startswith("refused: nothing says which of the model's 9 tokens are patches")
    assert found.facts["patches"].startswith("none that could be found: ")
    assert found.facts["players"] == "unknown: give players="
    given = inspect(model, torch.rand(2, 3, 12, 12), 1, players=torch.ones(2, 9, dtype=torch.bool))
    assert given.facts["players"] == "all tokens"
    assert given.trusted


def test_players_that_are_given_are_shown():
    players = torch.zeros(3, 9, dtype=torch.bool)
    players[:, 1] = players[:, 2] = players[0, 4] = True
    facts = inspect(FAMILIES["bert"].build(), text_batch(), 1, players=players).facts
    assert facts["players"] == "tokens 1-2, 4 | 1-2 | 1-2"


def test_many_examples_and_tokens_are_cut_short():
    found = inspect(Own(straight, "fused"), embeddings(12), 1)
    assert found.facts["target"] == ", ".join(["1"] * 8) + ", …"
    ids = torch.cat([text_batch()["input_ids"]] * 4)
    facts = inspect(FAMILIES["bert"].build(), {"input_ids": ids, "attention_mask": (ids != 1).long()}, 1).facts
    assert facts["players"].endswith(" | …")
    assert facts["players"].count("|") == 3


def test_functions_and_named_arguments_are_taken_as_attribute_takes_them():
    model, inputs = FAMILIES["bert"].build(), text_batch()
    by_name = inspect(
        model, inputs["input_ids"], 1, inputs["attention_mask"], additional_forward_arg_names=["attention_mask"]
    )
    expected = inspect(model, inputs, 1)
    assert by_name.trusted
    assert by_name.calls == expected.calls
    function = inspect(lambda **keywords: model(**keywords).logits, inputs, 1)
    assert function.trusted
    assert [call.module for call in function.calls] == [call.module for call in expected.calls]
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    plain = PlainClassifier().eval()
    assert inspect(
        plain, torch.randn(2, 5, 16), 1, padding, additional_forward_arg_names=["src_key_padding_mask"]
    ).trusted
    assert inspect(plain, torch.randn(2, 5, 16), 1, padding).facts["input"].endswith(", (2, 5) by position")


# --- How it looks ----------------------------------------------------------------------------------------------------


def test_print_shows_the_verdict_facts_and_a_row_for_each_call():
    found = inspect(Own(straight, *LAYERS), embeddings(), 1)
    lines = str(found).splitlines()
    assert lines[0] == found.verdict
    assert lines[1] == ""
    for line, (name, fact) in zip(lines[2:], found.facts.items(), strict=False):
        assert line.startswith(name)
        assert line.endswith(f"  {fact}")
    table = lines[3 + len(found.facts) :]
    assert table[0].split() == ["#", "attention", "code", "shape", "role", "gradient", "off", "by"]
    assert [row.split()[:3] for row in table[1:]] == [
        [str(place), f"layers.{place}", code] for place, code in enumerate(LAYERS)
    ]
    assert all(row.endswith("%") for row in table[1:])


def test_a_notebook_gets_escaped_markup():
    marked = tokenizer()
    marked.convert_ids_to_tokens = lambda ids: ["<b>bold</b> & co"] * len(ids)
    model = Own(straight, "fused")
    model.add_module("<i>layer", Attend())
    model.compute = lambda m, x: m.head(m.get_submodule("<i>layer")(m.layers[0](x))[:, 0])
    page = inspect(FAMILIES["bert"].build(), text_batch(), 1, tokenizer=marked).page()
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; co" in page
    page = inspect(model, embeddings(), 1).page()
    assert "<i>layer" not in page
    assert "&lt;i&gt;layer" in page
    refused = inspect(model, embeddings(), "<b>").page()
    assert "&#x27;&lt;b&gt;&#x27;" in refused
    assert "<b>" not in refused


def test_the_frame_has_a_row_for_each_call():
    found = inspect(FAMILIES["t5"].build(), text_batch(), 1)
    frame = found.frame()
    assert list(frame.columns) == ["number", "module", "code", "shape", "role", "error"]
    assert frame["module"].tolist() == [call.module for call in found.calls]
    assert frame["error"].notna().tolist() == [call.role == "explained" for call in found.calls]
    assert inspect(nn.Flatten(), torch.randn(2, 5, 16)).frame().empty


# --- The model is left as it was, wherever it is asked --------------------------------------------------------------


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_mode_of_the_caller_does_not_matter(context):
    model = FAMILIES["bert"].build()
    expected = inspect(model, text_batch(), 1)
    with context(), left_untouched(model):
        assert inspect(model, text_batch(), 1) == expected


def test_a_model_in_training_keeps_its_mode_weights_and_gradients():
    model = FAMILIES["bert"].build().train()
    model(**text_batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
    with left_untouched(model):
        assert inspect(model, text_batch(), 1).trusted
    pickle.loads(pickle.dumps(model))


def test_the_inspection_keeps_nothing_of_the_model_and_pickles():
    found = inspect(FAMILIES["bert"].build(), text_batch(), 1)
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize("name", ["bert", "llama", "vit"])
def test_float64_is_checked(name):
    family = FAMILIES[name]
    found = inspect(family.build(torch.float64), batch(family, dtype=torch.float64), 1)
    assert found.trusted
    assert max(errors_by_layer(found)) < 0.01


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "vit"])
def test_bfloat16_weights_are_right_but_cannot_be_told(name):
    family = FAMILIES[name]
    found = inspect(family.build(torch.bfloat16), batch(family, dtype=torch.bfloat16), 1)
    assert found.verdict.startswith("not checked")
    assert not found.trusted


@pytest.mark.parametrize("name", ["bert", "gemma2", "t5"])
def test_float16_weights_are_not_called_wrong(name):
    family = FAMILIES[name]
    found = inspect(family.build(torch.float16), batch(family, dtype=torch.float16), 1)
    assert not found.verdict.startswith("do not believe it")


def test_every_way_is_looked_at():
    refused = {"heads first", "sideways", "of states", "sink first"}
    assert WAYS.keys() == _RIGHT.keys() | refused
