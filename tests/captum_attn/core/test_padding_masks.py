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
        with pytest.warns(UserWarning, match=r"whether (argument 1|mask) marks tokens or padding cannot be told"):
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
