"""Several explanations of the same predictions, from one forward and one backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from captum_attn.core import ObservedForward
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.observers import ReadoutGradients
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
        run: an observed forward pass of ``batch``, with gradients, and with what methods ask for: all of their
            ``modules``, ``after_attention``.
        batch: the inputs.
        methods: attributions of one pass, all of the model that ran.
        states: some of ``run.states``.
        target: which output is explained, in Captum's forms; None for the predicted class.
        retain_graph: whether other scores of the same pass will be explained.

    Returns:
        What each method's ``attribute_tokens`` returns; and the states' gradients, None without states.

    Raises:
        ValueError: neither methods nor states; methods under other rules than the run's; else as
            :meth:`captum_attn.AttentionAttribution.attribute`.

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
    others = {m.propagation.name for m in methods if m.needs_gradients and m.propagation != run.propagation}
    if others:
        raise ValueError(
            f"methods under the rules {sorted(others)} cannot be explained from a pass under {run.propagation.name!r}, "
            "or others of that name: give observed_forward their propagation="
        )
    each = target_of_each(target, len(batch))
    depends = bool(states) or any(method.needs_gradients for method in methods)
    selection = select_target(run, each) if depends else methods[0].select(run, each)
    explained = [method.explained_selection(run, selection) for method in methods]
    observers = [method.observer(one) for method, one in zip(methods, explained, strict=True)]
    together = list(zip(methods, explained, observers, strict=True))
    readout = run.readout_observer(selection.scores, states) if states else None
    watching = [observer for method, _, observer in together if method.needs_gradients and observer is not None]
    below = [state for method, one, _ in together if method.needs_gradients for state in one.states]
    if readout is not None:
        watching.append(readout)
    features = [one.state for one in run.entrances] if any(method.reads_features for method in methods) else []
    shown = []
    if watching or features:
        shown = run.show(watching, selection.scores, [*states, *below], retain_graph, features)
    run.show([o for method, _, o in together if o is not None and not method.needs_gradients], None)
    of_states, gradients = shown[: len(states)], iter(shown[len(states) :])
    of_features = shown[len(shown) - len(features) :]
    results = []
    for method, one, observer in together:
        own = [next(gradients) for _ in one.states] if method.needs_gradients else []
        results.append(method.solve(replace(one, gradients=own, feature_gradients=of_features), observer))
    return results, None if readout is None else readout.with_gradients(of_states)
