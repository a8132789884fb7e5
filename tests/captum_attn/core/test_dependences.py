"""Models whose tokens, examples or layers are not what they seem: right against plain autograd, or refused, or said."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from models import left_untouched, randomized
from stacked_models import WAYS, WIDTH, Own, embeddings, scaled, signed_influence, straight
from torch import nn

import captum_attn
from captum_attn import ShapleyGradAttention, inspect
from captum_attn.core import observed_forward, tensor_inputs

N = 5
IDS = torch.randint(4, 50, (3, N), generator=torch.Generator().manual_seed(3))
ORDER = torch.tensor([2, 0, 1])  # of three examples


_OTHERS = pytest.mark.filterwarnings("ignore:.* layers of Own have attention:UserWarning")


def explained(model, inputs, **others):
    """A ⊙ G (B, L, H, N, N) of class 1; a warning is an error."""
    explainer = ShapleyGradAttention(model, additional_forward_arg_names=list(others))
    with left_untouched(model), warnings.catch_warnings():
        warnings.simplefilter("error")
        return explainer.influence(inputs, 1, tuple(others.values()), per="head")


def assert_right(model, inputs, layers=lambda recorded: recorded, **others):
    """Against what plain autograd says of the same layers."""
    got = explained(model, inputs, **others)
    expected = torch.stack(layers(signed_influence(model, inputs, **others)), 1)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def assert_refused(model, inputs, words):
    """By attribution and by inspection, in the same words."""
    with left_untouched(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=words):
            ShapleyGradAttention(model).attribute(inputs, target=1)
        found = inspect(model, inputs, 1)
    assert found.verdict.startswith("refused")
    assert not found.trusted


class Reads(nn.Module):
    """A classifier of token ids, which ``look_up`` makes (B, N, 16); a second time if there is another ``view``."""

    def __init__(self, look_up, view=None):
        super().__init__()
        self.inner, self.look_up, self.view = Own(straight, "fused", "eager"), look_up, view
        generator = torch.Generator().manual_seed(1)
        self.table = nn.Embedding(50, WIDTH, _weight=torch.randn(50, WIDTH, generator=generator))
        self.positions = nn.Parameter(torch.randn(N, WIDTH, generator=generator))
        self.eval()

    def forward(self, input_ids):
        scores = self.inner(self.look_up(self, input_ids))
        return scores if self.view is None else scores * self.inner(self.view(self, input_ids)).sigmoid()


# --- Ways to attend --------------------------------------------------------------------------------------------------


def fused(*split):
    return F.scaled_dot_product_attention(*split)  # looked up when it runs, for it may be recorded


def hops(query, key, value):
    probabilities = scaled(query, key).softmax(-1)
    return probabilities @ (probabilities @ value)


def by_linear(query, key, value):
    return MIX(scaled(query, key).movedim(1, -1)).movedim(-1, 1).softmax(-1) @ value


def by_convolution(query, key, value):
    return F.conv2d(scaled(query, key), MIX.weight[..., None, None], MIX.bias).softmax(-1) @ value


def by_convolution_over_tokens(query, key, value):
    return F.conv2d(scaled(query, key), KERNEL, padding=1).softmax(-1) @ value


MIX, KERNEL = nn.Linear(2, 2).requires_grad_(False), torch.linspace(-1, 1, 36).view(2, 2, 3, 3)


@pytest.fixture
def way(monkeypatch):
    """Puts a way to attend under the name "way"."""
    return lambda attend: monkeypatch.setitem(WAYS, "way", attend)


EXACT = {
    "hops": hops,
    "scores mixed by a linear layer": by_linear,
    "scores mixed by a convolution over heads": by_convolution,
    "scores mixed by a convolution over tokens": by_convolution_over_tokens,
    "detached values": lambda q, k, v: fused(q, k, v.detach()),
    "detached values, eager": lambda q, k, v: scaled(q, k).softmax(-1) @ v.detach(),
    "detached queries and keys, eager": lambda q, k, v: scaled(q.detach(), k.detach()).softmax(-1) @ v,
}


@pytest.mark.parametrize("kind", EXACT)
def test_ways_of_attention_that_are_explained(kind, way):
    way(EXACT[kind])
    assert_right(Own(straight, "fused", "way", "eager"), embeddings())


@pytest.mark.parametrize("count", [2, 3])
def test_hops_of_fused_attention_are_one_layer_with_the_gradients_of_all(count, way):
    def several(query, key, value):
        for _ in range(count):
            value = fused(query, key, value)
        return value

    way(several)
    assert_right(Own(straight, "way"), embeddings(), lambda recorded: [sum(recorded)])
    between = lambda recorded: [recorded[0], sum(recorded[1:-1]), recorded[-1]]  # noqa: E731
    assert_right(Own(straight, "fused", "way", "eager"), embeddings(), between)


def queries_first(query, key, value):
    scores = torch.einsum("bhnd,bhmd->bnhm", query, key) / query.shape[-1] ** 0.5
    return torch.einsum("bnhm,bhmd->bhnd", scores.softmax(-1), value)


def heads_outside(*split):
    """(H, B, N, d), as code of (N, B, D) tensors may have it."""
    return fused(*(part.transpose(0, 1) for part in split)).transpose(0, 1)


def efficient(query, key, value):
    """Softmaxes of features, as many as there are tokens."""
    return query[..., :N].softmax(-1) @ (key[..., :N].softmax(-2).mT @ value)


def static(query, key, value):
    """Learned probabilities of each head, for all examples."""
    return torch.linspace(-1, 1, 2 * N * N).cos().view(2, N, N).softmax(-1) @ value


def with_memory(keep, first):
    """As many learned keys as tokens, in front or behind."""

    def attend(query, key, value):
        memory = torch.linspace(-1, 1, N * 8).sin().view(N, 8).expand(*key.shape[:2], N, 8)
        keys = torch.cat([memory, key] if first else [key, memory], 2)
        tokens, others = keep(scaled(query, keys).softmax(-1))
        return tokens @ value + others @ memory

    return attend


REFUSED = {  # how many examples, heads, and the words
    "queries before heads": (queries_first, 3, 2, "token-by-token matrix"),
    "queries before as many heads": (queries_first, 3, 4, "cannot be told from as many heads|has a softmax"),
    "heads before examples": (heads_outside, 3, 2, "token-by-token matrix"),
    "heads before as many examples": (heads_outside, 2, 2, "token-by-token matrix|heads and examples"),
    "features": (efficient, 3, 2, "no products of states"),
    "static": (static, 3, 2, "no products of states"),
    "static, as many heads as examples": (static, 2, 2, "no products of states"),
    "memory behind": (with_memory(lambda p: (p[..., :N], p[..., N:]), False), 3, 2, "token-by-token matrix"),
    "memory behind, left out": (with_memory(lambda p: (p[..., :N], 0 * p[..., N:]), False), 3, 2, "token-by-token"),
    "memory in front": (with_memory(lambda p: (p[..., N:], p[..., :N]), True), 3, 2, "token-by-token matrix"),
    "memory, split": (with_memory(lambda p: p.split(N, -1), False), 3, 2, "token-by-token matrix"),
}


@pytest.mark.parametrize("beside", [(), ("fused",)])
@pytest.mark.parametrize("kind", REFUSED)
def test_ways_of_attention_that_are_refused(kind, beside, way):
    attend, examples, heads, words = REFUSED[kind]
    if not beside:
        words += "|no attention was seen"
    way(attend)
    length = heads if kind == "queries before as many heads" else N
    assert_refused(Own(straight, *beside, "way", heads=heads), embeddings(examples, length), words)


DETACHED_PARTS = {
    "queries and keys, fused": lambda q, k, v: fused(q.detach(), k.detach(), v),
    "all, fused": lambda *split: fused(*(part.detach() for part in split)),
    "queries, eager": lambda q, k, v: scaled(q.detach(), k).softmax(-1) @ v,
    "keys, eager": lambda q, k, v: scaled(q, k.detach()).softmax(-1) @ v,
    "keys and values, eager": lambda q, k, v: scaled(q, k.detach()).softmax(-1) @ v.detach(),
    "queries, fused": lambda q, k, v: fused(q.detach(), k, v),
    "keys, fused": lambda q, k, v: fused(q, k.detach(), v),
}


@pytest.mark.parametrize("kind", DETACHED_PARTS)
def test_layers_with_detached_parts_are_never_left_out(kind, way):
    way(DETACHED_PARTS[kind])
    assert_refused(
        Own(straight, "fused", "way", "fused"), embeddings(), "comes from none of the inputs|no products of states"
    )


def test_attention_of_detached_queries_and_keys_alone_is_explained(way):
    way(DETACHED_PARTS["queries and keys, fused"])
    assert_right(Own(straight, "way"), embeddings())


def sink(keep):
    def attend(query, key, value):
        scores = scaled(query, key)
        return keep(torch.cat([scores[..., :1] * 0 + 0.5, scores], -1).softmax(-1)) @ value

    return attend


SINKS = {
    "an index": lambda p: p[..., torch.arange(1, N + 1)],
    "a list": lambda p: p[..., [1, 2, 3, 4, 5]],
    "a mask": lambda p: p[..., torch.arange(N + 1) > 0],
    "index_select": lambda p: p.index_select(-1, torch.arange(1, N + 1)),
    "narrow": lambda p: p.narrow(-1, 1, N),
}


@pytest.mark.parametrize("by", SINKS)
def test_sinks_are_left_out_however_they_are_cut_off(by, way):
    way(sink(SINKS[by]))
    cut = lambda recorded: [one[..., -N:] for one in recorded]  # noqa: E731
    assert_right(Own(straight, "way", "fused"), embeddings(), cut)


class Additive(nn.Module):
    """Attention of one head whose scores are no product."""

    def __init__(self, mix):
        super().__init__()
        self.mix, self.score = mix, nn.Linear(WIDTH, 1)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, states):
        scores = self.score((self.query(states)[:, :, None] + self.key(states)[:, None]).tanh())
        return states + self.mix(scores.squeeze(-1).softmax(-1), self.value(states))


MIXES = {
    "@": lambda a, v: a @ v,
    "sum": lambda a, v: (a[..., None] * v[:, None]).sum(2),
    "mm": lambda a, v: torch.stack([one.mm(other) for one, other in zip(a, v, strict=True)]),
    "tensordot": lambda a, v: torch.stack([torch.tensordot(one, other, 1) for one, other in zip(a, v, strict=True)]),
    "einsum of three": lambda a, v: torch.einsum("bnm,bmd,de->bne", a, v, torch.eye(WIDTH)),
}


@pytest.mark.parametrize("mix", MIXES)
def test_additive_attention_is_never_left_out_in_silence(mix):
    for heads in (1, 2):
        model = Own(
            lambda m, x: m.head(m.layers[1](m.additive(m.layers[0](x)))[:, 0]),
            "fused",
            "eager",
            heads=heads,
            additive=Additive(MIXES[mix]),
        )
        assert_refused(model, embeddings(), r"'additive' has a softmax.*no products of states")


@_OTHERS
def test_products_that_no_softmax_took_are_said(way):
    words = r"multiply states of the 5 tokens .* without a softmax \(layers\.1\)"
    way(lambda q, k, v: scaled(q, k).sigmoid() @ v)
    with pytest.warns(UserWarning, match=r"depend on other tokens"), pytest.warns(UserWarning, match=words):
        ShapleyGradAttention(Own(straight, "fused", "way", "eager")).attribute(embeddings(), target=1)
    with pytest.raises(ValueError, match="no attention was seen"):
        ShapleyGradAttention(Own(straight, "way")).attribute(embeddings(), target=1)


# --- Which states, and of what ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("code", ["fused", "eager"])
def test_another_input_of_the_same_content_is_another_input(code, first):
    def similarity(model, states, other):
        one, two = (model.layers[0](x)[:, 0] for x in ((states, other) if first else (other, states)))
        return model.head(one * two.sigmoid())

    mine = lambda recorded: recorded[:1] if first else recorded[1:]  # noqa: E731
    assert_right(Own(similarity, code), embeddings(), mine, other=embeddings())


@pytest.mark.parametrize("code", ["fused", "eager"])
@pytest.mark.parametrize("bare", ["queries", "keys"])
def test_queries_or_keys_of_the_embeddings_in_every_layer(bare, code):
    def shared(model, embedded):
        states = embedded
        for layer in model.layers:
            states = states + layer(embedded, states) if bare == "queries" else layer(states, embedded)
        return model.head(states[:, 0])

    assert_right(Own(shared, *[code] * 3), embeddings())


DETACHED = {
    "states": lambda layer, low: layer(low.detach()),
    "states of a branch": lambda layer, low: low + layer(low.detach()),
    "states by NumPy": lambda layer, low: layer(torch.from_numpy(low.detach().numpy())),
    "queries": lambda layer, low: low + layer(low.detach(), low),
    "keys and values": lambda layer, low: layer(low, low.detach()),
}


@pytest.mark.parametrize(
    ("kind", "code"),
    [(kind, code) for kind in DETACHED for code in ("fused", "eager")],
)
def test_layers_of_detached_states_are_never_left_out(kind, code):
    def forward(model, states):
        return model.head(model.layers[2](DETACHED[kind](model.layers[1], model.layers[0](states)))[:, 0])

    words = "none of the inputs|something else stands between|no products of states"
    assert_refused(Own(forward, *[code] * 3), embeddings(), words)


@_OTHERS
def test_learned_queries_whose_result_is_added_to_the_tokens_are_not_left_out_in_silence():
    def forward(model, states):
        low = model.layers[0](states)
        read = model.layers[1](model.queries.weight.expand(len(low), -1, -1), low)
        return model.head(model.layers[2](low + read)[:, 0])

    model = Own(forward, "fused", "fused", "fused", queries=nn.Embedding(N, WIDTH))
    assert not inspect(model, embeddings(), 1).trusted


def without_gradients(model, ids):
    with torch.no_grad():
        return model.table(ids) + model.positions


LOOK_UPS = {
    "under no_grad": without_gradients,
    "detached": lambda m, ids: m.table(ids).detach() + m.positions,
    "detached and changed": lambda m, ids: (m.table(ids).detach() * 2).tanh(),
    "data": lambda m, ids: m.table(ids).data,
    "NumPy": lambda m, ids: torch.from_numpy(m.table.weight.detach().numpy()[ids.numpy()]) + m.positions,
    "row by row": lambda m, ids: torch.stack([m.table.weight[row] for row in ids]),
    "one by one": lambda m, ids: torch.stack([torch.stack([m.table.weight[i] for i in row]) for row in ids.tolist()]),
}


@pytest.mark.parametrize("kind", LOOK_UPS)
def test_embeddings_without_gradients_are_those_of_the_input(kind):
    assert_right(Reads(LOOK_UPS[kind]), IDS)


VIEWS = {
    "sort": lambda ids: ids.sort(1).values,
    "topk": lambda ids: ids.topk(N, 1).values,
    "cummax": lambda ids: ids.cummax(1).values,
    "chunks": lambda ids: torch.cat(ids.chunk(2, 1), 1),
    "unbind": lambda ids: torch.stack(ids.unbind(0)),
    "iteration": lambda ids: torch.stack(list(ids)),
    "NumPy": lambda ids: torch.from_numpy(ids.numpy()[:, ::-1].copy()),
    "lists": lambda ids: torch.tensor(ids.tolist()),
    "numbers": lambda ids: ids.float().long(),
    "a mask": lambda ids: (ids > 20).long(),
    "some replaced": lambda ids: ids.masked_fill(ids > 20, 3),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_a_second_run_on_a_view_of_the_ids_is_refused(kind):
    model = Reads(lambda m, ids: m.table(ids), lambda m, ids: m.table(VIEWS[kind](ids)))
    assert_refused(model, IDS, r"ran twice on the explained input|comes from none\s+of the inputs")


def test_a_second_run_on_detached_embeddings_is_refused():
    model = Reads(lambda m, ids: m.table(ids), lambda m, ids: m.table(ids).detach().flip(1))
    assert_refused(model, IDS, "ran twice on the explained input")


# --- Another order ---------------------------------------------------------------------------------------------------

PERMUTED = torch.tensor([1, 2, 3, 4, 0])
MATRIX, OF_EXAMPLES = torch.eye(N)[PERMUTED], torch.eye(3)[ORDER]


def swapped(states):
    changed = states.clone()
    changed[:, 0], changed[:, 1] = states[:, 1], states[:, 0]
    return changed


MOVED = {
    "cat": lambda x: torch.cat([x[:, 3:], x[:, :3]], 1),
    "pad": lambda x: F.pad(x[:, :-1], (0, 0, 1, 0)),
    "matmul": lambda x: MATRIX @ x,
    "einsum": lambda x: torch.einsum("nm,bmd->bnd", MATRIX, x),
    "set items": swapped,
    "index_copy": lambda x: torch.zeros_like(x).index_copy(1, PERMUTED, x),
    "stack": lambda x: torch.stack([x[:, i] for i in PERMUTED.tolist()], 1),
    "argsort": lambda x: x[torch.arange(len(x))[:, None], x[..., 0].argsort(1)],
    "gather": lambda x: x.gather(1, x[..., :1].argsort(1).expand_as(x)),
    "take_along_dim": lambda x: x.take_along_dim(x[..., :1].argsort(1), 1),
    "transposed": lambda x: x.transpose(0, 1).flip(0).transpose(0, 1),
    "rot90": lambda x: x.rot90(2, (1, 2)),
    "examples by index": lambda x: x[ORDER],
    "examples by index_select": lambda x: x.index_select(0, ORDER),
    "examples by gather": lambda x: x.gather(0, ORDER[:, None, None].expand_as(x)),
    "examples flipped": lambda x: x.flip(0),
    "examples rolled": lambda x: x.roll(1, 0),
    "examples by cat": lambda x: torch.cat([x[1:], x[:1]]),
    "examples by stack": lambda x: torch.stack([x[i] for i in ORDER.tolist()]),
    "examples by matmul": lambda x: (OF_EXAMPLES @ x.flatten(1)).view_as(x),
}
_IN_ANOTHER_ORDER = "in another order"


@pytest.mark.parametrize("kind", MOVED)
def test_states_in_another_order_are_refused(kind):
    for below in (0, 1):

        def forward(model, states, below=below):
            for layer in model.layers[:below]:
                states = layer(states)
            states = MOVED[kind](states)
            for layer in model.layers[below:]:
                states = layer(states)
            return model.head(states[:, 0])

        assert_refused(Own(forward, "fused", "eager"), embeddings(), _IN_ANOTHER_ORDER)


def sorted_inside(model, states):
    """Examples by their norm, and back."""
    order = states.norm(dim=(1, 2)).argsort()
    for layer in model.layers:
        states = layer(states[order])[order.argsort()]
    return model.head(states[:, 0])


def test_examples_that_are_sorted_inside_and_put_back_are_refused():
    inputs = embeddings(4, seed=2)
    assert_refused(Own(sorted_inside, "fused", "eager"), inputs, _IN_ANOTHER_ORDER)
    in_order = inputs[inputs.norm(dim=(1, 2)).argsort()]
    for first in (in_order, inputs[:1]):
        model = Own(sorted_inside, "fused", "eager")
        assert_right(model, first)
        with pytest.raises(ValueError, match="depends on other examples"):
            explained(model, inputs)


@pytest.mark.xfail(strict=True, reason="a model is looked at once, whatever its first input is")
def test_tokens_that_are_sorted_inside_are_refused_whatever_came_before():
    def routed(model, states):
        matrix = torch.eye(N)[states.norm(dim=2).argsort(1)]
        return model.head((matrix.mT @ model.layers[1](matrix @ model.layers[0](states)))[:, 0])

    inputs = embeddings()
    assert_refused(Own(routed, "fused", "eager"), inputs, _IN_ANOTHER_ORDER)
    model, in_order = Own(routed, "fused", "eager"), torch.stack([one[one.norm(dim=1).argsort()] for one in inputs])
    assert_right(model, in_order)
    with pytest.raises(ValueError, match=_IN_ANOTHER_ORDER):
        explained(model, inputs)


def test_methods_without_gradients_refuse_another_order():
    def moved(model, states):
        return model.head(model.layers[1](MOVED["cat"](model.layers[0](states)))[:, 0])

    with pytest.raises(ValueError, match=_IN_ANOTHER_ORDER):
        captum_attn.RawAttention(Own(moved, "fused", "eager")).attribute(embeddings())


MOVED_IDS = {
    "flipped": lambda ids: ids.flip(1),
    "fliplr": torch.fliplr,
    "rolled": lambda ids: ids.roll(1, 1),
    "indexed": lambda ids: ids[:, [4, 3, 2, 1, 0]],
    "sorted": lambda ids: ids.sort(1).values,
    "shifted": lambda ids: F.pad(ids[:, :-1], (1, 0), value=2),
    "shifted by cat": lambda ids: torch.cat([torch.full_like(ids[:, :1], 2), ids[:, :-1]], 1),
}


@pytest.mark.parametrize("kind", MOVED_IDS)
def test_ids_in_another_order_are_refused(kind):
    assert_refused(Reads(lambda m, ids: m.table(MOVED_IDS[kind](ids)) + m.positions), IDS, _IN_ANOTHER_ORDER)


def test_embeddings_that_are_put_in_another_order_in_place_are_refused():
    def look_up(model, ids):
        states = model.table(ids)
        states[:, [0, 1]] = states[:, [1, 0]]
        return states

    assert_refused(Reads(look_up), IDS, _IN_ANOTHER_ORDER)


# --- What passes beside attention ------------------------------------------------------------------------------------


class Recurrent(nn.GRU):
    def forward(self, states):
        return super().forward(states)[0]


class Convolution(nn.Conv1d):
    def forward(self, states):
        return super().forward(states.mT).mT


BESIDE = {
    "a convolution": lambda: Convolution(WIDTH, WIDTH, 3, padding=1),
    "a recurrence": lambda: Recurrent(WIDTH, WIDTH, batch_first=True),
    "a running sum": lambda: nn.Sequential(nn.Unflatten(1, (N, 1)), nn.Flatten(1, 2)),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_what_passes_beside_attention_is_said_once_for_a_model(kind):
    def forward(model, states):
        low = model.layers[0](states)
        passed = low.cumsum(1) if kind == "a running sum" else model.beside(low)
        return model.head(model.layers[1](low + 0.5 * passed)[:, 0])

    model = Own(forward, "fused", "eager", beside=BESIDE[kind]())
    with pytest.warns(UserWarning, match="depend on other tokens by other ways than the explained attention") as said:
        ShapleyGradAttention(model).attribute(embeddings(), target=1)
    assert len(said) == 1
    assert_right(model, embeddings())  # of what is seen, and no warning
    assert inspect(model, embeddings(), 1).verdict.startswith("in part: tokens reach the score, or each other's states")


@pytest.mark.parametrize("attend", [None, fused])
def test_attention_of_features_as_many_as_tokens_is_not_taken_for_that_of_tokens(attend, way):
    """What passes is said: features attend to each other, (B, H, d, d), and every token's state to all tokens."""

    def features(query, key, value):
        if attend is not None:
            return attend(query.mT, key.mT, value.mT).mT
        return value @ scaled(query.mT, key.mT).softmax(-1).mT

    way(features)
    model, inputs = Own(straight, "fused", "way"), embeddings(length=8)
    with pytest.warns(UserWarning, match="depend on other tokens by other ways than the explained attention"):
        ShapleyGradAttention(model).attribute(inputs, target=1)
    assert not inspect(model, inputs, 1).trusted


def test_what_is_added_in_place_is_said():
    def look_up(model, ids):
        states = model.table(ids)
        states += states.mean(1, keepdim=True)
        return states

    with pytest.warns(UserWarning, match="depend on other tokens by other ways"):
        ShapleyGradAttention(Reads(look_up)).attribute(IDS, target=1)


def test_tied_layers_are_all_explained_without_a_warning():
    model = Own(straight, "fused")
    model.layers = nn.ModuleList([model.layers[0]] * 3)
    assert_right(model, embeddings())


def test_a_callers_hooks_on_saved_tensors_change_nothing():
    model = Own(straight, "fused", "eager")
    expected = explained(model, embeddings())
    with torch.autograd.graph.save_on_cpu():
        assert torch.equal(explained(model, embeddings()), expected)


# --- Side by side ----------------------------------------------------------------------------------------------------

FROM_LAYER_TO_LAYER = (
    "AttentionRollout",
    "GradientAttentionRollout",
    "AttentionFlow",
    "GeneralizedAttentionFlow",
    "GenericRelevance",
)


@pytest.mark.parametrize("layers", [1, 2])
def test_methods_that_go_from_layer_to_layer_refuse_attention_side_by_side(layers):
    def parallel(model, states):
        for place in range(layers):
            states = states + sum(layer(states) for layer in model.layers[2 * place : 2 * place + 2])
        return model.head(states[:, 0])

    model = Own(parallel, *("fused", "eager") * layers)
    assert_right(model, embeddings())
    for name in FROM_LAYER_TO_LAYER:
        with left_untouched(model), pytest.raises(ValueError, match="attention calls side by side"):
            getattr(captum_attn, name)(model).attribute(embeddings(), target=1)


@_OTHERS
@pytest.mark.xfail(strict=True, reason="zeros_like of the features counts as the features")
def test_slots_of_zeros_are_not_the_tokens_shifted():
    def slots(model, states):
        start = torch.zeros_like(states) + model.queries.weight
        low = model.layers[0](states)
        return model.head(model.layers[2](model.layers[1](start), low)[:, 0])

    model = Own(slots, "fused", "eager", "fused", queries=nn.Embedding(N, WIDTH))
    with observed_forward(model, tensor_inputs(model, embeddings())) as run:
        assert run.decoder_calls() == {2: 0}


@pytest.mark.parametrize("width", [16, 24])
def test_as_many_tokens_as_they_are_wide_are_none_that_mix(width):
    config = hf.SiglipVisionConfig(
        hidden_size=width, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, image_size=32, patch_size=8
    )
    torch.manual_seed(0)
    model = randomized(hf.SiglipForImageClassification(hf.SiglipConfig(vision_config=config.to_dict(), num_labels=3)))
    found = captum_attn.inspect(model, torch.randn(2, 3, 32, 32), 1)
    assert "other ways" not in found.facts["tokens mix"]
