"""Evaluations side by side, against plain loops over single texts and images."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from captum.attr import LayerIntegratedGradients, Saliency
from families import FAMILIES, text_batch
from helpers.small_models import digits, load_image_model, load_text_model
from models import left_untouched
from torch.nn.functional import softmax
from torchmetrics.functional.classification import multiclass_f1_score
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from captum_attn import ShapleyAttention, ShapleyGradAttention
from captum_attn.bench import MaskedModel, WithArguments
from captum_attn.functional import PERCENTAGES, aopc
from captum_attn.metrics import CATALOGUE, Evaluation, evaluate

TEXTS = [
    "a gripping , funny film that never lets go",
    "dull",
    "not good at all , and far too long",
    "the cast is a delight",
    "one of the worst films of the year , without a doubt",
]
LABELS = [1, 0, 0, 1, 1]
SHARES = (0, 10, 20, 50, 100)
REMOVALS = ("top removed", "top kept", "bottom removed")


@pytest.fixture(scope="module")
def text_model():
    return load_text_model()


@pytest.fixture(scope="module")
def image_model():
    return load_image_model()


def with_ties(batch, targets):
    """Scores with many ties that depend on the ids alone."""
    return ((batch["input_ids"] * 7919) % 5).float()


def run(text_model, methods=None, data=TEXTS, **options):
    model, tokenizer = text_model
    options = {"tokenizer": tokenizer, "percentages": SHARES, "show_progress": False, **options}
    return evaluate(model, data, {"ties": with_ties} if methods is None else methods, **options)


def loop(text_model, text, intervention):
    """Probabilities by removal and percentage, one text and one set of tokens at a time."""
    model, tokenizer = text_model
    ids = tokenizer(text)["input_ids"]
    players = [place for place, token in enumerate(ids) if token not in tokenizer.all_special_ids]
    scores = with_ties({"input_ids": torch.tensor([ids])}, None)[0].tolist()
    order = sorted(players, key=lambda place: (-scores[place], place))

    def probability(taken, target=None):
        row, mask = torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long)
        for place in taken:
            if intervention == "replacement":
                row[0, place] = tokenizer.mask_token_id
            else:
                mask[0, place] = 0  # of a BERT, the same as blocking its key everywhere
        with torch.no_grad():
            p = model(input_ids=row, attention_mask=mask).logits.softmax(-1)[0]
        return p if target is None else p[target].item()

    target = int(probability([]).argmax())
    counts = [math.ceil(len(order) * share / 100) for share in SHARES]
    return {
        "whole": probability([], target),
        "top removed": [probability(order[:count], target) for count in counts],
        "top kept": [probability(order[count:], target) for count in counts],
        "bottom removed": [probability(order[len(order) - count :], target) for count in counts],
    }


@pytest.mark.parametrize("intervention", ["replacement", "knockout"])
def test_everything_is_what_a_loop_over_single_texts_finds(text_model, intervention):
    result = run(text_model, interventions=[intervention])
    found, whole = {removal: torch.zeros(len(SHARES)) for removal in REMOVALS}, torch.zeros(())
    comprehensiveness, reversed_ones, sufficiency = [], [], []
    used = [SHARES.index(share) for share in PERCENTAGES["paper"]]
    for text in TEXTS:
        one = loop(text_model, text, intervention)
        whole += one["whole"] / len(TEXTS)
        for removal in REMOVALS:
            found[removal] += torch.tensor(one[removal]) / len(TEXTS)
        drops = {removal: sum(one["whole"] - one[removal][place] for place in used) / 5 for removal in REMOVALS}
        comprehensiveness.append(drops["top removed"])
        reversed_ones.append(drops["bottom removed"])
        sufficiency.append(drops["top kept"])
    curves = result.curves()
    for removal in REMOVALS:
        mine = curves[(curves.method == "ties") & (curves.removal == removal)]
        assert mine.percentage.tolist() == list(SHARES)
        assert mine.probability.tolist() == pytest.approx(found[removal].tolist(), abs=1e-5)
    each = result.scores(["comprehensiveness", "sufficiency"], scale="paper").set_index("example").sort_index()
    each = each[each.method == "ties"]
    for metric, ranking, expected in (
        ("comprehensiveness", "scores", comprehensiveness),
        ("comprehensiveness", "reversed", reversed_ones),
        ("sufficiency", "scores", sufficiency),
    ):
        mine = each[(each.metric == metric) & (each.ranking == ranking)].value
        assert mine.tolist() == pytest.approx(expected, abs=1e-5)
        row = result.table([metric], scale="paper").query("method == 'ties' and ranking == @ranking")
        errors = torch.tensor(expected)
        assert row["mean"].item() == pytest.approx(errors.mean().item(), abs=1e-5)
        assert row.standard_error.item() == pytest.approx((errors.std() / 5**0.5).item(), abs=1e-5)
        assert row.n.item() == 5


@pytest.mark.parametrize("replacement", ["mean", "zeros"])
def test_images_too(image_model, replacement):
    images = digits()[2][:3]

    def brightness(batch, targets):
        return batch["pixel_values"]

    result = evaluate(
        image_model, images, {"bright": brightness}, percentages=[50], replacement=replacement, show_progress=False
    )
    size = image_model.config.patch_size
    found = []
    for image in images:
        patches = [image[:, r : r + size, c : c + size] for r in range(0, 8, size) for c in range(0, 8, size)]
        order = sorted(range(len(patches)), key=lambda place: (-patches[place].sum().item(), place))
        filling = sum(patches) / len(patches) if replacement == "mean" else torch.zeros_like(patches[0])
        changed = image.clone()
        for place in order[: math.ceil(len(patches) / 2)]:
            r, c = divmod(place, 8 // size)
            changed[:, r * size : (r + 1) * size, c * size : (c + 1) * size] = filling
        with torch.no_grad():
            whole = image_model(image[None]).logits.softmax(-1)[0]
            found.append(image_model(changed[None]).logits.softmax(-1)[0, whole.argmax()].item())
    curves = result.curves().query("method == 'bright' and removal == 'top removed'")
    assert curves.probability.item() == pytest.approx(sum(found) / 3, abs=1e-5)


def test_batches_do_not_matter(text_model):
    model, tokenizer = text_model
    methods = {"gradients": ShapleyGradAttention(model, tokenizer=tokenizer), "ties": with_ties}
    both = ("replacement", "knockout")
    metrics = ["comprehensiveness", "sufficiency", "log_odds", "deletion", "insertion", "f1_macro"]
    tables = [
        run(text_model, methods, interventions=both, labels=LABELS, batch_size=size).table(metrics, scale="paper")
        for size in (1, 2, 32)
    ]
    assert {"gradients", "ties", "random"} == set(tables[0].method)
    for table in tables[1:]:
        torch.testing.assert_close(torch.tensor(table["mean"]), torch.tensor(tables[0]["mean"]), rtol=1e-4, atol=1e-5)


def test_nothing_taken_and_everything_taken(text_model):
    curves = run(text_model, interventions=["replacement", "knockout"]).curves()
    whole = sum(loop(text_model, text, "replacement")["whole"] for text in TEXTS) / 5
    for _, part in curves.groupby(["method", "intervention"]):
        by = part.set_index(["removal", "percentage"]).probability
        assert by["top removed", 0] == pytest.approx(whole, abs=1e-5)
        assert by["top kept", 100] == pytest.approx(whole, abs=1e-5)
        assert by["top removed", 100] == pytest.approx(by["top kept", 0], abs=1e-6)
        if "bottom removed" in by:
            assert by["bottom removed", 0] == pytest.approx(whole, abs=1e-5)
            assert by["bottom removed", 100] == pytest.approx(by["top kept", 0], abs=1e-6)


def test_a_text_of_one_token_is_taken_as_a_whole(text_model):
    result = run(text_model, data=["dull"], percentages=[0, 1, 50])
    by = result.curves().query("method == 'ties'").set_index(["removal", "percentage"]).probability
    assert by["top removed", 1] == by["top removed", 50] == by["top kept", 0]
    assert by["top kept", 1] == by["top removed", 0]


def test_every_distinct_input_is_asked_once_for_all_methods(text_model):
    model, tokenizer = text_model
    seen = []

    def counting(input_ids, attention_mask, token_type_ids=None):
        seen.extend(row.tolist() for row in input_ids)
        return model(input_ids=input_ids, attention_mask=attention_mask)

    run((counting, tokenizer), {"ties": with_ties}, data=TEXTS[:1])  # the first time, a model is looked at
    seen.clear()
    run((counting, tokenizer), {"ties": with_ties}, data=TEXTS[:1])
    alone = len(seen)
    seen.clear()
    run((counting, tokenizer), {f"ties {number}": with_ties for number in range(5)}, data=TEXTS[:1])
    assert len(seen) == alone
    assert len({tuple(row) for row in seen}) == len(seen)


def test_f1_is_torchmetrics_own_of_predictions_from_a_fifth_of_the_tokens(text_model):
    model, tokenizer = text_model
    predictions = []
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        inner = list(range(1, ids.shape[1] - 1))
        scores = with_ties({"input_ids": ids}, None)[0]
        kept = sorted(inner, key=lambda place: (-scores[place], place))[: math.ceil(len(inner) / 5)]
        ids[0, [place for place in inner if place not in kept]] = tokenizer.mask_token_id
        with torch.no_grad():
            predictions.append(int(model(ids).logits.argmax()))
    table = run(text_model, labels=torch.tensor(LABELS)).table(["f1_macro", "f1_weighted"])
    for metric in ("macro", "weighted"):
        expected = multiclass_f1_score(torch.tensor(predictions), torch.tensor(LABELS), 2, average=metric)
        row = table[(table.method == "ties") & (table.metric == f"f1_{metric}")]
        assert row["mean"].item() == pytest.approx(expected.item())
        assert 0 < row.standard_error.item() < 0.5


def test_a_bootstrap_in_one_call_is_that_of_its_draws(text_model):
    result = run(text_model, labels=torch.tensor(LABELS))
    for name in ("f1_macro", "f1_weighted"):
        one_by_one = replace(CATALOGUE[name], name="one_by_one", vectorized=False)
        at_once, alone = (table.set_index("method") for table in map(result.table, ([name], [one_by_one])))
        errors = at_once.standard_error
        assert errors.tolist() == pytest.approx(alone.standard_error[errors.index].tolist(), abs=1e-6)


def test_aopc_curves_are_those_of_the_examples(text_model):
    result = run(text_model)
    ones = [loop(text_model, text, "replacement") for text in TEXTS]
    whole = torch.tensor([one["whole"] for one in ones])
    removed = torch.tensor([one["top removed"] for one in ones])
    mine = result.curves().query("method == 'ties' and removal == 'top removed'").aopc
    assert mine.tolist() == pytest.approx(aopc(whole, removed).mean(0).tolist(), abs=1e-5)
    kept = torch.tensor([one["top kept"] for one in ones]).flip(-1)
    mine = result.curves().query("method == 'ties' and removal == 'top kept'").aopc
    assert mine.tolist() == pytest.approx(aopc(whole, kept).mean(0).flip(-1).tolist(), abs=1e-5)


def test_deletion_loses_the_top_and_insertion_keeps_it(text_model):
    table = run(text_model).table(["deletion", "insertion", "log_odds"], scale="paper").query("method == 'ties'")
    found = table[table.ranking == "scores"].set_index("metric")["mean"]
    ones = [loop(text_model, text, "replacement") for text in TEXTS]
    for metric, removal in (("deletion", "top removed"), ("insertion", "top kept")):
        curves = torch.tensor([one[removal] for one in ones])
        area = torch.trapezoid(curves, torch.tensor(SHARES) / 100).mean()
        assert found[metric] == pytest.approx(area.item(), abs=1e-5)
    logs = [math.log(one["top removed"][i] / one["whole"]) for one in ones for i in (0, 1, 2, 3)]
    assert found["log_odds"] == pytest.approx(sum(logs) / len(logs), abs=1e-4)


def test_curves_have_the_standard_error_of_the_examples(text_model):
    ones = torch.tensor([loop(text_model, text, "replacement")["top removed"] for text in TEXTS])
    mine = run(text_model).curves().query("method == 'ties' and removal == 'top removed'").standard_error
    assert mine.tolist() == pytest.approx((ones.std(0) / 5**0.5).tolist(), abs=1e-5)
    assert run(text_model, data=TEXTS[:1]).curves().standard_error.isna().all()


def test_a_knockout_may_concern_some_layers(text_model):
    tables = {
        layers: run(text_model, interventions=["knockout"], layers=layers).curves().query("method == 'ties'")
        for layers in (None, 0, (0, 1, 2, 3))
    }
    probabilities = {layers: table.probability.tolist() for layers, table in tables.items()}
    assert probabilities[None] == pytest.approx(probabilities[0, 1, 2, 3], abs=1e-6)
    assert probabilities[0] != pytest.approx(probabilities[None], abs=1e-3)


def test_random_scores_follow_the_seed(text_model):
    means = [run(text_model, {}, seed=seed).table(["deletion"])["mean"][0] for seed in (0, 0, 1)]
    assert means[0] == means[1]
    assert means[0] != means[2]


def test_f1_and_its_error_are_those_of_each_method(text_model):
    texts, labels = TEXTS * 8, LABELS * 8
    opposite = {"good": with_ties, "bad": lambda batch, targets: -with_ties(batch, targets)}
    table = run(text_model, opposite, data=texts, labels=labels).table(["f1_weighted"]).set_index("method")
    assert len(set(table["mean"].round(4))) > 1
    share = table["mean"]["random"]
    binomial = (share * (1 - share) / len(texts)) ** 0.5  # about that of an accuracy
    assert binomial / 2 < table.standard_error["random"] < 2 * binomial


# Methods


def test_captums_own_methods_and_functions_of_any_shape_are_taken(text_model, image_model):
    model, _ = text_model

    def logits(input_ids, attention_mask):
        return model(input_ids=input_ids, attention_mask=attention_mask).logits

    integrated = LayerIntegratedGradients(logits, model.get_input_embeddings())

    def by_hand(batch, targets):
        arguments = (batch["attention_mask"],)
        return integrated.attribute(batch["input_ids"], target=targets, additional_forward_args=arguments).sum(-1)

    frame = run(text_model, {"captum": integrated, "by hand": by_hand}).scores(["insertion"])
    values = {method: part.value.tolist() for method, part in frame.groupby("method")}
    assert values["captum"] == pytest.approx(values["by hand"])
    images = digits()[2][:2]
    saliency = Saliency(lambda pixels: image_model(pixels).logits)
    result = evaluate(image_model, images, {"saliency": saliency}, percentages=[50], show_progress=False)
    assert result.methods == ("saliency", "random")


def test_an_object_of_ones_own_that_explains_tokens_is_taken(text_model):
    class Mine:
        def attribute_tokens(self, inputs, target=None, *, players=None):
            assert players.shape == inputs["input_ids"].shape
            return SimpleNamespace(values=with_ties(inputs, target))

    values = (
        run(text_model, {"mine": Mine(), "ties": with_ties})
        .scores(["insertion"])
        .pivot(columns="method", values="value")
    )
    assert values.mine.dropna().tolist() == values.ties.dropna().tolist()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda input_ids, temperature=1.0, attention_mask=None: None, "the texts are padded, and the function is not"),
        (lambda input_ids, **others: None, "the texts are padded, and the function is not told where"),
        (lambda ids, segments, m: None, "nothing says which segments, m are: name them as the model does"),
    ],
)
def test_a_function_that_would_not_know_of_padding_is_refused(text_model, function, message):
    integrated = LayerIntegratedGradients(function, text_model[0].get_input_embeddings())
    with pytest.raises(ValueError, match=message):
        run(text_model, {"captum": integrated})


def test_captums_methods_take_arguments_of_their_own(text_model):
    model, tokenizer = text_model

    def logits(input_ids, attention_mask):
        return model(input_ids=input_ids, attention_mask=attention_mask).logits

    integrated = LayerIntegratedGradients(logits, model.get_input_embeddings())

    def masks(ids):
        return torch.full_like(ids, tokenizer.mask_token_id)

    def by_hand(batch, targets):
        ids, mask = batch["input_ids"], batch["attention_mask"]
        found = integrated.attribute(ids, masks(ids), targets, additional_forward_args=(mask,), n_steps=7)
        return found.sum(-1)

    methods = {"own": WithArguments(integrated, n_steps=7, baselines=masks), "by hand": by_hand, "usual": integrated}
    frame = run(text_model, methods).scores(["insertion"])
    values = {method: part.value.tolist() for method, part in frame.groupby("method")}
    assert values["own"] == pytest.approx(values["by hand"])
    assert values["own"] != pytest.approx(values["usual"], abs=1e-4)
    for wrong in ({"steps": 7}, {"target": 1}, {"return_convergence_delta": True}):
        with pytest.raises(
            TypeError, match=r"LayerIntegratedGradients.attribute does not take .* here, expected some of"
        ):
            WithArguments(integrated, **wrong)
    with pytest.raises(TypeError, match="expected one of captum's attributions, got ShapleyAttention"):
        WithArguments(ShapleyAttention(model))


def test_a_planted_truth_is_found_by_gradients_and_not_by_chance():
    """A word decides; the others are noise."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    keywords = torch.tensor([[10, 11], [12, 13]])  # of class 0 and of class 1

    def made(count):
        ids = torch.randint(14, 40, (count, 12))
        ids[:, 0], ids[:, -1] = 1, 2
        labels, place = torch.randint(2, (count,)), torch.randint(1, 11, (count,))
        ids[torch.arange(count), place] = keywords[labels, torch.randint(2, (count,))]
        return ids, labels, place

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        ids, labels, _ = made(64)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    ids, labels, place = made(60)
    with torch.no_grad():
        assert (model(input_ids=ids).logits.argmax(-1) == labels).float().mean() > 0.95
    truth = torch.zeros(60, 12).scatter(1, place[:, None], 1.0)
    methods = {
        "truth": lambda batch, targets: (batch["input_ids"].unsqueeze(-1) == keywords.flatten()).any(-1).float(),
        "incoming": ShapleyGradAttention(model),
        "cls": ShapleyGradAttention(model, game="cls"),
        "rectified cls": ShapleyGradAttention(model, game="cls", sign="rectified"),
        "rectified mutual": ShapleyGradAttention(model, game="mutual", sign="rectified"),
    }
    players = torch.zeros(60, 12, dtype=torch.bool)
    players[:, 1:-1] = True
    result = evaluate(
        model,
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        methods,
        replacement=3,
        rationales=truth.bool(),
        show_progress=False,
    )
    table = result.table(["comprehensiveness", "token_f1"]).query("ranking == 'scores'")
    found = table.set_index(["method", "metric"])["mean"]
    assert found["truth", "token_f1"] == 1.0
    for method in ("incoming", "cls", "rectified cls"):
        assert found[method, "token_f1"] > 0.9
    for method in methods:
        assert found[method, "comprehensiveness"] > found["random", "comprehensiveness"] + 0.15
    assert found["truth", "comprehensiveness"] > found["random", "comprehensiveness"] + 0.3
    reverse = result.table(["comprehensiveness"]).query("ranking == 'reversed'").set_index("method")["mean"]
    assert reverse["truth"] < found["random", "comprehensiveness"]


# Going on


class Interrupted:
    """A method that is stopped in its second batch."""

    def __init__(self, error):
        self.calls, self.error = 0, error

    def __call__(self, batch, targets):
        self.calls += 1
        if self.calls == 2:
            raise self.error
        return with_ties(batch, targets)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_an_interrupted_run_goes_on_where_it_was(text_model, tmp_path, error):
    file, method = tmp_path / "run.jsonl", Interrupted(error)
    with pytest.raises(type(error)):
        run(text_model, {"first": with_ties, "second": method}, file=file, batch_size=2)
    partial = Evaluation.load(file).table(["comprehensiveness"], scale="paper")
    counts = partial.query("ranking == 'scores'").set_index("method").n
    later = counts["first"] - 2  # the second batch has two texts or the one that is left
    assert later in (1, 2)
    assert counts.to_dict() == {"first": 2 + later, "second": 2, "random": 2}
    with file.open("a") as stream:
        stream.write('{"method": "second", "exam')  # the power failed
    method.calls = 10
    asked = []

    def first(batch, targets):
        asked.append(len(targets))
        return with_ties(batch, targets)

    result = run(text_model, {"first": first, "second": method}, file=file, batch_size=2)
    assert asked == [3 - later]
    assert method.calls == 12
    whole = run(text_model, {"first": with_ties, "second": with_ties}, batch_size=2)
    for found in (result, Evaluation.load(file)):
        tables = [r.table(["comprehensiveness"], scale="paper")["mean"].tolist() for r in (found, whole)]
        assert tables[0] == pytest.approx(tables[1], abs=1e-6)


def test_methods_can_be_added_to_a_file(text_model, tmp_path):
    file = tmp_path / "deeper" / "run.jsonl"
    run(text_model, {"first": with_ties}, file=file)
    result = run(text_model, {"second": with_ties}, file=file)
    assert result.methods == ("first", "random", "second")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"percentages": [0, 50]}, r"percentages \(0.0, 10.0.*now \(0.0, 50.0\)"),
        ({"data": TEXTS[:2]}, r"\(data, count 5, now 2\)"),
        ({"seed": 1}, "seed 0, now 1"),
        ({"labels": LABELS}, r"\(labels\)"),
        ({"rationales": [[(0, 1)]] * 5}, r"\(rationales, kept {}, now {'token_auprc': {'hi"),
        ({"metrics": ["sufficiency"]}, r"\(removals .*now \('top kept',\)"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_alone(text_model, tmp_path, changed, message):
    file = tmp_path / "run.jsonl"
    run(text_model, file=file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=message):
        run(text_model, {"other": with_ties}, file=file, **changed)
    assert file.read_bytes() == before
    file.write_text("not an evaluation\n")
    with pytest.raises(ValueError, match="is not the file of an evaluation"):
        run(text_model, file=file)


def test_another_model_is_noticed(text_model, tmp_path):
    file = tmp_path / "run.jsonl"
    run(text_model, file=file)
    model = AutoModelForSequenceClassification.from_config(text_model[0].config)
    for methods in (None, {"new": with_ties}):
        with pytest.raises(ValueError, match=r"other settings \(model\)"):
            run((model, text_model[1]), methods, file=file)


def test_another_function_is_noticed_by_what_it_says(text_model, tmp_path):
    model, tokenizer = text_model
    file = tmp_path / "run.jsonl"

    def first(**inputs):
        return model(**inputs).logits

    def second(**inputs):
        return 1.2 * model(**inputs).logits

    run((first, tokenizer), file=file)
    with pytest.raises(ValueError, match="written with another model"):
        run((second, tokenizer), {"new": with_ties}, file=file)


def test_saved_and_loaded_results_are_the_same(text_model, tmp_path):
    result = run(text_model, labels=LABELS, interventions=["replacement", "knockout"])
    result.save(tmp_path / "saved.jsonl")
    loaded = Evaluation.load(tmp_path / "saved.jsonl")
    assert loaded.table(scale="paper").equals(result.table(scale="paper"))
    assert [json.loads(line) for line in (tmp_path / "saved.jsonl").read_text().splitlines()]
    with pytest.raises(FileNotFoundError):
        Evaluation.load(tmp_path / "none.jsonl")


# What is shown


def test_the_table_is_tidy_and_has_random_and_reversed_rankings(text_model):
    table = run(text_model, labels=LABELS, percentages=(0, 1, 5, 10, 20, 50)).table()
    assert table.columns.tolist() == [
        "method", "ranking", "intervention", "metric", "scale", "mean", "standard_error", "n",
    ]  # fmt: skip
    assert not table.duplicated(["method", "ranking", "intervention", "metric"]).any()
    assert set(table.metric) == {"comprehensiveness", "sufficiency", "log_odds", "f1_macro", "f1_weighted", "seconds"}
    assert set(table[table.metric == "comprehensiveness"].scale) == {"eraser"}
    for method in ("ties", "random"):
        rankings = table[(table.method == method) & (table.metric == "comprehensiveness")].ranking
        assert rankings.tolist() == ["scores", "reversed"]


def test_markdown_names_the_scale_and_puts_the_best_first(text_model):
    truth = {"good": with_ties, "bad": lambda batch, targets: -with_ties(batch, targets)}
    result = run(text_model, truth)
    lines = result.to_markdown(["comprehensiveness", "sufficiency"], scale="paper").splitlines()
    assert lines[0] == "Paper scale; tokens are taken by replacement; mean ± standard error over 5 examples."
    assert lines[2] == "| method | comprehensiveness ↑ | sufficiency ↓ | comprehensiveness ↑, reversed |"
    means = [float(line.split("|")[2].split("±")[0]) for line in lines[4:]]
    assert means == sorted(means, reverse=True)
    assert len(means) == 3


def test_methods_are_compared_example_by_example(text_model):
    opposite = {"good": with_ties, "bad": lambda batch, targets: -with_ties(batch, targets)}
    result = run(text_model, opposite, interventions=["replacement", "knockout"])
    found = result.compare("bad", ["comprehensiveness", "sufficiency"], scale="paper")
    assert set(found.method) == {"good", "random"}
    each = result.scores(["sufficiency"], scale="paper").query("intervention == 'knockout'")
    good, bad = (torch.tensor(each[each.method == method].value.tolist()) for method in ("good", "bad"))
    row = found.query("method == 'good' and metric == 'sufficiency' and intervention == 'knockout'")
    assert row.difference.item() == pytest.approx((good - bad).mean().item(), abs=1e-6)
    assert row.standard_error.item() == pytest.approx(((good - bad).std() / 5**0.5).item(), abs=1e-6)
    assert row.n.item() == 5
    with pytest.raises(ValueError, match="unknown method 'ugly': expected one of 'good', 'bad', 'random'"):
        result.compare("ugly")


def test_names_of_methods_may_be_those_of_metrics(text_model):
    table = run(text_model, {"scores": with_ties, "sufficiency": with_ties}).table()
    assert list(dict.fromkeys(table.method)) == ["scores", "sufficiency", "random"]


def test_the_best_is_first_where_lower_is_better(text_model):
    opposite = {"good": with_ties, "bad": lambda batch, targets: -with_ties(batch, targets)}
    result = run(text_model, opposite)
    lines = result.to_markdown(["sufficiency"], scale="paper").splitlines()[4:]
    means = [float(line.split("|")[2].split("±")[0]) for line in lines]
    assert means == sorted(means)
    (axes,) = result.plot("sufficiency", scale="paper").axes
    best_on_top = [label.get_text() for label in axes.get_yticklabels()][::-1]
    assert best_on_top == [line.split("|")[1].strip() for line in lines]
    dots = {line.get_ydata()[0]: line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"}
    assert [dots[place] for place in (2, 1, 0)] == pytest.approx(means, abs=1e-3)


def test_plots_draw_every_method(text_model):
    result = run(text_model, interventions=["replacement", "knockout"])
    families = {"ties": "made up", "random": "random"}
    (ax,) = result.plot("sufficiency", scale="paper", families=families, intervention="knockout").axes
    assert {label.get_text() for label in ax.get_yticklabels()} == {"ties", "random"}
    assert "knockout" in ax.get_xlabel()
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"made up", "random"}
    figure, given = plt.subplots()
    assert result.plot_curves("top kept", ax=given) is figure
    assert len(given.get_legend().get_texts()) == 2
    result.plot("deletion").canvas.draw()


def test_metrics_of_all_examples_are_drawn_with_their_errors(text_model):
    result = run(text_model, metrics=["f1_macro"], labels=[0, 1, 0, 1, 0])
    (axes,) = result.plot().axes
    means = result.top().iloc[::-1]["mean"].tolist()
    assert [float(bar.lines[0].get_xdata()[0]) for bar in axes.containers] == pytest.approx(means)


def test_the_best_are_on_top(text_model):
    truth = {"good": with_ties, "bad": lambda batch, targets: -with_ties(batch, targets)}
    result = run(text_model, truth, interventions=["replacement", "knockout"])
    top = result.top(2, "sufficiency")
    assert list(top["mean"]) == sorted(top["mean"])
    assert set(top.intervention) == {"replacement"}
    assert result.top().method.tolist() == result.top(3, "comprehensiveness").method.tolist()
    assert result.frame().equals(result.table())


def test_cautions_name_what_is_no_better_than_chance(text_model):
    few, chance, reverse = run(text_model, {"bad": lambda batch, targets: -with_ties(batch, targets)}).cautions()
    assert few == "There are only 5 examples: differences between methods may be chance."
    assert chance.startswith("Not surely more faithful than random scores, by paired differences: bad (")
    assert reverse.startswith("Not surely more faithful than their own reverse, by paired differences: bad (")


# Plausibility and other data


def test_spans_of_a_text_become_its_tokens(text_model):
    text = "a gripping film , unbelievably dull"
    start = text.index("unbelievably")
    rationales = [[(start, start + len("unbelievably"))]]
    _, tokenizer = text_model
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])

    def pointing(batch, targets):
        inside = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        return torch.tensor([[float(first >= start and stop <= start + 12) for first, stop in inside]])

    result = run(text_model, {"right": pointing}, data=[text], rationales=rationales)
    found = result.table(["token_auprc", "token_f1", "token_iou"]).query("method == 'right'")["mean"]
    assert found.tolist() == [1.0, 1.0, 1.0]
    assert len(pieces) > 8  # the word has several pieces


def test_spans_stand_where_the_tokens_do_under_left_padding(text_model):
    encoder, tokenizer = text_model
    config = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "n_embd": 32, "n_layer": 2}
    decoder = GPT2ForSequenceClassification(GPT2Config(**config, n_head=4)).eval()
    tokenizer.padding_side = "left"
    try:
        with pytest.raises(ValueError, match="padding on the left counts: BertForSequenceClassification"):
            run((encoder, tokenizer), {"none": lambda batch, targets: 0}, data=["a film so dull", "dull"])
        result = run(
            (decoder, tokenizer),
            {"last word": lambda batch, targets: torch.arange(batch["input_ids"].shape[1]).float().expand(2, -1)},
            data=["a film so dull", "dull"],
            rationales=[[(10, 14)], [(0, 4)]],
        )
    finally:
        tokenizer.padding_side = "right"
    assert result.table(["token_f1"]).query("method == 'last word'")["mean"].item() == 1.0


def test_pixels_that_people_chose_become_patches(image_model):
    images = digits()[2][:2]
    chosen = torch.zeros(2, 8, 8, dtype=torch.bool)
    size = image_model.config.patch_size
    chosen[0, :size] = True

    def first_row(batch, targets):
        return torch.zeros_like(batch["pixel_values"]).index_fill_(2, torch.tensor([0]), 1.0)

    result = evaluate(image_model, images, {"row": first_row}, rationales=chosen, percentages=[50], show_progress=False)
    found = result.table(["token_f1"]).query("method == 'row'")
    assert found["mean"].item() == 1.0
    assert found.n.item() == 1  # nobody chose anything in the other image


def test_a_method_cannot_change_what_others_see(text_model):
    def vandal(batch, targets):
        batch["input_ids"].fill_(5)
        targets.zero_()
        return torch.zeros(batch["input_ids"].shape)

    alone = run(text_model).curves().query("method == 'ties'").probability.tolist()
    beside = run(text_model, {"vandal": vandal, "ties": with_ties}).curves().query("method == 'ties'")
    assert beside.probability.tolist() == alone


def test_an_error_inside_a_method_says_which_one(text_model):
    def broken(batch, targets):
        raise KeyError("weights")

    with pytest.raises(KeyError) as caught:
        run(text_model, {"broken": broken})
    assert caught.value.__notes__ == ["This happened in method 'broken'."]


def test_labels_may_be_names_series_or_whole_floats(text_model):
    expected = run(text_model, labels=LABELS).table(["f1_macro"])["mean"].tolist()
    names = ["negative", "positive"]
    for labels in ([names[label] for label in LABELS], pd.Series(LABELS), [float(label) for label in LABELS]):
        assert run(text_model, labels=labels).table(["f1_macro"])["mean"].tolist() == expected


def test_functions_of_one_argument_and_arrays_are_taken(image_model):
    images = digits()[2][:2]
    methods = {"bright": lambda batch, targets: batch["pixel_values"].numpy()}
    tables = [
        evaluate(model, data, methods, percentages=[50], show_progress=False).curves().probability.tolist()
        for model, data in ((image_model, images), (lambda pixels: image_model(pixels).logits, images.numpy()))
    ]
    assert tables[0] == pytest.approx(tables[1], abs=1e-6)


def test_a_patch_is_chosen_if_half_of_its_pixels_are():
    model = FAMILIES["vit"].build()  # nine patches of 4 × 4 pixels
    chosen = torch.zeros(1, 12, 12, dtype=torch.bool)
    chosen[0, :2, :4] = True  # 8 of 16 pixels of the first patch
    chosen[0, :4, 4:8] = True
    chosen[0, 3, 7] = True
    chosen[0, :2, 8:11] = True  # 6 of 16 of the third

    def first_two(batch, targets):
        return (torch.arange(10)[None] < 3).float()  # the class token and two patches

    result = evaluate(
        model, torch.rand(1, 3, 12, 12), {"two": first_two}, rationales=chosen, percentages=[50], show_progress=False
    )
    assert result.table(["token_f1"]).query("method == 'two'")["mean"].item() == 1.0


def test_seconds_are_those_of_the_attributions(text_model):
    def slow(batch, targets):
        time.sleep(0.2)
        return with_ties(batch, targets)

    seconds = run(text_model, {"slow": slow}).table(["seconds"]).set_index("method")["mean"]
    assert 0.04 <= seconds["slow"] < 0.2  # a fifth of the batch's
    assert seconds["random"] < 0.04


def test_pairs_of_texts_are_read_as_pairs(text_model):
    result = run(text_model, data=[("a film", "dull"), ("good", "a delight to see")])
    assert result.settings.count == 2
    spans = run(
        text_model,
        {"first": lambda batch, targets: (torch.arange(batch["input_ids"].shape[1]) == 1).float()[None]},
        data=[("good", "good")],
        rationales=[[(0, 4)]],
    )
    assert spans.table(["token_auprc"]).query("method == 'first'")["mean"].item() == 1.0  # the second text has no part
    with pytest.raises(TypeError, match=r"got a list of \['int', 'str'\]"):
        run(text_model, data=["a film", 3])


def test_unknown_words_are_words(text_model):
    _, tokenizer = text_model
    assert tokenizer("☃")["input_ids"][1:-1] == [tokenizer.unk_token_id]
    assert run(text_model, data=["☃", "good"]).settings.count == 2


def test_texts_that_are_too_long_are_cut_with_a_warning(text_model):
    long = " ".join(["dull"] * 300)
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than 128 tokens"):
        run(text_model, data=["good", long])
    with pytest.warns(UserWarning, match="longer than 128 tokens"):
        run(text_model, data=["good", long], max_length=1000)
    assert run(text_model, data=["good", long], max_length=8).settings.count == 2


# Bad input


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (lambda batch, targets: torch.full(batch["input_ids"].shape, math.nan), ValueError, "'bad' returned NaN"),
        (lambda batch, targets: torch.zeros(3), ValueError, r"'bad' returned attributions of the shape \(3,\)"),
        (lambda batch, targets: [0.5], TypeError, "'bad' returned list, expected a tensor"),
        ("saliency", TypeError, "method 'bad' is 'saliency', expected an object with attribute_tokens"),
    ],
)
def test_methods_that_return_something_else_are_named(text_model, method, error, message):
    with left_untouched(text_model[0]), pytest.raises(error, match=message):
        run(text_model, {"bad": method})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"labels": [0, 1]}, ValueError, "2 labels for 5 examples"),
        ({"labels": ["neg"] * 5}, TypeError, "numbers or names of classes, got .*'negative'"),
        ({"labels": [0, 1, 2, 0, 1]}, ValueError, "label 2 of example 2 is out of range: the model has 2 classes"),
        ({"rationales": [[(0, 1)]]}, ValueError, "1 rationales for 5 examples"),
        ({"rationales": torch.zeros(5, 9)}, TypeError, "character spans"),
        ({"rationales": [["good"]] * 5}, TypeError, "character spans"),
        ({"rationales": [[(9, 2)]] * 5}, TypeError, "character spans"),
        ({"percentages": [0, 0.1, 0.5]}, ValueError, "look like fractions"),
        ({"methods": {"bad": ShapleyGradAttention}}, TypeError, "is the class ShapleyGradAttention"),
        ({"data": pd.DataFrame({"text": TEXTS})}, TypeError, r"a table of \['text'\]: give the column"),
        ({"percentages": [10, 120]}, ValueError, r"between 0 and 100, got \[10, 120\]"),
        ({"percentages": 10}, TypeError, "numbers between 0 and 100, got 10"),
        ({"interventions": ["masking"]}, ValueError, "must be 'replacement' or 'knockout', or both"),
        ({"replacement": "median"}, ValueError, "token id, or 'mean' or 'zeros'"),
        ({"replacement": "mean"}, TypeError, "cannot replace tokens of ids by 'mean'"),
        ({"tokenizer": None}, ValueError, "texts need tokenizer="),
        ({"tokenizer": "bert"}, TypeError, "must be a Hugging Face tokenizer, got str"),
        ({"layers": [9], "interventions": ["knockout"]}, IndexError, "out of range"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"data": []}, ValueError, "there is no data"),
        ({"data": ["good", ""]}, ValueError, r"the texts \[1\] have no tokens but special ones"),
        ({"data": {"texts": TEXTS}}, TypeError, "got one with .'texts'"),
        ({"data": {"input_ids": [[1]]}}, TypeError, "'input_ids' must be a tensor with a row for each example"),
        (
            {"data": {"input_ids": torch.ones(2, 3).long(), "position_ids": torch.ones(1, 3)}},
            TypeError,
            r"got \(1, 3\)",
        ),
        ({"methods": [with_ties]}, TypeError, "must map names to attributions, got list"),
        ({"methods": {"random": with_ties}}, ValueError, "'random' is taken"),
    ],
)
def test_bad_arguments_are_refused(text_model, options, error, message):
    with left_untouched(text_model[0]), pytest.raises(error, match=message):
        run(text_model, **options)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("f1_macro", "f1_macro was not evaluated: call evaluate with labels="),
        ("token_f1", "with rationales="),
        ("deletion", "percentages from 0 to 100"),
        ("accuracy", "unknown metric 'accuracy': expected some of comprehensiveness"),
    ],
)
def test_metrics_that_were_not_evaluated_say_what_they_need(text_model, metric, message):
    result = run(text_model, percentages=[0, 20])
    with pytest.raises(ValueError, match=message):
        result.table([metric])
    with pytest.raises(ValueError, match="unknown scale"):
        result.table(scale="percent")
    with pytest.raises(ValueError, match=r"percentages=\(0, 1, 5, 10, 20, 50\) for the scale 'eraser'"):
        result.table(scale="eraser")
    assert set(result.table(["sufficiency"]).scale) == {"all"}
    with pytest.raises(ValueError, match="unknown removal 'all'"):
        result.plot_curves("all")
    with pytest.raises(ValueError, match="'knockout' was not evaluated, only replacement"):
        result.plot_curves(intervention="knockout")
    with pytest.raises(ValueError, match="there are no metrics to show"):
        result.to_markdown([])
    both = run(text_model, interventions=["replacement", "knockout"])
    with pytest.raises(ValueError, match="reversed by the first intervention, 'replacement', only"):
        both.plot_curves("bottom removed", intervention="knockout")


def test_a_model_without_classes_is_refused():
    model = FAMILIES["bert"].build()

    def one_score(**inputs):
        return model(**inputs).logits[:, :1]

    with pytest.raises(ValueError, match=r"expected logits \(B, C\) of at least two classes"):
        evaluate(one_score, text_batch(), {}, replacement=4, show_progress=False)


def test_a_tokenizer_without_a_mask_token_needs_a_replacement():
    model, inputs = FAMILIES["gpt2"].build(), text_batch()
    with pytest.raises(ValueError, match="give tokenizer=, or replacement="):
        evaluate(model, inputs, {}, show_progress=False)
    assert evaluate(model, inputs, {}, replacement=4, show_progress=False).methods == ("random",)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_evaluated_by_both_interventions(name):
    family = FAMILIES[name]
    model = family.build()
    data = text_batch() if not family.vision else torch.rand(2, 3, 12, 12)
    methods = {"gradients": ShapleyGradAttention(model), "attention": ShapleyAttention(model)}
    with left_untouched(model):
        result = evaluate(
            model,
            data,
            methods,
            replacement=None if family.vision else 4,
            interventions=["replacement", "knockout"],
            show_progress=False,
        )
    table = result.table()
    assert table["mean"].notna().all()
    assert set(table.intervention) == {"replacement", "knockout", "none"}


def test_it_works_under_no_grad_and_inference_mode(text_model):
    model, tokenizer = text_model
    methods = {"gradients": ShapleyGradAttention(model, tokenizer=tokenizer)}
    expected = run(text_model, methods).curves().probability.tolist()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert run(text_model, methods).curves().probability.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_masked_model_gives_the_worth_of_coalitions(text_model):
    model, tokenizer = text_model
    masked = MaskedModel(model, tokenizer)
    batch = tokenizer(["a gripping film", "dull"], padding=True, return_tensors="pt")
    worth = masked.worth(masked.read(batch), example=0, target=1)
    kept = torch.tensor([[True, True, True], [False, True, True], [False, False, False]])
    ids = batch["input_ids"][:1].repeat(3, 1)
    ids[1, 1] = tokenizer.mask_token_id
    ids[2, 1:4] = tokenizer.mask_token_id
    with torch.no_grad():
        expected = softmax(model(ids, attention_mask=batch["attention_mask"][:1].expand(3, -1)).logits, -1)[:, 1]
    torch.testing.assert_close(worth(kept), expected)


def test_whoever_asks_gets_the_scores_of_what_is_explained_now(text_model, tmp_path):
    seen = []

    def keep(name, scores, rows, whole):
        scores = scores.clone(), scores.zero_()  # which nobody else sees
        scores = scores[0]
        assert scores.shape == whole.players.shape
        seen.extend((name, row) for row in rows)
        if name == "ties":
            torch.testing.assert_close(scores, with_ties(whole.inputs.mapping(), None))

    file = tmp_path / "run.jsonl"
    run(text_model, data=TEXTS, batch_size=2, file=file, on_scores=keep)
    assert sorted(seen) == [(name, row) for name in ("random", "ties") for row in range(len(TEXTS))]
    run(text_model, {"ties": with_ties, "more": with_ties}, file=file, on_scores=keep)
    assert seen[2 * len(TEXTS) :] == [("more", row) for _, row in seen[2 * len(TEXTS) :]]
    assert len(seen) == 3 * len(TEXTS)
