"""What the tokens of an input are."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tokenizers
import torch
import transformers as hf
from families import FAMILIES, text_batch
from tokenizers_of_every_kind import TOKENIZERS

from captum_attn import ShapleyGradAttention
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.tokens import real_tokens, special_token_ids

B, E, W = 2, 3, 9  # a text's beginning, its end, and a word


def real(rows, **roles):
    """The tokens that are no padding, as 0 and 1, of ids without an attention mask."""
    inputs = ModelInputs(torch.tensor(rows), "input_ids")
    return real_tokens(inputs, len(rows[0]), SimpleNamespace(**roles)).int().tolist()


CHAT = {"bos_token_id": B, "eos_token_id": E, "pad_token_id": E}
ONE_FOR_ALL = {"bos_token_id": E, "eos_token_id": E, "pad_token_id": E}  # GPT-2
ROWS = {
    "a closed turn": (CHAT, [[B, W, W, E]], [[1, 1, 1, 1]]),
    "closed turns inside": (CHAT, [[B, W, E, B, W, E]], [[1, 1, 1, 1, 1, 1]]),
    "closed, padded right": (CHAT, [[B, W, W, E], [B, W, E, E]], [[1, 1, 1, 1], [1, 1, 1, 0]]),
    "alone, padded right": (CHAT, [[B, W, E, E, E]], [[1, 1, 1, 0, 0]]),
    "open, padded right": (CHAT, [[B, W, W, W], [B, W, E, E]], [[1, 1, 1, 1], [1, 1, 0, 0]]),
    "open beside closed": (CHAT, [[B, W, W, W], [B, W, W, E]], [[1, 1, 1, 1], [1, 1, 1, 1]]),
    "closed, padded left": (CHAT, [[B, W, W, E], [E, E, B, E]], [[1, 1, 1, 1], [0, 0, 1, 1]]),
    "one before the beginning": (CHAT, [[B, W, W, W], [E, B, W, W]], [[1, 1, 1, 1], [0, 1, 1, 1]]),
    "a piece of a chat": (CHAT, [[W, E, B, W]], [[1, 1, 1, 1]]),
    "begins with the end": ({**CHAT, "bos_token_id": None}, [[E, W, W, E]], [[1, 1, 1, 1]]),
    "no beginning, padded left": ({**CHAT, "bos_token_id": None}, [[E, E, W, W]], [[0, 0, 1, 1]]),
    "one id for all": (ONE_FOR_ALL, [[E, W, W, E]], [[1, 1, 1, 1]]),
    "one id for all, left": (ONE_FOR_ALL, [[E, W, W, W], [E, E, E, W]], [[1, 1, 1, 1], [0, 0, 1, 1]]),
    "one id for all, plain left": (ONE_FOR_ALL, [[W, W, W, W], [E, E, E, W]], [[1, 1, 1, 1], [0, 0, 0, 1]]),
    "one id for all, plain right": (ONE_FOR_ALL, [[W, W, W, W], [W, E, E, E]], [[1, 1, 1, 1], [1, 0, 0, 0]]),
    "several ends": ({**CHAT, "eos_token_id": [7, E]}, [[B, W, 7, E], [B, 7, E, E]], [[1, 1, 1, 1], [1, 1, 1, 0]]),
    "a separator": ({"sep_token_id": E, "pad_token_id": E}, [[W, E, W, E]], [[1, 1, 1, 1]]),
    "nothing else": (CHAT, [[E, E, E, E], [B, W, W, E]], [[0, 0, 0, 0], [1, 1, 1, 1]]),
    "padding of its own": ({**CHAT, "pad_token_id": 0}, [[B, 0, W, E], [B, E, 0, 0]], [[1, 0, 1, 1], [1, 1, 0, 0]]),
}


@pytest.mark.filterwarnings("ignore:the input ids hold padding")
@pytest.mark.parametrize("name", ROWS)
def test_what_pads_and_has_another_role_is_padding_only_on_evidence(name):
    roles, rows, expected = ROWS[name]
    assert real(rows, **roles) == expected


def test_padding_without_a_mask_is_warned_of_and_a_closed_turn_is_not(recwarn):
    real([[B, W, W, E]], **CHAT)
    assert not recwarn
    with pytest.warns(UserWarning, match="no attention_mask"):
        real([[B, W, E, E]], **CHAT)


def test_the_mask_decides_where_there_is_one():
    mask = torch.tensor([[1, 1, 1, 0]])
    inputs = ModelInputs(torch.tensor([[B, W, E, E]]), "input_ids", {"attention_mask": mask})
    assert torch.equal(real_tokens(inputs, 4, SimpleNamespace(**CHAT)), mask.bool())


@pytest.mark.parametrize("kind", [*TOKENIZERS, "slow"])
def test_special_tokens_are_those_that_decoding_skips(kind):
    tokenizer = hf.ByT5Tokenizer() if kind == "slow" else TOKENIZERS[kind]()
    tokenizer.add_tokens([tokenizers.AddedToken("<header>", special=True), tokenizers.AddedToken("<word>")])
    special = special_token_ids(tokenizer)
    assert tokenizer.convert_tokens_to_ids("<header>") in special
    assert tokenizer.convert_tokens_to_ids("<word>") not in special
    assert tokenizer.decode(sorted(special), skip_special_tokens=True).strip() == ""
    assert tokenizer.unk_token_id not in special


@pytest.mark.parametrize("name", ["players", "special_tokens_mask"])
def test_numbers_of_groups_are_no_mask(name):
    model, batch = FAMILIES["bert"].build(), text_batch()
    length = batch["input_ids"].shape[1]
    zeros_and_ones = (torch.arange(length) % 3 > 1).long().expand(3, -1)
    explainer = ShapleyGradAttention(model)
    values = explainer.attribute({**batch, name: zeros_and_ones}, target=1)
    assert torch.equal(values, explainer.attribute({**batch, name: zeros_and_ones.bool()}, target=1))
    for groups in (torch.arange(length) // 3, torch.arange(length) % 2 - 1, torch.tensor([0, 0, 1, 1, 1, 1, 1, 2, 1])):
        with pytest.raises(ValueError, match=rf"{name} must be bool, or 0 and 1.*groups"):
            explainer.attribute({**batch, name: groups.expand(3, -1)}, target=1)
