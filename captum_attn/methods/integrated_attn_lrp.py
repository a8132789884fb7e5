"""Relevance of the input under rules, averaged over contexts in which some of the input is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from captum_attn.core import ModelInputs, ObservedForward, Replacement, Tokens, config_of, observed_forward
from captum_attn.core.entrances import PartlyPresent, relevances
from captum_attn.core.propagation import ATTNLRP, Propagation
from captum_attn.core.targets import as_tuples
from captum_attn.functional import gauss_legendre, top_and_rest
from captum_attn.methods.attn_lrp import Baseline, check_baseline, relevance_attributions, resolved_baseline
from captum_attn.methods.attribution import AttentionAttribution, Explained, TargetsOfEach, copies_at_once, tokenizer_of
from captum_attn.token_attributions import TokenAttributions

_PERCENT_TAKEN_AWAY = (20, 10)
"""Of the tokens, those that are most relevant on the path; chosen on training sentences of SST-2, as the path was."""


class IntegratedAttnLRP(AttentionAttribution):
    """:class:`captum_attn.AttnLRP`, averaged over a path from a baseline to the input, and over what then is left.

    The gradient at the whole input says what a token does there, and where the prediction is saturated, or two tokens
    say the same, that is little. So its mean is taken over a few contexts:

    - points of the straight path from a baseline to the input, those of a Gauss-Legendre quadrature. Gradients under
      rules bend little, so that few of them do;
    - the input without the 20 %, and the 10 %, of tokens that are most relevant on the path, where what says the same
      as they do comes to the fore.

    A token's value is ⟨x − x', mean gradient⟩, x what the table of embeddings returns for it, or its pixels, and x' the
    baseline. Signed. Of ``passes`` forward and backward passes, the last one (of an even number) or two (of an odd one)
    are those without; the others, an odd number of them, lie on the path. The points of a path are one batch, while
    that has no more than 2,048 tokens. One more forward pass finds the predicted class of the whole input.

    On most data the most faithful of this library's explanations; ``examples/benchmarks`` has figures. LRP is claimed
    by patents in some countries; see :class:`captum_attn.AttnLRP`.

    Args:
        passes: 1 to 9; one is the middle of the path. More is no limit that values converge to.
        baseline: as of :class:`captum_attn.AttnLRP`. Default: for token ids the mask token, where a tokenizer is given
            that has one, and the model looks it up in a table; else zeros; for images the mean.
        propagation: the rules.
        model, tokenizer, processor, additional_forward_arg_names: see :class:`captum_attn.AttentionAttribution`.

    Raises:
        ValueError: another number of passes; else as :class:`captum_attn.AttnLRP`.

    Example:
        >>> from captum_attn import IntegratedAttnLRP
        >>> IntegratedAttnLRP(model, passes=3, tokenizer=tokenizer).attribute(batch, target=1).shape
        torch.Size([2, 6])

    Source: this library's; Achtibat et al. 2024, 2402.05602, for the rules, Sundararajan, Taly, Yan 2017, *Axiomatic
    Attribution for Deep Networks*, 1703.01365, for the path.
    """

    what = "relevance of the input under the rules of AttnLRP, the mean over a few contexts"

    needs_gradients = True

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        passes: int = 5,
        baseline: Baseline | None = None,
        propagation: str | Propagation = ATTNLRP,
        tokenizer: Any | None = None,
        processor: Any | None = None,
        additional_forward_arg_names: Sequence[str] | None = None,
    ) -> None:
        check_baseline(baseline, tokenizer_of(tokenizer, processor))
        if not isinstance(passes, int) or isinstance(passes, bool) or not 1 <= passes <= 9:
            raise ValueError(f"passes must be a whole number from 1 to 9, got {passes!r}")
        super().__init__(
            model,
            propagation=propagation,
            tokenizer=tokenizer,
            processor=processor,
            additional_forward_arg_names=additional_forward_arg_names,
        )
        self.passes, self.baseline = passes, baseline

    def explain(self, batch: ModelInputs, targets: TargetsOfEach) -> list[TokenAttributions]:
        with observed_forward(self.forward_func, batch, gradients=False) as run:
            whole = list(self.explained(run, targets))
            given = self._default_baseline(run) if self.baseline is None else self.baseline
            baseline = resolved_baseline(given, batch, self.tokenizer, config_of(run.model))
        return [self._relevance(batch, explained, baseline) for explained in whole]

    def _default_baseline(self, run: ObservedForward) -> Baseline | None:
        """The mask token, where there is one and all of the input is looked up; else that of :class:`AttnLRP`."""
        mask = getattr(self.tokenizer, "mask_token_id", None)
        tables = [entrance.table for entrance in run.entrances if entrance.ids is not None]
        known = mask is not None and all(table is not None and mask < len(table) for table in tables)
        return "mask" if known and run.inputs.modality == "ids" else None

    def _relevance(self, batch: ModelInputs, explained: Explained, baseline: Replacement) -> TokenAttributions:
        """The mean over the path, and over contexts that lack what is most relevant on it."""
        contexts = _PERCENT_TAKEN_AWAY[: 0 if self.passes == 1 else 1 + self.passes % 2]
        points, shares = gauss_legendre(self.passes - len(contexts))
        path = points[:, None, None].to(explained.real.device).expand(-1, *explained.real.shape)
        found = self._averaged(batch, explained, baseline, path, shares)
        if contexts:
            lacking, _ = top_and_rest(found[0], explained.players, contexts)
            more = self._averaged(batch, explained, baseline, (~lacking).float(), torch.ones(len(contexts)))
            part = 1 - len(contexts) / self.passes
            found = [part * on_path + rest / self.passes for on_path, rest in zip(found, more, strict=True)]
        return explained.attributions(found[0], of_features=found[1] if len(found) > 1 else None)

    def _averaged(
        self, batch: ModelInputs, explained: Explained, baseline: Replacement, presences: Tensor, shares: Tensor
    ) -> list[Tensor]:
        """Relevance of tokens, and of features if these are embeddings or pixels: a sum over S contexts.

        Args:
            presences: (S, B, N), how much of each token is there, from 0, its baseline, to 1.
            shares: (S,), of the contexts in the sum.
        """
        at_once = copies_at_once(explained.real)
        parts = zip(presences.split(at_once), shares.to(presences.device).split(at_once), strict=True)
        found = [self._at(batch, explained, baseline, *part) for part in parts]
        return [torch.stack(same).sum(0) for same in zip(*found, strict=True)]

    def _at(
        self, batch: ModelInputs, explained: Explained, baseline: Replacement, presences: Tensor, shares: Tensor
    ) -> list[Tensor]:
        """The same of as many contexts as fit into one batch."""
        count, size = len(presences), len(batch)
        copies = batch[torch.arange(size, device=batch.features.device).repeat(count)]
        real, _, grid, picture = explained.tokens
        tokens = Tokens(real.repeat(count, 1), explained.players.repeat(count, 1), grid, picture)
        partly = PartlyPresent(copies, tokens, baseline, presences.flatten(0, 1))
        with observed_forward(
            self.forward_func, copies, propagation=self.propagation, shift=partly, tiles=False
        ) as run:
            selection = self.select(run, as_tuples(explained.selection.targets.repeat(count, 1)))
            gradients = run.show([], selection.scores, features=[entrance.state for entrance in run.entrances])
            copy = replace(explained, run=run, tokens=tokens, selection=selection)
            found = relevance_attributions(copy, relevances(partly.differences, gradients))
        each = [part.unflatten(0, (count, size)) for part in (found.values, found.of_features) if part is not None]
        return [torch.einsum("s,s...->...", shares.to(part), part) for part in each]
