"""Relevance of the input under rules, averaged on the way from a baseline to the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from captum_attn.core.entrances import at_entrance, baseline_of, layout_of
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.models import config_of
from captum_attn.core.origins import Entrance
from captum_attn.core.patches import patch_values, spread_over_pixels
from captum_attn.core.perturb import Replacement
from captum_attn.core.propagation import ATTNLRP, Propagation
from captum_attn.core.run import observed_forward
from captum_attn.core.targets import as_tuples, target_of_each
from captum_attn.core.tokens import Tokens
from captum_attn.methods.attn_lrp import Baseline, check_baseline, relevance_attributions, resolved_baseline
from captum_attn.methods.attribution import AttentionAttribution, Explained, TargetsOfEach
from captum_attn.token_attributions import TokenAttributions

_TOKENS_AT_ONCE = 2048


class IntegratedAttnLRP(AttentionAttribution):
    """:class:`captum_attn.AttnLRP`, averaged over points of the straight path from a baseline to the input.

    (x − x') ⊙ ∫₀¹ g(x' + α (x − x')) dα, where g is the gradient under rules, x what the table of embeddings returns
    for the tokens that play, or the pixels, and x' the baseline. As gradients under rules bend little, few points of a
    Gauss-Legendre quadrature do: each one takes a forward and a backward pass, all of them in one batch while that has
    no more than 2,048 tokens; one more forward pass finds the predicted class of the whole input.

    The most faithful of this library's explanations; the README has figures. Signed. LRP is claimed by patents in some
    countries; see :class:`captum_attn.AttnLRP`.

    Args:
        passes: points on the path, 1 to 9. One is its middle.
        baseline: as of :class:`captum_attn.AttnLRP`.
        propagation: the rules. Under ``"gradient"``, these are Integrated Gradients.
        model, tokenizer, additional_forward_arg_names: see :class:`captum_attn.AttentionAttribution`.

    Raises:
        ValueError: another number of passes; else as :class:`captum_attn.AttnLRP`.

    Example:
        >>> from captum_attn import IntegratedAttnLRP
        >>> IntegratedAttnLRP(model, passes=3, tokenizer=tokenizer).attribute(batch, target=1).shape
        torch.Size([2, 6])

    Source: this library's; Achtibat et al. 2024, 2402.05602, for the rules, Sundararajan, Taly, Yan 2017, *Axiomatic
    Attribution for Deep Networks*, 1703.01365, for the path.
    """

    needs_gradients = True

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        passes: int = 4,
        baseline: Baseline | None = None,
        propagation: str | Propagation = ATTNLRP,
        tokenizer: Any | None = None,
        additional_forward_arg_names: Sequence[str] | None = None,
    ) -> None:
        check_baseline(baseline, tokenizer)
        if not isinstance(passes, int) or not 1 <= passes <= 9:
            raise ValueError(f"passes must be a number from 1 to 9, got {passes!r}")
        super().__init__(
            model,
            propagation=propagation,
            tokenizer=tokenizer,
            additional_forward_arg_names=additional_forward_arg_names,
        )
        self.passes, self.baseline, self.tokenizer = passes, baseline, tokenizer

    def explain(self, batch: ModelInputs, targets: TargetsOfEach) -> list[TokenAttributions]:
        with observed_forward(self.forward_func, batch, gradients=False) as run:
            if callable(targets):
                targets = [target_of_each(column, len(batch)) for column in targets(run.output).unbind(1)]
            whole = list(self.explained(run, targets))
            baseline = resolved_baseline(self.baseline, batch, self.tokenizer, config_of(run.model))
        return [self._integral(batch, explained, baseline) for explained in whole]

    def _integral(self, batch: ModelInputs, explained: Explained, baseline: Replacement) -> TokenAttributions:
        nodes, weights = (torch.tensor(part.tolist(), device=batch.features.device) for part in leggauss(self.passes))
        at_once = max(1, _TOKENS_AT_ONCE // explained.real.numel())
        path = zip((0.5 * (1 + nodes)).split(at_once), (0.5 * weights).split(at_once), strict=True)
        parts = [self._at(batch, explained, baseline, points, shares) for points, shares in path]
        values = torch.stack([of_tokens for of_tokens, _ in parts]).sum(0)
        finer = [of_features for _, of_features in parts if of_features is not None]
        return explained.attributions(values, of_features=torch.stack(finer).sum(0) if finer else None)

    def _at(
        self, batch: ModelInputs, explained: Explained, baseline: Replacement, points: Tensor, shares: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Relevance of tokens and features, the sum over some points of the path, each with its share."""
        count, size = len(points), len(batch)
        copies = batch[torch.arange(size, device=batch.features.device).repeat(count)]
        tokens = Tokens(explained.real.repeat(count, 1), explained.players.repeat(count, 1), explained.grid)
        path = Path(copies, tokens, baseline, points.repeat_interleave(size))
        with observed_forward(self.forward_func, copies, propagation=self.propagation, shift=path) as run:
            selection = self.select(run, as_tuples(explained.selection.targets.repeat(count, 1)))
            gradients = run.show([], selection.scores, features=[entrance.state for entrance in run.entrances])
            relevance = [part * gradient for part, gradient in zip(path.differences, gradients, strict=True)]
            found = relevance_attributions(replace(explained, run=run, tokens=tokens, selection=selection), relevance)

        def summed(values: Tensor) -> Tensor:
            return torch.einsum("s,s...->...", shares.to(values), values.unflatten(0, (count, size)))

        return summed(found.values), None if found.of_features is None else summed(found.of_features)


@dataclass
class Path:
    """Points between a baseline and the input, put in the input's place where it comes into the model.

    Attributes:
        inputs, tokens: the examples. Tokens that do not play stay as they are.
        baseline: where the path begins.
        points: (B,), from 0 at the baseline to 1 at the input.
        differences: of the input from the baseline, for each entrance.
    """

    inputs: ModelInputs
    tokens: Tokens
    baseline: Replacement
    points: Tensor
    differences: list[Tensor] = field(default_factory=list, init=False)

    def __call__(self, entrance: Entrance) -> Tensor:
        difference = entrance.state - baseline_of(entrance, self.inputs, self.tokens, self.baseline)
        self.differences.append(difference)
        return entrance.state - self._taken(entrance).to(difference) * difference

    def _taken(self, entrance: Entrance) -> Tensor:
        """How much of the difference is taken away, in a shape that fits the state."""
        players, away = self.tokens.players, 1 - self.points[:, None]
        if self.inputs.modality == "pixels":
            covered = patch_values(players.to(away), self.tokens.grid)
            pixels = spread_over_pixels(covered, self.tokens.grid, *self.inputs.features.shape[-2:]) > 0
            return (pixels * away[..., None])[:, None]
        layout = layout_of(entrance, self.inputs)
        if layout is None:
            return torch.zeros((), device=away.device)
        lying = at_entrance(players * away, layout)
        return lying.view(*lying.shape, *[1] * (entrance.state.dim() - 2))
