"""Metrics as records: those of the catalogue, and a stranger's own."""

from __future__ import annotations

import inspect
import json
import math
from functools import partial

import pandas as pd
import pytest
import torch
from helpers.small_models import load_text_model
from torchmetrics import MetricCollection
from torchmetrics.functional.classification import multiclass_accuracy

from captum_attn.functional import mean_drop
from captum_attn.metrics import CATALOGUE, Evaluation, Metric, OverExamples, evaluate

TEXTS = ["a gripping , funny film", "dull", "not good at all , and far too long", "the cast is a delight"]
LABELS = [1, 0, 1, 1]
SHARES = (0, 10, 20, 50, 100)
RATIONALES = [[(2, 10)], [(0, 4)], [], [(4, 8)]]


@pytest.fixture(scope="module")
def text_model():
    return load_text_model()


def with_ties(batch, targets):
    return ((batch["input_ids"] * 7919) % 5).float()


def run(text_model, metrics=None, model=None, **options):
    options = {"tokenizer": text_model[1], "percentages": SHARES, "show_progress": False, **options}
    return evaluate(model or text_model[0], TEXTS, {"ties": with_ties}, metrics=metrics, **options)


# A stranger's metrics, as the how-to has them


def flips(text_model):
    """At how many of the percentages the predicted class is lost without the top tokens."""

    def lost(without_top):
        return (without_top < 0.5).float().mean(-1)

    return evaluate(
        text_model[0],
        TEXTS,
        {"ties": with_ties},
        tokenizer=text_model[1],
        metrics=["comprehensiveness", Metric("flips", True, ["without_top"], lost)],
        percentages=(0, 1, 5, 10, 20, 50),
        show_progress=False,
    )


def drop_of_the_first(ask, scores, players):
    """How far the probability falls without the one token of the highest score."""
    first = scores.masked_fill(~players, -math.inf).argmax(-1, keepdim=True)
    taken = torch.zeros_like(players).scatter(1, first, True)
    nothing = torch.zeros_like(players)
    return ask(nothing) - ask(taken)


DROP_OF_THE_FIRST = Metric("drop_of_the_first", True, ["ask", "scores", "players"], drop_of_the_first)


def test_a_metric_of_ones_own_takes_at_most_ten_lines():
    assert len(inspect.getsource(drop_of_the_first).splitlines()) + 1 <= 10
    definition = inspect.getsource(flips).split("def lost")[1].split("return evaluate")[0].strip().splitlines()
    assert len(definition) + 1 <= 10


def test_ones_own_metric_of_probabilities_is_in_tables_and_plots(text_model):
    result = flips(text_model)
    curves = run(text_model, percentages=(0, 1, 5, 10, 20, 50))
    assert [metric.name for metric in result.metrics] == ["comprehensiveness", "flips"]
    assert list(result.table().metric.unique()) == ["comprehensiveness", "flips"]
    found = result.scores(["flips"]).query("method == 'ties'")
    assert set(found.ranking) == {"scores", "reversed"}  # it needs no more than p without the top
    each = {(group.method, group.intervention): group for group in curves._findings.groups()}
    for ranking, removal in (("scores", "top removed"), ("reversed", "bottom removed")):
        expected = (each["ties", "replacement"].perturbed[removal] < 0.5).float().mean(-1)
        assert found[found.ranking == ranking].value.tolist() == pytest.approx(expected.tolist())
    assert "flips ↑" in result.to_markdown(["flips"])
    assert result.plot("flips").axes[0].get_xlabel().startswith("flips, higher is better")
    assert curves.table([result.metrics[1]]).equals(result.table(["flips"]))  # of what was evaluated without it, too


def test_ones_own_metric_may_ask_the_model(text_model, tmp_path):
    model, tokenizer = text_model
    both = ("replacement", "knockout")
    file = tmp_path / "run.jsonl"
    result = run(text_model, [DROP_OF_THE_FIRST], interventions=both, file=file)
    expected = {"replacement": [], "knockout": []}
    for text in TEXTS:
        batch = tokenizer(text, return_tensors="pt")
        players = torch.tensor([token not in tokenizer.all_special_ids for token in batch["input_ids"][0].tolist()])
        first = int(with_ties(batch, None)[0].masked_fill(~players, -1).argmax())
        with torch.no_grad():
            whole = model(**batch).logits.softmax(-1)[0]
            replaced = {**batch, "input_ids": batch["input_ids"].clone()}
            replaced["input_ids"][0, first] = tokenizer.mask_token_id
            blocked = {**batch, "attention_mask": batch["attention_mask"].clone()}
            blocked["attention_mask"][0, first] = 0
            for kind, inputs in (("replacement", replaced), ("knockout", blocked)):
                p = model(**inputs).logits.softmax(-1)[0, whole.argmax()]
                expected[kind].append(float(whole.max() - p))
    for found in (result, Evaluation.load(file)):
        each = found.scores(["drop_of_the_first"]).query("method == 'ties'")
        for kind in both:
            assert each[each.intervention == kind].value.tolist() == pytest.approx(expected[kind], abs=1e-5)
        assert "drop of the first ↑" in found.to_markdown(["drop_of_the_first"])
    with pytest.raises(ValueError, match=r"top removed.*were not evaluated: no metric of this evaluation needs them"):
        result.plot_curves()


def test_what_is_computed_at_once_is_what_is_computed_from_the_record(text_model):
    """A metric that wants scores, too, has the same probabilities as one that does not."""

    def drop(whole, without_top, scores):
        return mean_drop(whole, without_top)

    shares = (0, 1, 5, 10, 20, 50)
    metric = Metric("drop", True, ["whole", "without_top", "scores"], drop, shares)
    result = run(text_model, ["comprehensiveness", metric], percentages=(*shares, 100))
    each = result.scores().query("ranking == 'scores'")
    each = each.pivot(index=["method", "example"], columns="metric", values="value")
    assert each["drop"].tolist() == pytest.approx(each["comprehensiveness"].tolist(), abs=1e-6)


def test_ones_own_metric_of_all_examples_together(text_model):
    def accuracy(predictions, labels):
        return multiclass_accuracy(predictions[:, 0], labels, 2, average="micro")

    metric = Metric("accuracy", True, ["predictions", "labels"], accuracy, percentages=(50.0,), of_all=True)
    row = run(text_model, ["f1_macro", metric], labels=LABELS).table([metric]).set_index("method").loc["ties"]
    group = next(group for group in run(text_model)._findings.groups() if group.method == "ties")
    right = (group.predictions[:, SHARES.index(50)] == torch.tensor(LABELS)).double()
    assert row["mean"] == pytest.approx(right.mean().item())
    assert 0 <= row.standard_error < 0.5
    assert row.n == len(TEXTS)


def test_ones_own_metric_of_the_whole_inputs_alone(text_model):
    doubt = Metric("doubt", False, ["whole"], lambda whole: 1 - whole)
    found = run(text_model, [doubt]).table()
    groups = run(text_model)._findings.groups()
    assert set(found.intervention) == {"none"}
    assert found["mean"][0] == pytest.approx(1 - next(groups).whole.mean().item())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda p: p.mean(), r"returned a tensor \(\), expected a tensor: one for each of 4 examples, \(4,\)"),
        (lambda p: p, r"returned a tensor \(4, 5\), expected a tensor: one for each of 4 examples"),
        (lambda p: p.mean(-1).tolist(), "returned list, expected a tensor: one for each of 4 examples"),
    ],
)
def test_what_is_not_one_number_for_each_example_is_refused(text_model, function, message):
    metric = Metric("odd", True, ["without_top"], function)
    with pytest.raises(ValueError, match=message):
        run(text_model, [metric]).table()
    with pytest.raises(ValueError, match=r"tensor \(4,\), expected a tensor: one number \(\) of all examples"):
        run(text_model, [Metric("odd", True, ["without_top"], lambda p: p.mean(-1), of_all=True)]).table()
    unaware = Metric("odd", True, ["without_top"], lambda p: p.mean(), of_all=True, vectorized=True)
    with pytest.raises(ValueError, match=r"returned a tensor \(\) of \d+ draws, expected one of each"):
        run(text_model, [unaware]).table()


def test_its_torchmetric_is_the_mean_over_examples(text_model):
    result = flips(text_model)
    group = next(group for group in result._findings.groups() if group.method == "ties")

    class Flips(OverExamples, metric=result.metrics[1]):
        pass

    meter = Flips()
    for part in group.perturbed["top removed"].split(3):
        meter.update(part)
    row = result.table(["flips"]).query("method == 'ties' and ranking == 'scores'")
    assert meter.compute().item() == pytest.approx(row["mean"].item())
    assert meter.standard_error.item() == pytest.approx(row.standard_error.item())
    assert meter.higher_is_better
    by_name = Flips()
    by_name.update(without_top=group.perturbed["top removed"])
    assert torch.equal(by_name.compute(), meter.compute())


# What is measured, and what that costs


def asked(text_model, metrics, **options):
    """How many inputs the model sees."""
    seen = []

    def counting(input_ids, attention_mask, token_type_ids=None):
        seen.append(len(input_ids))
        return text_model[0](input_ids=input_ids, attention_mask=attention_mask)

    run(text_model, metrics, counting, **options)  # the first time, a model is looked at
    seen.clear()
    result = run(text_model, metrics, counting, **options)
    return sum(seen), result


def test_plausibility_alone_pays_for_no_perturbation(text_model):
    count, result = asked(text_model, ["token_auprc", "token_f1"], rationales=RATIONALES)
    assert count == len(TEXTS)
    assert list(result.table().metric.unique()) == ["token_auprc", "token_f1"]
    whole = run(text_model, rationales=RATIONALES)
    assert result.table().equals(whole.table(["token_auprc", "token_f1"]))


def test_what_is_taken_away_is_what_the_metrics_need(text_model):
    everything, whole = asked(text_model, None)
    fewer, result = asked(text_model, ["insertion"])
    assert len(TEXTS) < fewer < everything
    pd.testing.assert_frame_equal(result.table(), whole.table(["insertion"]))  # other batches round differently
    with pytest.raises(ValueError, match="deletion was not evaluated: call evaluate with 'deletion' among metrics="):
        result.table(["deletion"])


def test_a_batch_is_run_once_whatever_is_missing_of_it(text_model, tmp_path):
    """Some methods know some of the examples already: these are read from one pass."""
    file = tmp_path / "run.jsonl"
    run(text_model, ["token_f1"], rationales=RATIONALES, file=file)
    lines = file.read_text().splitlines()
    kept = [line for line in lines if '"method": "ties"' not in line or '"example": 1,' not in line]
    file.write_text("\n".join(kept) + "\n")
    seen = []
    handle = text_model[0].register_forward_hook(lambda module, args, output: seen.append(len(output.logits)))
    try:
        methods = {"ties": with_ties, "more": with_ties}
        options = {"metrics": ["token_f1"], "rationales": RATIONALES, "tokenizer": text_model[1], "file": file}
        result = evaluate(text_model[0], TEXTS, methods, percentages=SHARES, show_progress=False, **options)
    finally:
        handle.remove()
    assert seen == [1, 1, len(TEXTS)]  # first it is tried, with this hook, whether padding counts
    table = result.table().set_index("method")
    assert table["mean"]["ties"] == table["mean"]["more"]


# Files of earlier versions


def test_a_file_of_an_earlier_version_is_read(text_model, tmp_path):
    options = {"labels": LABELS, "rationales": RATIONALES, "interventions": ("replacement", "knockout")}
    result = run(text_model, **options, file=tmp_path / "new.jsonl")
    header, *entries = map(json.loads, (tmp_path / "new.jsonl").read_text().splitlines())
    del header["removals"], header["kept"], header["wanted"]
    for entry in entries:
        if "method" in entry:
            entry["plausibility"] = [values["none"] for values in entry.pop("values").values()]
            entry["probabilities"] = [list(of.values()) for of in entry["probabilities"]]
            entry["predictions"] = [[[0] * 5, of, [0] * 5] for of in entry["predictions"]]
    old = tmp_path / "old.jsonl"
    old.write_text("".join(json.dumps(line) + "\n" for line in (header, *entries)))
    assert Evaluation.load(old).table(scale="paper").equals(result.table(scale="paper"))
    assert run(text_model, **options, file=old).table(scale="paper").equals(result.table(scale="paper"))


# Bad metrics


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        (["accuracy"], ValueError, "unknown metric 'accuracy': expected some of comprehensiveness"),
        ([3], TypeError, "must be names or Metric records, got int"),
        ([Metric("f1_macro", True, ["whole"], abs)], ValueError, "there is another metric 'f1_macro': give yours"),
        (["f1_macro"], ValueError, "f1_macro cannot be evaluated without labels=, the gold classes"),
        (["token_f1"], ValueError, "token_f1 cannot be evaluated without rationales="),
        (
            [Metric("odd", True, ["scores"], lambda scores: scores)],
            ValueError,
            r"metric 'odd' returned a tensor \(4, 11\), expected a tensor: one for each of 4 examples, \(4,\)",
        ),
    ],
)
def test_metrics_that_cannot_be_evaluated_say_why(text_model, metrics, error, message):
    with pytest.raises(error, match=message):
        run(text_model, metrics)


@pytest.mark.parametrize(
    ("needs", "options", "message"),
    [
        (["probabilities"], {}, "needs .'probabilities'., expected some of whole, without_top"),
        ("whole", {}, "needs 'whole', expected some of"),
        ([], {}, r"needs \[\], expected some of"),
        (["ask"], {}, r"needs \['ask'\], expected some of .*something that each example has"),
        (["scores", "seconds"], {}, "needs scores, .* but also seconds, which comes later"),
        (["scores"], {"of_all": True}, "but also all examples, which comes later"),
        (["scores", "without_top"], {"percentages": "scale"}, "but also a report's scale, which comes later"),
        (["whole"], {"vectorized": True}, "vectorized= is for a metric of all examples, of_all=True"),
        (["seconds", "without_top"], {}, "'seconds' goes with 'whole' and 'labels', of one example, alone"),
    ],
)
def test_needs_that_do_not_fit_are_refused(needs, options, message):
    with pytest.raises(ValueError, match=message):
        Metric("mine", True, needs, abs, **options)


@pytest.mark.parametrize("percentages", ["everything", [], [120.0], 20])
def test_percentages_that_are_none_are_refused(percentages):
    with pytest.raises(ValueError, match="metric 'mine': percentages must be 'all', 'scale', 'from 0 to 100' or numb"):
        Metric("mine", True, ["without_top"], torch.mean, percentages)


def test_lists_are_as_good_as_tuples():
    one, other = (Metric("mine", True, kind(["without_top"]), torch.mean, kind([20])) for kind in (list, tuple))
    assert one == other
    assert hash(one) == hash(other)
    assert one.shares((0, 20, 50), "eraser") == (20,)
    with pytest.raises(TypeError, match="metric 'mine': function must be one, got 'mean'"):
        Metric("mine", True, ["without_top"], "mean")


def test_percentages_count_for_what_is_computed_at_once_too(text_model):
    area = Metric("area", True, ["without_top", "scores"], lambda p, scores: p.mean(-1), "from 0 to 100")
    with pytest.raises(ValueError, match="area cannot be evaluated without percentages from 0 to 100"):
        run(text_model, [area], percentages=(0, 1, 5, 10, 20, 50))


def test_the_torchmetric_of_a_metric_takes_what_it_needs_and_nothing_else():
    class Drop(OverExamples, metric=CATALOGUE["comprehensiveness"]):
        pass

    meter, p = Drop(), torch.tensor([0.9])
    for wrong in (lambda: meter.update(p), lambda: meter.update(p, p[:, None], p), lambda: meter.update(p, top=p)):
        with pytest.raises(TypeError, match=r"Drop.update takes whole, without_top, got"):
            wrong()
    with pytest.raises(TypeError, match="OverExamples has no metric: derive a class"):
        OverExamples()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda players, ask: ask(players[:, None].expand(-1, 3, -1)).mean(1), r"ask takes bool \(..., B, N\)"),
        (lambda players, ask: ask(players.float()), r"ask takes bool .* got torch.float32 \(4, 11\)"),
        (lambda players, ask: ask(torch.ones_like(players)), r"ask takes players away, not special tokens or padding"),
    ],
)
def test_what_is_asked_must_be_players(text_model, ask, message):
    with pytest.raises(ValueError, match=message) as caught:
        run(text_model, [Metric("mine", True, ["players", "ask"], ask)])
    assert caught.value.__notes__ == ["This happened in metric 'mine'."]


def test_a_metric_cannot_change_what_others_see(text_model):
    def zeros(scores, players):
        return scores.zero_().sum(-1) + players.zero_().sum(-1)

    vandal = Metric("vandal", True, ["scores", "players"], zeros)
    beside = run(text_model, [vandal, "insertion", DROP_OF_THE_FIRST])
    alone = run(text_model, ["insertion", DROP_OF_THE_FIRST])
    assert beside.table(["insertion", "drop_of_the_first"]).equals(alone.table())


def shifted(scores, players, by=0):
    return (scores * players).sum(-1) + by


class Shift:
    def __init__(self, by):
        self.by = by

    def __call__(self, scores, players):
        return shifted(scores, players, self.by)

    def method(self, scores, players):
        return shifted(scores, players, self.by)


def closure(by):
    return lambda scores, players: shifted(scores, players, by)


@pytest.mark.parametrize("make", [partial(partial, shifted), Shift, lambda by: Shift(by).method, closure])
def test_a_metric_that_was_changed_is_told_from_what_was_kept(text_model, tmp_path, make):
    file = tmp_path / "run.jsonl"
    first, changed = (Metric("mine", True, ["scores", "players"], make(by=by)) for by in (0, 1))
    run(text_model, [first], file=file)
    result = run(text_model, [Metric("mine", True, ["scores", "players"], make(by=0))], file=file)
    with pytest.raises(ValueError, match=r"other settings \(kept .*'mine'"):
        run(text_model, [changed], file=file)
    with pytest.raises(ValueError, match="the values of 'mine' are of another metric: give yours its own name"):
        result.table([changed])
    with pytest.raises(ValueError, match="are of another metric"):
        Evaluation.load(file).table([Metric("mine", True, ["without_top"], torch.mean)])
    assert result.table([first]).equals(Evaluation.load(file).table(["mine"]))


def test_a_loaded_evaluation_has_the_metrics_that_were_asked_for(text_model, tmp_path):
    file = tmp_path / "run.jsonl"
    result = run(text_model, ["insertion", DROP_OF_THE_FIRST], file=file)
    assert Evaluation.load(file).table().equals(result.table())
    flipped = Metric("flips", True, ["without_top"], lambda p: (p < 0.5).float().mean(-1))
    run(text_model, ["insertion", flipped]).save(tmp_path / "other.jsonl")
    with pytest.warns(UserWarning, match=r"made for metrics of your own, flips, .* table\(\[record"):
        loaded = Evaluation.load(tmp_path / "other.jsonl")
    assert set(loaded.table().metric) == {"insertion"}
    assert set(loaded.table([flipped]).metric) == {"flips"}


def test_torchmetrics_of_one_class_name_are_kept_apart_in_a_collection():
    def made(place):
        class Same(OverExamples, metric=Metric(f"place_{place}", True, ["without_top"], lambda p: p[:, place])):
            pass

        return Same()

    both = MetricCollection({"first": made(0), "second": made(1)})
    for p in ([[0.5, 0.5]], [[0.9, 0.1]]):
        both.update(without_top=torch.tensor(p))
    assert {name: round(value.item(), 3) for name, value in both.compute().items()} == {"first": 0.7, "second": 0.3}


def test_a_metric_at_some_percentages_has_a_torchmetric():
    record = Metric("mine", True, ["top_alone", "percentages"], lambda p, k: p @ torch.tensor(k), (0.0, 50.0))

    class Mine(OverExamples, metric=record):
        pass

    meter = Mine()
    meter.update(torch.tensor([[0.5, 0.1]]))
    assert meter.compute().item() == pytest.approx(5)


def test_the_catalogue_says_which_way_is_better():
    lower = {name for name, metric in CATALOGUE.items() if not metric.higher_is_better}
    assert lower == {"sufficiency", "log_odds", "deletion", "seconds"}
    assert all(metric.arrow == ("↓" if name in lower else "↑") for name, metric in CATALOGUE.items())
