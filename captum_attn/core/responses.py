"""Responses of a causal language model to prompts, and how it predicts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_attn.core.encoding import reserved_positions
from captum_attn.core.forward import plain_output
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.models import config_of, device_of, takes_keyword
from captum_attn.core.padded_texts import counted_positions
from captum_attn.core.tried_models import TriedModels, predicts_alike


@dataclass(frozen=True, eq=False)
class Responses:
    """Prompts, each followed by a response.

    Attributes:
        ids: int64 (B, N), prompts padded on the left, so that all end at one place, and responses on the right.
        real: bool (B, N), the tokens that are no padding.
        count: T, the number of places that responses take, at the end.
        model_kwargs: what else the model is given with the prompts, where images are among their words.
    """

    ids: Tensor
    real: Tensor
    count: int
    model_kwargs: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
        device: torch.device | None = None,
        model_kwargs: Mapping[str, Tensor] | None = None,
    ) -> Responses:
        """Prompts and responses of any lengths, ids without padding, laid out as one batch; with images, one alone.

        Example:
            >>> Responses.of([([5, 6], [7]), ([5], [8, 9])]).ids
            tensor([[5, 6, 7, 0],
                    [0, 5, 8, 9]])
        """
        before, count = (max(len(pair[side]) for pair in pairs) for side in (0, 1))
        ids = torch.zeros(len(pairs), before + count, dtype=torch.int64)
        real = torch.zeros_like(ids, dtype=torch.bool)
        for row, (prompt, response) in enumerate(pairs):
            place = slice(before - len(prompt), before + len(response))
            ids[row, place], real[row, place] = torch.tensor([*prompt, *response]), True
        beside = {name: value.to(device) for name, value in (model_kwargs or {}).items()}
        return cls(ids.to(device), real.to(device), count, beside)

    def alone(self, row: int) -> Responses:
        """One of them, without padding."""
        count = int(self.real[row, -self.count :].sum())
        ids = self.ids[row, self.real[row]][None]
        return Responses(ids, torch.ones_like(ids, dtype=torch.bool), count, self.model_kwargs)

    @property
    def predicted(self) -> Tensor:
        """The ids (B, T) of the responses."""
        return self.ids[:, -self.count :]

    @property
    def positions(self) -> Tensor:
        """int64 (B, N), each token's place in its text."""
        return counted_positions(self.real)

    def given_to(self, model: Callable[..., Any], places: slice, **optional: Any) -> dict[str, Any]:
        """A model's arguments of some places; where there is padding before one, with positions that do not count it.

        The mask is of all places up to the last one. Of the optional ones, what the model takes. Images go with the
        first place, and types of the prompt's tokens, which are 0 for a response.
        """
        if places.start == 0:
            optional |= {name: padded_types(name, one, places.stop) for name, one in self.model_kwargs.items()}
        if not self.real[:, 0].all():
            optional["position_ids"] = self.positions[:, places] + reserved_positions(model)
        taken = {name: value for name, value in optional.items() if takes_keyword(model, name)}
        return {"input_ids": self.ids[:, places], "attention_mask": self.real[:, : places.stop].long(), **taken}


def plain_response_logits(model: Callable[..., Any], responses: Responses, cache: Any = None, start: int = 0) -> Tensor:
    """The logits (B, T, V) of what predicted the responses, without gradients. The model is left as it was.

    Args:
        model: takes ``input_ids`` and ``attention_mask``, and returns logits.
        responses: one batch.
        cache: keys and values of the first ``start`` places, to which those of the others are added.
        start: how many places are not run again.
    """
    places = slice(start, responses.ids.shape[1] - 1)
    given = responses.given_to(model, places, logits_to_keep=responses.count)
    if cache is not None:
        given |= {"past_key_values": cache, "use_cache": True}
    logits = plain_output(model, ModelInputs(given.pop("input_ids"), "input_ids", given))
    return logits[:, -responses.count :]


def padded_types(name: str, value: Tensor, length: int) -> Tensor:
    """An argument of a model; of types of tokens (B, T) the first ``length``, with 0 behind the last."""
    return F.pad(value, (0, length - value.shape[1])) if name.endswith("token_type_ids") else value


_tried = TriedModels()


def check_causal(model: Callable[..., Any]) -> None:
    """Raise ``ValueError`` unless a model predicts each token by those before it alone, as tried on four tokens."""
    name = type(model).__name__
    if getattr(config_of(model), "is_encoder_decoder", False) or not takes_keyword(model, "input_ids"):
        raise ValueError(f"{name} is no causal language model: it has an encoder, or takes no input_ids")
    if _tried.knows(model, "causal"):
        return
    whole, part = (Responses.of([([1, 2], response)], device=device_of(model)) for response in ([3, 4], [3]))
    if not predicts_alike(plain_response_logits(model, part), plain_response_logits(model, whole)[:, :1]):
        raise ValueError(f"{name} is no causal language model: what it says of a token depends on later ones")
    _tried.add(model, "causal")
