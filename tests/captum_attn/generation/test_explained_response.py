"""Parts of a response, on made-up values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from captum_attn.core import Responses
from captum_attn.generation import ExplainedResponse, Prompt, Source


class Doubled:
    """Answers with twice the weights, in the places of the response."""

    responses = Responses(torch.tensor([[7, 8, 1, 2, 3, 4, 5]]), torch.ones(1, 7).bool(), 5)

    what = "twice the weights of the {}"

    def __init__(self, additive: bool) -> None:
        self.additive = additive

    def of_parts(self, weights: Tensor) -> Tensor:
        return torch.cat([torch.zeros(len(weights), 2), 2 * weights], 1)

    def of_contrast(self, place: int, own: int, other: int) -> Tensor:
        return torch.tensor([place, own, other])

    def of_other(self, responses: Responses) -> Tensor:
        return responses.ids[0].float()


def response(additive: bool = True, encoded: Sequence[int] = (1, 2, 3, 4, 5)) -> ExplainedResponse:
    tokens = ("ok", " ", "", "🥑", " fine")
    prompt = Prompt("a b", (7, 8), ((0, 1), (2, 3)), ((0, 3),), False)
    numbers: dict[str, Any] = {name: torch.zeros(5) for name in ("scores", "probabilities")}
    return ExplainedResponse(
        prompt=prompt,
        response="ok 🥑 fine",
        response_ids=(1, 2, 3, 4, 5),
        response_tokens=tokens,
        **numbers,
        score="log_odds",
        values=torch.arange(7.0),
        sources=[Source("a", (0, 1))],
        solver=Doubled(additive),
        encode=lambda text: encoded if text == "ok 🥑 fine" else (*encoded[:4], 9),
    )


@pytest.mark.parametrize(
    ("part", "chosen"),
    [("🥑", [0, 0, 1, 1, 0]), ("🥑 f", [0, 0, 1, 1, 1]), ("ok", [1, 0, 0, 0, 0]), ((1, 3), [0, 1, 1, 0, 0])],
)
def test_tokens_of_a_characters_first_bytes_belong_to_it(part: Any, chosen: list[int]) -> None:
    assert response().of(part)[2:].tolist() == [2 * one for one in chosen]


def test_values_that_do_not_add_up_are_not_added() -> None:
    for additive in (True, False):
        found = response(additive)
        found.__dict__["map"] = torch.ones(5, 7)
        assert found.of((0, 2)).tolist() == ([2.0] * 7 if additive else [0, 0, 2, 2, 0, 0, 0])
    assert "the sums of their own are shown" in response(False).page()
    assert "the sums of their own are shown" not in response().page()


def test_a_part_that_overlaps_itself_stands_twice() -> None:
    found = response()
    object.__setattr__(found, "response", "banana")
    with pytest.raises(ValueError, match="more than once: give numbers of tokens"):
        found.of("ana")
    with pytest.raises(ValueError, match="'apple' does not stand in the response"):
        found.of("apple")


def test_a_contrast_needs_the_tokenizers_own_tokens() -> None:
    assert response().against(" fast", at=" fine").tolist() == [4, 5, 9]
    with pytest.raises(ValueError, match="other tokens than the tokenizer makes of its text"):
        response(encoded=(1, 6, 4, 5)).against(" fast", at=" fine")


def test_another_response_is_compared_by_what_stands_before_both() -> None:
    assert response().against("something else").tolist() == [0 - 7, 1 - 8, 0, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="is empty, or the same"):
        response().against("ok 🥑 fine")
