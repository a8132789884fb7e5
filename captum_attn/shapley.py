"""Exact Shapley values of the attention game as Captum attributions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from captum._utils.common import _format_additional_forward_args
from captum._utils.progress import progress
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor

from captum_attn._targets import Selection, Target, no_selection, select_target, target_of_each
from captum_attn.core.estimators import CharacteristicFunction, ShapleyEstimate, permutation_shapley
from captum_attn.core.games import (
    ADDITIVE_GAMES,
    GAMES,
    Game,
    coalition_values,
    shapley_interactions,
    shapley_values,
)
from captum_attn.core.inputs import ModelInputs, mapping_inputs, tensor_inputs
from captum_attn.core.models import check_model, config_of, unwrapped
from captum_attn.core.observers import InfluenceObserver, Per, RowWeights, Variant
from captum_attn.core.run import ObservedForward, observed_forward
from captum_attn.core.tokens import PatchGrid, Readout, readout_weights, special_ids_of
from captum_attn.token_attributions import TokenAttributions, concatenated

Inputs = Tensor | tuple[Tensor] | Mapping[str, Any]
Targets = Sequence[Target] | Callable[[Tensor], Tensor]
CustomGame = Callable[[Tensor, Tensor], Tensor]
Estimator = Callable[..., ShapleyEstimate]
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Explained:
    """One observed forward pass, the scores to explain, and what is known of the tokens (B, N).

    ``last`` says that no other scores of the same pass will be explained; ``readout`` is a function where the backward
    pass will tell.
    """

    run: ObservedForward
    selection: Selection
    last: bool
    real: Tensor
    players: Tensor
    readout: RowWeights
    grid: PatchGrid | None


class AttentionShapley(Attribution):  # type: ignore[misc]
    """What :class:`ShapleyGradAttention` and :class:`ShapleyAttention` have in common: all but the influence.

    Args:
        model: the Hugging Face model itself, any ``nn.Module``, or a function that calls one. Outputs with
            ``.logits``, tensors, and question answering's start and end logits (stacked to (B, N, 2)) are understood.
            The model runs in eval mode and is left as it was.
        game: what a coalition of tokens is worth; see :mod:`captum_attn.core.games`.

            - ``incoming``: its influence on all tokens;
            - ``cls``: its influence on the readout token;
            - ``mutual``, ``max_mutual``: the mutual influence of its members, as the sum of both directions or as
              the larger one (which favours positive values where influence is signed);
            - a function of an influence matrix (n, n) and coalitions bool (K, n), to their worth (K,), with n the
              number of players. Its values are sampled.
        layers, heads: which count, one index or several; negative ones count from the end. Default: all.
        readout: the token that the prediction is read from, in the game ``cls``: an index, ``"mean"`` for all tokens
            that are no padding (of an image: its patches), or ``"auto"``. With gradients, that is the token that the
            explained output is read from, or the mean of these, as the backward pass finds them in the last layer: the
            first token in BERT and ViT, the last one in GPT and Llama, the token of a target (token, class), all tokens
            under mean pooling or where a decoder reads them (T5, BART). Without gradients,
            :func:`captum_attn.core.tokens.readout_weights` goes by the configuration.
        tokenizer: tells which ids are special and do not play. Without one, the configuration and the attention mask
            decide (:func:`captum_attn.core.tokens.find_players` says how); ``special_tokens_mask`` in the inputs and
            ``players`` override both.
        estimator: a sampler for ``game``, called as ``estimator(worth, n, device=...)``:
            ``permutation_shapley`` (the default for functions) or ``kernel_shapley`` of
            :mod:`captum_attn.core.estimators`, with other settings by ``functools.partial``. None: exact.
        additional_forward_arg_names: names of ``additional_forward_args``, in order, under which the model takes them;
            ``special_tokens_mask`` and ``players`` are kept for the attribution. Default: ``attention_mask,
            token_type_ids, position_ids`` for models with such arguments, else no names.

    Raises:
        TypeError, ValueError: an argument that is none of the above, or a model that is compiled inside.
    """

    _variant: Variant

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        game: Game | CustomGame = "incoming",
        layers: Sequence[int] | int | None = None,
        heads: Sequence[int] | int | None = None,
        readout: Readout = "auto",
        tokenizer: Any | None = None,
        estimator: Estimator | None = None,
        additional_forward_arg_names: Sequence[str] | None = None,
    ) -> None:
        check_model(model)
        if not callable(game) and game not in GAMES:
            raise ValueError(
                f"unknown game {game!r}: expected one of {', '.join(map(repr, GAMES))}, or a function of an influence "
                "matrix (n, n) and coalitions (K, n)"
            )
        self._special_ids = special_ids_of(tokenizer)
        if estimator is not None and not callable(estimator):
            raise TypeError(f"estimator must be a function such as permutation_shapley, got {estimator!r}")
        if readout not in ("auto", "mean") and not isinstance(readout, int):
            raise ValueError(f"readout must be 'auto', 'mean' or the index of a token, got {readout!r}")
        super().__init__(unwrapped(model))
        self.game = game
        self.layers, self.heads = _indices("layers", layers), _indices("heads", heads)
        self.readout = readout
        self.estimator = permutation_shapley if callable(game) and estimator is None else estimator
        self.additional_forward_arg_names = additional_forward_arg_names

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = None,
        *,
        players: Tensor | None = None,
        show_progress: bool = False,
    ) -> Tensor | tuple[Tensor, ...]:
        """Shapley values in the shape of the inputs.

        Args:
            inputs: token ids (B, N), embeddings (B, N, D), pixels (B, C, h, w), a tuple of one of them, or the mapping
                that a tokenizer or an image processor returns.
            target: which output is explained, in Captum's forms: an int, a tensor (B,) or a list of ints for
                classes; a tuple (token, class) or a list of such for outputs (B, N, C). ``None`` is the predicted
                class of each example (elsewhere in Captum: the only output).
            additional_forward_args: other arguments of the model, one or a tuple; see the constructor for names.
            internal_batch_size: explain that many examples at a time; arguments whose first dimension is the batch
                size are cut along it. Default: all at once.
            players: bool (B, N), the tokens that play, if you know better. Under ``NoiseTunnel``, which repeats the
                batch, pass them in ``additional_forward_args`` instead.
            show_progress: show a progress bar over the parts.

        Returns:
            For ids (B, N); for embeddings (B, N, D) and pixels (B, C, h, w), each token's value is spread evenly, so
            that sums are kept. A tuple for a tuple. Detached; float32, or float64 for a float64 model.

        Raises:
            TypeError, ValueError, IndexError: inputs, targets or masks that do not fit, a sequence without players,
                a model without observable attention, an output that is not finite. Each says what was expected.

        Example:
            >>> batch = tokenizer(["a gripping film", "not good at all"], padding=True, return_tensors="pt")
            >>> ShapleyGradAttention(model, tokenizer=tokenizer).attribute(batch).shape
            torch.Size([2, 6])
        """
        batch = self._model_inputs(inputs, additional_forward_args, players)
        (result,) = self._attribute_tokens(batch, [target], internal_batch_size, None, show_progress)
        spread = result.spread_over(batch.features)
        return (spread,) if isinstance(inputs, tuple) else spread

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
            As :meth:`attribute`.

        Example:
            >>> batch = tokenizer(["a gripping film", "not good at all"], padding=True, return_tensors="pt")
            >>> result = ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens(batch)
            >>> result.values.shape, result.targets.tolist()
            (torch.Size([2, 6]), [[1], [0]])
        """
        if per is not None and self.estimator is not None:
            raise ValueError(f"per={per!r} needs an exact game, not a sampled one: leave out the estimator")
        batch = self._model_inputs(inputs, additional_forward_args, players)
        (result,) = self._attribute_tokens(batch, [target], internal_batch_size, per, show_progress)
        return result

    def attribute_targets(
        self,
        inputs: Inputs,
        targets: Targets,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = None,
        *,
        players: Tensor | None = None,
        show_progress: bool = False,
    ) -> list[TokenAttributions]:
        """Several targets of the same inputs, from one forward pass and one backward pass for each target.

        Args:
            targets: targets in any form that :meth:`attribute` takes; or a function that chooses classes by the output:
                it maps (B, C) to int64 (B, K).
            inputs, additional_forward_args, internal_batch_size, players, show_progress: as in :meth:`attribute`.

        Returns:
            A result for each target, as of :meth:`attribute_tokens`.

        Raises:
            ValueError: no targets; else as :meth:`attribute`.

        Example:
            >>> explainer = ShapleyGradAttention(model, tokenizer=tokenizer)
            >>> negative, positive = explainer.attribute_targets(batch, targets=[0, 1])
            >>> best, second = explainer.attribute_targets(batch, lambda output: output.topk(2).indices)
            >>> best.targets.tolist()
            [[1], [0]]
        """
        batch = self._model_inputs(inputs, additional_forward_args, players)
        return self._attribute_tokens(batch, targets, internal_batch_size, None, show_progress)

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
            (B, N, N), symmetric, 0 on the diagonal and for tokens that do not play; all 0 in additive games.

        Raises:
            ValueError: a game that is sampled; else as :meth:`attribute`.

        Example:
            >>> ShapleyGradAttention(model, game="mutual", tokenizer=tokenizer).interactions(batch).shape
            torch.Size([2, 6, 6])
        """
        game = self._exact_game()

        def solve(explained: _Explained) -> Tensor:
            return shapley_interactions(self._influence(explained), explained.players, game)

        batch = self._model_inputs(inputs, additional_forward_args, players)
        (parts,) = self._in_parts(solve, batch, [target], internal_batch_size, show_progress)
        return torch.cat(parts)

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
            As :meth:`attribute`.

        Example:
            >>> ShapleyGradAttention(model).influence(batch, per="head").shape
            torch.Size([2, 4, 4, 6, 6])
        """

        def solve(explained: _Explained) -> Tensor:
            return self._influence(explained, per=per)

        batch = self._model_inputs(inputs, additional_forward_args)
        (parts,) = self._in_parts(solve, batch, [target], internal_batch_size, show_progress)
        return torch.cat(parts)

    def _attribute_tokens(
        self,
        batch: ModelInputs,
        targets: Targets,
        internal_batch_size: int | None,
        per: Per | None,
        show_progress: bool,
    ) -> list[TokenAttributions]:
        def solve(explained: _Explained) -> TokenAttributions:
            return self._attributions(explained, self._influence(explained, per, self._row_weights(explained)))

        parts_of_each = self._in_parts(solve, batch, targets, internal_batch_size, show_progress)
        return [concatenated(parts) for parts in parts_of_each]

    def _in_parts(
        self,
        solve: Callable[[_Explained], Result],
        batch: ModelInputs,
        targets: Targets,
        internal_batch_size: int | None,
        show_progress: bool,
    ) -> list[list[Result]]:
        """``solve`` each part of the batch, of which nothing else is kept while the next one runs: for each target."""
        parts: Any = batch.parts(internal_batch_size)
        choose = targets if callable(targets) else None
        chosen = [] if callable(targets) else [target_of_each(target, len(batch)) for target in targets]
        if not choose and not chosen:
            raise ValueError("there are no targets: expected at least one")
        if show_progress:
            parts = progress(parts, desc=f"{self.get_name()} attribution")
        solved = [
            self._solve_part(solve, batch[part], choose or [rows and rows[part] for rows in chosen]) for part in parts
        ]
        return [list(results) for results in zip(*solved, strict=True)]

    def _solve_part(
        self,
        solve: Callable[[_Explained], Result],
        batch: ModelInputs,
        targets: Callable[[Tensor], Tensor] | list[list[tuple[int, ...]] | None],
    ) -> list[Result]:
        with observed_forward(self.forward_func, batch, self._variant != "attention") as run:
            if callable(targets):
                targets = [target_of_each(column, len(batch)) for column in targets(run.output.detach()).unbind(1)]
            return [solve(explained) for explained in self._explained(run, batch, targets)]

    def _model_inputs(self, inputs: Inputs, additional_forward_args: Any, players: Tensor | None = None) -> ModelInputs:
        batch = self._formatted(inputs, _format_additional_forward_args(additional_forward_args) or ())
        return batch if players is None else replace(batch, notes={**batch.notes, "players": players})

    def _formatted(self, inputs: Inputs, companions: tuple[Any, ...]) -> ModelInputs:
        if isinstance(inputs, Mapping):
            if companions:
                raise ValueError("put additional_forward_args into the mapping of inputs, under their names")
            return mapping_inputs(self.forward_func, inputs)
        if isinstance(inputs, tuple):
            if len(inputs) != 1:
                raise ValueError(
                    f"expected one tensor of inputs, got a tuple of {len(inputs)}: tokens are attributed once; pass "
                    "the model's other arguments in additional_forward_args"
                )
            inputs = inputs[0]
        return tensor_inputs(self.forward_func, inputs, companions, self.additional_forward_arg_names)

    def _explained(
        self, run: ObservedForward, batch: ModelInputs, targets: list[list[tuple[int, ...]] | None]
    ) -> Iterator[_Explained]:
        """Find out about the tokens, and select the scores of each target."""
        gradients, config = self._variant != "attention", config_of(run.model)
        real, players, grid = run.tokens(self._special_ids)
        for count, rows in enumerate(targets, 1):
            if rows is None and run.output.dim() > 2 and not gradients:
                selection = no_selection(run.output)
            else:
                selection = select_target(run.output, rows, real)
            readout: RowWeights = run.readout_rows
            if self.readout != "auto" or not gradients:
                readout = readout_weights(
                    self.readout,
                    real=real,
                    players=players,
                    positions=selection.positions,
                    inputs=batch,
                    config=config,
                    causal=run.causal,
                )
            yield _Explained(run, selection, count == len(targets), real, players, readout, grid)

    def _influence(
        self, explained: _Explained, per: Per | None = None, row_weights: RowWeights | None = None
    ) -> Tensor:
        observer = self._observer(explained, per, row_weights)
        selected = None if self._variant == "attention" else explained.selection.scores
        explained.run.show([observer], selected, retain_graph=not explained.last)
        return observer.influence

    def _observer(
        self, explained: _Explained, per: Per | None = None, row_weights: RowWeights | None = None
    ) -> InfluenceObserver:
        return explained.run.observer(
            variant=self._variant, layers=self.layers, heads=self.heads, row_weights=row_weights, per=per
        )

    def _row_weights(self, explained: _Explained) -> RowWeights | None:
        """Of the rows of M that the values need; None for all of it. Exact values of additive games need few."""
        if self.estimator is not None or self._exact_game() not in ADDITIVE_GAMES:
            return None
        return explained.readout if self.game == "cls" else explained.real

    def _attributions(self, explained: _Explained, influence: Tensor) -> TokenAttributions:
        """The game's solution on influence (B, ..., N, N), or (B, ..., N) under its row weights."""
        sampler = self.estimator
        values, errors = (
            self._sampled(explained, influence, sampler) if sampler else (self._exact(explained, influence), None)
        )
        return TokenAttributions(
            values,
            explained.players,
            explained.selection.targets,
            explained.selection.scores.detach(),
            explained.run.output.detach(),
            explained.grid,
            errors,
        )

    def _exact(self, explained: _Explained, influence: Tensor) -> Tensor:
        """Shapley values (B, ..., N) in closed form."""
        game, players = self._exact_game(), explained.players
        if game in ADDITIVE_GAMES:
            return influence.masked_fill(~players.view(len(players), *[1] * (influence.dim() - 2), -1), 0.0)
        kept = influence.shape[1:-2]
        each = players.repeat_interleave(kept.numel(), 0)
        return shapley_values(influence.flatten(0, -3), each, game).view(len(players), *kept, -1)

    def _exact_game(self) -> Game:
        if callable(self.game):
            raise ValueError(
                f"exact values exist for the games {', '.join(map(repr, GAMES))}, not for a function: sample its "
                "values with attribute or attribute_tokens"
            )
        return self.game

    def _sampled(self, explained: _Explained, matrices: Tensor, estimator: Estimator) -> tuple[Tensor, Tensor]:
        """Sampled Shapley values and their standard errors, (B, N) each."""
        values, errors = matrices.new_zeros(2, *explained.players.shape)
        for example, members in enumerate(explained.players):
            worth, (index,) = self._worth(explained, matrices, example), members.nonzero(as_tuple=True)
            estimate = estimator(worth, len(index), device=matrices.device)
            values[example, index], errors[example, index] = (part.to(values) for part in estimate)
        return values, errors

    def _worth(self, explained: _Explained, matrices: Tensor, example: int) -> CharacteristicFunction:
        """The characteristic function of one example, of coalitions (K, n) of its players."""
        matrix, members = matrices[example], explained.players[example]
        game = self.game
        if callable(game):
            among_players = matrix[members][:, members]
            return lambda coalitions: game(among_players, coalitions)

        read = explained.readout() if callable(explained.readout) else explained.readout

        def worth(coalitions: Tensor) -> Tensor:
            everyone = coalitions.new_zeros(len(coalitions), len(members))
            everyone[:, members] = coalitions
            return coalition_values(matrix, everyone, game, readout=read[example], queries=explained.real[example])

        return worth


def _indices(name: str, given: Sequence[int] | int | None) -> list[int] | None:
    """One index or several as a list; ``TypeError`` for anything else."""
    try:
        return given if given is None else [int(given)] if isinstance(given, int) else list(map(operator.index, given))
    except TypeError:
        raise TypeError(f"{name} must be an index, a sequence of indices or None for all, got {given!r}") from None


class ShapleyGradAttention(AttentionShapley):
    """Exact Shapley values of the attention-gradient game, from one forward and one backward pass.

    The influence of a token on another is their attention times the gradient of the explained output with respect
    to it, averaged over layers and heads. Each token's Shapley value is its fair share of the influence of all.
    The paper's Grad-Att-CLS is ``game="cls", sign="rectified"``.

    Args:
        model, game, layers, heads, readout, tokenizer, estimator, additional_forward_arg_names: see
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

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        game: Game | CustomGame = "incoming",
        sign: Literal["rectified", "signed"] = "signed",
        layers: Sequence[int] | int | None = None,
        heads: Sequence[int] | int | None = None,
        readout: Readout = "auto",
        tokenizer: Any | None = None,
        estimator: Estimator | None = None,
        additional_forward_arg_names: Sequence[str] | None = None,
    ) -> None:
        if sign not in ("rectified", "signed"):
            raise ValueError(f"sign must be 'rectified' or 'signed', got {sign!r}")
        super().__init__(
            model,
            game=game,
            layers=layers,
            heads=heads,
            readout=readout,
            tokenizer=tokenizer,
            estimator=estimator,
            additional_forward_arg_names=additional_forward_arg_names,
        )
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

    _variant: Variant = "attention"
