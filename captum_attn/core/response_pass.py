"""One pass over the tokens that predict a response, on the cached keys and values of what stands before them.

No token of a causal model reads later ones, so the states of a prompt are what they are without the response. Its keys
and values are computed first, without a graph; then the prompt's last token and all but the last of the response run
with one. Their attention, T rows of N, and its gradients are those of a pass over the whole sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from torch import Tensor

from captum_attn.core.calls import AttentionCall
from captum_attn.core.capture import LISTED
from captum_attn.core.forward import SeenForward, seen_forward
from captum_attn.core.indices import resolve_indices
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.models import unwrapped
from captum_attn.core.observers import LayerObserver, Watched
from captum_attn.core.prompt_cache import cached_lengths, check_cache, keys_and_values
from captum_attn.core.propagation import GRADIENT, Propagation, check_coverage
from captum_attn.core.responses import Responses
from captum_attn.core.states import warn_of_layers_without
from captum_attn.core.tiles import Block, Tile


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
        cached: how many tokens before the T have keys, in one layer or another: fewer where these have windows.

    Raises:
        ValueError: attention that is not of the T tokens and those before them, in every layer.
    """

    def __init__(self, seen: SeenForward, responses: Responses, cached: Collection[int]) -> None:
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
            if shape[:3] != self.shape or shape[3] - responses.count not in cached or (module, shape) in odd:
                keys = " or ".join(str(count + responses.count) for count in sorted(cached))
                raise ValueError(
                    f"attention {module!r} of {name} has shape {shape}, expected {self.shape} and {keys} keys: that of "
                    f"the {responses.count} tokens that predict the response, in every layer. Explain it by a "
                    f"pass over the whole sequence, as by method= of captum_attn.GenerationAttention. {LISTED}"
                )
        twice = [one.module for one, other in pairwise(self.calls) if one.module == other.module]
        if twice:
            raise ValueError(
                f"attention {twice[0]!r} of {name} ran twice in a row, but one matrix is explained in each layer: load "
                "the model with another attn_implementation"
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
    model: Callable[..., Any],
    responses: Responses,
    gradients: bool = True,
    propagation: Propagation = GRADIENT,
    cache: Any = None,
) -> Iterator[ResponsePass]:
    """Run a causal language model over what predicts the responses, in eval mode. The model is left as it was.

    Args:
        model: takes ``input_ids``, ``attention_mask`` and ``past_key_values``, and returns logits.
        responses: one batch.
        gradients: whether gradients will be asked for.
        propagation: the rules under which these go down.
        cache: keys and values of all but the prompts' last tokens, to which the others are added. Default: they are
            computed.

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
    check_cache(model, responses)
    first, last = responses.ids.shape[1] - responses.count - 1, responses.ids.shape[1] - 1
    rows, lengths = responses.given_to(model, slice(first, last)), {first}
    if first:
        rows["past_key_values"] = cache if cache is not None else keys_and_values(model, responses, first)
        lengths |= cached_lengths(rows["past_key_values"])
    inputs = ModelInputs(rows.pop("input_ids"), "input_ids", {**rows, "use_cache": True})
    with seen_forward(model, inputs, gradients, propagation=propagation) as seen:
        run = ResponsePass(seen, responses, lengths)
        if run.coverage is not None:
            check_coverage(run.coverage, propagation, model)
        yield run
