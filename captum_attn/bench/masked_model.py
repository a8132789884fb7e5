"""A classifier whose input tokens can be taken away: replaced in the input, or knocked out of its attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from captum_attn.core import (
    Grid,
    ModelInputs,
    ObservedForward,
    Replacement,
    check_classes,
    check_model,
    config_of,
    listed_indices,
    mapping_inputs,
    observed_forward,
    special_ids_of,
    unwrapped,
)
from captum_attn.core.forward import plain_output
from captum_attn.core.inputs import tensor_inputs
from captum_attn.core.knockout import knocked_out_output, knockout_calls
from captum_attn.core.perturb import check_replacement, default_replacement, replace_tokens
from captum_attn.functional import CharacteristicFunction

Intervention = Literal["replacement", "knockout"]
"""How tokens are taken away: replaced in the input, or kept from being attended to in every layer."""

INTERVENTIONS: tuple[Intervention, ...] = get_args(Intervention)
"""Both of them."""


@dataclass(frozen=True)
class WholeInputs:
    """A batch of B inputs of N tokens as they are, and what the model says of them.

    Attributes:
        inputs: the batch.
        probabilities: (B, C), float32 or float64.
        players: bool (B, N), the tokens that can be taken away.
        grid: how images are cut into patches; None for text.
        calls: the attention calls that a knockout concerns; None where keys are no tokens (windows, coarser grids).
        config: the configuration of the model that ran.
        picture: how an image beside a text is cut; None without one.
    """

    inputs: ModelInputs
    probabilities: Tensor
    players: Tensor
    grid: Grid
    calls: Mapping[int, int] | None
    config: Any | None
    picture: Grid = None

    def __getitem__(self, places: Tensor) -> WholeInputs:
        """Some of the examples, int64 (b,)."""
        return replace(
            self,
            inputs=self.inputs[places],
            probabilities=self.probabilities[places],
            players=self.players[places],
        )

    @property
    def targets(self) -> Tensor:
        """The predicted classes, int64 (B,)."""
        return self.probabilities.argmax(-1)

    @property
    def confidence(self) -> Tensor:
        """Their probabilities, (B,)."""
        return self.probabilities.amax(-1)


class MaskedModel:
    """A classifier of text or images, and how tokens are taken away from its inputs.

    Args:
        model: maps a batch to logits (B, C) of at least two classes; the Hugging Face model itself will do. It is left
            as it was.
        tokenizer: of a model of text; tells the special tokens, and what replaces a token.
        replacement: a token id for text, by default the mask token's; for images ``"mean"`` (the default), the mean of
            the image's patches, or ``"zeros"``.
        layers: those in which a knockout blocks attention; default: all.
        batch_size: how many inputs the model sees at a time.

    Raises:
        TypeError, ValueError: a model, tokenizer or replacement of another kind.

    Example:
        >>> masked = MaskedModel(model, tokenizer)
        >>> whole = masked.read(batch)
        >>> first = torch.arange(6) == 1
        >>> masked.probabilities(whole, torch.tensor([0]), first[None], "replacement").shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        tokenizer: Any | None = None,
        *,
        replacement: Replacement | None = None,
        layers: Sequence[int] | int | None = None,
        batch_size: int = 32,
    ) -> None:
        check_model(model)
        self._special_ids = special_ids_of(tokenizer)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        check_replacement(replacement)
        if getattr(config_of(model), "problem_type", None) == "multi_label_classification":
            raise ValueError("the model has labels that do not exclude each other, expected one of classes that do")
        self.model = unwrapped(model)
        self.tokenizer, self.batch_size = tokenizer, batch_size
        self.layers = listed_indices("layers", layers)
        self._replacement = replacement

    def read(self, batch: Mapping[str, Any] | Tensor) -> WholeInputs:
        """Run the model on a batch as it is.

        Args:
            batch: what a tokenizer or an image processor returns; or token ids (B, N), or pixels (B, C, h, w).

        Raises:
            ValueError: outputs that are no finite logits (B, C); an example without players; embeddings.
        """
        inputs = mapping_inputs(self.model, batch) if isinstance(batch, Mapping) else tensor_inputs(self.model, batch)
        if inputs.modality == "embeddings":
            raise ValueError("embeddings cannot be masked: give token ids or pixels")
        with observed_forward(self.model, inputs, gradients=False) as run:
            return self.whole(run, inputs)

    def whole(self, run: ObservedForward, inputs: ModelInputs) -> WholeInputs:
        """What an observed forward pass of a batch says of it as it is.

        Raises:
            ValueError: as :meth:`read`.
        """
        check_classes(self.model, inputs)
        tokens = run.tokens(self._special_ids)
        calls = None if run.places else knockout_calls(run, self.layers)
        known = (inputs, _probabilities(run.output), tokens.players, tokens.grid, calls, config_of(run.model))
        return WholeInputs(*known, picture=tokens.picture)

    def probabilities(self, whole: WholeInputs, examples: Tensor, taken: Tensor, intervention: Intervention) -> Tensor:
        """What the model says of inputs from which tokens are taken.

        Args:
            whole: a batch, of :meth:`read`.
            examples: int64 (M,), which of its inputs.
            taken: bool (M, N), which of their tokens.
            intervention: ``"replacement"`` in the input, or ``"knockout"`` from attention.

        Returns:
            Probabilities (M, C).

        Raises:
            ValueError: another intervention; a knockout where keys are no tokens.
        """
        if intervention not in INTERVENTIONS:
            raise ValueError(f"unknown intervention {intervention!r}: expected {' or '.join(map(repr, INTERVENTIONS))}")
        parts = []
        for which, without in zip(examples.split(self.batch_size), taken.split(self.batch_size), strict=True):
            inputs = whole.inputs[which]
            if intervention == "replacement":
                inputs = replace_tokens(inputs, without, self.replacement(whole), whole.grid, whole.picture)
                output = plain_output(self.model, inputs)
            else:
                output = knocked_out_output(self.model, inputs, without, whole.calls)
            parts.append(_probabilities(output))
        return torch.cat(parts)

    def worth(self, whole: WholeInputs, example: int, target: int) -> CharacteristicFunction:
        """The probability of a class as a function of coalitions, bool (K, n), of the players that are kept."""
        members = whole.players[example].nonzero().flatten()

        def worth(coalitions: Tensor) -> Tensor:
            taken = members.new_zeros(len(coalitions), whole.players.shape[1], dtype=torch.bool)
            taken[:, members] = ~coalitions.bool().to(members.device)
            examples = torch.full((len(coalitions),), example, device=members.device)
            return self.probabilities(whole, examples, taken, "replacement")[:, target]

        return worth

    @property
    def replaces(self) -> bool:
        """Whether it was said what replaces a token."""
        return self._replacement is not None

    def replacement(self, whole: WholeInputs) -> Replacement:
        """What replaces a token of the inputs; a warning where it is no mask token."""
        if self._replacement is None:
            self._replacement = default_replacement(whole.inputs, self.tokenizer, whole.config)
        return self._replacement


def check_masked(masked: Any) -> None:
    """Raise ``TypeError`` unless it is a :class:`MaskedModel`."""
    if not isinstance(masked, MaskedModel):
        raise TypeError(f"expected a MaskedModel(model, tokenizer), got {type(masked).__name__}")


def _probabilities(output: Tensor) -> Tensor:
    """Softmax of logits (B, C), at least float32."""
    if output.dim() != 2 or output.shape[1] < 2:
        raise ValueError(
            f"the model's output has the shape {tuple(output.shape)}, expected logits (B, C) of at least two classes: "
            "what is measured is the probability of the predicted class. Of what a language model writes, it is that "
            "of captum_attn.generation.ResponseClassifier(model)"
        )
    if not output.isfinite().all():
        raise ValueError("the model's output is not finite (NaN or infinite). Check the inputs and the weights")
    return output.detach().to(torch.promote_types(output.dtype, torch.float32)).softmax(-1)
