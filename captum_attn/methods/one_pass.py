"""Several explanations of the same predictions, from one forward and one backward pass."""

from __future__ import annotations

from collections.abc import Sequence

from captum_attn.core.inputs import ModelInputs
from captum_attn.core.run import ObservedForward, ReadoutGradients
from captum_attn.core.states import States
from captum_attn.core.targets import Target, select_target, target_of_each
from captum_attn.methods.attribution import OnePassAttribution
from captum_attn.token_attributions import TokenAttributions


def explain_in_one_pass(
    run: ObservedForward,
    batch: ModelInputs,
    methods: Sequence[OnePassAttribution],
    states: Sequence[States] = (),
    target: Target = None,
    retain_graph: bool = False,
) -> tuple[list[TokenAttributions], ReadoutGradients | None]:
    """Attributions by several methods, and gradients of hidden states, of the same explained scores.

    Args:
        run: an observed forward pass of ``batch``, with gradients, and with ``after_attention=True`` for norms.
        batch: the inputs.
        methods: attributions of one pass, all of the model that ran.
        states: some of ``run.states``.
        target: which output is explained, in Captum's forms; None for the predicted class.
        retain_graph: whether other scores of the same pass will be explained.

    Returns:
        What each method's ``attribute_tokens`` returns; and the states' gradients, None without states.

    Raises:
        ValueError: neither methods nor states; else as :meth:`captum_attn.AttentionAttribution.attribute`.

    Example:
        >>> from captum_attn import ShapleyAttention, ShapleyGradAttention
        >>> from captum_attn.core import observed_forward, mapping_inputs
        >>> methods = [ShapleyGradAttention(model, tokenizer=tokenizer), ShapleyAttention(model, tokenizer=tokenizer)]
        >>> inputs = mapping_inputs(model, batch)
        >>> with observed_forward(model, inputs) as run:
        ...     (gradients, attention), _ = explain_in_one_pass(run, inputs, methods)
        >>> gradients.values.shape
        torch.Size([2, 6])
    """
    if not methods and not states:
        raise ValueError("nothing to explain: expected methods, states or both")
    each = target_of_each(target, len(batch))
    depends = bool(states) or any(method.needs_gradients for method in methods)
    selection = select_target(run, each) if depends else methods[0].select(run, each)
    explained = [method.explained_selection(run, selection) for method in methods]
    observers = [method.observer(one) for method, one in zip(methods, explained, strict=True)]
    of_attention, of_gradients = (
        [observer for observer, method in zip(observers, methods, strict=True) if method.needs_gradients == wanted]
        for wanted in (False, True)
    )
    readout = None
    if states:
        readout = run.readout_gradients(selection.scores, states, of_gradients, retain_graph)
    elif of_gradients:
        run.show(of_gradients, selection.scores, retain_graph=retain_graph)
    run.show(of_attention, None)
    solved = zip(methods, explained, observers, strict=True)
    return [method.solve(one, observer) for method, one, observer in solved], readout
