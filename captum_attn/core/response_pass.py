"""One pass over the tokens that predict a response, on the cached keys and values of what stands before them.

No token of a causal model reads later ones, so the states of a prompt are what they are without the response. Its keys
and values are computed first, without a graph; then the prompt's last token and all but the last of the response run
with one. Their attention, T rows of N, and its gradients are those of a pass over the whole sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from captum_attn.core.calls import AttentionCall
from captum_attn.core.capture import LISTED
from captum_attn.core.forward import SeenForward, plain_output, seen_forward
from captum_attn.core.indices import resolve_indices
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.models import config_of, evaluation_mode, same_random_state, takes_keyword, text_config, unwrapped
from captum_attn.core.observers import LayerObserver, Watched
from captum_attn.core.propagation import GRADIENT, Propagation, check_coverage
from captum_attn.core.states import warn_of_layers_without
from captum_attn.core.tiles import Block, Tile


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


class ResponsePass:
    """What predicted the responses, and the attention behind it.

    Attributes:
        logits: (B, T, V), of what each token of the responses was predicted by, with a graph.
        layers, heads: their number.
        shape: (B, H, T) of every layer's attention.
        length: the number N of places; the last one is read by none.
        coverage: which functions have a rule; None of plain gradients.

    Args:
        seen: the forward pass.
        responses: what it was of.

    Raises:
        ValueError: attention that is not of the T tokens and those before them, in every layer.
    """

    def __init__(self, seen: SeenForward, responses: Responses) -> None:
        self._capture = capture = seen.capture
        self.logits, self.coverage, self.length = seen.output, seen.coverage, responses.ids.shape[1]
        self.calls = capture.calls
        name = type(capture.root).__name__
        if not self.calls:
            raise ValueError(seen.without_attention())
        # of one query, heads that share keys may run as the rows of one
        self._groups = {one.layer: one.shape[2] if responses.count == 1 else 1 for one in self.calls}
        first = self.calls[0]
        self.shape = (len(responses.ids), first.shape[1] * self._groups[first.layer], responses.count)
        seen_shapes = [(one.module, _ungrouped_shape(one, self._groups[one.layer])) for one in self.calls]
        odd = [(one.module, one.shape) for one in capture.odd if responses.count in one.shape[-2:-1]]
        for module, shape in [*seen_shapes, *odd]:
            if shape[:3] != self.shape or shape[3] >= self.length or (module, shape) in odd:
                raise ValueError(
                    f"attention {module!r} of {name} has shape {shape}, expected {self.shape} and at most "
                    f"{self.length - 1} keys: that of the {responses.count} tokens that predict the response, in every "
                    f"layer. Explain the response by a pass over the whole sequence. {LISTED}"
                )
        warn_of_layers_without(capture.root, self.calls)
        self.layers, self.heads = len(self.calls), self.shape[1]

    def watched(self, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None) -> Watched:
        """What an observer looks at; negative indices count from the end, None is all. Raises ``IndexError``."""
        numbers = [self.calls[layer].layer for layer in resolve_indices("layers", layers, self.layers)]
        return Watched(
            self.shape, numbers, resolve_indices("heads", heads, self.heads), self.calls[0].like, self.length
        )

    def show(self, observers: Sequence[LayerObserver], selected: Tensor | None, retain_graph: bool = False) -> None:
        """Show the attention to several observers, with the gradients of some scores, or without scores alone.

        Args:
            observers: of what is :meth:`watched`.
            selected: scores of any shape, made of ``logits``; what is explained is their sum.
            retain_graph: whether other scores will be explained from the same forward pass.

        Raises:
            RuntimeError: scores that do not depend on the attention.
        """

        def show(tile: Tile) -> None:
            groups = self._groups[tile.layer]
            for part in ungrouped(tile, groups) if groups > 1 else (tile,):
                for observer in observers:
                    observer(part)

        layers = {layer for observer in observers for layer in observer.watched.layers}
        if selected is None:
            self._capture.attention(show, layers)
        else:
            self._capture.backward(selected.sum(), show, layers, retain_graph)


def _ungrouped_shape(call: AttentionCall, groups: int) -> tuple[int, int, int, int]:
    batch, heads, queries, keys = call.shape
    return batch, heads * groups, queries // groups, keys


def ungrouped(tile: Tile, groups: int) -> Iterator[Tile]:
    """The tiles of one query, in place of one in which the ``groups`` heads that share keys are the rows of a head."""
    examples, heads, rows = tile.block
    for place, head in enumerate(range(heads.start, heads.stop)):
        own = slice(head * groups + rows.start, head * groups + rows.stop)
        gradients = (None if part is None else part[:, place].unsqueeze(2) for part in (tile.gradient, tile.relevance))
        attention = tile.attention[:, place].unsqueeze(2)
        yield Tile(tile.layer, Block(examples, own, slice(0, 1)), attention, *gradients)


@contextmanager
def response_pass(
    model: Callable[..., Any], responses: Responses, gradients: bool = True, propagation: Propagation = GRADIENT
) -> Iterator[ResponsePass]:
    """Run a causal language model over what predicts the responses, in eval mode. The model is left as it was.

    Args:
        model: takes ``input_ids``, ``attention_mask`` and ``past_key_values``, and returns logits.
        responses: one batch.
        gradients: whether gradients will be asked for.
        propagation: the rules under which these go down.

    Raises:
        ValueError: a model without such a cache, or whose keys would be others in a pass over the whole sequence;
            attention that is not that of the tokens.

    Example:
        >>> from captum_attn.core.observers import InfluenceObserver
        >>> with response_pass(decoder, Responses(ids, torch.ones_like(ids, dtype=torch.bool), count=3)) as run:
        ...     observer = InfluenceObserver(run.watched(), "signed")
        ...     run.show([observer], run.logits.log_softmax(-1).gather(-1, ids[:, -3:, None]))
        >>> observer.influence.shape == (len(ids), 3, ids.shape[1])
        True
    """
    model = unwrapped(model)
    check_cached(model, responses)
    first, last = responses.ids.shape[1] - responses.count - 1, responses.ids.shape[1] - 1
    rows = _known_to(model, responses.part(slice(first, last)))
    if first:
        rows["past_key_values"] = _cached(model, responses.part(slice(0, first)))
    inputs = ModelInputs(rows.pop("input_ids"), "input_ids", {**rows, "use_cache": True})
    with seen_forward(model, inputs, gradients, propagation=propagation) as seen:
        run = ResponsePass(seen, responses)
        if run.coverage is not None:
            check_coverage(run.coverage, propagation, model)
        if first and model not in _known_caches:
            _check_cache(model, responses, run.logits.detach())
            _known_caches.add(model)
        yield run


_known_caches: WeakSet[Callable[..., Any]] = WeakSet()


def _check_cache(model: Callable[..., Any], responses: Responses, logits: Tensor) -> None:
    """Raise ``ValueError`` if the model says something else with its cache than in a pass over the whole sequence."""
    whole, real = plain_response_logits(model, responses), responses.real[:, -responses.count :]
    off = (logits - whole)[real].abs().amax() / whole[real].abs().amax()
    if not off <= (1e-3 if whole.dtype in (torch.float32, torch.float64) else 0.05):
        raise ValueError(
            f"{type(model).__name__} predicts the response otherwise from its cache than in a pass over the whole "
            f"sequence (logits are off by {off:.1%}): what it keeps of the prompt, such as recurrent states, is not "
            "read by several tokens at once. Explain the response by a pass over the whole sequence, such as "
            "captum_attn.ShapleyGradAttention's"
        )


def plain_response_logits(model: Callable[..., Any], responses: Responses) -> Tensor:
    """The logits (B, T, V) of what predicted the responses, without gradients. The model is left as it was."""
    given = _known_to(model, responses.part(slice(0, responses.ids.shape[1] - 1)))
    kept = _taken(model, logits_to_keep=responses.count)
    logits = plain_output(model, ModelInputs(given.pop("input_ids"), "input_ids", {**given, **kept}))
    return logits[:, -responses.count :]


def check_cached(model: Any, responses: Responses) -> None:
    """Raise what :func:`response_pass` documents, as far as the configuration tells."""
    config, name = config_of(model), type(model).__name__
    if getattr(config, "is_encoder_decoder", False) or not takes_keyword(model, "past_key_values"):
        raise ValueError(f"{name} is no causal language model with a cache of keys and values (past_key_values)")
    rotary: dict[str, Any] = getattr(text_config(config), "rope_parameters", None) or {}
    longest: int = getattr(config, "max_position_embeddings", 0)
    before, after = responses.ids.shape[1] - responses.count - 1, responses.ids.shape[1] - 1
    for kind in (rotary, *(part for part in rotary.values() if isinstance(part, dict))):
        switch = kind.get("original_max_position_embeddings", longest)
        changes = {"longrope": before <= switch < after, "dynamic": switch < after}
        if changes.get(kind.get("rope_type", "")):
            raise ValueError(
                f"the rotary embeddings of {name} change with the length of a text, from {switch} tokens on "
                f"({kind['rope_type']}), so that keys which are cached without the response are not those of a pass "
                "over the whole sequence: explain the response by such a pass"
            )


def _known_to(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, without positions if the model counts for itself."""
    return {name: value for name, value in given.items() if name != "position_ids" or takes_keyword(model, name)}


def _taken(model: Any, **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that the model takes."""
    return {name: value for name, value in arguments.items() if takes_keyword(model, name)}


def _cached(model: Any, given: dict[str, Any]) -> Any:
    """The keys and values of a prompt."""
    last = _taken(model, logits_to_keep=1, return_dict=True)
    with evaluation_mode(model), torch.inference_mode(False), torch.no_grad(), same_random_state(given["input_ids"]):
        cache = getattr(model(**_known_to(model, given), use_cache=True, **last), "past_key_values", None)
    if cache is None or not hasattr(cache, "get_seq_length") or cache.get_seq_length() != given["input_ids"].shape[1]:
        raise ValueError(f"{type(model).__name__} returns no cache of the prompt's keys and values (past_key_values)")
    return cache
