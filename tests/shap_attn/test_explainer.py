"""AttentionExplainer: what SHAP users hand over, what they get, and what they do with it."""

from __future__ import annotations

import copy
import pickle
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import shap
import torch
import transformers as hf
from families import FAMILIES
from helpers.small_models import TEXT_MODEL, load_text_model
from models import left_untouched
from own_heads import OWN_HEADS
from tokenizers_of_every_kind import TOKENIZERS, classifier
from torch import nn

from captum_attn import AttnLRP, IntegratedAttnLRP, ShapleyGradAttention
from captum_attn.functional import GAMES, permutation_shapley
from shap_attn import AttentionExplainer

TEXTS = ["a gripping , funny film", "not good at all", "good", "it is slow and a little too long , yet beautiful"]
FORMS = {
    "ragged": TEXTS,
    "equal length": ["a gripping film", "a boring film"],
    "one text": ["a gripping film"],
    "one token": ["good"],
    "N = C = T": ["good film", "bad film"],
    "N = C": ["a good long film", "bad"],
    "with an empty one": ["", "a gripping film"],
}


@pytest.fixture(scope="module")
def model_and_tokenizer():
    return load_text_model()


@pytest.fixture(scope="module")
def pipe():
    return hf.pipeline("text-classification", model=str(TEXT_MODEL))


@pytest.fixture(scope="module")
def explainer(model_and_tokenizer):
    return AttentionExplainer(*model_and_tokenizer)


@pytest.fixture
def three_classes():
    tokenizer = TOKENIZERS["word piece"]()
    return AttentionExplainer(classifier(tokenizer), tokenizer)


def rows_of(explanation):
    return [np.asarray(row, dtype=float) for row in explanation.values]


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(rows_of(left), rows_of(right), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)
    for one, other in zip(left.data, right.data, strict=True):
        assert list(one) == list(other)


# What it is given


def test_every_way_to_hand_over_a_text_model(model_and_tokenizer, pipe, explainer):
    model, tokenizer = model_and_tokenizer
    expected = explainer(TEXTS)
    for given in (
        (pipe,),
        (shap.models.TransformersPipeline(pipe),),
        (model, shap.maskers.Text(tokenizer)),
        (pipe, tokenizer),
    ):
        assert_same(AttentionExplainer(*given)(TEXTS), expected)
    assert expected.output_names == ["negative", "positive"]


@pytest.mark.parametrize("texts", [tuple(TEXTS), np.array(TEXTS), {"text": TEXTS}, [{"text": text} for text in TEXTS]])
def test_every_form_of_texts(explainer, texts):
    assert_same(explainer(texts), explainer(TEXTS))


def test_a_string_is_one_text_and_not_its_characters(explainer):
    assert_same(explainer(TEXTS[0]), explainer(TEXTS[:1]))


def test_pairs(explainer, model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    pairs = [("a gripping film", "not good"), ("bad", "it is slow")]
    explanation = explainer(pairs)
    assert_same(explanation, explainer([first for first, _ in pairs], [second for _, second in pairs]))
    batch = tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt")
    core = ShapleyGradAttention(model, tokenizer=tokenizer).attribute(batch, target=0)
    for row, values, mask in zip(rows_of(explanation), core, batch["attention_mask"].bool(), strict=True):
        np.testing.assert_allclose(row[:, 0], values[mask][1:-1], rtol=1e-4, atol=1e-7)
    assert "".join(explanation.data[0]) == "a gripping film[SEP]not good"


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("sign", ["signed", "rectified"])
def test_values_are_the_cores_and_keywords_reach_it(model_and_tokenizer, game, sign):
    model, tokenizer = model_and_tokenizer
    keywords = {"game": game, "sign": sign, "layers": [1, -1], "heads": 2}
    explanation = AttentionExplainer(model, tokenizer, **keywords)(TEXTS)
    for row, text in enumerate(TEXTS):
        batch = tokenizer(text, return_tensors="pt")
        for target in (0, 1):
            alone = ShapleyGradAttention(model, tokenizer=tokenizer, **keywords).attribute(batch, target=target)
            np.testing.assert_allclose(explanation.values[row][:, target], alone[0, 1:-1], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("readout", [0, "mean"])
def test_the_readout_reaches_the_core(model_and_tokenizer, readout):
    model, tokenizer = model_and_tokenizer
    row = AttentionExplainer(model, tokenizer, game="cls", readout=readout)(TEXTS[:1]).values[0]
    core = ShapleyGradAttention(model, tokenizer=tokenizer, game="cls", readout=readout)
    np.testing.assert_allclose(row[:, 1], core.attribute(tokenizer(TEXTS[0], return_tensors="pt"), 1)[0, 1:-1], 1e-4)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "gpt2", "llama", "modernbert", "t5", "deberta_v2"])
def test_families_one_text_at_a_time_and_together(name):
    tokenizer = TOKENIZERS["byte-level BPE"]()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = FAMILIES[name].config()
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    config.eos_token_id, config.max_position_embeddings = tokenizer.sep_token_id, 64
    torch.manual_seed(0)
    model = FAMILIES[name].model_class._from_config(config).eval()
    explainer = AttentionExplainer(model, tokenizer)
    together, alone = explainer(TEXTS), explainer(TEXTS, batch_size=1)
    assert together.shape == (4, None, 3)
    assert any(np.abs(row).max() > 0 for row in rows_of(together))
    for one, other in zip(rows_of(together), rows_of(alone), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)
    for row, text in enumerate(TEXTS):
        batch = tokenizer(text, return_tensors="pt")
        core = ShapleyGradAttention(model, game="auto", tokenizer=tokenizer).attribute(batch, target=2)
        np.testing.assert_allclose(rows_of(together)[row][:, 2].sum(), core.sum(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_of_padding_does_not_matter(name, side):
    tokenizer = TOKENIZERS["byte-level BPE"]()
    tokenizer.model_input_names, tokenizer.padding_side = ["input_ids", "attention_mask"], side
    config = FAMILIES[name].config()
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    explainer = AttentionExplainer(FAMILIES[name].model_class._from_config(config).eval(), tokenizer)
    assert_same(explainer(TEXTS), explainer(TEXTS, batch_size=1))


def test_a_model_with_another_padding_token_gets_one_text_at_a_time():
    tokenizer = TOKENIZERS["byte-level BPE"]()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = FAMILIES["gpt2"].config()
    config.vocab_size, config.pad_token_id = len(tokenizer), 7
    explainer = AttentionExplainer(FAMILIES["gpt2"].model_class._from_config(config).eval(), tokenizer)
    assert_same(explainer(TEXTS), explainer(TEXTS, batch_size=1))


def test_models_without_a_padding_token_get_one_text_at_a_time():
    tokenizer = TOKENIZERS["byte-level BPE"]()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = FAMILIES["gpt2"].config()
    config.vocab_size, config.pad_token_id = len(tokenizer), None
    model = FAMILIES["gpt2"].model_class._from_config(config).eval()
    alone = AttentionExplainer(model, tokenizer)(TEXTS)
    model.config.pad_token_id = tokenizer.pad_token_id
    assert_same(AttentionExplainer(model, tokenizer)(TEXTS), alone)


def test_a_tokenizer_that_adds_nothing_and_an_empty_text():
    tokenizer = TOKENIZERS["byte-level BPE"]()
    tokenizer.backend_tokenizer.post_processor = None
    explanation = AttentionExplainer(classifier(tokenizer), tokenizer)(["", "a film"])
    assert explanation.values[0].tolist() == [[0, 0, 0]]
    assert explanation.data[0].tolist() == [""]


def test_a_pipelines_own_length_limit_counts():
    pipe = hf.pipeline("text-classification", model=str(TEXT_MODEL), max_length=5, truncation=True)
    with pytest.warns(UserWarning, match="1 of 1 texts are longer than 5 tokens"):
        explanation = AttentionExplainer(pipe)("a gripping , funny film")
    assert "".join(explanation.data[0]) == "a gripping ,"
    del pipe._preprocess_params  # as if a later version of transformers kept it elsewhere
    with pytest.raises(RuntimeError, match="keeps a pipeline's settings elsewhere than versions"):
        AttentionExplainer(pipe)


# What comes back


@pytest.mark.parametrize("texts", FORMS.values(), ids=FORMS)
def test_values_sum_to_the_worth_of_all_players(texts, explainer, model_and_tokenizer):
    """SHAP's additivity check, at 1e-6 and able to fail: v(all) comes from the influence matrix itself."""
    model, tokenizer = model_and_tokenizer
    explanation = explainer(texts)
    core = ShapleyGradAttention(model)
    for row, text in enumerate(texts):
        batch = tokenizer(text, return_tensors="pt", return_special_tokens_mask=True)
        players = batch.pop("special_tokens_mask")[0] == 0
        for target in (0, 1):
            worth = core.influence(batch, target=target)[0][:, players].double().sum() if players.any() else 0
            total = explanation.base_values[row][target] + np.sum(explanation.values[row][:, target])
            np.testing.assert_allclose(total, worth, rtol=1e-5, atol=1e-6)
            assert explanation.base_values[row][target] == 0


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("special_tokens", [False, True])
def test_grouping_and_special_tokens_keep_totals(model_and_tokenizer, explainer, words, special_tokens):
    texts = ["unwatchable drivel , didn't like it", "a [MASK] film", ""]
    plain = explainer(texts)
    other = AttentionExplainer(*model_and_tokenizer, words=words, special_tokens=special_tokens)(texts)
    for one, two in zip(rows_of(plain), rows_of(other), strict=True):
        np.testing.assert_allclose(one.sum(0), two.sum(0), atol=1e-9)
    joined = ["".join(row) for row in other.data]
    assert joined == [f"[CLS]{text}[SEP]" if special_tokens else text for text in texts]
    if words:
        assert "didn't " in list(other.data[0])
        assert len(other.data[0]) < len(plain.data[0]) + 2 * special_tokens


@pytest.mark.parametrize("text", ["", "   ", "[CLS] [SEP]", "[MASK]"])
@pytest.mark.parametrize("outputs", [None, "positive", shap.Explanation.argsort.flip[:1]])
def test_nothing_to_explain_gives_zeros(explainer, text, outputs):
    explanation = explainer([text], outputs=outputs)
    (row,) = rows_of(explanation)
    assert (row == 0).all()
    assert len(row) == len(explanation.data[0]) >= 1
    assert "".join(explanation.data[0]) == text


def test_order_is_restored_whatever_the_batches(explainer):
    texts = [" ".join(["good", "film", "not"][: 1 + i % 3] * (1 + (7 * i) % 5)) for i in range(23)]
    expected = explainer(texts, batch_size=1)
    for size in ("auto", 2, 5, 100):
        assert_same(explainer(texts, batch_size=size), expected)
    assert ["".join(row) for row in expected.data] == texts


def test_one_forward_pass_and_a_backward_pass_for_each_class(three_classes, monkeypatch):
    calls = {"forward": 0, "backward": 0}
    model, backward = three_classes.model, torch.autograd.grad

    def forward_hook(*_):
        calls["forward"] += 1

    def counted(*args, **kwargs):
        calls["backward"] += 1
        return backward(*args, **kwargs)

    three_classes(TEXTS)  # the first time, a model is looked at
    monkeypatch.setattr(torch.autograd, "grad", counted)
    handle = model.register_forward_hook(forward_hook)
    three_classes(TEXTS)
    handle.remove()
    assert calls == {"forward": 1, "backward": 3}


def test_one_class_several_or_all(three_classes):
    names = three_classes.output_names
    everything = three_classes(TEXTS)
    assert everything.output_names == names == ["LABEL_0", "LABEL_1", "LABEL_2"]
    of_numpy = (np.array([2, 0]), [2, 0]), ([np.int64(1)], [1]), (torch.tensor([0, 2]), [0, 2]), (np.array([-1]), [2])
    by_name = (np.array(["LABEL_1", "LABEL_0"]), [1, 0]), (np.array(["LABEL_2", 0], dtype=object), [2, 0])
    for outputs, kept in (
        ([2, 0], [2, 0]),
        (["LABEL_1"], [1]),
        ((0, "LABEL_2"), [0, 2]),
        ([-1], [2]),
        *of_numpy,
        *by_name,
    ):
        explanation = three_classes(TEXTS, outputs=outputs)
        assert explanation.output_names == [names[index] for index in kept]
        for row, whole in zip(rows_of(explanation), rows_of(everything), strict=True):
            np.testing.assert_array_equal(row, whole[:, kept])
    for outputs in (1, "LABEL_1", np.int64(1), np.str_("LABEL_1"), np.array(1), torch.tensor(1), -2):
        single = three_classes(TEXTS, outputs=outputs)
        assert single.output_names == "LABEL_1"
        assert single.base_values.shape == (4,)
        for row, whole in zip(rows_of(single), rows_of(everything), strict=True):
            np.testing.assert_array_equal(row, whole[:, 1])


def test_classes_chosen_by_the_output(three_classes):
    everything = three_classes(TEXTS)
    model, tokenizer = three_classes.model, three_classes.masker
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS])
    best = logits.argsort(-1, descending=True).numpy()
    for outputs, count in (("predicted", 1), (shap.Explanation.argsort.flip[:2], 2)):
        explanation = three_classes(TEXTS, outputs=outputs)
        for row, (values, whole) in enumerate(zip(rows_of(explanation), rows_of(everything), strict=True)):
            np.testing.assert_allclose(values, whole[:, best[row, :count]], atol=1e-7)
            named = explanation[row].output_names
            assert list(named) == [three_classes.output_names[index] for index in best[row, :count]]


def test_output_names_of_ones_own(model_and_tokenizer):
    explainer = AttentionExplainer(*model_and_tokenizer, output_names=["bad", "good"], outputs="good")
    assert explainer(TEXTS).output_names == "good"
    assert explainer(TEXTS, outputs=[0]).output_names == ["bad"]
    for names in ({1: "good", 0: "bad"}, {"1": "good", "0": "bad"}, {"good": 1, "bad": 0}, np.array(["bad", "good"])):
        same = AttentionExplainer(*model_and_tokenizer, output_names=names)
        assert same(TEXTS).output_names == ["bad", "good"]
        assert_same(same(TEXTS, outputs="good"), explainer(TEXTS))
    assert pickle.loads(pickle.dumps(same)).output_names == ["bad", "good"]


def test_explain_row(explainer):
    whole = explainer(TEXTS)
    row = explainer.explain_row(
        TEXTS[1], max_evals=10, main_effects=False, error_bounds=False, outputs=None, silent=True
    )
    np.testing.assert_allclose(row["values"], whole.values[1], rtol=1e-4, atol=1e-7)
    assert row["expected_values"].tolist() == [0, 0]
    assert row["mask_shapes"] == [(4,)]
    assert row["output_names"] == ["negative", "positive"]
    assert explainer.explain_row(TEXTS[1], outputs="positive")["values"].shape == (4, 1)
    assert explainer.explain_row("good", "bad")["mask_shapes"] == [(3,)]


def test_sampled_games_bring_their_error(model_and_tokenizer):
    def game(influence, coalitions):
        return (coalitions.to(influence) @ influence.sum(0)).abs()

    sampled = AttentionExplainer(*model_and_tokenizer, game=game, outputs="positive")(TEXTS)
    exact = AttentionExplainer(*model_and_tokenizer, outputs="positive")(TEXTS)
    assert exact.error_std is None
    for values, errors, row in zip(sampled.values, sampled.error_std, exact.values, strict=True):
        assert values.shape == errors.shape == row.shape
        assert (errors > 0).any() == (len(errors) > 1)  # one player alone needs no sampling


# What SHAP's users do with it


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def explanation(request, explainer):
    return explainer(request.param)


OPERATIONS = {
    "text": lambda e: shap.plots.text(e, display=False),
    "text of a class": lambda e: shap.plots.text(e[:, :, "positive"], display=False),
    "text of a row": lambda e: shap.plots.text(e[0], display=False),
    "text of a row and class": lambda e: shap.plots.text(e[0, :, "positive"], display=False),
    "bar": lambda e: shap.plots.bar(e[0, :, "positive"], show=False),
    "bar of means": lambda e: shap.plots.bar(e[:, :, "positive"].mean(0), show=False),
    "bar of mean magnitudes": lambda e: shap.plots.bar(e[:, :, "positive"].abs.mean(0), show=False),
    "bar of maxima": lambda e: shap.plots.bar(e[:, :, "positive"].abs.max(0), show=False),
    "waterfall": lambda e: shap.plots.waterfall(e[0, :, "positive"], show=False),
    "force": lambda e: shap.plots.force(e[0, :, "positive"], matplotlib=True, show=False),
    "force in JavaScript": lambda e: shap.plots.force(e[0, :, "positive"]).html(),
    "decision": lambda e: shap.plots.decision(
        0.0, e[-1, :, "positive"].values, feature_names=e[-1].feature_names, show=False
    ),
}


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_plots(explanation, operation):
    assert operation(explanation) is not None or plt.gcf().axes


def test_slices(explanation):
    for column, name in enumerate(["negative", "positive"]):
        for row, values in enumerate(rows_of(explanation)):
            np.testing.assert_array_equal(explanation[row][:, name].values, values[:, column])
            for part in (explanation[row, :, name], explanation[:, :, name][row]):
                np.testing.assert_array_equal(part.values, values[:, column])
                assert list(part.data) == list(explanation.data[row])
                assert list(part.feature_names) == list(explanation.feature_names[row])
                assert part.base_values == 0
    assert len(explanation[:1]) == len(explanation[[0]]) == 1
    np.testing.assert_array_equal(explanation[:1].values[0], explanation.values[0])


def test_mean_magnitude_is_over_occurrences(explainer):
    means = explainer(["good film", "good"])[:, :, "positive"].abs.mean(0)
    first, second = rows_of(explainer(["good film", "good"], outputs="positive"))
    assert list(means.feature_names) == ["good", "film"]
    np.testing.assert_allclose(means.values, [(abs(first[0]) + abs(second[0])) / 2, abs(first[1])])


def test_copies_and_pickles(explanation):
    for other in (pickle.loads(pickle.dumps(explanation)), copy.deepcopy(explanation)):
        assert_same(other, explanation)
        assert other.output_names == explanation.output_names


@pytest.mark.parametrize("texts", FORMS.values(), ids=FORMS)
def test_one_output_alone_works_like_its_slice(explainer, texts):
    single, slice_of_all = explainer(texts, outputs="positive"), explainer(texts)[:, :, "positive"]
    assert_same(single, slice_of_all)
    assert single.output_names == slice_of_all.output_names == "positive"
    assert np.shape(single.base_values) == np.shape(slice_of_all.base_values)
    shap.plots.bar(single.abs.mean(0), show=False)
    shap.plots.waterfall(single[0], show=False)
    assert shap.plots.text(single, display=False)


# What it leaves as it was, and what it refuses


def test_the_model_stays_as_it_was(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    explainer = AttentionExplainer(model, tokenizer)
    before = np.random.get_state()[1].copy()
    with left_untouched(model):
        explainer(TEXTS)
        with pytest.raises(IndexError):
            explainer(TEXTS, outputs=[7])
    assert (np.random.get_state()[1] == before).all()
    model.train()
    with left_untouched(model):
        assert_same(explainer(TEXTS), AttentionExplainer(*load_text_model())(TEXTS))
    model.eval()


def test_works_without_gradients_around_it(explainer):
    expected = explainer(TEXTS)
    with torch.no_grad():
        assert_same(explainer(TEXTS), expected)
    with torch.inference_mode():
        assert_same(explainer(TEXTS), expected)


@pytest.mark.filterwarnings("ignore:.*were cut")
def test_threads_may_share_an_explainer(explainer):
    jobs = [["good film " * (80 if index % 2 else 3), "not good"] for index in range(12)]
    alone = [explainer(texts, silent=True) for texts in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda texts: explainer(texts, silent=True), jobs))
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


def test_threads_take_turns_at_the_tokenizer_whose_truncation_they_share(model_and_tokenizer, explainer, monkeypatch):
    kind = type(model_and_tokenizer[1])
    call, inside, crowded = kind.__call__, [], []

    def slow(*args, **kwargs):
        inside.append(1)
        crowded.append(len(inside) > 1)
        time.sleep(0.002)
        try:
            return call(*args, **kwargs)
        finally:
            inside.pop()

    monkeypatch.setattr(kind, "__call__", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda text: explainer([text], silent=True), ["good film", "not good"] * 6))
    assert len(crowded) >= 12
    assert not any(crowded)


def test_half_precision(model_and_tokenizer, explainer):
    model, tokenizer = model_and_tokenizer
    half = AttentionExplainer(copy.deepcopy(model).to(torch.bfloat16), tokenizer)
    for row, exact in zip(rows_of(half(TEXTS)), rows_of(explainer(TEXTS)), strict=True):
        assert np.linalg.norm(row - exact) < 0.2 * np.linalg.norm(exact)


class Plain(nn.Module):
    """A classifier without a configuration."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(8000, 16)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
        self.head = nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        return self.head(self.encoder(self.embedding(input_ids), src_key_padding_mask=attention_mask == 0)[:, 0])


def test_a_model_without_a_configuration(model_and_tokenizer):
    explainer = AttentionExplainer(Plain().eval(), model_and_tokenizer[1])
    explanation = explainer(TEXTS)
    assert explanation.output_names == ["Output 0", "Output 1"]
    assert_same(explanation, explainer(TEXTS, batch_size=1))


@pytest.mark.parametrize("head", OWN_HEADS)
def test_a_configuration_of_other_classes_names_nothing(model_and_tokenizer, head):
    model, tokenizer = head(), model_and_tokenizer[1]
    explanation = AttentionExplainer(model, tokenizer)(TEXTS)
    assert explanation.output_names == [f"Output {index}" for index in range(5)]
    named = AttentionExplainer(model, tokenizer, output_names=list("abcde"))
    assert named(TEXTS).output_names == list("abcde")
    for outputs in ("e", 4, -1):
        assert_same(named(TEXTS, outputs=outputs), explanation[:, :, 4])
    assert AttentionExplainer(model, tokenizer, outputs=4)(TEXTS).output_names == "Output 4"
    assert AttentionExplainer(model, tokenizer).explain_row("good")["output_names"] is None
    assert named.explain_row("good", outputs=[3])["output_names"] == list("abcde")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    expected = ShapleyGradAttention(model, tokenizer=tokenizer).attribute(batch, target=4)
    for row, values, length in zip(rows_of(explanation), expected, batch["attention_mask"].sum(1), strict=True):
        np.testing.assert_allclose(row[:, 4], values[1 : length - 1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("head", OWN_HEADS)
def test_names_that_do_not_fit_are_refused(model_and_tokenizer, head):
    model, tokenizer = head(), model_and_tokenizer[1]
    with left_untouched(model):
        for outputs in (None, "a", 0, "predicted", shap.Explanation.argsort.flip[:1]):
            named = AttentionExplainer(model, tokenizer, output_names=["a", "b", "c"], outputs=outputs)
            with pytest.raises(ValueError, match="3 output_names, but the model has 5 classes"):
                named("good")
        with pytest.raises(ValueError, match="one of the configuration's 2 names, but the model has 5 outputs"):
            AttentionExplainer(model, tokenizer, outputs="positive")("good")
        with pytest.raises(IndexError, match=r"5 is out of range for 5 classes$"):
            AttentionExplainer(model, tokenizer, outputs=5)("good")


def test_names_of_other_numbers_than_the_outputs(model_and_tokenizer):
    model = copy.deepcopy(model_and_tokenizer[0])
    model.config.id2label = {1: "one", 2: "two"}
    assert AttentionExplainer(model, model_and_tokenizer[1])("good").output_names == ["Output 0", "Output 1"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (lambda m, t: (lambda x: x, t), TypeError, "model is a function, expected a transformers pipeline"),
        (lambda m, t: (m,), ValueError, "BertForSequenceClassification needs its tokenizer"),
        (lambda m, t: (m, "bert"), TypeError, "masker is a str"),
        (lambda m, t: (m, shap.maskers.Text()), TypeError, "masker is a SimpleTokenizer"),
        (
            lambda m, t: (hf.T5ForConditionalGeneration(hf.T5Config(d_model=8, d_ff=8, d_kv=4, num_layers=1)), t),
            ValueError,
            "is an encoder-decoder that writes text",
        ),
        (lambda m, t: (FAMILIES["vit"].build(), t), TypeError, "takes pixels, but masker is a BertTokenizer"),
        (lambda m, t: (m, hf.ViTImageProcessorPil()), TypeError, "takes text, but masker is a ViTImageProcessorPil"),
        (lambda m, t: (m, np.array(TEXTS)), TypeError, "masker is a ndarray"),
        (
            lambda m, t: (hf.pipeline("fill-mask", model=hf.BertForMaskedLM(m.config), tokenizer=t),),
            ValueError,
            "'fill-mask'",
        ),
    ],
)
def test_what_it_cannot_explain(model_and_tokenizer, arguments, error, message):
    with pytest.raises(error, match=message):
        AttentionExplainer(*arguments(*model_and_tokenizer))


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"game": "poker"}, ValueError, "unknown game 'poker'"),
        ({"sign": "both"}, ValueError, "sign must be"),
        ({"outputs": "neutral"}, ValueError, "no class has the name 'neutral', expected one of"),
        ({"outputs": [0.5]}, TypeError, "0.5 is no class"),
        ({"outputs": np.array([0.5])}, TypeError, "0.5 is no class"),
        ({"outputs": True}, TypeError, "outputs is True"),
        ({"outputs": [0, True]}, TypeError, "True is no class"),
        ({"outputs": np.array([False, True])}, TypeError, "False is no class"),
        ({"outputs": np.array([])}, TypeError, "outputs is array"),
        ({"readout": True}, ValueError, "readout must be"),
        ({"outputs": []}, TypeError, r"outputs is \[\], expected a class"),
        ({"output_names": "ab"}, ValueError, "output_names is 'ab', expected a list of names"),
        ({"output_names": {"a", "b"}}, ValueError, "expected a list of names"),
        ({"output_names": {1: "a", 2: "b"}}, ValueError, "a mapping from the numbers 0, 1"),
        ({"output_names": {"a": 0, "b": 0}}, ValueError, "a mapping from the numbers 0, 1"),
        ({"output_names": {0: 1, 1: 0}}, ValueError, "a mapping from the numbers 0, 1"),
        ({"output_names": ["a", "a"], "outputs": "a"}, ValueError, r"'a' is the name of the classes \[0, 1\]"),
        ({"output_names": ["a", "b", "a"], "outputs": ["b", "a"]}, ValueError, r"classes \[0, 2\]: give the number"),
        ({"output_names": ["a", "b", "c"], "outputs": 3}, IndexError, "3 is out of range for 3 classes"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"gmae": "cls"}, TypeError, "unexpected keyword argument 'gmae': did you mean 'game'?"),
        ({"outputs": slice(0, 1)}, TypeError, "outputs is slice"),
        ({"max_length": 2}, ValueError, "leaves no token"),
    ],
)
def test_bad_keywords(model_and_tokenizer, keywords, error, message):
    with pytest.raises(error, match=message):
        AttentionExplainer(*model_and_tokenizer, **keywords)


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (["good", None], TypeError, "text 1 is None"),
        (["good", 3.5], TypeError, r"text 1 is 3.5 \(float\)"),
        (None, TypeError, "got None"),
        ([], ValueError, "no texts"),
    ],
)
def test_bad_texts(explainer, texts, error, message):
    with pytest.raises(error, match=message), left_untouched(explainer.model):
        explainer(texts)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: e(), TypeError, "got 0 positional arguments, expected texts"),
        (lambda e: e("a", "b", "c"), TypeError, "got 3 positional arguments"),
        (lambda e: e("a", words=True), TypeError, "'words' is an argument of the constructor"),
        (lambda e: e("a", output=1), TypeError, "did you mean 'outputs'"),
        (lambda e: e("a", outputs=shap.Explanation.abs.max(0)), ValueError, "expected numbers of classes"),
        (lambda e: e("a", outputs=7), IndexError, r"7 is out of range for 2 classes, \['negative', 'positive'\]"),
        (lambda e: e("a", outputs=[0, -3]), IndexError, "-3 is out of range"),
    ],
)
def test_bad_calls(explainer, call, error, message):
    with pytest.raises(error, match=message):
        call(explainer)


def test_a_class_may_be_called_predicted(model_and_tokenizer):
    explainer = AttentionExplainer(*model_and_tokenizer, output_names=["predicted", "other"], outputs="predicted")
    assert explainer(TEXTS).output_names == "predicted"
    assert explainer(TEXTS).shape == (4, None)


def test_wrapped_models(model_and_tokenizer, explainer):
    model, tokenizer = model_and_tokenizer
    for wrapped in (torch.compile(model), nn.DataParallel(model)):
        assert_same(AttentionExplainer(wrapped, tokenizer)(TEXTS), explainer(TEXTS))


def test_settings_of_sampling_belong_to_the_estimator(model_and_tokenizer):
    explainer = AttentionExplainer(*model_and_tokenizer, estimator=permutation_shapley)
    with pytest.warns(UserWarning, match="max_evals=10 has no effect: set it in the estimator"):
        explainer("good", max_evals=10)


def test_a_pipelines_other_settings_are_warned_of():
    pipe = hf.pipeline("text-classification", model=str(TEXT_MODEL), add_special_tokens=False)
    with pytest.warns(UserWarning, match="'add_special_tokens': False} are not followed"):
        AttentionExplainer(pipe)


def test_it_shows_what_it_is(explainer):
    assert repr(explainer).startswith("AttentionExplainer(BertForSequenceClassification, BertTokenizer, game='auto'")


def test_an_output_that_is_not_of_classes(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    tagger = hf.BertForTokenClassification(model.config)
    with pytest.raises(ValueError, match=r"expected scores of classes .*ShapleyGradAttention"):
        AttentionExplainer(tagger, tokenizer)(TEXTS)


@pytest.mark.parametrize(
    "harmless",
    [
        {"max_evals": 10**9},
        {"max_evals": "auto", "main_effects": False, "error_bounds": False},
        {"seed": 1, "algorithm": "auto", "linearize_link": True, "feature_names": None},
        {"link": shap.links.identity, "fixed_context": None},
    ],
)
def test_shap_arguments_that_change_nothing_are_silent(model_and_tokenizer, explainer, harmless):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(explainer(TEXTS, **harmless), explainer(TEXTS))
        AttentionExplainer(*model_and_tokenizer, **harmless)


@pytest.mark.parametrize(
    "ignored",
    [
        {"link": shap.links.logit},
        {"algorithm": "permutation"},
        {"main_effects": True},
        {"error_bounds": True},
        {"fixed_context": 1},
        {"feature_names": ["a", "b"]},
    ],
)
def test_shap_arguments_that_ask_for_something_else_warn(model_and_tokenizer, explainer, ignored):
    (name,) = ignored
    with pytest.warns(UserWarning, match=f"{name}=.* has no effect") as caught:
        explainer(TEXTS[:1], **ignored)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=f"{name}=.* has no effect"):
        AttentionExplainer(*model_and_tokenizer, **ignored)


def test_many_classes_get_a_warning():
    tokenizer = TOKENIZERS["word piece"]()
    explainer = AttentionExplainer(classifier(tokenizer, classes=120), tokenizer)
    with pytest.warns(UserWarning, match="120 backward passes"):
        assert explainer("a film").shape == (1, 2, 120)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer("a film", outputs="predicted")


# --- Other methods ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "method"), [("attnlrp", AttnLRP), ("integrated_attnlrp", IntegratedAttnLRP)])
def test_relevance_of_the_input_is_what_captums_class_says(name, method, tmp_path):
    model, tokenizer = load_text_model()
    texts = ["a gripping film", "not good at all"]
    explainer = AttentionExplainer(model, tokenizer, method=name)
    found = explainer(texts, silent=True)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    for target in (0, 1):
        expected = method(model, tokenizer=tokenizer).attribute(batch, target=target)
        assert found[0].values[:, target] == pytest.approx(expected[0, 1:4].numpy(), abs=1e-5)
    explainer.save(tmp_path / "explainer")
    again = AttentionExplainer.load(tmp_path / "explainer")(texts, silent=True)
    assert found[1].values == pytest.approx(again[1].values)
    own = AttentionExplainer(model, tokenizer, method=partial(method, tokenizer=tokenizer))(texts, silent=True)
    assert found[1].values == pytest.approx(own[1].values)


def test_the_game_is_played_on_gradients_under_rules():
    model, tokenizer = load_text_model()
    found = AttentionExplainer(model, tokenizer, propagation="attnlrp")(["a gripping film"], silent=True)
    batch = tokenizer("a gripping film", return_tensors="pt")
    expected = ShapleyGradAttention(model, propagation="attnlrp", tokenizer=tokenizer).attribute(batch, target=1)
    assert found[0].values[:, 1] == pytest.approx(expected[0, 1:4].numpy(), abs=1e-5)


def test_methods_and_settings_that_do_not_fit_are_named():
    model, tokenizer = load_text_model()
    with pytest.raises(ValueError, match=r"game, layers would have no effect with method='attnlrp'"):
        AttentionExplainer(model, tokenizer, method="attnlrp", game="cls", layers=1)
    with pytest.raises(ValueError, match=r"method must be 'game', 'attnlrp', 'integrated_attnlrp', or a function"):
        AttentionExplainer(model, tokenizer, method="lrp")
    with pytest.raises(TypeError, match=r"method must be a function of the model, got AttnLRP"):
        AttentionExplainer(model, tokenizer, method=AttnLRP(model))
    by_cp = AttentionExplainer(model, tokenizer, method="attnlrp", propagation="cp")(["a film"], silent=True)
    expected = AttnLRP(model, propagation="cp", tokenizer=tokenizer).attribute(
        tokenizer("a film", return_tensors="pt"), 1
    )
    assert by_cp[0].values[:, 1] == pytest.approx(expected[0, 1:3].numpy(), abs=1e-5)
    with pytest.raises(TypeError, match=r"method returned int, expected an attribution of captum_attn"):
        AttentionExplainer(model, tokenizer, method=lambda module: 3)
