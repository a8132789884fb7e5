"""Attributions averaged over copies of the input that lack some of its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor

from captum_attn.core import observed_forward
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.models import config_of
from captum_attn.core.perturb import Replacement, check_replacement, default_replacement, replace_tokens, seeded
from captum_attn.core.targets import Index, Target, as_tuples, target_of_each
from captum_attn.core.tokens import Tokens
from captum_attn.methods.attribution import AttentionAttribution, Inputs
from captum_attn.token_attributions import TokenAttributions, concatenated


class MaskTunnel(Attribution):  # type: ignore[misc]
    """Average an attribution over masked copies of the input, as Captum's ``NoiseTunnel`` does over noisy ones.

    A gradient at the whole input says what a token does there, and where the prediction is saturated, or two tokens say
    the same, that is little. Shapley values of a model average a token's effect over contexts that lack other tokens;
    here the attention game is played in such contexts. Each round deals the tokens at random into ``parts`` groups,
    and each copy lacks one of them. A token's value is its mean over the copies that have it. Every copy takes a
    forward and a backward pass; one more forward pass finds the predicted class of the whole input.

    The values are more faithful (``examples/benchmarks`` has figures), and no longer sum to the worth of all players.

    Args:
        attribution_method: a :class:`~captum_attn.ShapleyGradAttention`, or another of this package.
        tokenizer: of a model of text: its mask token replaces tokens.
        replacement: what replaces a token instead: a token id, or for images ``"mean"`` (the default), the mean of the
            image's patches, or ``"zeros"``.
        parts: the number of groups, and of copies in a round; at least 2.
        rounds: how often the tokens are dealt anew.
        seed: of the dealing, in which nothing but the number of players counts besides. The global random state is not
            touched.

    Raises:
        TypeError, ValueError: arguments that are none of the above.

    Example:
        >>> from captum_attn import MaskTunnel, ShapleyGradAttention
        >>> explainer = ShapleyGradAttention(model, tokenizer=tokenizer)
        >>> MaskTunnel(explainer, tokenizer).attribute(batch, target=1).shape
        torch.Size([2, 6])

    Source: this library's; after the average over contexts in Shapley values (Lundberg and Lee 2017) and over baselines
    in expected gradients (Erion et al. 2021).
    """

    def __init__(
        self,
        attribution_method: AttentionAttribution,
        tokenizer: Any | None = None,
        *,
        replacement: Replacement | None = None,
        parts: int = 3,
        rounds: int = 1,
        seed: int = 0,
    ) -> None:
        if not isinstance(attribution_method, AttentionAttribution):
            raise TypeError(
                f"attribution_method must be an attribution of this package, got {type(attribution_method).__name__}"
            )
        if not isinstance(parts, int) or not isinstance(rounds, int) or parts < 2 or rounds < 1:
            raise ValueError(f"parts must be at least 2 and rounds at least 1, got parts={parts}, rounds={rounds}")
        check_replacement(replacement)
        super().__init__(attribution_method.forward_func)
        self.attribution_method, self.tokenizer = attribution_method, tokenizer
        self.replacement, self.parts, self.rounds, self.seed = replacement, parts, rounds, seed

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = None,
        *,
        players: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Values in the shape of the inputs.

        Args:
            inputs: token ids (B, N), pixels (B, C, h, w), a tuple of one of them, or the mapping that a tokenizer or an
                image processor returns; or what the wrapped method reads by its tokenizer or processor.
            target, additional_forward_args, internal_batch_size, players: as in
                :meth:`captum_attn.ShapleyGradAttention.attribute`. ``None`` is the class predicted on the whole input.

        Returns:
            For ids (B, N), for pixels (B, C, h, w); a tuple for a tuple.

        Raises:
            TypeError, ValueError, IndexError: as :meth:`captum_attn.ShapleyGradAttention.attribute`; embeddings; a
                tokenizer without a token that could replace others.
        """
        batch = self.attribution_method.model_inputs(inputs, additional_forward_args, players)
        spread = self._in_parts(batch, target, internal_batch_size).spread_over(batch.features)
        return (spread,) if isinstance(inputs, tuple) else spread

    attribute_future = AttentionAttribution.attribute_future

    def attribute_tokens(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = None,
        *,
        players: Tensor | None = None,
    ) -> TokenAttributions:
        """Values of the tokens, with what was explained; scores and output are those of the whole input.

        Args, Raises: as :meth:`attribute`.
        """
        batch = self.attribution_method.model_inputs(inputs, additional_forward_args, players)
        return self._in_parts(batch, target, internal_batch_size)

    def _in_parts(self, batch: ModelInputs, target: Target, internal_batch_size: int | None) -> TokenAttributions:
        each = target_of_each(target, len(batch))
        parts = batch.parts(internal_batch_size)
        found = concatenated([self._average(batch[part], each and each[part]) for part in parts])
        origin = self.attribution_method.whole([found], batch).origin
        return replace(found, origin=origin and replace(origin, method=f"{type(self).__name__} of {origin.method}"))

    def _average(self, batch: ModelInputs, each: list[tuple[Index, ...]] | None) -> TokenAttributions:
        method = self.attribution_method
        with observed_forward(method.forward_func, batch, gradients=False) as run:
            tokens, output, config = run.tokens(method.special_ids), run.output, config_of(run.model)
        selection = method.select(run, each)
        targets: Target = as_tuples(selection.targets) if selection.targets.numel() else None
        replacement = self.replacement
        if replacement is None:
            replacement = default_replacement(batch, self.tokenizer, config)
        total, copies = torch.zeros((), device=output.device), torch.zeros_like(tokens.players, dtype=torch.long)
        for absent in self._absences(tokens):
            present = tokens.players & ~absent
            masked = replace_tokens(batch, absent, replacement, tokens.grid, tokens.picture)
            masked = replace(masked, notes={**masked.notes, "players": present})
            (result,) = method.attribute_batch(masked, [targets])
            total, copies = total + result.values, copies + present
        values = total / copies.clamp(min=1)
        known = (values, tokens.players, selection.targets, selection.scores, output, tokens.grid)
        return TokenAttributions(*known, picture=tokens.picture, real=tokens.real)

    def _absences(self, tokens: Tokens) -> Iterator[Tensor]:
        """bool (B, N) for each copy: the tokens that it lacks. A token that plays alone is never absent."""
        for round_ in range(self.rounds):
            group = torch.full_like(tokens.players, -1, dtype=torch.long)
            for example, members in enumerate(tokens.players):
                count = int(members.sum())
                if count > 1:
                    dealt = torch.randperm(count, generator=seeded(self.seed, round_)) * self.parts // count
                    group[example, members] = dealt.to(group.device)
            for part in range(self.parts):
                yield group == part
