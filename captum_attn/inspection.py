"""What an explanation of a model is going to see, and whether to believe it: one table for a model nobody has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

from captum_attn.core import ModelInputs, ObservedForward, Target, Tokens, select_target, special_ids_of, target_of_each
from captum_attn.core.calls import EagerCall
from captum_attn.core.capture import LISTED, SWITCH_CHECKPOINTS, AttentionCapture
from captum_attn.core.forward import SeenForward, seen_forward
from captum_attn.core.gradient_check import (
    TOLERANCE,
    LayerCheck,
    check_gradients_of_attention,
    examples_that_see_each_other,
    tokens_mix_elsewhere,
)
from captum_attn.core.origins import FEATURES
from captum_attn.core.patches import NoPatchGrid, PatchGrid
from captum_attn.core.propagation import ATTNLRP, Propagation, propagation_named
from captum_attn.core.run import followed
from captum_attn.core.targets import Selection, as_tuples, no_selection, selected
from captum_attn.drawing import ShownFigure
from captum_attn.inspection_figure import gradients_by_call
from captum_attn.methods import Inputs, ShapleyGradAttention
from captum_attn.pages import Shown, figure_html, opening, page, table_html

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 8
"""So many tokens, or examples, are written out."""

_COLUMNS = ("#", "attention", "code", "shape", "role", "gradient off by")


@dataclass(frozen=True)
class InspectedCall:
    """One attention of the forward pass.

    Attributes:
        number: in the order in which they ran.
        module: the module that made it.
        code: ``fused`` or ``eager``.
        shape: (B, H, queries, keys).
        role: ``explained``, or why it is not.
        error: of its gradient, see :class:`~captum_attn.core.gradient_check.LayerCheck`; None where it was not checked.
    """

    number: int
    module: str
    code: str
    shape: tuple[int, ...]
    role: str
    error: float | None = None


@dataclass(frozen=True)
class Inspection(Shown):
    """What an explanation is going to see. ``print`` it, or leave it at the end of a notebook's cell.

    :meth:`show`, :meth:`plot`, :meth:`to_html` and :meth:`frame` work anywhere.

    Attributes:
        verdict: in a sentence, whether to believe an explanation by gradients, and why not.
        trusted: whether gradients were checked and agree in every layer that can be told.
        calls: all attention of the forward pass.
        facts: what is known of the input, the tokens and the score, by name.
    """

    verdict: str
    trusted: bool
    calls: list[InspectedCall]
    facts: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [_COLUMNS, *map(_row, self.calls)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        width = max(map(len, self.facts), default=0)
        return "\n".join(
            [self.verdict, "", *(f"{name:<{width}}  {fact}" for name, fact in self.facts.items()), "", *table]
        )

    def page(self) -> str:
        """The page, as HTML that needs nothing from elsewhere: the verdict, what was seen, and each attention call."""
        import pandas as pd

        title = f"What an explanation of {self.facts.get('model', 'the model')} is going to see"
        parts = [
            opening(title, self.verdict) if self.trusted else opening(title, _NOT_TRUSTED, [self.verdict]),
            table_html(pd.DataFrame(self.facts.items(), columns=["what", "as seen"])),
            table_html(pd.DataFrame(map(_row, self.calls), columns=_COLUMNS)),
            *([figure_html(self.plot())] if self.calls else []),
        ]
        return page(title, "\n".join(parts))

    def plot(self) -> ShownFigure:
        """How far the gradient of each attention call is off, and why some were not checked.

        Returns:
            A matplotlib figure that belongs to no window.
        """
        notes = [_row(call)[-1] or call.role for call in self.calls]
        return gradients_by_call(self.frame().assign(note=notes), TOLERANCE, self.verdict)

    def frame(self) -> pd.DataFrame:
        """The calls, one in a row."""
        import pandas as pd

        return pd.DataFrame([vars(call) for call in self.calls], columns=[one.name for one in fields(InspectedCall)])


def inspect(
    model: Callable[..., Any],
    inputs: Inputs,
    target: Target = None,
    additional_forward_args: Any = None,
    *,
    tokenizer: Any | None = None,
    processor: Any | None = None,
    additional_forward_arg_names: Sequence[str] | None = None,
    players: Tensor | None = None,
    propagation: str | Propagation | None = None,
    check_gradients: bool = True,
) -> Inspection:
    """Say what an explanation of the model on this batch is going to see, and check its gradients.

    Runs the model forward and backward once, forward under rules once, and a dozen times, or some dozens, with slightly
    changed attention: the explained score must change as plain gradients say. Two or three examples are enough. The
    model is left as it was.

    Args:
        model, inputs, target, additional_forward_args, players: as of
            :meth:`captum_attn.AttentionAttribution.attribute`.
        tokenizer: tells special tokens, reads texts, and writes tokens out.
        processor: reads images and sounds.
        additional_forward_arg_names: as of :class:`captum_attn.AttentionAttribution`.
        propagation: the rules that explanations will be under, refused if they would be. Default: those of AttnLRP are
            looked at, too, for methods that take them.
        check_gradients: whether to compare with finite differences.

    Returns:
        The attention calls of the pass, which are explained and why the others are not; the players, the readout, the
        patches, the target and the score; which functions that are not linear have no rule; and a verdict. Where an
        explanation would be refused, the verdict is the refusal, and the table says what was seen.

    Raises:
        TypeError, ValueError: inputs that are none, or no propagation.

    Example:
        >>> import captum_attn
        >>> seen = captum_attn.inspect(model, batch, tokenizer=tokenizer)
        >>> seen.trusted, len(seen.calls)
        (True, 4)
        >>> print(seen.facts["explained"])
        4 layers of 4 heads, 6 tokens
    """
    names = additional_forward_arg_names
    method = ShapleyGradAttention(model, tokenizer=tokenizer, processor=processor, additional_forward_arg_names=names)
    tokenizer, model = method.tokenizer, method.forward_func
    batch = method.model_inputs(inputs, additional_forward_args, players)
    rules = None if propagation is None else propagation_named(propagation)
    facts = {"model": type(model).__name__, "input": _described(batch)}
    try:
        with followed(model, batch, dependences=True) as (seen, run):
            return _inspected(model, batch, seen, run, target, tokenizer, rules, check_gradients, facts)
    except Exception as error:
        if not _is_ours(error):
            raise
        return Inspection(_refused(error), False, [], facts)


def _is_ours(error: BaseException) -> bool:
    """Whether an error was raised by this package, or in its words, and not by the model."""
    if SWITCH_CHECKPOINTS in str(error):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("captum_attn")


def _inspected(
    model: Callable[..., Any],
    batch: ModelInputs,
    seen: SeenForward,
    run: ObservedForward | Exception,
    target: Target,
    tokenizer: Any | None,
    rules: Propagation | None,
    check: bool,
    facts: dict[str, str],
) -> Inspection:
    facts["output"] = str(tuple(seen.output.shape))
    try:
        if isinstance(run, Exception):
            raise run
        facts["explained"] = _explained(run)
        causal = all(call.causal for call in run.calls)
        facts["masks"] = "causal: no token attends to a later one" if causal else "bidirectional"
        tokens = run.tokens(special_ids_of(tokenizer))
        facts |= _of_tokens(batch, tokens, tokenizer)
        targets = target_of_each(target, len(batch))
        unselected = target is None and run.output.dim() > 2
        selection = no_selection(run.output) if unselected else select_target(run, targets)
        facts |= _of_scores(selection)
        if run.places is None:
            facts["readout"] = _read(run, selection, tokens)
        tokens.players  # noqa: B018  (raises where nothing says who plays)
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        return Inspection(_refused(error), False, _calls(seen.capture, None), facts)
    if rules is None or not rules.is_plain:
        facts["rules" if rules else "AttnLRP"] = found = _of_rules(model, batch[:1], rules or ATTNLRP)
        if rules and found.startswith("refused"):
            return Inspection(found, False, _calls(seen.capture, run), facts)
    if unselected:
        verdict = "not checked: the output has scores for each token, so gradients need target=(token, class)"
        return Inspection(verdict, False, _calls(seen.capture, run), facts)
    if not check:
        return Inspection("not checked: check_gradients=False", False, _calls(seen.capture, run), facts)
    return _judged(model, batch, run, seen.capture, tokens, selection, facts)


def _explained(run: ObservedForward) -> str:
    """How much attention is explained."""
    if run.places is None:
        return f"{run.layers} layers of {run.heads} heads, {run.length} tokens"
    heads = "–".join(str(number) for number in dict.fromkeys([run.calls[0].shape[1], run.calls[-1].shape[1]]))
    return f"{run.layers} layers of {heads} heads, in windows or on coarser grids, as keys in {run.length} places"


def _of_rules(model: Callable[..., Any], example: ModelInputs, rules: Propagation) -> str:
    """Whether all that is not linear has a rule."""
    try:
        with seen_forward(model, example, propagation=rules) as seen:
            return str(seen.coverage)
    except (ValueError, RuntimeError, TypeError) as error:
        return _refused(error)


def _read(run: ObservedForward, selection: Selection, tokens: Tokens) -> str:
    """The tokens that the score is read from."""
    try:
        rows = run.readout("auto", selection.scores, tokens, selection.positions).weights()
    except RuntimeError as error:
        return f"unknown: {_refused(error)}"
    return _positions(rows > 0)


def _judged(
    model: Callable[..., Any],
    batch: ModelInputs,
    run: ObservedForward,
    capture: AttentionCapture,
    tokens: Tokens,
    selection: Selection,
    facts: dict[str, str],
) -> Inspection:
    """Compare gradients with finite differences."""

    def select(output: Tensor) -> Tensor:
        return selected(output, selection.targets)

    try:
        checks = check_gradients_of_attention(model, batch, run, selection.scores, select)
        mixed = len(batch) > 1 and examples_that_see_each_other(model, batch, run, select)
        elsewhere: bool | None = run.convolves or None
        if run.places is None:
            read = run.find_reached(selection.scores, [-1])[:, 0]
            elsewhere = tokens_mix_elsewhere(model, batch, run, read, tokens.playing, select)
        if run.dependence is not None:
            elsewhere = run.dependence == "others" or bool(elsewhere)
    except (ValueError, RuntimeError) as error:
        return Inspection(f"not checked: {error}", False, _calls(capture, run), facts)
    if elsewhere is not None:
        by_attention = f"by the explained attention {'and in the stacks behind it' if run.crosses_stacks else 'alone'}"
        facts["tokens mix"] = "by other ways, too, which are not seen" if elsewhere else by_attention
    verdict = _verdict(checks)
    if mixed:
        verdict = "do not believe it: one example's attention changes another one's score; explain one at a time"
    elif elsewhere and verdict.startswith("ok"):
        verdict = (
            "in part: tokens reach the score, or each other's states, by other ways, too (convolution, recurrence, "
            "attention that cannot be seen, another order of tokens), which no explanation shows; as for the attention "
            f"that is seen, {verdict}"
        )
    return Inspection(verdict, verdict.startswith("ok"), _calls(capture, run, checks), facts)


def _refused(error: Exception) -> str:
    """The refusal, without the advice to inspect the model."""
    return f"refused: {str(error).removesuffix(LISTED).rstrip()}"


def _verdict(checks: Sequence[LayerCheck]) -> str:
    wrong = [check.layer for check in checks if check.agrees is False]
    silent = [check.layer for check in checks if check.agrees is None]
    if wrong:
        return f"do not believe it: gradients and finite differences disagree in the layers {wrong}"
    if len(silent) == len(checks):
        return "not checked: attention changes the score by less than rounding does"
    largest = max([0.001, *(check.error for check in checks if check.agrees)])
    told = f"ok: gradients agree with finite differences, to about {largest:.1%} of their size, in "
    if not silent:
        return f"{told}all {len(checks)} layers"
    return f"{told}{len(checks) - len(silent)} of {len(checks)} layers; {silent} change the score by less than rounding"


def _calls(
    capture: AttentionCapture, run: ObservedForward | None, checks: Sequence[LayerCheck] = ()
) -> list[InspectedCall]:
    """All calls, and the softmaxes that cannot be explained, in the order in which they ran."""
    errors = {run.calls[check.layer].layer: check.error for check in checks} if run is not None else {}
    found, read = [], 0
    for call in capture.calls:
        origin = call.queries | call.keys
        reads = bool(origin.inputs & FEATURES or origin.calls & read)
        read |= reads << call.layer
        role = ("reads the input" if reads else "another input") if run is None else str(run.sorted.roles[call.layer])
        if run is not None and run.places and call.layer in run.places.keys:
            role += f", keys {' × '.join(map(str, run.places.keys[call.layer].layout.counts))}"
        if len(call.numbers) > 1:
            role += f", {len(call.numbers)} times with the same probabilities"
        if isinstance(call, EagerCall) and call.probabilities.shape[-1] > call.shape[-1]:
            role += ", a sink left out"
        code = "eager" if isinstance(call, EagerCall) else "fused"
        found.append(InspectedCall(call.layer, call.module, code, call.shape, role, errors.get(call.layer)))
    odd = [InspectedCall(one.number, one.module, "eager", one.shape, f"odd: {one.reason}") for one in capture.odd]
    return sorted([*found, *odd], key=lambda call: call.number)


def _described(batch: ModelInputs) -> str:
    """The inputs by name and shape."""
    named = {batch.name or "the first argument": batch.features, **batch.keywords}
    parts = [f"{name} {tuple(value.shape)}" for name, value in named.items() if isinstance(value, Tensor)]
    return ", ".join([*parts, *(f"{tuple(v.shape)} by position" for v in batch.positional if isinstance(v, Tensor))])


def _of_tokens(batch: ModelInputs, tokens: Tokens, tokenizer: Any | None) -> dict[str, str]:
    """Padding, players and patches."""
    facts = {}
    if not tokens.real.all():
        facts["padding"] = _positions(~tokens.real)
    if tokens.playing is None:
        facts["players"] = "unknown: give players="
    elif batch.modality == "ids" and tokenizer is not None:
        playing = zip(batch.features, tokens.playing, strict=True)
        names = [tokenizer.convert_ids_to_tokens(row[own].tolist()) for row, own in playing]
        facts["players"] = " | ".join(_listed(row) for row in names[:3]) + (" | …" if len(names) > 3 else "")
    else:
        facts["players"] = _positions(tokens.playing)
    grid = tokens.grid
    if isinstance(grid, NoPatchGrid):
        facts["patches"] = f"none that could be found: {grid.reason}"
    elif grid:
        counts, sizes = (" × ".join(f"{float(number):g}" for number in each) for each in (grid.counts, grid.sizes))
        facts["patches"] = f"{counts}, of {sizes} {'pixels' if isinstance(grid, PatchGrid) else 'entries'}"
    return facts


def _of_scores(selection: Selection) -> dict[str, str]:
    """Targets and scores."""
    if not len(selection.scores):
        return {"target": "none"}
    rows = as_tuples(selection.targets)
    named = [str(row[0]) if len(row) == 1 else str(row) if row else "the only score" for row in rows]
    scores = [f"{float(score):.4g}" for score in selection.scores.detach()]
    return {"target": _listed(named), "score": _listed(scores)}


def _positions(chosen: Tensor) -> str:
    """Of each example, which tokens are chosen."""
    if bool(chosen.all()):
        return "all tokens"
    rows = [_ranges(row.nonzero().flatten().tolist()) for row in chosen[:3]]
    if len(set(rows)) == 1 and bool((chosen == chosen[0]).all()):
        return f"token {rows[0]}"
    return "tokens " + " | ".join(rows) + (" | …" if len(chosen) > 3 else "")


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, runs of them as first-last."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return _listed(parts) or "none"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:_SHOWN]) + (", …" if len(words) > _SHOWN else "")


def _row(call: InspectedCall) -> tuple[str, ...]:
    error = "" if call.error is None else "too small" if call.error != call.error else f"{call.error:.1%}"
    return str(call.number), call.module or "(no module)", call.code, str(call.shape), call.role, error


_NOT_TRUSTED = "Explanations by gradients are not to be believed as they are:"
