"""Padding is told by masks of any name, form and sense, if they leave no doubt, and no needless warning is given."""

from __future__ import annotations

import warnings

import pytest
import torch
from families import FAMILIES, PAD, text_batch
from models import PlainClassifier
from torch import nn

from captum_attn import ShapleyGradAttention
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.padding_masks import given_masks, tokens_of
from captum_attn.core.tokens import real_tokens

IDS, REAL = text_batch()["input_ids"], text_batch()["attention_mask"].bool()
WIDE = REAL[:, None, None]
SQUARE = WIDE & torch.ones(9, 9).tril().bool()
LEFT_IDS, LEFT = text_batch("left")["input_ids"], text_batch("left")["attention_mask"].bool()
APART = (torch.arange(9) - torch.arange(9)[:, None]).abs()
CONFIG = FAMILIES["bert"].config()


def additive(mask, low=-1e4):
    return torch.zeros(mask.shape).masked_fill(~mask, low)


READ = {
    "bool": ("mask", REAL),
    "the other sense": ("padding_mask", ~REAL),
    "integers": ("input_mask", REAL.long()),
    "PyTorch's": ("key_padding_mask", ~REAL),
    "additive": ("mask", additive(REAL)),
    "four dimensions": ("attention_mask", WIDE),
    "four dimensions, padding marked": ("mask", ~WIDE),
    "four dimensions, additive": ("attention_mask", additive(WIDE, -torch.inf)),
    "four dimensions, causal": ("attention_mask", SQUARE),
    "four dimensions, causal, additive": ("attention_mask", additive(SQUARE)),
    "heads": ("attention_mask", SQUARE.repeat(1, 4, 1, 1)),
    "additive by name": ("attention_mask", additive(REAL)),
    "additive by a small number": ("attention_mask", additive(REAL, -100.0)),
    "PyTorch's, additive": ("src_key_padding_mask", additive(REAL, -torch.inf)),
    "three dimensions": ("attention_mask", REAL[:, None].expand(3, 9, 9)),
    "three dimensions, additive": ("mask", additive(REAL[:, None].expand(3, 9, 9))),
    "three dimensions, one row": ("mask", REAL[:, None].long()),
    "of pairs of tokens": ("attention_mask", REAL[:, None] & REAL[..., None]),
    "causal, forbidding": ("mask", ~SQUARE),
    "with a bias of positions": (
        "attention_mask",
        additive(SQUARE) - APART,
    ),
    "with blind rows": ("attention_mask", additive(SQUARE & REAL[:, None, :, None], torch.finfo(torch.float32).min)),
}


@pytest.mark.parametrize(("name", "mask"), READ.values(), ids=READ)
@pytest.mark.parametrize("config", [CONFIG, None], ids=["pad id known", "pad id unknown"])
@pytest.mark.parametrize("features", [IDS, torch.randn(3, 9, 4)], ids=["ids", "embeddings"])
def test_masks_are_read(name, mask, config, features):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        real = real_tokens(ModelInputs(features, None, {name: mask}), 9, config)
    assert torch.equal(real, REAL)


IN_DOUBT = {
    "one text": ("mask", REAL[1:2]),
    "both senses": ("mask", torch.tensor([[1, 1, 0], [1, 0, 0]])),
    "keys for queries": ("mask", torch.ones(9, 9).tril().bool()),
    "of entities": ("entity_mask", REAL),
    "without a name": ("argument 1", REAL),
}


@pytest.mark.parametrize(("name", "mask"), IN_DOUBT.values(), ids=IN_DOUBT)
def test_masks_in_doubt_are_not_read(name, mask):
    assert tokens_of({name: mask}, tuple(mask.shape), None) is None


def opened(how, padding=LEFT):
    """A causal mask over left padding whose blind rows are opened, as models do."""
    mask = padding[:, None, None] & torch.ones(9, 9).tril().bool()
    blind = ~padding[:, None, :, None]
    return additive(mask | (blind & (torch.eye(9).bool() if how == "themselves" else torch.tensor(True))))


@pytest.mark.parametrize("how", ["themselves", "all keys"])
def test_opened_rows_of_padding_leave_a_doubt_that_the_ids_settle(how):
    masks = {"attention_mask": opened(how)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(real_tokens(ModelInputs(LEFT_IDS, None, masks), 9, CONFIG), LEFT)
    with pytest.warns(UserWarning, match="what attention_mask says of padding cannot be told"):
        real_tokens(ModelInputs(torch.randn(3, 9, 4), None, masks), 9, None)


@pytest.mark.parametrize("shape", [(9, 9), (1, 1, 9, 9), (3, 1, 9, 9), (1, 9, 9)])
def test_a_causal_mask_says_nothing_of_padding(shape):
    masks = {"attention_mask": torch.ones(9, 9).tril().bool().expand(shape)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(real_tokens(ModelInputs(IDS, None, masks), 9, CONFIG), REAL)
        assert real_tokens(ModelInputs(torch.randn(3, 9, 4), None, masks), 9, None).all()


def square(form):
    """A mask (N, N) of N = 9 texts: of keys for queries, or of padding."""
    places = torch.arange(9)
    return {
        "causal": torch.ones(9, 9).tril().bool(),
        "the other way": torch.ones(9, 9).triu().bool(),
        "a window": (places - places[:, None]).abs() < 3,
        "padding": places < torch.tensor([9, 7, 9, 9, 5, 9, 8, 9, 9])[:, None],
    }[form]


@pytest.mark.parametrize("form", ["causal", "the other way", "a window"])
def test_as_many_texts_as_tokens_under_what_may_relate_tokens(form):
    inputs = ModelInputs(torch.randn(9, 9, 4), None, {"attention_mask": square(form).long()})
    with pytest.warns(UserWarning, match="what attention_mask says of padding cannot be told"):
        assert real_tokens(inputs, 9, None).all()
    ids = torch.full((9, 9), 7).masked_fill(~square(form), PAD)
    padded = ModelInputs(ids, None, {"attention_mask": square(form).long()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(real_tokens(padded, 9, CONFIG), square(form))


def test_as_many_padded_texts_as_tokens():
    inputs = ModelInputs(torch.randn(9, 9, 4), None, {"attention_mask": square("padding").long()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(real_tokens(inputs, 9, None), square("padding"))


REVERSED = {
    "ones for padding": ("attention_mask", ~REAL[1:]),
    "integers": ("attention_mask", (~REAL[1:]).long()),
    "PyTorch's, ones for tokens": ("src_key_padding_mask", REAL[1:]),
}


@pytest.mark.parametrize(("name", "mask"), REVERSED.values(), ids=REVERSED)
@pytest.mark.parametrize("config", [CONFIG, None], ids=["pad id known", "pad id unknown"])
def test_a_mask_in_the_other_sense_than_its_name_says_is_refused(name, mask, config):
    with pytest.raises(ValueError, match=rf"{name} marks the padding for tokens.*lambda input_ids, padding_mask"):
        real_tokens(ModelInputs(IDS[1:], None, {name: mask}), 9, config)
    embeddings = torch.nn.functional.one_hot(IDS[1:]).float()
    with pytest.raises(ValueError, match=rf"{name} marks the padding for tokens"):
        real_tokens(ModelInputs(embeddings, None, {name: mask}), 9, config)


@pytest.mark.parametrize("real", [REAL, REAL.flip(1)], ids=["right", "left"])
def test_a_mask_over_any_padding_is_taken_at_its_word(real):
    ids = torch.where(real, IDS, torch.arange(27).view(3, 9) + 5)  # what stands there is no one token
    for features in (ids, torch.randn(3, 9, 4)):
        assert torch.equal(real_tokens(ModelInputs(features, None, {"attention_mask": real.long()}), 9, None), real)
        assert not real_tokens(ModelInputs(features, None, {"attention_mask": 0 * real.long()}), 9, None).any()


@pytest.mark.parametrize("mask", [torch.rand(3, 9) + 0.1, torch.rand(3, 9, 9)])
def test_weights_are_no_mask(mask):
    with pytest.warns(UserWarning, match="what attention_mask says of padding cannot be told"):
        assert real_tokens(ModelInputs(IDS, None, {"attention_mask": mask}), 9, None).all()


@pytest.mark.parametrize("name", ["lengths", "seq_len", "src_lengths", "text_lens"])
def test_lengths_alone_are_warned_of(name):
    lengths = REAL.sum(1)
    with pytest.warns(UserWarning, match=f"what {name} says of padding cannot be told"):
        assert real_tokens(ModelInputs(IDS, None, {name: lengths}), 9, None).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full = torch.full_like(lengths, 9)
        assert real_tokens(ModelInputs(IDS, None, {name: full}), 9, None).all()
        assert real_tokens(ModelInputs(IDS, None, {"domain": lengths}), 9, None).all()
        both = {name: lengths, "attention_mask": REAL.long()}
        assert torch.equal(real_tokens(ModelInputs(IDS, None, both), 9, None), REAL)


def test_masks_that_disagree_are_not_read():
    assert tokens_of({"mask": REAL, "padding_mask": REAL[:, [8, *range(8)]]}, (3, 9), None) is None


def test_a_mask_that_hides_words_is_none_of_padding():
    hides = REAL & (torch.arange(9) != 2)
    assert tokens_of({"mask": hides}, (3, 9), REAL) is None
    real = real_tokens(ModelInputs(IDS, "input_ids", {"mask": hides}), 9, CONFIG)
    assert torch.equal(real, REAL)


NO_MASK = {
    "token types": {"token_type_ids": REAL.long()},
    "positions": {"position_ids": torch.arange(9).expand(3, 9)},
    "a decoder's": {"decoder_attention_mask": REAL},
    "heads": {"head_mask": torch.ones(3, 4)},
    "global attention": {"global_attention_mask": REAL.long()},
    "numbers": {"segments": torch.arange(9).expand(3, 9)},
}


@pytest.mark.parametrize("keywords", NO_MASK.values(), ids=NO_MASK)
def test_padding_without_a_mask_is_still_warned_of(keywords):
    inputs = ModelInputs(IDS, "input_ids", keywords)
    assert not given_masks(inputs, 9)
    with pytest.warns(UserWarning, match=r"hold padding \(\[1\]\) but there is no attention_mask"):
        assert torch.equal(real_tokens(inputs, 9, CONFIG), REAL)


def test_a_mask_that_cannot_be_read_is_warned_of_where_nothing_else_tells():
    for inputs in (ModelInputs(IDS, None, {}, (REAL,)), ModelInputs(IDS[1:2], None, {"mask": REAL[1:2]})):
        with pytest.warns(UserWarning, match=r"what (argument 1|mask) says of padding cannot be told"):
            assert real_tokens(inputs, 9, None).all()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(real_tokens(inputs, 9, CONFIG), inputs.features != PAD)


class Masked(nn.Module):
    """BERT under a mask of another name."""

    def __init__(self) -> None:
        super().__init__()
        self.model = FAMILIES["bert"].build()

    def forward(self, ids, mask):
        return self.model(ids, attention_mask=mask).logits


class Extended(Masked):
    """The same under a mask of four dimensions."""

    def forward(self, ids, mask):
        return super().forward(ids, mask[:, None, None, :].expand(-1, 1, ids.shape[1], -1).bool())


@pytest.mark.parametrize(
    "model", [Masked(), Extended(), lambda ids, m: Masked().eval()(ids, m)], ids=["name", "wide", "place"]
)
def test_the_values_are_those_under_attention_mask(model):
    expected = ShapleyGradAttention(FAMILIES["bert"].build()).attribute_tokens(text_batch(), target=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ShapleyGradAttention(model).attribute_tokens(IDS, 1, REAL.long())
    assert torch.equal(found.players, expected.players)
    torch.testing.assert_close(found.values, expected.values)


def test_a_padding_mask_by_place_is_known_by_the_models_name_for_it():
    model, embeddings = PlainClassifier().eval(), torch.randn(1, 5, 16)
    padding = torch.tensor([[False, False, False, True, True]])
    by_name = ShapleyGradAttention(model, additional_forward_arg_names=["src_key_padding_mask"])
    expected = by_name.attribute_tokens(embeddings, 1, padding)
    found = ShapleyGradAttention(model).attribute_tokens(embeddings, 1, padding)
    assert torch.equal(found.players, ~padding)
    assert torch.equal(found.values, expected.values)
