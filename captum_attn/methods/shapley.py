"""Exact Shapley values of the attention game as Captum attributions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from captum_attn.core import resolve_indices
from captum_attn.core.observers import InfluenceObserver, Per, PlacedObserver, Variant
from captum_attn.core.readout import KnownRows, RowWeights
from captum_attn.core.targets import Target
from captum_attn.functional import (
    ADDITIVE_GAMES,
    GAMES,
    CharacteristicFunction,
    Game,
    ShapleyEstimate,
    coalition_values,
    permutation_shapley,
    shapley_interactions,
    shapley_values,
)
from captum_attn.methods.attribution import CommonArguments, Explained, Inputs, OnePassAttribution, influence_of
from captum_attn.token_attributions import TokenAttributions

CustomGame = Callable[[Tensor, Tensor], Tensor]
"""A game of your own: an influence matrix (n, n) and coalitions bool (K, n), to their worth (K,)."""

GameOrAuto = Game | Literal["auto"]
"""A game by its name, or ``"auto"``: ``"cls"`` where attention is causal, else ``"incoming"``."""

Estimator = Callable[..., ShapleyEstimate]
"""A sampler of Shapley values, called as ``estimator(worth, n, device=...)``."""


class AttentionShapley(OnePassAttribution):
    """What :class:`ShapleyGradAttention` and :class:`ShapleyAttention` have in common: all but the influence.

    Args:
        model, layers, heads, tokenizer, additional_forward_arg_names, propagation: see
            :class:`captum_attn.AttentionAttribution`.
        game: what a coalition of tokens is worth; see :func:`captum_attn.functional.shapley_values`.

            - ``incoming``: its influence on all tokens;
            - ``cls``: its influence on the readout token;
            - ``auto``: ``cls`` where attention is causal, else ``incoming``. In decoders, a prompt's tokens read each
              other whatever is written, and ``incoming`` finds the source of an answer less often;
            - ``mutual``, ``max_mutual``: the mutual influence of its members, as the sum of both directions or as
              the larger one (which favours positive values where influence is signed);
            - a function of an influence matrix (n, n) and coalitions bool (K, n), to their worth (K,), with n the
              number of players. Its values are sampled.
        readout: the token that the game ``cls`` is about; see :class:`captum_attn.AttentionAttribution`.
        estimator: a sampler for ``game``, called as ``estimator(worth, n, device=...)``:
            ``permutation_shapley`` (the default for functions) or ``kernel_shapley`` of
            :mod:`captum_attn.functional`, with other settings by ``functools.partial``. None: exact.

    Raises:
        TypeError, ValueError: an argument that is none of the above, or a model that is traced, exported or compiled
            inside.
    """

    _variant: Variant

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        game: GameOrAuto | CustomGame = "incoming",
        estimator: Estimator | None = None,
        **common: Unpack[CommonArguments],
    ) -> None:
        super().__init__(model, **common)
        if not callable(game) and game not in ("auto", *GAMES):
            raise ValueError(
                f"unknown game {game!r}: expected one of {', '.join(map(repr, ('auto', *GAMES)))}, or a function of an "
                "influence matrix (n, n) and coalitions (K, n)"
            )
        if estimator is not None and not callable(estimator):
            raise TypeError(f"estimator must be a function such as permutation_shapley, got {estimator!r}")
        self.game = game
        self.estimator = permutation_shapley if callable(game) and estimator is None else estimator

    @property
    def needs_gradients(self) -> bool:
        return self._variant != "attention"

    def attribute_tokens(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = None,
        *,
        per: Per | None = None,
        players: Tensor | None = None,
        show_progress: bool = False,
    ) -> TokenAttributions:
        """Shapley values of the tokens, with what was explained and who played.

        Args:
            per: ``"layer"`` or ``"head"`` plays one game in each of them, for values (B, L, N) or (B, L, H, N).
            inputs, target, additional_forward_args, internal_batch_size, players, show_progress: as in
                :meth:`attribute`.

        Returns:
            Values, players, targets and scores; the patch grid of images; standard errors of sampled values.

        Raises:
            TypeError, ValueError, IndexError, RuntimeError: as :meth:`attribute`.

        Example:
            >>> batch = tokenizer(["a gripping film", "not good at all"], padding=True, return_tensors="pt")
            >>> result = ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens(batch)
            >>> result.values.shape, result.targets.tolist()
            (torch.Size([2, 6]), [[1], [0]])
        """
        if per is not None and self.estimator is not None:
            raise ValueError(f"per={per!r} needs an exact game, not a sampled one: leave out the estimator")

        def watch(explained: Explained) -> InfluenceObserver | PlacedObserver:
            return self._observer(explained, per)

        def solve(explained: Explained, observer: Any) -> TokenAttributions:
            return replace(self.solve(explained, observer), **self._numbers(explained, per))

        batch = self.model_inputs(inputs, additional_forward_args, players)
        return self.whole(self._each(watch, solve, batch, target, internal_batch_size, show_progress), batch)

    def interactions(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = None,
        *,
        players: Tensor | None = None,
        show_progress: bool = False,
    ) -> Tensor:
        """Exact pairwise Shapley interactions: what two tokens are worth together beyond apart.

        Args:
            inputs, target, additional_forward_args, internal_batch_size, players, show_progress: as in
                :meth:`attribute`.

        Returns:
            (B, N, N), symmetric, 0 on the diagonal and for tokens that do not play.

        Raises:
            ValueError: an additive game, ``incoming`` or ``cls``, in which there are none; a game that is a function;
                else as :meth:`attribute`.

        Example:
            >>> ShapleyGradAttention(model, game="mutual", tokenizer=tokenizer).interactions(batch).shape
            torch.Size([2, 6, 6])
        """
        game = self.game
        if callable(game):
            raise ValueError(f"exact interactions exist for the games 'mutual' and 'max_mutual', not for {game!r}")
        if game == "auto" or game in ADDITIVE_GAMES:
            raise ValueError(
                f"the game {game!r} is additive: tokens are worth together what they are worth apart, so no two of "
                "them interact, whatever the model does. Ask for interactions with game='mutual' or game='max_mutual'"
            )

        def solve(explained: Explained, observer: InfluenceObserver) -> Tensor:
            return shapley_interactions(observer.influence, explained.players, game)

        batch = self.model_inputs(inputs, additional_forward_args, players)
        return torch.cat(self._each(self._influence, solve, batch, target, internal_batch_size, show_progress))

    def influence(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = None,
        *,
        per: Per | None = None,
        show_progress: bool = False,
    ) -> Tensor:
        """The influence matrix M that the game is played on, special tokens and padding included.

        Args:
            per: ``"layer"`` or ``"head"`` keeps them apart.
            inputs, target, additional_forward_args, internal_batch_size, show_progress: as in :meth:`attribute`.

        Returns:
            (B, N, N), rows are queries and columns keys; (L,) or (L, H) stand after B where kept apart.

        Raises:
            TypeError, ValueError, IndexError, RuntimeError: as :meth:`attribute`.

        Example:
            >>> ShapleyGradAttention(model).influence(batch, per="head").shape
            torch.Size([2, 4, 4, 6, 6])
        """

        def watch(explained: Explained) -> InfluenceObserver:
            return self._influence(explained, per=per)

        batch = self.model_inputs(inputs, additional_forward_args)
        return torch.cat(self._each(watch, influence_of, batch, target, internal_batch_size, show_progress))

    def observer(self, explained: Explained) -> InfluenceObserver | PlacedObserver:
        return self._observer(explained)

    def solve(self, explained: Explained, observer: InfluenceObserver | PlacedObserver) -> TokenAttributions:
        """The game's solution on influence (B, ..., N, N), or (B, ..., N) under its row weights."""
        sampler = self.estimator
        if sampler is not None:
            return explained.attributions(*self._sampled(explained, observer.influence, sampler))
        return explained.attributions(self._exact(explained, observer.influence))

    def _observer(self, explained: Explained, per: Per | None = None) -> InfluenceObserver | PlacedObserver:
        run = explained.run
        if run.places and self.heads is None and self.estimator is None and self._game_of(explained) == "incoming":
            return run.placed(self._variant, self.layers, per)
        return self._influence(explained, self._row_weights(explained), per)

    def _influence(
        self, explained: Explained, row_weights: RowWeights | None = None, per: Per | None = None
    ) -> InfluenceObserver:
        return InfluenceObserver(explained.run.watched(self.layers, self.heads), self._variant, row_weights, per)

    def _numbers(self, explained: Explained, per: Per | None) -> dict[str, Any]:
        """The numbers of layers and heads that are kept apart."""
        run = explained.run
        found = {} if per is None else {"layers": run.resolved_layers(self.layers)}
        return found | ({"heads": resolve_indices("heads", self.heads, run.heads)} if per == "head" else {})

    def _row_weights(self, explained: Explained) -> RowWeights | None:
        """Of the rows of M that the values need; None for all of it. Exact values of additive games need few."""
        game = self._game_of(explained)
        if self.estimator is not None or game not in ADDITIVE_GAMES:
            return None
        return explained.readout if game == "cls" else KnownRows(explained.real)

    def _exact(self, explained: Explained, influence: Tensor) -> Tensor:
        """Shapley values (B, ..., N) in closed form."""
        game, players = self._game_of(explained), explained.players
        if game in ADDITIVE_GAMES:
            return influence
        kept = influence.shape[1:-2]
        each = players.repeat_interleave(kept.numel(), 0)
        return shapley_values(influence.flatten(0, -3), each, game).view(len(players), *kept, -1)

    def _game_of(self, explained: Explained) -> Any:
        """The game that is played on a pass."""
        if self.game != "auto":
            return self.game
        return "cls" if explained.run.causal and not explained.run.crosses_stacks else "incoming"

    def _sampled(self, explained: Explained, matrices: Tensor, estimator: Estimator) -> tuple[Tensor, Tensor]:
        """Sampled Shapley values and their standard errors, (B, N) each."""
        values, errors = matrices.new_zeros(2, *explained.players.shape)
        for example, members in enumerate(explained.players):
            worth, (index,) = self._worth(explained, matrices, example), members.nonzero(as_tuple=True)
            estimate = estimator(worth, len(index), device=matrices.device)
            values[example, index], errors[example, index] = (part.to(values) for part in estimate)
        return values, errors

    def _worth(self, explained: Explained, matrices: Tensor, example: int) -> CharacteristicFunction:
        """The characteristic function of one example, of coalitions (K, n) of its players."""
        matrix, members = matrices[example], explained.players[example]
        game = self._game_of(explained)
        if callable(game):
            among_players = matrix[members][:, members]
            return lambda coalitions: game(among_players, coalitions)

        read = explained.readout.weights()

        def worth(coalitions: Tensor) -> Tensor:
            everyone = coalitions.new_zeros(len(coalitions), len(members))
            everyone[:, members] = coalitions
            return coalition_values(matrix, everyone, game, readout=read[example], queries=explained.real[example])

        return worth


class ShapleyGradAttention(AttentionShapley):
    """Exact Shapley values of the attention-gradient game, from one forward and one backward pass.

    The influence of a token on another is their attention times the gradient of the explained output with respect
    to it, averaged over layers and heads. Each token's Shapley value is its fair share of the influence of all.
    The paper's Grad-Att-CLS is ``game="cls", sign="rectified"``.

    Args:
        model, game, layers, heads, readout, tokenizer, estimator, additional_forward_arg_names, propagation: see
            :class:`captum_attn.AttentionShapley`.
        sign: ``"signed"`` counts attention that raises the output and attention that lowers it, A ⊙ G;
            ``"rectified"``, the paper's choice, only what raises it, A ⊙ ReLU(G).

    Example:
        >>> batch = tokenizer("a gripping , funny film", return_tensors="pt")
        >>> explainer = ShapleyGradAttention(model, tokenizer=tokenizer)
        >>> scores = explainer.attribute(batch, target=1)
        >>> scores.shape == batch["input_ids"].shape
        True

    Source: arXiv 2508.08966, section 3 (Grad-Att-CLS, Grad-Att-Mutual and Grad-Att-Max-Mutual).
    """

    what = "Shapley values of attention times its gradient"

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        game: GameOrAuto | CustomGame = "incoming",
        sign: Literal["rectified", "signed"] = "signed",
        estimator: Estimator | None = None,
        **common: Unpack[CommonArguments],
    ) -> None:
        if sign not in ("rectified", "signed"):
            raise ValueError(f"sign must be 'rectified' or 'signed', got {sign!r}")
        super().__init__(model, game=game, estimator=estimator, **common)
        self._variant = sign


class ShapleyAttention(AttentionShapley):
    """Exact Shapley values of the attention game without gradients, from one forward pass.

    They say where the model looks, whatever it predicts: a target picks the readout token and the reported score, and
    has no other effect. Models without a head will do; then there is no score.

    Args:
        model, game, layers, heads, readout, tokenizer, estimator, additional_forward_arg_names: see
            :class:`captum_attn.AttentionShapley`.

    Example:
        >>> batch = tokenizer("a gripping , funny film", return_tensors="pt")
        >>> ShapleyAttention(model, tokenizer=tokenizer).attribute(batch).shape
        torch.Size([1, 7])

    Source: arXiv 2508.08966, section 3 (the attention-only games).
    """

    what = "Shapley values of attention, whatever the model predicts"

    _variant: Variant = "attention"
