"""One observed forward pass and what can be asked of it: the influence of tokens on tokens, for any output."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_attn.core.capture import AttentionCall, AttentionCapture, FusedCall, ScaledAttentionCapture
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.models import (
    check_differentiable,
    check_evaluated,
    check_observable,
    config_of,
    evaluation_mode,
    output_tensor,
    same_random_state,
    unwrapped,
)
from captum_attn.core.observers import InfluenceObserver, LayerObserver, Per, RowWeights, Variant
from captum_attn.core.outputs import AttentionOutput, OutputCapture
from captum_attn.core.patch_trail import PatchTrail
from captum_attn.core.states import StateCapture, States
from captum_attn.core.tiles import Tile
from captum_attn.core.tokens import Tokens, find_players, named_players, real_tokens


class ReadoutGradients(NamedTuple):
    """How an output depends on the tokens' hidden states, and how far they are attended to.

    Attributes:
        gradients: of each of the states asked for, (B, N, D); zero where the output does not depend on them.
        attention: for each, (B, N): mean attention of all heads from the readout token, or the mean of several, to each
            token, in the last attention before the states; float32, or float64 for a float64 model.
    """

    gradients: list[Tensor]
    attention: list[Tensor]


class ObservedForward:
    """The output of a model and the attention behind it.

    Attributes:
        output: scores (B, C) or (B, N, C); they carry a graph down to the attention.
        calls: the attention calls in which the input's tokens attend to each other, one for each layer.
        layers, heads, length: their number L, the number of heads H in each, and the number of tokens N.
        causal: whether no token can attend to a later one.
        model: the module that was called.
        states: the hidden states that modules returned, where these were asked for.
        outputs: what followed each attention call, by its number; None unless this was asked for.
    """

    def __init__(
        self,
        output: Tensor,
        capture: AttentionCapture,
        inputs: ModelInputs,
        states: Sequence[States] = (),
        outputs: Mapping[int, AttentionOutput] | None = None,
        patches: PatchTrail | None = None,
    ) -> None:
        self.output, self.states, self.outputs = output, states, outputs
        self.model = capture.root
        self._capture, self._inputs, self._patches = capture, inputs, patches
        self.calls = token_attention(capture.calls, inputs)
        self._shape = self.calls[0].shape[:3]
        self.layers, self.heads, self.length = len(self.calls), self._shape[1], self._shape[2]
        self.causal = self.calls[0].causal
        for state in states:
            self._check_state(state)

    def influence(
        self,
        selected: Tensor | None,
        *,
        variant: Variant,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        row_weights: RowWeights | None = None,
        per: Per | None = None,
        retain_graph: bool = False,
    ) -> Tensor:
        """The influence matrix M of the mean attention of layers and heads.

        Args:
            selected: the scores (B,) to explain, taken from ``output``; examples do not interact, so one backward
                pass of their sum serves them all. None for the ``attention`` variant.
            variant: ``rectified`` A ⊙ ReLU(G), ``signed`` A ⊙ G, or ``attention`` A.
            layers, heads: what counts; negative indices count from the end. None for all.
            row_weights: (B, N); gives Σ_q weight_q M_qi in O(N) memory instead of M. Or a function that returns them,
                such as :meth:`readout_rows`; it is called when the backward pass has left the last layer.
            per: ``layer`` or ``head`` keeps them apart.
            retain_graph: whether another output will be explained from the same forward pass.

        Returns:
            (B, N, N), or (B, N) with ``row_weights``; (L,) or (L, H) after B where kept apart.

        Raises:
            IndexError: a layer or head that the model does not have.
            RuntimeError: ``selected`` does not depend on the attention.
            ValueError: an unknown variant or ``per``.
        """
        observer = self.observer(variant=variant, layers=layers, heads=heads, row_weights=row_weights, per=per)
        self.show([observer], selected, retain_graph=retain_graph)
        return observer.influence

    def observer(
        self,
        *,
        variant: Variant,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        row_weights: RowWeights | None = None,
        per: Per | None = None,
    ) -> InfluenceObserver:
        """What :meth:`influence` collects, to be shown the attention together with others.

        Args, Raises: as :meth:`influence`.
        """
        indices, kept_heads = self.chosen(layers, heads)
        return InfluenceObserver(self._shape, indices, kept_heads, variant, row_weights, per, like=self.like)

    def show(
        self,
        observers: Sequence[LayerObserver],
        selected: Tensor | None,
        states: Sequence[States] = (),
        retain_graph: bool = False,
    ) -> list[Tensor]:
        """Show the attention to several observers in one backward pass; without scores, in none.

        Args:
            observers: of :meth:`observer`. Their lowest layer must not lie above any of the states. A backward pass
                shows them no rows that it does not reach; those of attention alone want all, so show them without it.
            selected, retain_graph: as in :meth:`influence`.
            states: some of ``self.states``.

        Returns:
            The gradients of the states, (B, N, D) each; zero where the scores do not depend on them.

        Raises:
            RuntimeError: ``selected`` does not depend on the attention.
        """

        def show(tile: Tile) -> None:
            for observer in observers:
                observer(tile)

        layers = {layer for observer in observers for layer in observer.layers}
        if selected is None:
            self._capture.attention(show, layers, any(observer.whole_heads for observer in observers))
            return []
        hidden = [state.hidden for state in states]
        gradients = self._capture.backward(selected.sum(), show, layers, retain_graph, hidden)
        return [torch.zeros_like(h) if g is None else g for h, g in zip(hidden, gradients, strict=True)]

    def readout_gradients(
        self,
        selected: Tensor,
        states: Sequence[States],
        beside: Sequence[LayerObserver] = (),
        retain_graph: bool = False,
    ) -> ReadoutGradients:
        """What the explained scores draw on: gradients of hidden states, and the readout's attention to each token.

        Args:
            selected: the scores (B,) to explain, taken from ``output``.
            states: some of ``self.states``.
            beside: other observers, to which the same backward pass is shown.
            retain_graph: as in :meth:`influence`.

        Raises:
            RuntimeError: ``selected`` does not depend on the attention.
            ValueError: states from before the first attention.
        """
        layers = [self.attention_before(state) for state in states]
        shown = sorted(set(layers))
        observer = self.observer(variant="attention", layers=shown, row_weights=self.readout_rows, per="layer")
        gradients = self.show([observer, *beside], selected, states, retain_graph)
        return ReadoutGradients(gradients, [observer.influence[:, shown.index(layer)] for layer in layers])

    def _check_state(self, state: States) -> None:
        shape = tuple(state.hidden.shape)
        if len(shape) != 3 or shape[:2] != (len(self._inputs), self.length):
            raise ValueError(
                f"module {state.module!r} returned a tensor of shape {shape}, expected hidden states of each token, "
                f"({len(self._inputs)}, {self.length}, width)"
            )
        if state.hidden._version != state.version:
            raise RuntimeError(f"the hidden states that module {state.module!r} returned were modified in place later")

    def attention_before(self, state: States) -> int:
        """The layer whose attention ran last before the state was there."""
        before = [layer for layer, call in enumerate(self.calls) if call.layer < state.attended]
        if not before:
            raise ValueError(
                f"module {state.module!r} returns before the first attention, so nothing says how far its tokens are "
                "attended to: choose a transformer layer or a later module"
            )
        last = [call for call in self._capture.calls if call.layer < state.attended][-1]
        if last.stack != self.calls[0].stack:
            raise ValueError(
                f"module {state.module!r} returns states of the {last.stack}, whose tokens are not the "
                f"{self.calls[0].stack}'s that are explained: choose a module of the {self.calls[0].stack}"
            )
        return before[-1]

    @property
    def attention_shape(self) -> tuple[int, int, int]:
        """(B, H, N) of every layer's attention."""
        return self._shape

    @property
    def like(self) -> Tensor:
        """An empty tensor of the dtype and on the device of what observers keep."""
        return self.calls[0].like

    @property
    def crosses_stacks(self) -> bool:
        """Whether a decoder reads the tokens, so that the output is not read from the top layer's states."""
        return any(call.stack != self.calls[0].stack for call in self._capture.calls)

    @cached_property
    def real(self) -> Tensor:
        """bool (B, N): the tokens that are no padding."""
        return real_tokens(self._inputs, self.length, config_of(self.model))

    def tokens(self, special_ids: Collection[int] | None) -> Tokens:
        """Which tokens are padding, which ones play (:func:`~captum_attn.core.tokens.find_players`), where patches lie.

        Raises:
            ValueError: an example without players, or a mask of players that is none.
        """
        inputs, config, real = self._inputs, config_of(self.model), self.real
        named = named_players(inputs, tuple(real.shape))
        grid = None if self._patches is None else self._patches.grid(self.length, named)
        players = find_players(inputs, real, special_ids=special_ids, config=config, causal=self.causal, grid=grid)
        if players is not None and not players.any(-1).all():
            idle = (~players.any(-1)).nonzero().flatten().tolist()
            raise ValueError(
                f"the examples {idle} have no players: all of their tokens are padding or special tokens. Leave "
                "them out, or say which tokens play with players="
            )
        return Tokens(real, players, grid)

    def chosen(self, layers: Sequence[int] | None, heads: Sequence[int] | None) -> tuple[list[int], list[int]]:
        """Numbers of the attention calls, and of the heads, that are meant, ascending; ``IndexError`` for others."""
        kept_heads = resolve_indices("heads", heads, self.heads)
        return [self.calls[layer].layer for layer in self.resolved_layers(layers)], kept_heads

    def resolved_layers(self, layers: Sequence[int] | None) -> list[int]:
        """Ascending indices of the layers meant; ``IndexError`` for one that the model does not have."""
        return resolve_indices("layers", layers, self.layers)

    def decoder_calls(self) -> dict[int, int]:
        """The calls in which a decoder attends to the encoder's tokens (0), or to the input shifted by a token (1)."""
        if self.calls[0].stack == "decoder":
            return {}
        shifts = {"cross": 0} if "decoder_input_ids" in self._inputs.keywords else {"cross": 0, "decoder": 1}
        read = (call for call in self._capture.calls if call.stack in shifts and call.shape[3] == self.length)
        return {call.layer: shifts[call.stack] for call in read}

    def readout_rows(self) -> Tensor:
        """Weights (B, N) of the tokens that the output explained last was read from, each row with the sum 1.

        They are those whose attention in the last layer a gradient reaches: the class token, the last token, all
        tokens where they are pooled, the token of the target.

        Raises:
            RuntimeError: nothing was explained yet.
        """
        reached = self.calls[-1].reached
        if reached is None:
            raise RuntimeError("the readout is known after a backward pass only")
        rows = reached.to(self.calls[-1].like)
        return rows / rows.sum(-1, keepdim=True).clamp(min=1)


@contextmanager
def observed_forward(
    model: Callable[..., Any],
    inputs: ModelInputs,
    gradients: bool = True,
    modules: Collection[str] = (),
    *,
    outputs: bool = False,
    scaled: tuple[int, Tensor] | None = None,
) -> Iterator[ObservedForward]:
    """Run the model once, in eval mode, and keep what is needed to explain its output.

    Works under ``torch.no_grad()`` and ``torch.inference_mode()``. The model is left as it was.

    Args:
        model: a module, or a function of the inputs that calls one (in eval mode).
        inputs: one batch.
        gradients: whether gradients will be asked for; False is for attention alone.
        modules: names of parts of a module, whose hidden states are kept.
        outputs: whether to keep what follows the attention calls.
        scaled: an attention call, by number, and the factors (B,) by which its probabilities are multiplied
            (:class:`~captum_attn.core.capture.ScaledAttentionCapture`); with gradients.

    Raises:
        TypeError: an output in which there are no scores, or hidden states that are none.
        ValueError: a name of no module; attention that cannot be observed, or does not relate the input's tokens to
            each other; a function whose module is in training mode.
        RuntimeError: weights that were made under ``torch.inference_mode()``.

    Example:
        >>> from captum_attn.core import tensor_inputs
        >>> with observed_forward(model, tensor_inputs(model, input_ids)) as run:
        ...     influence = run.influence(run.output[:, 1], variant="rectified")
    """
    model = unwrapped(model)
    check_observable(config_of(model))
    if gradients:
        check_differentiable(model)
    with evaluation_mode(model), torch.inference_mode(False), torch.set_grad_enabled(gradients):
        capture = ScaledAttentionCapture(model, *scaled) if scaled else AttentionCapture(model, gradients)
        following = OutputCapture(capture)
        with (
            same_random_state(inputs.features),
            StateCapture(model, modules, capture) as kept,
            following if outputs else nullcontext(),
            PatchTrail(inputs.features) if inputs.modality == "pixels" else nullcontext() as patches,
            capture,
        ):
            output = output_tensor(inputs.call(model))
        check_evaluated(capture.root)
        yield ObservedForward(output, capture, inputs, kept.states, following.outputs if outputs else None, patches)


def token_attention(calls: Sequence[AttentionCall], inputs: ModelInputs) -> list[AttentionCall]:
    """The calls in which the input's tokens attend to each other: the encoder's in an encoder-decoder model.

    Raises:
        ValueError: no attention was seen, or it has no token-by-token matrix.
    """
    if not calls:
        raise ValueError(
            "no attention was seen in the model's forward pass. Looked for scaled_dot_product_attention on "
            "(B, H, N, d) tensors, softmax over (B, H, N, N) scores, and torch.nn.MultiheadAttention. A model whose "
            "attention runs in a custom kernel must be switched to one of these"
        )
    kept = [call for call in calls if call.stack == "encoder"] or [call for call in calls if call.stack == "decoder"]
    kept = kept or list(calls)
    square = [call for call in kept if call.shape[2] == call.shape[3]]
    length = inputs.features.shape[1] if inputs.modality != "pixels" else (square or kept)[0].shape[2]
    # A softmax of another shape is something else: a router, features.
    kept = [call for call in kept if isinstance(call, FusedCall) or call.shape[2:] == (length, length)] or kept
    heads = kept[0].shape[1]
    for call in kept:
        if call.shape != (len(inputs), heads, length, length):
            raise ValueError(
                f"attention {call.module!r} has shape {call.shape} (batch, heads, queries, keys), expected "
                f"{(len(inputs), heads, length, length)}: without one token-by-token matrix in every layer (windowed, "
                "pooled or cross attention, prefix keys, inputs that are not batch-first) tokens cannot be explained"
            )
    return kept


def resolve_indices(name: str, indices: Sequence[int] | None, count: int) -> list[int]:
    """Ascending indices in ``range(count)``; ``IndexError`` for one that is out of range, ``ValueError`` for none."""
    if indices is None:
        return list(range(count))
    if not indices:
        raise ValueError(f"{name} is empty: expected indices below {count}, or None for all")
    outside = [index for index in indices if not -count <= index < count]
    if outside:
        raise IndexError(f"{name} {outside} out of range: the model has {count}, so expected {-count}..{count - 1}")
    return sorted({index % count for index in indices})


def plain_output(model: Callable[..., Any], inputs: ModelInputs) -> Tensor:
    """The model's output alone, detached: in eval mode, without gradients. The model is left as it was.

    Returns:
        Scores (B, C) or (B, N, C).
    """
    model = unwrapped(model)
    with (
        evaluation_mode(model),
        torch.inference_mode(False),
        torch.no_grad(),
        same_random_state(inputs.features),
    ):
        return output_tensor(inputs.call(model))
