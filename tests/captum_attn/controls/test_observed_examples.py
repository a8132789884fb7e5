"""What is read of a batch, and which queries count."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, batch, image_batch, text_batch
from models import left_untouched
from replaced_attention import logits_with

from captum_attn.controls.observed_examples import ObservedExamples, random_entries
from captum_attn.core.perturb import seeded
from captum_attn.functional import jensen_shannon


def observed_batch(name, padding="right", **options):
    family = FAMILIES[name]
    model, inputs = family.build(), batch(family, padding)
    examples = ObservedExamples(model, inputs, None, batch_size=3, max_length=None, **options)
    return model, inputs, examples.observe([0, 1, 2])


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit", "distilbert"])
def test_attention_is_what_textbook_attention_has(name, padding):
    model, inputs, observed = observed_batch(name, padding)
    _, expected = logits_with(model, inputs, lambda call, attention: attention)
    for layer, attention in enumerate(observed.attention()):
        for example, real in enumerate(observed.real):
            found = attention.probabilities[example][:, real]
            torch.testing.assert_close(found, expected[layer][example][:, real], rtol=1e-4, atol=1e-6)
    weighted = torch.stack([(observed.readout[:, None, None] @ a).squeeze(2) for a in expected], 1)
    torch.testing.assert_close(observed.attended(observed.readout), weighted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "vit", "beit", "t5", "deberta_v2"])
def test_the_queries_that_count_are_those_on_which_the_output_depends(name, padding):
    _, _, observed = observed_batch(name, padding)
    generator = torch.Generator().manual_seed(0)

    def moved_by(layer, query):
        def replace(_, attention, allowed):
            keys = own[layer].keys[:, :, query].expand(-1, observed.heads, -1)
            other = torch.rand(keys.shape, generator=generator).masked_fill(~keys, 0.0)
            changed = attention.clone()
            changed[:, :, query] = torch.where(
                keys.any(-1, keepdim=True), other / other.sum(-1, keepdim=True), attention[:, :, query]
            )
            return changed

        return (observed.probabilities(replace, [layer]) - observed.whole.probabilities).abs().amax(-1)

    own = observed.attention()
    for layer in (0, observed.layers - 1):
        counted = own[layer].rows.expand(-1, observed.heads, -1).any(1)
        moved = torch.stack([moved_by(layer, query) for query in range(observed.real.shape[1])], 1) > 2e-6
        assert not (moved & ~counted).any()
        assert moved[counted].float().mean() > 0.9


def test_in_the_last_layer_of_a_model_that_reads_the_first_token_only_that_one_counts():
    _, inputs, observed = observed_batch("bert")
    own = observed.attention()
    assert own[-1].rows.sum(-1).flatten().tolist() == [1, 1, 1]
    assert own[-1].rows[:, 0, 0].all()
    assert own[0].rows.sum(-1).flatten().tolist() == inputs["attention_mask"].sum(-1).tolist()


def test_a_query_with_one_key_has_nothing_to_choose_from():
    _, inputs, observed = observed_batch("gpt2")
    own = observed.attention()
    assert not own[0].rows[:, 0, 0].any()  # the first token sees itself alone
    assert own[0].rows.sum(-1).flatten().tolist() == (inputs["attention_mask"].sum(-1) - 1).tolist()


def test_divergences_are_means_over_the_rows_that_count():
    _, _, observed = observed_batch("bert", "left")
    own = observed.attention()[0]
    other = own.probabilities.roll(1, 1)
    for example, real in enumerate(observed.real):
        each = jensen_shannon(own.probabilities[example], other[example])[:, real]
        torch.testing.assert_close(own.divergence(other)[example], each.mean(-1))
        first = int(real.int().argmax())
        weights = torch.zeros(3, 9).index_fill(1, torch.tensor([first]), 0.5)
        torch.testing.assert_close(own.divergence(other, weights)[example], each[:, 0])


def test_random_entries_do_not_depend_on_the_batch_or_its_padding():
    def entries(real):
        return random_entries([seeded(7, 3)], real, heads=2)

    short = torch.ones(1, 4, dtype=torch.bool)
    padded = torch.tensor([[False, True, True, True, True, False]])
    torch.testing.assert_close(entries(padded)[:, :, 1:5, 1:5], entries(short))
    assert not entries(padded)[:, :, 0].any()


def test_batches_hold_examples_of_like_length_the_longest_first():
    model, inputs = FAMILIES["bert"].build(), text_batch()
    examples = ObservedExamples(model, inputs, None, batch_size=2, max_length=None)
    assert examples.batches() == [[0, 1], [2]]
    assert len(examples) == 3


def test_tokens_have_numbers_where_nothing_names_them():
    model = FAMILIES["vit"].build()
    examples = ObservedExamples(model, image_batch(), None, batch_size=3, max_length=None)
    assert examples.token_names(examples.observe([0, 1]), 1) == [str(place) for place in range(10)]


@pytest.mark.parametrize("name", ["bert", "vit", "deberta_v2"])
def test_the_model_is_left_as_it_was(name):
    family = FAMILIES[name]
    model = family.build().train()
    with left_untouched(model):
        observed = ObservedExamples(model, batch(family), None, batch_size=3, max_length=None).observe([0, 1, 2])
        observed.attention()
        observed.attended(observed.readout)
