"""The torchmetrics: batches, processes, copies, collections."""

from __future__ import annotations

import copy
import pickle

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torchmetrics import MetricCollection, MetricTracker

from captum_attn.functional import aopc, area_under_curve, log_odds, mean_drop
from captum_attn.metrics import (
    AOPC,
    Comprehensiveness,
    Deletion,
    Insertion,
    LogOdds,
    Sufficiency,
    TokenAUPRC,
    TokenF1,
    TokenIOU,
)

SHARES = [0, 30, 100]
METRICS = {
    "comprehensiveness": (Comprehensiveness, mean_drop),
    "paper scale": (lambda: Comprehensiveness("paper"), lambda whole, perturbed: mean_drop(whole, perturbed, "paper")),
    "sufficiency": (Sufficiency, mean_drop),
    "log odds": (LogOdds, log_odds),
    "aopc": (lambda: AOPC(3), aopc),
    "deletion": (lambda: Deletion(SHARES), lambda _, perturbed: area_under_curve(perturbed, SHARES)),
    "insertion": (lambda: Insertion(SHARES), lambda _, perturbed: area_under_curve(perturbed, SHARES)),
}


def probabilities(count=11):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, generator=generator), torch.rand(count, 3, generator=generator)


@pytest.fixture(params=METRICS)
def name(request):
    return request.param


def test_mean_and_standard_error_are_those_of_the_examples(name):
    make, function = METRICS[name]
    metric, each = make(), function(*probabilities())
    metric.update(*probabilities())
    torch.testing.assert_close(metric.compute(), each.mean(0))
    torch.testing.assert_close(metric.standard_error, each.std(0) / 11**0.5)


@pytest.mark.parametrize("size", [1, 4, 10])
def test_batches_do_not_matter(name, size):
    make, _ = METRICS[name]
    whole, batched = make(), make()
    whole.update(*probabilities())
    for part in zip(*(tensor.split(size) for tensor in probabilities()), strict=True):
        batched.update(*part)
    torch.testing.assert_close(batched.compute(), whole.compute(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(batched.standard_error, whole.standard_error, rtol=1e-6, atol=1e-7)


def test_states_merge(name):
    make, _ = METRICS[name]
    metrics = [make(), make(), make()]
    everything, *halves = probabilities(), *zip(*(tensor.split(7) for tensor in probabilities()), strict=True)
    for metric, part in zip(metrics, (everything, *halves), strict=True):
        metric.update(*part)
    metrics[1].merge_state(metrics[2])
    torch.testing.assert_close(metrics[1].compute(), metrics[0].compute())
    torch.testing.assert_close(metrics[1].standard_error, metrics[0].standard_error)


def on_one_of_two(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for name, (make, _) in METRICS.items():
        metric = make()
        own = slice(0, 8) if rank == 0 else slice(8, 11)
        metric.update(*(tensor[own] for tensor in probabilities()))
        found[name] = (metric.compute(), metric.standard_error)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path):
    mp.spawn(on_one_of_two, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, (make, _) in METRICS.items():
            metric = make()
            metric.update(*probabilities())
            torch.testing.assert_close(found[name], (metric.compute(), metric.standard_error))


def test_a_reset_starts_anew(name):
    make, _ = METRICS[name]
    metric, fresh = make(), make()
    metric.update(torch.tensor([0.1]), torch.tensor([[0.1, 0.2, 0.3]]))
    metric.compute()
    metric.reset()
    for each in (metric, fresh):
        each.update(*probabilities())
    assert torch.equal(metric.compute(), fresh.compute())
    assert torch.equal(metric.standard_error, fresh.standard_error)


def test_copies_and_pickles_know_what_was_measured(name):
    make, _ = METRICS[name]
    metric = make()
    metric.update(*probabilities())
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert torch.equal(other.compute(), metric.compute())


def test_one_example_has_no_standard_error_and_none_has_no_mean():
    metric = Comprehensiveness()
    metric.update(torch.tensor([0.9]), torch.tensor([[0.5]]))
    assert metric.compute().item() == pytest.approx(0.4)
    assert metric.standard_error.isnan()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert Comprehensiveness().compute().isnan()


def test_a_collection_keeps_them_apart():
    """It merges metrics whose states are equal, as all are after a batch in which nothing dropped."""
    makers = {name: make for name, (make, _) in METRICS.items()}
    both, alone = MetricCollection({name: make() for name, make in makers.items()}), {n: m() for n, m in makers.items()}
    same = torch.tensor([0.5]), torch.full((1, 3), 0.5)
    for batch in (same, probabilities()):
        both.update(*batch)
        for metric in alone.values():
            metric.update(*batch)
    for name, found in both.compute().items():
        torch.testing.assert_close(found, alone[name].compute())


def test_shapes_and_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected probabilities \(B, 3\), got \(2, 1\)"):
        AOPC(3).update(torch.rand(2), torch.rand(2, 1))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        AOPC(0)
    with pytest.raises(ValueError, match="ascend from 0 to 100"):
        Deletion([0, 0.5, 1])
    with pytest.raises(ValueError, match="such as logits"):
        Insertion([0, 100]).update(torch.rand(1), torch.tensor([[1.0, 5.0]]))


def test_what_is_no_probability_is_refused_and_not_counted():
    metric = Sufficiency()
    metric.update(*probabilities())
    before = metric.compute()
    with pytest.raises(ValueError, match="softmax"):
        metric.update(torch.tensor([2.0]), torch.rand(1, 3))
    assert torch.equal(metric.compute(), before)
    with pytest.raises(ValueError, match="unknown scale 'x'"):
        Sufficiency("x")


def test_plots_are_those_of_torchmetrics(name):
    metric = METRICS[name][0]()
    values = [metric(*probabilities()), metric(*(tensor.flip(0) for tensor in probabilities(5)))]
    figure, axes = metric.plot()
    expected = metric.compute().flatten().tolist()
    assert [line.get_ydata()[0] for line in axes.lines] == pytest.approx(expected)
    assert axes.get_ylabel() == type(metric).__name__
    figure.canvas.draw()
    _, own = plt.subplots()
    given, axes = metric.plot(values, own)
    assert given is None
    assert axes is own
    series = torch.stack(values).reshape(2, -1).T
    assert np.allclose([line.get_ydata() for line in axes.lines], series)
    labels = [text.get_text() for text in axes.texts]
    assert labels == ["Optimal \n value"] * (metric.plot_upper_bound is not None)
    low, high = axes.get_ylim()
    assert metric.plot_lower_bound is None or low <= metric.plot_lower_bound < metric.plot_upper_bound <= high


@pytest.mark.parametrize("metric", [TokenAUPRC, TokenF1, TokenIOU])
def test_plausibility_is_plotted_between_0_and_1(metric):
    meter = metric()
    scores, players = torch.tensor([[1.0, 0.0, 2.0]]), torch.ones(1, 3, dtype=torch.bool)
    values = [meter(scores, torch.tensor([row]), players) for row in ([True, False, True], [False, True, False])]
    _, axes = meter.plot(values)
    assert axes.lines[0].get_ydata().tolist() == pytest.approx(torch.stack(values).tolist())
    _, axes = meter.plot()
    assert axes.lines[0].get_ydata() == pytest.approx([meter.compute().item()])
    assert axes.get_ylim() == pytest.approx((-0.1, 1.1))


def test_collections_and_trackers_plot_them():
    tracker = MetricTracker(MetricCollection([Comprehensiveness(), Sufficiency(), LogOdds()]))
    for count in (4, 7):
        tracker.increment()
        tracker.update(*probabilities(count))
    _, axes = tracker.plot()
    assert len(axes.lines) == 3
    collection = MetricCollection([Comprehensiveness(), Sufficiency()])
    collection.update(*probabilities())
    _, axes = collection.plot(together=True)
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"Comprehensiveness", "Sufficiency"}


def test_directions():
    assert Comprehensiveness.higher_is_better
    assert Insertion.higher_is_better
    assert not any(metric.higher_is_better for metric in (Sufficiency, LogOdds, Deletion))


@pytest.mark.parametrize("metric", [TokenAUPRC, TokenF1, TokenIOU])
def test_examples_without_a_rationale_do_not_count(metric):
    scores, players = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.ones(2, 2, dtype=torch.bool)
    meter = metric()
    meter.update(scores, torch.tensor([[True, False], [False, False]]), players)
    assert meter.compute().item() == 1.0
