"""One observed forward pass and what can be asked of it: the influence of tokens on tokens, for any output."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from captum_attn._moved import moved_names
from captum_attn.core.calls import AttentionCall
from captum_attn.core.capture import INDEPENDENT, LISTED, SWITCH_CHECKPOINTS, ScaledAttentionCapture
from captum_attn.core.dependences import Dependence, dependence_of
from captum_attn.core.forward import SeenForward, plain_output, seen_forward
from captum_attn.core.indices import resolve_indices
from captum_attn.core.inputs import ModelInputs, holds_pictures, mapping_inputs, picture_token
from captum_attn.core.key_places import KeyPlaces
from captum_attn.core.models import config_of
from captum_attn.core.no_matrix import NoMatrixError, WrongWayError
from captum_attn.core.observers import (
    InfluenceObserver,
    LayerObserver,
    Per,
    PlacedObserver,
    ReadoutGradients,
    ReadoutObserver,
    Variant,
    Watched,
)
from captum_attn.core.origins import Entrance
from captum_attn.core.outline import UnkeptError
from captum_attn.core.output_tokens import OutputTokens, decoder_tokens, shifts_its_input
from captum_attn.core.padding_masks import given_lengths
from captum_attn.core.patch_trail import PatchTrail
from captum_attn.core.patches import Grid, NoPatchGrid, PatchGrid
from captum_attn.core.private_names import version_of
from captum_attn.core.propagation import GRADIENT, Propagation, check_coverage
from captum_attn.core.readout import ReachedRows, Readout, RowWeights, check_readout, rows_by_rule, warn_of_rule
from captum_attn.core.stacks import sort_calls, sort_placed_calls
from captum_attn.core.states import States, warn_of_layers_without
from captum_attn.core.tiles import Tile
from captum_attn.core.tokens import Tokens, find_players, real_tokens
from captum_attn.core.user_warnings import warn_user


class ObservedForward:
    """The output of a model and the attention behind it.

    Attributes:
        inputs: what the pass was of.
        output: scores (B, C) or (B, N, C); they carry a graph down to the attention.
        calls: the attention calls in which the input's tokens attend to each other, one for each layer.
        sorted: these and the others, and what they are to the input.
        places: where their keys lie in the input, if no matrix relates all tokens; these are its smallest cells then.
        layers, heads, length: their number L, the number of heads H in each, and the number of tokens N.
        causal: whether no token can attend to a later one.
        model: the module that was called.
        states: the hidden states that modules returned, where these were asked for.
        after_attention: what followed each attention call, by its number; None unless this was asked for.
        entrances: where the explained input came into the graph, and an image beside a text.
        input_is_cut: whether the model computes with some of it without a graph, before or beside that.
        propagation: the rules of its backward passes.
        coverage: which functions have a rule; None of plain gradients.

    Args:
        seen: the forward pass.
        inputs: what it was of.

    Raises:
        ValueError: no attention of the input that can be explained, or states that are none.
    """

    def __init__(self, seen: SeenForward, inputs: ModelInputs) -> None:
        self.output, self.states, self.after_attention = seen.output, seen.states, seen.after_attention
        self._wrapped, self._patches, self.inputs = seen.wrapped, seen.patches, inputs
        self.coverage = seen.coverage
        self._capture = capture = seen.capture
        self.propagation = capture.rules.propagation if capture.rules else GRADIENT
        self.entrances = capture.provenance.entrances
        self.input_is_cut = capture.provenance.cut or any(entrance.again for entrance in self.entrances)
        self.model = capture.root
        if not capture.calls:
            raise ValueError(seen.without_attention())
        self.places: KeyPlaces | None = None
        if seen.patches is not None and seen.patches.throughout:
            shape = inputs.features.shape
            if seen.patches.copies and any(one is not None and (one.keys < 0).any() for one in seen.patches.attended):
                raise WrongWayError("some keys are copies of others, by padding that reflects or replicates")
            places = KeyPlaces(capture.calls, seen.patches.attended, len(inputs), shape, of_image=len(shape) == 4)
            self.sorted = sort_placed_calls(capture.calls, capture.odd, places.keys, capture.follows)
            heads = max(call.shape[1] for call in self.sorted.explained)
            self._shape, self.places = (len(inputs), heads, len(places.layout)), places
        else:
            if seen.patches is not None and inputs.is_cut and seen.patches.in_windows:
                raise WrongWayError("the heads of the first attention see different parts of the image, windows of it")
            self.sorted = sort_calls(capture.calls, capture.odd, inputs, capture.follows)
            self._shape = self.sorted.explained[0].shape[:3]
        self.calls = self.sorted.explained
        self._followed: Tensor | None = None
        self.layers, self.heads, self.length = len(self.calls), self._shape[1], self._shape[2]
        self.causal = self.calls[0].causal
        if self.states:
            self.check_matrix("hidden states are asked for that are of the same tokens in all layers")
        for state in self.states:
            self._check_state(state)
        self._warn_of_others()

    def _warn_of_others(self) -> None:
        """Say what may pass from token to token beside the attention that is explained."""
        name, size = type(self.model).__name__, (self.length, self.length)
        warn_of_layers_without(self.model, self.calls)
        bare = sorted({product.module for product in self._capture.bare_products if product.shape[-2:] == size})
        if bare:
            warn_user(
                f"modules of {name} multiply states of the {self.length} tokens with each other without a softmax "
                f"({', '.join(bare[:3])}): what they pass from token to token is not explained"
            )

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
            variant: ``rectified`` A ⊙ ReLU(G), ``signed`` A ⊙ G, ``attention`` A, or ``gradient`` ReLU(G).
            layers, heads: what counts; negative indices count from the end. None for all.
            row_weights: (B, N); gives Σ_q weight_q M_qi in O(N) memory instead of M. They are asked for when the
                backward pass has left the last layer: ``captum_attn.core.readout`` has such objects.
            per: ``layer`` or ``head`` keeps them apart.
            retain_graph: whether another output will be explained from the same forward pass.

        Returns:
            (B, N, N), or (B, N) with ``row_weights``; (L,) or (L, H) after B where kept apart.

        Raises:
            IndexError: a layer or head that the model does not have.
            RuntimeError: ``selected`` does not depend on the attention.
            ValueError: an unknown variant or ``per``.
        """
        observer = InfluenceObserver(self.watched(layers, heads), variant, row_weights, per)
        self.show([observer], selected, retain_graph=retain_graph)
        return observer.influence

    def watched(self, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None) -> Watched:
        """What an observer looks at.

        Args:
            layers, heads: what counts; negative indices count from the end. None for all.

        Raises:
            IndexError: a layer or head that the model does not have.
            ValueError: no matrix relates all tokens.

        Example:
            >>> from captum_attn.core import mapping_inputs, observed_forward
            >>> from captum_attn.core.observers import InfluenceObserver
            >>> with observed_forward(model, mapping_inputs(model, batch)) as run:
            ...     observer = InfluenceObserver(run.watched(layers=[-1]), "rectified")
            ...     _ = run.show([observer], run.output[:, 1])
            >>> observer.influence.shape
            torch.Size([2, 6, 6])
        """
        self.check_matrix("what is asked for (rows, columns or single heads) needs it")
        numbers = [self.calls[layer].layer for layer in self.resolved_layers(layers)]
        return Watched(self._shape, numbers, resolve_indices("heads", heads, self.heads), self.like)

    def placed(self, variant: Variant, layers: Sequence[int] | None = None, per: Per | None = None) -> PlacedObserver:
        """An observer of what keys are worth where they lie, of a pass with :attr:`places`.

        Args:
            variant, layers, per: as of :meth:`influence`.

        Raises:
            ValueError: heads kept apart, of which layers have different numbers; no places.
        """
        if per == "head":
            self.check_matrix("its layers have different heads")
        if self.places is None:
            raise ValueError("a matrix relates all tokens of this pass: give its rows, by watched()")
        return PlacedObserver(self.watched_calls(layers), self.places, variant, "layer" if per else None)

    def watched_calls(self, layers: Sequence[int] | None = None) -> Watched:
        """What an observer looks at that asks for no rows and columns of tokens: calls as they are, with all heads.

        Args:
            layers: as of :meth:`watched`.
        """
        numbers = [self.calls[layer].layer for layer in self.resolved_layers(layers)]
        return Watched(self._shape, numbers, list(range(self.heads)), self.like)

    def check_matrix(self, why: str) -> None:
        """Raise ``ValueError`` where no matrix relates all tokens, and say why one is needed."""
        if self.places is not None:
            raise NoMatrixError(
                f"{type(self.model).__name__} attends in windows or on coarser grids, without one token-by-token "
                f"matrix in every layer, and {why}. What is there for such models: ShapleyGradAttention and "
                "ShapleyAttention with game='incoming', over all heads, by layer if wanted; AttnLRP and "
                "IntegratedAttnLRP; MaskTunnel around these"
            )

    def observer(
        self,
        *,
        variant: Variant,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        row_weights: RowWeights | None = None,
        per: Per | None = None,
    ) -> InfluenceObserver:
        """The former way to make an observer; now ``InfluenceObserver(run.watched(layers, heads), variant)``."""
        warnings.warn(
            "run.observer moved: write InfluenceObserver(run.watched(layers, heads), variant, row_weights, per)",
            FutureWarning,
            stacklevel=2,
        )
        return InfluenceObserver(self.watched(layers, heads), variant, row_weights, per)

    def show(
        self,
        observers: Sequence[LayerObserver],
        selected: Tensor | None,
        states: Sequence[States] = (),
        retain_graph: bool = False,
        features: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        """Show the attention to several observers in one backward pass; without scores, in none.

        Args:
            observers: of what is :meth:`watched`. A backward pass shows them no rows that it does not reach; those of
                attention alone want all, so show them without.
            selected, retain_graph: as in :meth:`influence`.
            states: some of ``self.states``; of no consequence without scores.
            features: the states of some of ``self.entrances``, to which all layers are passed; the same.

        Returns:
            The gradients of the states, (B, N, D) each, and of the features; zero where the scores do not depend on
            them.

        Raises:
            RuntimeError: ``selected`` does not depend on the attention.
            ValueError: states from before the first attention.
        """

        def show(tile: Tile) -> None:
            for observer in observers:
                observer(tile)

        layers = {layer for observer in observers for layer in observer.watched.layers}
        if selected is None:
            self._capture.attention(show, layers, any(observer.whole_heads for observer in observers))
            return []
        layers |= {self.calls[self.attention_before(state)].layer for state in states}
        if features:
            layers |= {call.layer for call in self.calls}
        hidden = [state.hidden for state in states]
        gradients = self._backward(selected, show if observers else None, layers, retain_graph, hidden, features)
        if all(call.reached is None for call in self.calls if call.layer in layers):
            raise RuntimeError(INDEPENDENT)
        of = [*hidden, *features]
        return [torch.zeros_like(h) if g is None else g for h, g in zip(of, gradients, strict=True)]

    def _backward(
        self,
        selected: Tensor,
        observer: Callable[[Tile], None] | None,
        layers: Collection[int],
        retain_graph: bool,
        hidden: Sequence[Tensor] = (),
        features: Sequence[Tensor] = (),
    ) -> tuple[Tensor | None, ...]:
        """Backpropagate scores. As soon as they have left the last layer, :meth:`find_readout` knows what they read."""
        self._followed = selected
        try:
            return self._capture.backward(selected.sum(), observer, layers, retain_graph, hidden, features)
        finally:
            if self.calls[-1].reached is None:
                self._followed = None

    def readout_observer(self, selected: Tensor, states: Sequence[States]) -> ReadoutObserver:
        """What collects the readout's attention to tokens before some states.

        Args:
            selected: scores (B,), taken from ``output``.
            states: some of ``self.states``.

        Raises:
            ValueError: states from before the first attention.
        """
        before = [self.attention_before(state) for state in states]
        layers = sorted(set(before))
        places = [layers.index(layer) for layer in before]
        return ReadoutObserver(self.watched(layers), self.readout_rows(selected), places)

    def readout_gradients(
        self, selected: Tensor, states: Sequence[States], retain_graph: bool = False
    ) -> ReadoutGradients:
        """What the explained scores draw on: gradients of hidden states, and the readout's attention to each token.

        Args:
            selected: the scores (B,) to explain, taken from ``output``.
            states: some of ``self.states``.
            retain_graph: as in :meth:`influence`.

        Raises:
            RuntimeError: ``selected`` does not depend on the attention.
            ValueError: states from before the first attention.
        """
        observer = self.readout_observer(selected, states)
        return observer.with_gradients(self.show([observer], selected, states, retain_graph))

    def _check_state(self, state: States) -> None:
        shape = tuple(state.hidden.shape)
        if len(shape) != 3 or shape[:2] != (len(self.inputs), self.length):
            raise ValueError(
                f"module {state.module!r} returned a tensor of shape {shape}, expected hidden states of each token, "
                f"({len(self.inputs)}, {self.length}, width)"
            )
        if version_of(state.hidden) != state.version:
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
        if last not in self.calls:
            raise ValueError(
                f"module {state.module!r} returns states behind attention {last.module!r}, which is not of the stack "
                f"that is explained ({self.sorted.roles[last.layer]}): choose a module of the stack of "
                f"{self.calls[0].module!r}"
            )
        return before[-1]

    @property
    def like(self) -> Tensor:
        """An empty tensor of the dtype and on the device of what observers keep."""
        return self.calls[0].like

    @property
    def crosses_stacks(self) -> bool:
        """Whether other attention reads the tokens, so that the output is not read from the top layer's states."""
        return any(role in ("reads the tokens", "of a later stack") for role in self.sorted.roles.values())

    @cached_property
    def real(self) -> Tensor:
        """bool (B, N): the tokens that are no padding.

        Of an input that the model cuts into tokens, a mask or lengths say which entries are padding, and the first
        attention, to which tokens no query may attend because of that.
        """
        if self.inputs.is_cut:
            lengths = given_lengths(self.inputs, self.inputs.features.shape[1])
            if lengths or any("mask" in name for name in self.inputs.companions):
                self.check_matrix("a mask or lengths say that some of the input is padding, which cannot be followed")
                attended = self.calls[0].attended
                if lengths and attended.all():
                    warn_user(
                        f"what {', '.join(lengths)} says of padding cannot be told, so all tokens count as tokens"
                    )
                return attended
        return real_tokens(self.inputs, self.length, config_of(self.model))

    @cached_property
    def rows_are_examples(self) -> bool:
        """Whether a row of the output depends on its own example alone, as one backward pass for all presupposes.

        The scores of classes (C, B), of tokens (N, B, C), of the first or last example alone and means over the batch,
        (C,) and (N, C), pass for rows of examples where sizes happen to agree with B. There, the gradient of a row
        between first and last, or of both, is followed to the last attention: it must reach its own example only.
        """
        batch = len(self.inputs)
        moved = self._capture.provenance.examples_moved
        doubtful = batch > 1 and (moved or self.output.dim() == 1 or batch in (self.output.shape[1], self.length))
        if not doubtful or not self._finds_readout:
            return True
        apart = True
        for row in range(batch) if moved or batch == 2 else (batch // 2,):
            try:
                reached = self.find_reached(self.output[row], [-1])
            except RuntimeError:
                if self._capture.gradients:
                    raise
                return True  # nothing depends on a gradient
            apart &= reached.flatten(1).any(-1).nonzero().flatten().tolist() in ([], [row])
        return apart

    @cached_property
    def output_tokens(self) -> OutputTokens | None:
        """The tokens that the rows of an output (B, T, C) are about; None of an output that has no row for each."""
        if self.output.dim() != 3:
            return None
        own = decoder_tokens(self.inputs, config_of(self.model))
        if own is not None and own.shape[1] == self.output.shape[1]:
            return OutputTokens(own, of_the_input=False)
        if self.crosses_stacks and (self._wrapped or not shifts_its_input(self.model)):
            return OutputTokens(None, of_the_input=False)
        if self.output.shape[1] != self.length:
            return None
        return OutputTokens(self.real, of_the_input=not self.crosses_stacks)

    def tokens(self, special_ids: Collection[int] | None) -> Tokens:
        """Which tokens are padding, which ones play (``captum_attn.core.tokens.find_players``), where patches lie.

        Raises:
            ValueError: an example without players, or a mask of players that is none.
        """
        inputs, config, real = self.inputs, config_of(self.model), self.real
        found: Grid = None
        if self._patches is not None:
            found = self.places.layout if self.places else self._patches.grid(self.length)
        grid, picture = (found, None) if inputs.is_cut else (None, found)
        holds = holds_pictures(self.model, inputs.features if inputs.modality == "ids" else None)
        if holds and picture is None:
            picture = cut_picture(inputs, config)
        elif not holds and isinstance(picture, NoPatchGrid):
            picture = None  # an image that is read elsewhere, as in a tower of its own
        players = find_players(inputs, real, special_ids=special_ids, config=config, causal=self.causal, grid=grid)
        if players is not None and not players.any(-1).all():
            idle = (~players.any(-1)).nonzero().flatten().tolist()
            raise ValueError(
                f"the examples {idle} have no players: all of their tokens are padding or special tokens. Leave "
                "them out, or say which tokens play with players="
            )
        return Tokens(real, players, grid, picture)

    def resolved_layers(self, layers: Sequence[int] | None) -> list[int]:
        """Ascending indices of the layers meant; ``IndexError`` for one that the model does not have."""
        return resolve_indices("layers", layers, self.layers)

    def decoder_calls(self) -> dict[int, int]:
        """The calls outside of the stack whose keys are the input's tokens (0), or these shifted by a token (1)."""
        shifts = ((self.sorted.readers, 0), (self.sorted.shifted, 1))
        return {number: shift for calls, shift in shifts for call in calls for number in call.numbers}

    @cached_property
    def dependence(self) -> Dependence | None:
        """Which tokens states depend on by other ways than the explained attention; None if this was not looked at."""
        gate, token, words = self._capture.provenance.gate, picture_token(config_of(self.model)), self.real
        words_alone = [entrance for entrance in self.entrances if not entrance.picture]
        if self.inputs.modality == "ids" and token is not None:  # in whose places come patches
            words = words & (self.inputs.features != token)
        return None if gate is None else dependence_of(self.calls, gate, words_alone, words)

    @property
    def convolves(self) -> bool:
        """Whether windows of a convolution that overlap mix neighbours after the first attention, as a trail sees."""
        return self.places is not None and self._patches is not None and self._patches.mixes

    def readout_rows(self, selected: Tensor) -> ReachedRows:
        """The tokens that scores (B,), taken from ``output``, are read from. A gradient finds them, when asked."""
        return ReachedRows(partial(self.find_readout, selected), self.like)

    def readout(
        self, readout: Readout, selected: Tensor, tokens: Tokens, positions: Tensor | None = None
    ) -> RowWeights:
        """The tokens that an output is read from.

        Args:
            readout: an index (negative: from the end), ``"mean"`` for all tokens that are no padding (of an image: the
                players), or ``"auto"``: those that ``selected`` depends on, where a gradient can tell.
            selected: the scores (B,) to explain; empty where none are meant.
            tokens: of this pass.
            positions: int64 (B,), the token whose output is explained; None where the output is one per example.

        Raises:
            ValueError: an index out of range, or another word.
        """
        check_readout(readout)
        if readout == "auto" and len(selected) and self._finds_readout:
            return self.readout_rows(selected)
        if readout == "auto" and len(selected) and not self._capture.follows:
            warn_of_rule(self.causal)
        return rows_by_rule(
            readout,
            tokens=tokens,
            images=self.inputs.is_cut,
            positions=positions,
            config=config_of(self.model),
            causal=self.causal,
            read_by_others=self.crosses_stacks,
        )

    @property
    def _finds_readout(self) -> bool:
        """Whether a gradient can be followed from the output to the last layer."""
        return self._capture.follows and (self._capture.gradients or not self.crosses_stacks)

    def find_readout(self, selected: Tensor) -> Tensor:
        """The tokens that scores are read from: the queries of the last layer that their gradient reaches.

        Args:
            selected: scores (B,), taken from ``output``. If they are being explained, or were explained last, this is
                known; else a backward pass down to the last layer finds out.

        Returns:
            bool (B, N).

        Raises:
            RuntimeError: the scores do not depend on the last layer, or it cannot be known without gradients.

        Example:
            >>> from captum_attn.core import mapping_inputs, observed_forward
            >>> with observed_forward(model, mapping_inputs(model, batch)) as run:
            ...     run.find_readout(run.output[:, 1]).int()
            tensor([[1, 0, 0, 0, 0, 0],
                    [1, 0, 0, 0, 0, 0]], dtype=torch.int32)
        """
        self.check_matrix("its last layer's tokens are not those of the first one")
        top = self.calls[-1]
        if self._followed is not selected:
            self.find_reached(selected, [-1])
        if top.reached is None:
            raise RuntimeError(
                f"the output does not depend on the last layer, {top.module!r}: choose layers= below it, and readout="
            )
        return top.reached

    def find_reached(self, selected: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        """The queries on which scores depend, by a backward pass down to the lowest of some layers.

        Args:
            selected: scores of any shape, taken from ``output``.
            layers: indices; None for all.

        Returns:
            bool (B, L, N); none in a layer on which the scores do not depend.

        Raises:
            RuntimeError: ``selected`` does not depend on the attention, or it cannot be known without gradients.
        """
        calls = [self.calls[layer] for layer in self.resolved_layers(layers)]
        with torch.inference_mode(False), torch.enable_grad():
            try:
                self._backward(selected, None, [call.layer for call in calls], retain_graph=True)
            except (UnkeptError, CheckpointError) as error:
                raise RuntimeError(
                    f"what the output is read from cannot be found without gradients. {SWITCH_CHECKPOINTS}; or "
                    "say readout="
                ) from error
        none = torch.zeros_like(self.real)
        return torch.stack([none if c.reached is None else c.reached.view(len(none), -1) for c in calls], 1)


_examples_first: WeakSet[Callable[..., Any]] = WeakSet()  # models that are known to keep examples before heads
_in_places: WeakSet[Callable[..., Any]] = WeakSet()  # models that no one matrix of all tokens describes
_looked_at: WeakSet[Callable[..., Any]] = WeakSet()  # models whose dependences are known not to be told again


@contextmanager
def observed_forward(
    model: Callable[..., Any],
    inputs: ModelInputs,
    gradients: bool = True,
    modules: Collection[str] = (),
    *,
    after_attention: bool = False,
    scaled: tuple[Collection[int], Tensor] | None = None,
    propagation: Propagation = GRADIENT,
    shift: Callable[[Entrance], Tensor] | None = None,
    tiles: bool = True,
) -> Iterator[ObservedForward]:
    """Run the model once, in eval mode, and keep what is needed to explain its output.

    Works under ``torch.no_grad()`` and ``torch.inference_mode()``. The model is left as it was.

    Args:
        model: a module, or a function of the inputs that calls one (in eval mode).
        inputs: one batch.
        gradients: whether gradients will be asked for; False is for attention alone, and the readout.
        modules: names of parts of a module, whose hidden states are kept.
        after_attention: whether to keep what follows the attention calls.
        scaled: an attention call, by its numbers, and the factors (B,) by which its probabilities are multiplied
            (``captum_attn.core.capture.ScaledAttentionCapture``); with gradients.
        propagation: the rules under which gradients go down; the output is the same, bit by bit.
        shift: gives what takes the place of the explained features where they come into the graph: embeddings or
            pixels of the same shape.
        tiles: whether observers will be shown attention and its gradients. Gradients of states and features alone are
            had faster without.

    Raises:
        TypeError: an output in which there are no scores (hidden states will do for attention alone).
        ValueError: a name of no module; attention that cannot be observed, or does not relate the input's tokens to
            each other; a function whose module is in training mode; an output whose rows are not the examples.
        RuntimeError: weights that were made under ``torch.inference_mode()``; layers without gradients.

    Example:
        >>> from captum_attn.core import tensor_inputs
        >>> with observed_forward(model, tensor_inputs(model, input_ids)) as run:
        ...     influence = run.influence(run.output[:, 1], variant="rectified")
    """
    plain = gradients and scaled is None and shift is None and propagation.is_plain
    first = plain and model not in _looked_at
    if not plain and model not in _looked_at:
        _look_at_first(model, inputs)
    with followed(
        model,
        inputs,
        gradients=gradients,
        modules=modules,
        dependences=first,
        after_attention=after_attention,
        scaled=scaled,
        propagation=propagation,
        shift=shift,
        tiles=tiles,
    ) as (_, run):
        if isinstance(run, Exception):
            raise run
        if inputs.modality == "pixels" and holds_pictures(run.model, inputs.companions.get("input_ids")):
            raise ValueError(
                f"{type(run.model).__name__} reads the image among the words of the text, but inside of a function, "
                "which does not say so: give the model itself, so that words and patches are explained together"
            )
        if first:
            _warn_of_other_ways(run)
        if run.coverage is not None:
            check_coverage(run.coverage, propagation, run.model)
        _looked_at.add(model)
        yield run


@contextmanager
def followed(
    model: Callable[..., Any], inputs: ModelInputs, *, dependences: bool = False, **options: Any
) -> Iterator[tuple[SeenForward, ObservedForward | Exception]]:
    """A pass that is followed in the way that the model needs: what was seen, and the run, or why there is none.

    An image is followed to its patches, and where no matrix relates these in every layer, to all of its attention. The
    way that a model needed last is tried first. The arguments are those of
    :func:`~captum_attn.core.forward.seen_forward`.
    """
    ways = ((True, False) if model in _in_places else (False, True)) if inputs.is_cut else (False,)
    refusals: dict[bool, WrongWayError] = {}
    for throughout in ways:
        options |= {"dependences": dependences and not throughout, "throughout": throughout}
        with seen_forward(model, inputs, **options) as seen:
            found: ObservedForward | Exception
            try:
                found = understood(model, inputs, seen)
            except WrongWayError as refusal:
                refusals[throughout] = refusal
                if throughout is not ways[-1]:
                    continue
                also = f". Nor can its keys be laid over the input: {refusals[True]}" if True in refusals else ""
                found = NoMatrixError(f"{refusals[False]}{also}")
            except (ValueError, RuntimeError, TypeError, IndexError) as error:
                found = error
            yield seen, found
            return


def cut_picture(inputs: ModelInputs, config: Any) -> PatchGrid | NoPatchGrid:
    """Where parts lie of an image that the processor has cut, in the image as it was resized, or why nothing says it.

    Qwen2-VL and its like get the patches of all images in one tensor, and say how many there are along the sides
    (``image_grid_thw``); ``spatial_merge_size`` of them, squared, make a token.
    """
    sides, places = inputs.companions.get("image_grid_thw"), torch.eq(inputs.features, picture_token(config) or -1)
    vision = getattr(config, "vision_config", None)
    patch, merged = (getattr(vision, name, None) for name in ("patch_size", "spatial_merge_size"))
    of_each = isinstance(sides, Tensor) and sides.shape == (len(inputs), 3)
    if isinstance(sides, Tensor) and of_each and isinstance(patch, int) and isinstance(merged, int):
        alike = bool((sides == sides[0]).all()) and bool((places == places[0]).all())
        time, rows, columns = (int(one) for one in sides[0] // torch.tensor([1, merged, merged]).to(sides))
        if alike and time == 1 and int(places[0].sum()) == rows * columns:
            positions = tuple(places[0].nonzero().flatten().tolist())
            return PatchGrid(rows, columns, patch * merged, patch * merged, positions=positions)
    shape = tuple(getattr(inputs.companions.get("pixel_values"), "shape", ()))
    return NoPatchGrid(
        f"pixels {shape} are not one image (C, h, w), of one size and place, for each of {len(inputs)} texts"
    )


def picture_grid(model: Callable[..., Any], mapping: Mapping[str, Any]) -> Grid:
    """Where the parts of an image among the words of a text lie, as a forward pass says; None where there is no image.

    Args:
        model: which reads both.
        mapping: ids and pixels, as a processor returns them.
    """
    inputs = mapping_inputs(model, mapping)
    if not holds_pictures(model, inputs.features):
        return None
    if inputs.picture is None:
        return cut_picture(inputs, config_of(model))
    trail = PatchTrail(inputs.picture, inputs.features.shape[1])
    with trail:
        plain_output(model, inputs)
    return trail.grid(inputs.features.shape[1])


class MovedTokensError(ValueError):
    """The model puts tokens, or examples, in another order."""


def _look_at_first(model: Callable[..., Any], inputs: ModelInputs) -> None:
    """Look at the dependences in a pass of its own, by plain gradients; raises if tokens were moved."""
    try:
        with followed(model, inputs[:2], dependences=True) as (_, run):
            if isinstance(run, MovedTokensError):
                raise run
            if isinstance(run, Exception):
                return
            _warn_of_other_ways(run)
    except MovedTokensError:
        raise
    except (ValueError, RuntimeError, TypeError):
        return  # the pass itself will say what is wrong, if that matters without gradients
    _looked_at.add(model)


def _warn_of_other_ways(run: ObservedForward) -> None:
    if run.dependence == "others" or run.convolves:
        warn_user(
            f"states of tokens in {type(run.model).__name__} depend on other tokens by other ways than the "
            "explained attention (convolution, recurrence, attention that cannot be seen), which no map shows. "
            f"{LISTED}"
        )


def understood(model: Callable[..., Any], inputs: ModelInputs, seen: SeenForward) -> ObservedForward:
    """What a forward pass of the model means; raises what :func:`observed_forward` documents."""
    run = ObservedForward(seen, inputs)
    (_in_places.add if run.places else _in_places.discard)(model)
    seen.capture.provenance.forget()
    doubtful = run.places is not None and len(inputs) > 1
    if (doubtful or any(call.mixed for call in run.calls)) and model not in _examples_first:
        if seen.capture.provenance.shift is not None:
            with followed(model, inputs, gradients=False):  # which looks at the inputs as they are
                pass
        elif seen.capture.follows and not isinstance(seen.capture, ScaledAttentionCapture):
            _check_examples_first(model, inputs, run)
            _examples_first.add(model)
    if run.dependence == "moved":
        raise MovedTokensError(
            f"states of tokens in {type(run.model).__name__} do not depend on their own tokens, but on others: the "
            "model puts tokens, or examples, in another order, so that rows and columns of its attention are not the "
            f"input's in their order. Put them in that order outside of the model, and explain it from there. {LISTED}"
        )
    return run


def _alike(own: Tensor, other: Tensor) -> bool:
    """Whether states differ by no more than what deep models make of rounding."""
    tolerance = 1e-2 if other.dtype in (torch.float32, torch.float64) else 0.1
    return bool((own - other).abs().max() <= tolerance * other.abs().max())


def _check_examples_first(model: Callable[..., Any], inputs: ModelInputs, run: ObservedForward) -> None:
    """Raise ``ValueError`` if what was taken for the first or last example's heads is not what it has by itself."""
    for example in {0, len(inputs) - 1}:
        try:
            with followed(model, inputs[example : example + 1], gradients=False) as (_, alone):
                if isinstance(alone, Exception):
                    raise alone
                other = next((call for call in _doubtful(run) if not _is_of(call, alone, example)), None)
        except IndexError as error:
            raise ValueError(_SEEING.format(run.calls[0].module)) from error
        if other is not None:
            raise ValueError(_SEEING.format(other.module))


def _doubtful(run: ObservedForward) -> list[AttentionCall]:
    """The calls of which their shapes do not say which rows are an example's."""
    return [call for call in run.calls if call.mixed or run.places is not None]


def _is_of(call: AttentionCall, alone: ObservedForward, example: int) -> bool:
    """Whether the first rows of a call, or else its last ones, are those of an example alone."""
    (single,) = (one for one in alone.calls if one.layer == call.layer)
    for own, one in zip(call.evidence, single.evidence, strict=True):
        rows = own[: len(one)] if example == 0 else own[len(own) - len(one) :]
        # Heads may share keys in one of them, and have copies in the other.
        if rows.shape[1:] == one.shape[1:] and not _alike(rows, one):
            return False
    return True


_SEEING = (
    "attention {!r} keeps heads and examples in one dimension, or in exchanged ones, and not example by example, so "
    "their heads cannot be told apart; or the examples of a batch see each other. Explain one example at a time, by "
    "internal_batch_size=1"
)


__getattr__ = moved_names(__name__, "captum_attn.core.forward", {"plain_output"})
