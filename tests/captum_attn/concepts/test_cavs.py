"""Concept activation vectors against scikit-learn, and the laws that they obey."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from captum_attn.concepts.cavs import ESTIMATORS, CAVs, DiscriminantCAVs, LogisticCAVs, fitted, pattern_cavs
from captum_attn.concepts.scoring import held_out_accuracy
from captum_attn.concepts.token_states import Draws, TokenStates, draw_negatives, held_out_examples, joined


def token_states(concepts=3, examples=12, width=6, seed=0, separation=1.0, offset=4.0):
    """Correlated tokens, between 2 and 5 in an example, of concepts with different means."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(2, 6, (concepts * examples,), generator=generator)
    labels = torch.arange(concepts).repeat_interleave(examples)
    mixing = torch.randn(width, width, generator=generator)
    means = separation * torch.randn(concepts, width, generator=generator)
    noise = torch.randn(int(counts.sum()), width, generator=generator) @ mixing
    return TokenStates(noise + means[labels].repeat_interleave(counts, 0) + offset, counts, labels)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens_of(states, draws, cav):
    """X, y and weights of the tokens that one vector is fitted to."""
    weights = (draws.positive + draws.negative)[cav][states.example_of]
    used = weights > 0
    positive = (draws.positive[cav] > 0)[states.example_of]
    return states.hidden[used].double().numpy(), positive[used].numpy(), weights[used].double().numpy()


@pytest.mark.parametrize("separation", [0.3, 1.0, 4.0])  # from overlapping to separable
def test_logistic_vectors_are_those_of_scikit_learn(separation):
    states = token_states(separation=separation)
    draws = draw_negatives(states.concepts, 4, generator())
    cavs = LogisticCAVs(max_iterations=400, tolerance=1e-9)(states, draws)
    for cav in range(12):
        tokens, labels, weights = tokens_of(states, draws, cav)
        reference = LogisticRegression(tol=1e-10, max_iter=10_000).fit(tokens, labels, sample_weight=weights)
        norm = torch.tensor(reference.coef_[0]).norm()
        torch.testing.assert_close(
            cavs.vectors[cav], (torch.tensor(reference.coef_[0]) / norm).float(), atol=2e-3, rtol=0
        )
        assert cavs.thresholds[cav] == pytest.approx(float(-reference.intercept_[0] / norm), abs=2e-2)


def test_the_penalty_is_scikit_learns():
    states = token_states(separation=3.0)
    draws = draw_negatives(states.concepts, 1, generator())
    for strength in (1e-3, 1e-1):
        tokens, labels, weights = tokens_of(states, draws, 0)
        reference = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(
            tokens, labels, sample_weight=weights
        )
        expected = torch.nn.functional.normalize(torch.tensor(reference.coef_[0]).float(), dim=0)
        torch.testing.assert_close(
            LogisticCAVs(strength, 400, 1e-9)(states, draws).vectors[0], expected, atol=2e-3, rtol=0
        )


@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 1.0])
def test_discriminant_vectors_of_two_concepts_are_those_of_scikit_learn(shrinkage):
    states = token_states(concepts=2)
    everything = torch.ones(1, 24)
    first = (states.concepts == 0).float()[None]
    cavs = DiscriminantCAVs(shrinkage)(states, Draws(first, everything - first))
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    positive = (states.concepts == 0)[states.example_of].numpy()
    reference.fit(states.hidden.double().numpy(), positive)
    expected = torch.nn.functional.normalize(torch.tensor(reference.coef_[0]).float(), dim=0)
    torch.testing.assert_close(cavs.vectors[0], expected, atol=1e-4, rtol=0)


def test_discriminant_vectors_by_hand():
    states = token_states()
    draws = draw_negatives(states.concepts, 3, generator())
    used = (draws.positive + draws.negative).any(0)
    within = torch.zeros(6, 6, dtype=torch.double)
    for concept in range(3):
        members = (used & (states.concepts == concept))[states.example_of]
        deviations = states.hidden[members].double() - states.hidden[members].double().mean(0)
        within += deviations.mT @ deviations
    within = within / within.diagonal().mean()
    shrunk = 0.9 * within + 0.1 * torch.eye(6)
    cavs = DiscriminantCAVs(0.1)(states, draws)
    for cav in range(9):
        positive = (draws.positive[cav][states.example_of]).bool()
        weights = draws.negative[cav][states.example_of].double()
        mean = (weights @ states.hidden.double()) / weights.sum()
        direction = torch.linalg.solve(shrunk, states.hidden[positive].double().mean(0) - mean)
        torch.testing.assert_close(cavs.vectors[cav].double(), direction / direction.norm(), atol=1e-4, rtol=0)
        middle = (states.hidden[positive].double().mean(0) + mean) / 2
        assert cavs.thresholds[cav] == pytest.approx(float(middle @ direction / direction.norm()), abs=1e-3)


def test_pattern_vectors_by_hand():
    hidden = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 4.0], [0.0, 100.0]])
    states = TokenStates(hidden, torch.tensor([2, 1, 1, 1]), torch.tensor([0, 1, 1, 1]))
    draws = Draws(torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.0, 1, 1, 0]]))
    cavs = pattern_cavs(states, draws)  # from (0, 3) to (2, 0)
    torch.testing.assert_close(cavs.vectors, torch.tensor([[2.0, -3.0]]) / 13**0.5)
    assert cavs.thresholds[0] == pytest.approx((1 * 2 - 1.5 * 3) / 13**0.5, abs=1e-5)


@pytest.mark.parametrize("name", list(ESTIMATORS))
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_vectors_do_not_depend_on_where_the_origin_is_or_in_what_order_examples_come(name, seed):
    states = token_states(seed=seed)
    draws = draw_negatives(states.concepts, 2, generator(seed))
    expected = ESTIMATORS[name](states, draws)
    moved = ESTIMATORS[name](TokenStates(states.hidden + 50.0, states.counts, states.concepts), draws)
    torch.testing.assert_close(moved.vectors, expected.vectors, atol=5e-3, rtol=0)
    order = torch.randperm(len(states.counts), generator=generator(seed))
    parts = states.hidden.split(states.counts.tolist())
    shuffled = TokenStates(torch.cat([parts[i] for i in order]), states.counts[order], states.concepts[order])
    again = ESTIMATORS[name](shuffled, Draws(draws.positive[:, order], draws.negative[:, order]))
    torch.testing.assert_close(again.vectors, expected.vectors, atol=5e-3, rtol=0)


@pytest.mark.parametrize("name", list(ESTIMATORS))
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_swapping_positives_and_negatives_turns_vectors_round(name, seed):
    states = token_states(seed=seed)
    draws = draw_negatives(states.concepts, 2, generator(seed))
    there = ESTIMATORS[name](states, draws)
    back = ESTIMATORS[name](states, Draws((draws.negative > 0).float(), draws.positive * 1.0))
    there_again = ESTIMATORS[name](states, Draws(draws.positive, (draws.negative > 0).float()))
    torch.testing.assert_close(back.vectors, -there_again.vectors, atol=5e-3, rtol=0)
    assert torch.allclose(there.vectors.norm(dim=1), torch.ones(6), atol=1e-5)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_turning_the_space_turns_the_vectors(seed):
    states = token_states(seed=seed)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator(seed))).Q
    turned = TokenStates(states.hidden @ rotation, states.counts, states.concepts)
    draws = draw_negatives(states.concepts, 2, generator(seed))
    for name, estimator in ESTIMATORS.items():
        expected = estimator(states, draws).vectors @ rotation
        torch.testing.assert_close(estimator(turned, draws).vectors, expected, atol=5e-3, rtol=0, msg=name)


def test_half_precision_and_constant_features_are_no_trouble():
    states = token_states(width=4)
    hidden = torch.cat([states.hidden, torch.full((len(states.hidden), 2), 3.0)], 1)
    for name, estimator in ESTIMATORS.items():
        draws = draw_negatives(states.concepts, 2, generator())
        expected = estimator(TokenStates(hidden, states.counts, states.concepts), draws).vectors
        rounded = estimator(TokenStates(hidden.bfloat16(), states.counts, states.concepts), draws).vectors
        assert expected.isfinite().all(), name
        assert (rounded * expected).sum(1).min() > 0.99, name


def test_identical_concepts_have_no_direction():
    hidden = torch.ones(20, 3)
    states = TokenStates(hidden, torch.full((10,), 2), torch.arange(2).repeat_interleave(5))
    for name, estimator in ESTIMATORS.items():
        vectors = estimator(states, draw_negatives(states.concepts, 2, generator())).vectors
        assert vectors.isfinite().all(), name
        assert vectors.norm(dim=1).max() < 1e-3 or name == "logistic"


def test_draws_are_as_many_others_without_replacement_where_there_are_enough():
    concepts = torch.tensor([0] * 4 + [1] * 5 + [2] * 6)
    draws = draw_negatives(concepts, 30, generator())
    for cav in range(90):
        own = concepts == cav // 30
        assert draws.positive[cav].tolist() == own.float().tolist()
        assert draws.negative[cav][own].sum() == 0
        assert draws.negative[cav].sum() == own.sum()
        if 2 * own.sum() <= (~own).sum():
            assert draws.negative[cav].max() == 1
    assert len({tuple(row) for row in draws.negative[:30].tolist()}) > 20


def test_draws_against_one_other_concept_differ_too():
    draws = draw_negatives(torch.tensor([0] * 5 + [1] * 5), 20, generator())
    assert len({tuple(row) for row in draws.negative[:20].tolist()}) > 15


def test_draws_come_from_their_generator_alone():
    before = torch.get_rng_state()
    concepts = torch.arange(3).repeat_interleave(6)
    first, second, other = (draw_negatives(concepts, 5, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.negative, second.negative)
    assert not torch.equal(first.negative, other.negative)
    assert torch.equal(before, torch.get_rng_state())


def test_a_share_of_each_concept_is_held_out():
    concepts = torch.tensor([0] * 10 + [1] * 20 + [2] * 3)
    held_out = held_out_examples(concepts, 0.2, generator())
    assert [int(held_out[concepts == concept].sum()) for concept in range(3)] == [2, 4, 2]


def test_the_spread_of_examples_is_within_concepts_and_shrunk_as_scikit_learn_does():
    states = token_states(separation=5.0, examples=4, width=8)
    means = torch.stack([part.mean(0) for part in states.hidden.double().split(states.counts.tolist())])
    within = torch.cat([means[states.concepts == k] - means[states.concepts == k].mean(0) for k in range(3)])
    expected, shrinkage = ledoit_wolf(within.numpy(), assume_centered=True)
    assert shrinkage > 0
    torch.testing.assert_close(states.example_covariance, torch.tensor(expected), rtol=1e-3, atol=1e-4)
    constant = TokenStates(
        torch.cat([states.hidden, torch.ones(len(states.hidden), 2)], 1), states.counts, states.concepts
    )
    torch.linalg.cholesky(constant.example_covariance)


def test_accuracy_on_held_out_examples_by_hand():
    hidden = torch.tensor([[2.0], [-1.0], [3.0], [1.0], [-1.0], [2.0], [-2.0], [-3.0]])
    states = TokenStates(hidden, torch.tensor([2, 1, 1, 1, 2, 1]), torch.tensor([0, 0, 0, 1, 1, 1]))
    held_out = torch.tensor([True, True, False, True, True, False])
    cavs = CAVs(torch.tensor([[1.0], [-1.0]]), torch.zeros(2))
    accuracy, error = held_out_accuracy(states, cavs, held_out, concepts=2)
    # of the first concept's examples, a half and all tokens are positive, of the second's, none and a half
    assert accuracy.tolist() == pytest.approx([0.75, 0.75])
    variance = 0.125  # of (0.5, 1) and of (1, 0.5)
    assert error.tolist() == pytest.approx([(2 * variance / 2) ** 0.5 / 2] * 2)


def test_states_of_concepts_are_joined_example_by_example():
    states = joined([(torch.ones(3, 2), torch.tensor([1, 2])), (torch.zeros(4, 2), torch.tensor([4]))])
    assert states.concepts.tolist() == [0, 0, 1]
    assert states.example_of.tolist() == [0, 1, 1, 2, 2, 2, 2]
    torch.testing.assert_close(states.example_means + states.centre, torch.tensor([[1.0, 1], [1, 1], [0, 0]]))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            lambda vectors, thresholds: (vectors, thresholds),
            TypeError,
            "returned tuple, expected captum_attn.concepts.CAVs",
        ),
        (lambda vectors, thresholds: CAVs(vectors.numpy(), thresholds), TypeError, "expected .*CAVs of tensors"),
        (
            lambda vectors, thresholds: CAVs(vectors[1:], thresholds),
            ValueError,
            r"expected \(4, 3\) and \(4,\), one for",
        ),
        (lambda vectors, thresholds: CAVs(vectors / 0, thresholds), ValueError, "are not finite"),
    ],
)
def test_an_estimator_of_ones_own_must_find_a_vector_for_each_draw(wrong, error, message):
    states = TokenStates(torch.randn(8, 3), torch.full((4,), 2), torch.tensor([0, 0, 1, 1]))
    draws = draw_negatives(states.concepts, 2, torch.Generator().manual_seed(0))
    with pytest.raises(error, match=message):
        fitted(lambda *given: wrong(*pattern_cavs(*given)), states, draws)
    double = fitted(lambda *given: CAVs(*(part.double() for part in pattern_cavs(*given))), states, draws)
    assert double.vectors.dtype == double.thresholds.dtype == torch.float32
