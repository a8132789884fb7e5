"""Relevance of the input itself, propagated down to it under rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from captum_attn.core import ModelInputs, Replacement, config_of, known_grid, warn_user
from captum_attn.core.entrances import by_token, difference_from, input_is_cut, layout_of, over_entries, relevances
from captum_attn.core.patches import at_patches, feature_sums
from captum_attn.core.perturb import check_replacement, default_replacement
from captum_attn.core.propagation import ATTNLRP, Propagation
from captum_attn.methods.attribution import Explained, OnePassAttribution, tokenizer_of
from captum_attn.token_attributions import TokenAttributions

Baseline = Replacement | Literal["mask"]


class AttnLRP(OnePassAttribution):
    """Layer-wise relevance propagation for transformers: the input times its gradient under rules.

    A plain gradient is noisy where layer norms, activations and softmax bend. Under the rules, norms and activations
    act as they scale this input, and the factors of a product share its relevance; what is left is linear, so that
    relevance is handed down layer by layer, by one forward and one backward pass on the unchanged model. A token's
    value is ⟨embedding − baseline, gradient⟩; a pixel's the same of its colours. Signed.

    Read is what the table of embeddings returns for a token, without positions and types. What these, biases, softmax
    and tokens that do not play absorb is in no value, so that values do not sum to the score.

    LRP is claimed by patents in some countries (the authors' own code says so): ask before commercial use.

    Args:
        baseline: what an input is compared with: ``"zeros"``, ``"mask"`` for the tokenizer's mask token, a token's id,
            or for images ``"mean"``, the mean of the image's patches. Default: zeros for text, the mean for images.
            An image among the words of a text is always compared with the mean of its patches.
        propagation: the rules: ``"attnlrp"``, or ``"cp"``, under which attention is a constant, so that relevance
            passes values alone, or your own.
        model, tokenizer, processor, additional_forward_arg_names: see :class:`captum_attn.AttentionAttribution`.

    Raises:
        ValueError: another baseline or propagation; when called, a model with functions that hide what they do, or
            whose input comes in as states of which nothing says whose they are.

    Example:
        >>> from captum_attn import AttnLRP
        >>> AttnLRP(model, tokenizer=tokenizer).attribute(batch, target=1).shape
        torch.Size([2, 6])

    Source: Achtibat et al. 2024, *AttnLRP*, 2402.05602; for ``"cp"``, Ali et al. 2022, *XAI for Transformers: Better
    Explanations through Conservative Propagation*, 2202.07304.
    """

    what = "relevance of the input under the rules of AttnLRP"

    needs_gradients = True
    reads_features = True

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        baseline: Baseline | None = None,
        propagation: str | Propagation = ATTNLRP,
        tokenizer: Any | None = None,
        processor: Any | None = None,
        additional_forward_arg_names: Sequence[str] | None = None,
    ) -> None:
        check_baseline(baseline, tokenizer_of(tokenizer, processor))
        super().__init__(
            model,
            propagation=propagation,
            tokenizer=tokenizer,
            processor=processor,
            additional_forward_arg_names=additional_forward_arg_names,
        )
        self.baseline = baseline

    def observer(self, explained: Explained) -> None:
        return None

    def solve(self, explained: Explained, observer: None) -> TokenAttributions:
        run = explained.run
        baseline = resolved_baseline(self.baseline, run.inputs, self.tokenizer, config_of(run.model))
        differences = [difference_from(baseline, entrance, run.inputs, explained.tokens) for entrance in run.entrances]
        return relevance_attributions(explained, relevances(differences, explained.feature_gradients))


def relevance_attributions(explained: Explained, relevance: Sequence[Tensor]) -> TokenAttributions:
    """The result where what came in at each of the run's entrances has some relevance, of the shape of its state.

    Raises:
        ValueError: an input that comes in without gradients, or as states of which nothing says which token's they are;
            relevance that is not finite.
    """
    run, players = explained.run, explained.players
    if not relevance or run.input_is_cut:
        raise input_is_cut(run.model)
    if not all(part.isfinite().all() for part in relevance):
        raise ValueError(
            f"relevance in {type(run.model).__name__} is not finite: numbers under a rule grow beyond "
            f"{relevance[0].dtype}, or that of the weights; load the model with dtype=torch.float32"
        )
    if run.inputs.is_cut:
        grid, (entries,) = known_grid(explained.grid), relevance
        patches = at_patches(feature_sums(entries, grid), grid, run.length)
        playing = over_entries(players.to(entries), run.inputs, explained.tokens)
        return explained.attributions(patches, of_features=entries * playing)
    came_in = list(zip(run.entrances, relevance, strict=True))
    laid = [(part, layout_of(entrance, run.inputs)) for entrance, part in came_in if not entrance.picture]
    states = [by_token(part, layout) for part, layout in laid if layout is not None]
    others = [part for part, layout in laid if layout is None and part.any()]
    came = ", ".join(str(tuple(part.shape)) for part in (others or relevance))
    if not states:
        raise ValueError(
            f"the input {tuple(run.inputs.features.shape)} comes into the model as states of shape {came}, and nothing "
            "says which of them is which token's: explain attention, by ShapleyGradAttention(model, propagation=...)"
        )
    if others:
        warn_user(
            f"{type(run.model).__name__} looks up states of shape {came} by other integers that it makes of tokens' "
            "ids, such as positions or hashes: what these get is in no token's value"
        )
    values = torch.stack([state.flatten(2).sum(-1) for state in states]).sum(0)
    if explained.tokens.picture is not None:
        grid = known_grid(explained.tokens.picture)
        pixels = [part for entrance, part in came_in if entrance.picture]
        if not pixels:
            raise ValueError(
                "the image comes in as patches that the processor has cut, whose relevance is not followed: explain "
                "attention as it is, or under rules, ShapleyGradAttention(model, propagation='attnlrp')"
            )
        values = values + sum(at_patches(feature_sums(part, grid), grid, run.length).to(values) for part in pixels)
    if run.inputs.modality == "ids":
        return explained.attributions(values)
    return explained.attributions(values, of_features=torch.stack(states).sum(0) * players[..., None])


def check_baseline(baseline: Any, tokenizer: Any | None) -> None:
    """Raise ``ValueError`` unless it is one, or None for the default."""
    if baseline == "mask" and tokenizer is None:
        raise ValueError("baseline='mask' needs the tokenizer that has a mask token: give tokenizer=")
    if baseline != "mask":
        try:
            check_replacement(baseline)
        except ValueError:
            raise ValueError(
                f"baseline must be 'zeros'; for token ids 'mask' or an id; or for images 'mean', got {baseline!r}"
            ) from None


def resolved_baseline(
    baseline: Baseline | None, inputs: ModelInputs, tokenizer: Any | None, config: Any | None
) -> Replacement:
    """The baseline that was asked for, or the default of such inputs."""
    if baseline == "mask":
        if inputs.modality != "ids":
            raise ValueError(f"baseline='mask' is for token ids, but these are {inputs.modality}: 'zeros' is there")
        return default_replacement(inputs, tokenizer, config)
    if baseline is None:
        return "mean" if inputs.is_cut else "zeros"
    return baseline
