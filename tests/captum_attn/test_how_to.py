"""The page on how to write what is one's own runs as it stands, and takes as few lines as it says."""

from __future__ import annotations

import re

import pytest
import torch
from how_to import PAGE, SECTIONS, body_lines, ran
from sklearn.svm import LinearSVC

from captum_attn import ShapleyGradAttention
from captum_attn.functional import permutation_shapley

LIMITS = {
    "a-characteristic-function": (["strongest_tie"], 5),
    "a-method": (["InfluenceOnOthers"], 10),
    "a-method-with-an-observer-of-its-own": (["PeakObserver", "PeakInfluence"], 25),
    "a-method-over-hidden-states": (["AttCAT"], 22),
    "a-concept-estimator": (["support_vectors"], 15),
    "a-measurement": (["RolloutEntropy"], 25),
}


@pytest.fixture(scope="module")
def names():
    return ran()


@pytest.mark.parametrize("section", LIMITS)
def test_the_page_says_how_many_lines_each_takes(section):
    defined, limit = LIMITS[section]
    said = int(re.search(rf"\(#{section}\) \| (\d+) \|", PAGE)[1])
    assert said == sum(map(body_lines, defined)) <= limit


def test_a_measurement_of_all_examples_and_a_metric_are_short_too():
    assert body_lines("ProbingAccuracy") <= 25
    assert int(re.search(r"\(#a-metric\) \| (\d+) \|", PAGE)[1]) == body_lines("flips") + 3 <= 10  # def, blank, record


def test_every_section_is_in_the_table_and_runs(names):
    headings = [re.sub(r"\W+", "-", title.lower()) for title in SECTIONS]
    assert [heading for heading in headings if f"(#{heading})" not in PAGE] == ["where-things-are"]
    assert names["scores"].shape == names["batch"]["input_ids"].shape


def test_a_characteristic_function_of_ones_own_is_sampled(names):
    model, tokenizer, batch = names["model"], names["tokenizer"], names["batch"]
    matrices = ShapleyGradAttention(model, tokenizer=tokenizer).influence(batch, "positive")
    found = names["explainer"].attribute_tokens(batch, "positive")
    members = found.players[1].nonzero().flatten()
    among = matrices[1][members][:, members]
    expected = permutation_shapley(lambda kept: names["strongest_tie"](among, kept), len(members))
    torch.testing.assert_close(found.values[1, members].double(), expected.values, rtol=1e-4, atol=1e-6)
    assert found.values[1].sum().item() == pytest.approx(among.max().item(), rel=1e-4)


def test_a_metric_of_ones_own_is_in_the_table(names):
    table = names["result"].table()
    assert set(table.metric) == {"comprehensiveness", "flips"}
    assert table[table.metric == "flips"]["mean"].between(0, 1).all()


def test_a_concept_estimator_of_ones_own_finds_what_its_machine_finds(names):
    from captum_attn.concepts.token_states import TokenStates, draw_negatives

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 6, generator=generator)
    hidden[:20, 0] += 3
    counts, concepts = torch.full((20,), 2), torch.arange(20) // 10
    states = TokenStates(hidden, counts, concepts)
    draws = draw_negatives(concepts, 2, generator)
    found = names["support_vectors"](states, draws)
    assert found.vectors.norm(dim=1).tolist() == pytest.approx([1.0] * 4, abs=1e-6)
    machine = LinearSVC(C=0.01).fit(hidden.numpy(), (concepts[states.example_of] == 0).numpy())
    taken = hidden @ found.vectors[0] > found.thresholds[0]
    assert (taken.numpy() == machine.predict(hidden.numpy())).mean() > 0.9
    assert set(names["table"].concept) == {"praise", "blame"}
    assert names["table"].score.between(0, 1).all()
