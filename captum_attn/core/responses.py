"""Responses of a causal language model to prompts, and how it predicts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from captum_attn.core.forward import plain_output
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.models import takes_keyword


@dataclass(frozen=True)
class Responses:
    """Prompts, each followed by a response.

    Attributes:
        ids: int64 (B, N), prompts padded on the left, so that all end at one place, and responses on the right.
        real: bool (B, N), the tokens that are no padding.
        count: T, the number of places that responses take, at the end.
    """

    ids: Tensor
    real: Tensor
    count: int

    @property
    def predicted(self) -> Tensor:
        """The ids (B, T) of the responses."""
        return self.ids[:, -self.count :]

    @property
    def positions(self) -> Tensor:
        """int64 (B, N), each token's place in its text."""
        return (self.real.cumsum(-1) - 1).clamp(min=0)

    def part(self, places: slice) -> dict[str, Tensor]:
        """What the model takes, of some places; the mask is of all up to the last one."""
        mask = self.real[:, : places.stop].long()
        return {"input_ids": self.ids[:, places], "attention_mask": mask, "position_ids": self.positions[:, places]}


def plain_response_logits(model: Callable[..., Any], responses: Responses, cache: Any = None, start: int = 0) -> Tensor:
    """The logits (B, T, V) of what predicted the responses, without gradients. The model is left as it was.

    Args:
        model: takes ``input_ids`` and ``attention_mask``, and returns logits.
        responses: one batch.
        cache: keys and values of the first ``start`` places, to which those of the others are added.
        start: how many places are not run again.
    """
    given = known_to(model, responses.part(slice(start, responses.ids.shape[1] - 1)))
    kept = taken(model, logits_to_keep=responses.count)
    if cache is not None:
        kept |= {"past_key_values": cache, "use_cache": True}
    logits = plain_output(model, ModelInputs(given.pop("input_ids"), "input_ids", {**given, **kept}))
    return logits[:, -responses.count :]


def known_to(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, without positions if the model counts for itself."""
    return {name: value for name, value in given.items() if name != "position_ids" or takes_keyword(model, name)}


def taken(model: Any, **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that the model takes."""
    return {name: value for name, value in arguments.items() if takes_keyword(model, name)}
