"""Where tensors come from, on graphs made by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from captum_attn.core.origins import FEATURES, MOVED, NOWHERE, OTHER, Factors, Origin, Provenance, bits

BOTH = FEATURES | OTHER
TABLE = torch.randn(10, 4)
IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


class Following(TorchFunctionMode):
    """All that runs inside is followed."""

    def __init__(self, known=True):
        super().__init__()
        self.provenance = Provenance(known)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return self.provenance.follow(func, args, kwargs, func(*args, **kwargs))

    def features(self):
        return self.provenance.enter(torch.randn(2, 5, 4), FEATURES)

    def other(self):
        return self.provenance.enter(torch.randn(2, 5, 4), OTHER)

    def ids(self, inputs=FEATURES):
        return self.provenance.enter(IDS, inputs)

    def origin(self, tensor):
        return self.provenance.of(tensor)


def added_to_a_view(x, y):
    buffer = torch.zeros(2, 5, 4)
    buffer[:, :2] += x[:, :2]
    return buffer


def written_into_a_view(x, y):
    buffer = y.clone()
    view = buffer.transpose(0, 1)[1:3]
    view.copy_(x.transpose(0, 1)[1:3])
    return buffer


def added_to_several_views(x, y):
    buffer = torch.zeros(2, 5, 4)
    for place, one in enumerate((x[0], y[1])):
        part = buffer[place]
        part.add_(one)
    return buffer


def deep(x, y):
    for _ in range(5000):
        x = x + 1
    return x


SOME = torch.tensor([True, False, True, False, False]).view(1, 5, 1)
STATES = {
    "itself": (lambda x, y: x, FEATURES),
    "a residual stream": (lambda x, y: x + y, BOTH),
    "a view": (lambda x, y: x.transpose(0, 1)[1:].flatten(1), FEATURES),
    "added to a view in place": (added_to_a_view, FEATURES),
    "written into a view": (written_into_a_view, BOTH),
    "views side by side": (added_to_several_views, BOTH),
    "where": (lambda x, y: torch.where(SOME, x, y), BOTH),
    "where, a constant": (lambda x, y: torch.where(SOME, 0.0, y), OTHER),
    "masked scatter": (lambda x, y: x.masked_scatter(SOME.expand(2, 5, 4), y[:, :2].flatten()), BOTH),
    "index put": (lambda x, y: x.index_put((torch.tensor([0]),), y[:1]), BOTH),
    "index add": (lambda x, y: torch.zeros(2, 5, 4).index_add(1, torch.tensor([1]), x[:, :1]), FEATURES),
    "scatter": (lambda x, y: y.scatter(1, torch.zeros(2, 1, 4, dtype=torch.long), x), BOTH),
    "index select": (lambda x, y: x.index_select(1, torch.tensor([0, 3])), FEATURES),
    "joined": (lambda x, y: torch.cat([x, y], 1), BOTH),
    "a part of what was joined": (lambda x, y: torch.cat([x, y], 1).sum(1), BOTH),
    "without gradients": (lambda x, y: x.detach(), 0),
    "detached and joined": (lambda x, y: x.detach() + y, OTHER),
    "a constant": (lambda x, y: torch.ones_like(x), 0),
    "a weight": (lambda x, y: torch.nn.Linear(4, 4).weight * 2, 0),
    "a linear layer": (lambda x, y: F.linear(x, TABLE, None), FEATURES),
    "a norm": (lambda x, y: F.layer_norm(x, (4,)) * y.sigmoid(), BOTH),
    "a long chain": (deep, FEATURES),
}


@pytest.mark.parametrize("way", STATES)
def test_states_come_from_the_inputs_that_autograd_leads_to(way):
    compute, inputs = STATES[way]
    with Following() as following:
        result = compute(following.features(), following.other())
        assert following.origin(result) == Origin(inputs)


def shifted(ids):
    fresh = torch.zeros(2, 5, dtype=torch.long)
    fresh[:, 1:] = ids[:, :-1]
    return F.embedding(fresh, TABLE)


def marked(ids):
    codes = torch.zeros(2, 5, 10)
    codes[torch.arange(2)[:, None], torch.arange(5), ids] = 1.0
    return codes @ TABLE


SELECTED = {
    "embedding": lambda ids: F.embedding(ids, TABLE),
    "indexing": lambda ids: TABLE[ids],
    "index select": lambda ids: TABLE.index_select(0, ids.flatten()).view(2, 5, 4),
    "torch.index_select": lambda ids: torch.index_select(TABLE, 0, ids.reshape(-1)),
    "gather": lambda ids: TABLE.expand(2, 10, 4).gather(1, ids.unsqueeze(-1).expand(2, 5, 4)),
    "one-hot": lambda ids: F.one_hot(ids, 10).float() @ TABLE,
    "one-hot, converted": lambda ids: F.one_hot(ids, 10).to(TABLE.dtype) @ TABLE,
    "bag": lambda ids: F.embedding_bag(ids, TABLE),
    "other ids": lambda ids: F.embedding((ids + 1) % 10, TABLE),
    "some replaced": lambda ids: F.embedding(torch.where(ids == 3, 0, ids), TABLE),
    "clamped": lambda ids: F.embedding(ids.clamp(max=5).clone().contiguous(), TABLE),
    "put together": lambda ids: F.embedding(torch.stack([ids, torch.zeros_like(ids)]), TABLE),
    "set in place": shifted,
    "codes that are set": marked,
    "as numbers": lambda ids: ids.float().unsqueeze(-1) * TABLE[0],
}


@pytest.mark.parametrize("inputs", [FEATURES, OTHER])
@pytest.mark.parametrize("way", SELECTED)
def test_what_ids_select_comes_from_them(way, inputs):
    with Following() as following:
        result = SELECTED[way](following.ids(inputs))
        moved = MOVED if way == "set in place" and inputs == FEATURES else 0  # by one place
        assert following.origin(result) == Origin(inputs | moved)
        assert result.requires_grad


def test_values_that_ids_select_are_unchanged():
    for way, select in SELECTED.items():
        with Following() as following:
            result = select(following.ids())
        assert torch.equal(result.detach(), select(IDS)), way


UNRELATED = {
    "positions": lambda ids: F.embedding(torch.arange(5), TABLE),
    "a mask": lambda ids: (ids == 3).float().unsqueeze(-1).expand(2, 5, 4),
    "sizes": lambda ids: torch.ones(ids.shape).unsqueeze(-1),
}


@pytest.mark.parametrize("way", UNRELATED)
def test_masks_and_positions_do_not_come_from_ids(way):
    with Following() as following:
        assert following.origin(UNRELATED[way](following.ids())) == NOWHERE


def test_inputs_are_entered_as_copies_in_the_graph_and_ids_as_they_are():
    provenance = Provenance(True)
    values, ids, mask = torch.randn(2, 3), torch.arange(3), torch.ones(3, dtype=torch.bool)
    entered = provenance.enter(values, FEATURES)
    assert entered is not values
    assert torch.equal(entered, values)
    assert provenance.of(entered) == Origin(FEATURES)
    assert provenance.enter(ids, FEATURES) is ids
    assert provenance.enter(mask, FEATURES) is mask
    assert provenance.enter("a word", FEATURES) == "a word"
    entered += 1
    assert not torch.equal(entered, values)


def test_without_a_graph_nothing_is_known():
    with Following(known=False) as following:
        features = following.features()
        assert following.origin(F.embedding(following.ids(), TABLE) + features) == NOWHERE


# --- Attention -------------------------------------------------------------------------------------------------------


PRODUCTS = {
    "@": lambda q, k: q @ k.mT,
    "matmul": lambda q, k: torch.matmul(q, k.mT),
    "bmm": lambda q, k: torch.bmm(q, k.mT),
    "einsum": lambda q, k: torch.einsum("bqd,bkd->bqk", q, k),
    "einsum of a list": lambda q, k: torch.einsum("bqd,bkd->bqk", [q, k]),
    "baddbmm": lambda q, k: torch.baddbmm(torch.zeros(2, 5, 5), q, k.mT, alpha=0.5),
}


@pytest.mark.parametrize("way", PRODUCTS)
def test_scores_know_their_queries_and_keys(way):
    with Following() as following:
        query, key = following.features() * 2, following.other().tanh()
        scores = PRODUCTS[way](query, key)
        made = frozenset({Factors(Origin(FEATURES), Origin(OTHER), 1, by_einsum=way.startswith("einsum"))})
        assert following.origin(scores) == Origin(BOTH, factors=made)
        scores += torch.ones(5)
        masked = (scores / 2).masked_fill(torch.ones(5, 5).triu(1) > 0, -torch.inf)
        assert following.origin(masked).factors == made
        assert following.origin(F.linear(masked, torch.ones(3, 5))) == Origin(BOTH)


def test_scores_changed_in_place_through_a_view_know_their_factors():
    with Following() as following:
        scores = (following.features() @ following.other().mT).view(2, 1, 5, 5)
        scores[:, :, 0] += 1
        scores.mul_(2)
        assert following.origin(scores).factors == {Factors(Origin(FEATURES), Origin(OTHER), 1)}


def test_a_product_with_weights_makes_no_scores():
    with Following() as following:
        assert following.origin(following.features() @ torch.ones(4, 3)) == Origin(FEATURES)


def test_products_of_probabilities_are_mixtures():
    with Following() as following:
        states = following.features()
        probabilities = (states @ states.mT).softmax(-1).clone()
        following.provenance.declare(probabilities, Origin(softmax=1 << 3))
        mixed = (probabilities * 0.9) @ following.other()
        assert following.provenance.mixtures == [(1 << 3, Origin(OTHER))]
        assert following.origin(mixed) == Origin(calls=1 << 3)
        assert following.origin(mixed + states) == Origin(FEATURES, 1 << 3)
        assert following.origin(mixed + states).settled == Origin(FEATURES, 1 << 3)


def test_calls_hide_what_they_read():
    with Following() as following:
        attended = following.features().exp()
        following.provenance.declare(attended, Origin(calls=1 << 0))
        assert following.origin(F.linear(attended, TABLE)) == Origin(calls=1)
        higher = attended.sin()
        following.provenance.declare(higher, Origin(calls=1 << 1))
        assert following.origin(higher * 2) == Origin(calls=2)
        assert following.origin(higher + attended) == Origin(calls=3)


def test_the_settled_state_of_probabilities_is_a_call():
    assert Origin(OTHER, 1, 6).settled == Origin(OTHER, 7)
    assert NOWHERE | Origin(FEATURES) == Origin(FEATURES) | NOWHERE == Origin(FEATURES)
    assert Origin(FEATURES, 1) | Origin(OTHER, 2, 4) == Origin(BOTH, 3, 4)


def test_nothing_is_held_after_forgetting():
    with Following() as following:
        result = following.features() + F.embedding(following.ids(), TABLE)
        assert following.origin(result) == Origin(FEATURES)
        following.provenance.forget()
        assert not following.provenance._nodes
        assert not following.provenance._integers


@pytest.mark.parametrize("number", [0, 1, 6, 0b1010001, 1 << 200])
def test_bits_are_the_places_of_ones(number):
    assert list(bits(number)) == [place for place, digit in enumerate(reversed(f"{number:b}")) if digit == "1"]
