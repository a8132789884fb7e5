"""What the tokens of an input are."""

from __future__ import annotations

from families import FAMILIES
from tokenizers_of_every_kind import TOKENIZERS, classifier

from captum_attn.core.tokens import length_limit


def test_the_length_limit_is_the_least_that_anything_says():
    tokenizer = TOKENIZERS["word piece"]()
    assert length_limit(tokenizer, classifier(tokenizer, positions=64), None) == 64
    assert length_limit(tokenizer, classifier(tokenizer, positions=64), 12) == 12
    tokenizer.model_max_length = 20
    assert length_limit(tokenizer, classifier(tokenizer, positions=64), None) == 20
    tokenizer.model_max_length = 10**30
    roberta = FAMILIES["roberta"].build()
    positions = roberta.config.max_position_embeddings - roberta.config.pad_token_id - 1
    assert length_limit(tokenizer, roberta, None) == positions
    assert length_limit(tokenizer, FAMILIES["t5"].build(), None) is None
