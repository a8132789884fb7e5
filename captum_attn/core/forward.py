"""One forward pass of a model: as seen, before anything is known of what it means, or the output alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from captum_attn.core.after_attention import AfterAttention, AfterAttentionCapture
from captum_attn.core.capture import LISTED, AttentionCapture, ScaledAttentionCapture
from captum_attn.core.inputs import ModelInputs, holds_pictures
from captum_attn.core.models import (
    check_differentiable,
    check_evaluated,
    check_gradients,
    check_observable,
    compiled_functions_uncompiled,
    config_of,
    evaluation_mode,
    same_random_state,
    unwrapped,
)
from captum_attn.core.origins import FEATURES, Entrance, Gate
from captum_attn.core.patch_trail import PatchTrail
from captum_attn.core.propagation import GRADIENT, Coverage, Propagation, PropagationMode, coverage_of
from captum_attn.core.scores import ALL_WITH_ALL, output_scores, warn_of_hidden_states
from captum_attn.core.states import StateCapture, States


@dataclass(frozen=True)
class SeenForward:
    """One forward pass, before anything is known of what it means.

    Attributes:
        output: the scores.
        capture: the attention.
        wrapped: whether a function called the model, which may give it other inputs than these.
        states, after_attention, patches: the hidden states, what followed attention, and the way of an image's patches,
            where these were asked for.
        coverage: which functions have a rule; None without rules.
    """

    output: Tensor
    capture: AttentionCapture
    wrapped: bool
    states: Sequence[States] = ()
    after_attention: Mapping[int, AfterAttention] | None = None
    patches: PatchTrail | None = None
    coverage: Coverage | None = None

    def without_attention(self) -> str:
        """Why there is no attention that could be explained."""
        looked_for = (
            "no attention was seen in the model's forward pass. Looked for scaled_dot_product_attention on (B, H, N, "
            "d) tensors, softmax over scores (..., N, N) of queries and keys, and torch.nn.MultiheadAttention. "
        )
        if self.capture.odd:
            odd = "; ".join(f"{one.module!r}, {one.shape}, {one.reason}" for one in self.capture.odd[:3])
            return looked_for + f"There are other softmaxes, of which nothing says whether they relate tokens: {odd}"
        if self.capture.provenance.of(self.output).inputs & FEATURES:
            return looked_for + (
                "The output was computed from the input all the same: the model relates tokens by other means than an "
                "attention matrix (convolution, a state-space or linear recurrence, a Fourier transform), so there is "
                "none to explain. Use a method that needs no attention, such as captum.attr.IntegratedGradients. "
                f"{LISTED}"
            )
        return looked_for + (
            "Nor could the way from the input to the output be followed: a model whose attention runs in a custom "
            "kernel must be switched to one of these, and one that runs under torch.no_grad() or in NumPy must not. "
            f"{LISTED}"
        )


@contextmanager
def seen_forward(
    model: Callable[..., Any],
    inputs: ModelInputs,
    gradients: bool = True,
    modules: Collection[str] = (),
    *,
    after_attention: bool = False,
    scaled: tuple[Collection[int], Tensor] | None = None,
    dependences: bool = False,
    propagation: Propagation = GRADIENT,
    shift: Callable[[Entrance], Tensor] | None = None,
    tiles: bool = True,
    throughout: bool = False,
) -> Iterator[SeenForward]:
    """Run the model once, whatever attention it has; the arguments are :func:`captum_attn.core.observed_forward`'s.

    With ``dependences``, :func:`~captum_attn.core.dependences.dependence_of` can be asked for; ``throughout``, an image
    is followed to all of its attention (:class:`~captum_attn.core.patch_trail.PatchTrail`).
    """
    model = unwrapped(model)
    check_observable(config_of(model))
    graph = _has_gradients(model, needed=gradients)
    with evaluation_mode(model), torch.inference_mode(False), torch.set_grad_enabled(graph):
        rules = None if propagation.is_plain else PropagationMode(propagation)
        if scaled:
            capture: AttentionCapture = ScaledAttentionCapture(model, *scaled, rules)
        else:
            capture = AttentionCapture(model, gradients, len(inputs), graph, rules, tiles)
        capture.provenance.gate = Gate() if dependences else None
        following = AfterAttentionCapture(capture)
        with (
            same_random_state(inputs.features),
            compiled_functions_uncompiled(),
            StateCapture(model, modules, capture) as kept,
            following if after_attention else nullcontext(),
            _trail(inputs, throughout, capture) or nullcontext() as patches,
            capture.recording(),
            rules or nullcontext(),
            capture,
        ):
            capture.provenance.shift = _followed(shift, patches) if shift and patches and inputs.is_cut else shift
            returned = inputs.call(model, capture.provenance)
            output = output_scores(returned, len(inputs), hidden_states=not gradients, of_pairs=inputs.of_pairs)
        for root in capture.owners.roots:
            check_evaluated(root)
        if gradients:
            check_gradients(output)
            warn_of_hidden_states(model, output)
        followed = following.found if after_attention else None
        coverage = coverage_of(output, rules) if rules else None
        if rules:
            rules.forget()
        yield SeenForward(output, capture, capture.root is not model, kept.states, followed, patches, coverage)


def _followed(shift: Callable[[Entrance], Tensor], trail: PatchTrail) -> Callable[[Entrance], Tensor]:
    """A shift whose result the trail takes for the pixels in whose place it comes, unless they were computed with."""

    def shifted(entrance: Entrance) -> Tensor:
        return shift(entrance) if entrance.again else trail.begin(shift(entrance))

    return shifted


def _trail(inputs: ModelInputs, throughout: bool, capture: AttentionCapture) -> PatchTrail | None:
    """What follows an input that is cut into tokens, or a picture to its places among those of a text."""

    def depends(tensor: Tensor) -> bool:
        return bool(capture.provenance.of(tensor).inputs & FEATURES)

    if inputs.is_cut:
        return PatchTrail(inputs.features, throughout=throughout, depends=depends if throughout else None)
    return None if inputs.picture is None else PatchTrail(inputs.picture, inputs.features.shape[1])


def plain_output(model: Callable[..., Any], inputs: ModelInputs, *, hidden_states: bool = False) -> Tensor:
    """The model's output alone, detached: in eval mode, without gradients. The model is left as it was.

    Args:
        model: a module, or a function of the inputs that calls one (in eval mode).
        inputs: one batch.
        hidden_states: whether these will do, too.

    Returns:
        Scores (B, C) or (B, N, C).
    """
    model = unwrapped(model)
    with (
        evaluation_mode(model),
        torch.inference_mode(False),
        torch.no_grad(),
        same_random_state(inputs.features),
        compiled_functions_uncompiled(),
    ):
        returned = inputs.call(model)
        return output_scores(returned, len(inputs), hidden_states=hidden_states, of_pairs=inputs.of_pairs)


def check_classes(model: Callable[..., Any], inputs: ModelInputs) -> None:
    """Raise ``ValueError`` if the scores of an image depend on the batch's other texts, as a function of CLIP's may.

    Told by the scores of the first example alone, and beside the second.
    """
    if len(inputs) < 2 or not inputs.has_other_modalities or model in _of_classes:
        return
    if holds_pictures(model, inputs.features):
        return
    alone, beside = (plain_output(model, inputs[:count])[0] for count in (1, 2))
    if alone.shape != beside.shape or not torch.allclose(alone, beside, rtol=1e-3, atol=1e-4):
        raise ValueError(ALL_WITH_ALL)
    _of_classes.add(model)


_of_classes: WeakSet[Callable[..., Any]] = WeakSet()  # models whose scores are known not to depend on other examples


def _has_gradients(model: Callable[..., Any], needed: bool) -> bool:
    """Whether the model's weights let gradients pass; raises if they are needed."""
    try:
        check_differentiable(model)
    except RuntimeError:
        if needed:
            raise
        return False
    return True
