"""Which attention calls of a forward pass belong to the explained input: grouped into stacks by who feeds whom.

A stack is a stream of states with the attention that its queries come from and whose output goes back into it: an
encoder, a decoder, an image tower. A new one begins where other inputs join the stream. The stack that reads the
explained features, and feeds all others that do, is explained, whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations
from typing import Literal

from captum_attn.core.calls import AttentionCall, OddSoftmax
from captum_attn.core.capture import LISTED, SWITCH_CHECKPOINTS
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.no_matrix import WrongWayError
from captum_attn.core.origins import CONTENT, FEATURES, MOVED, NOWHERE, bits

Role = Literal["explained", "reads the tokens", "reads the input again", "of a later stack", "of another input"]


@dataclass(frozen=True)
class SortedCalls:
    """The attention of a forward pass, as it is to the explained input.

    Attributes:
        explained: the calls in which the input's tokens attend to each other, one for each layer, from the bottom up.
        readers: the calls outside of the stack whose keys are its tokens: a decoder's cross attention, a pooling head.
        shifted: the calls of a decoder that reads the features once more, shifted by a token.
        side_by_side: whether layers hold several calls, none of which feeds the others.
        roles: of every call, by its number.
    """

    explained: list[AttentionCall]
    readers: list[AttentionCall]
    shifted: list[AttentionCall]
    side_by_side: bool
    roles: dict[int, Role]


def sort_calls(
    calls: Sequence[AttentionCall],
    odd: Sequence[OddSoftmax],
    inputs: ModelInputs,
    followed: bool,
) -> SortedCalls:
    """Sort the attention calls of a forward pass.

    Args:
        calls: in the order in which they ran; at least one.
        odd: softmaxes that look like attention and cannot be explained.
        inputs: what is explained.
        followed: whether the origins of the calls are known. Without them, all calls must be alike.

    Raises:
        ValueError: no attention in which the input's tokens attend to each other, or not by one matrix in each layer;
            several stacks that read the input, or one that runs twice.
    """
    if not followed:
        _check_alike(calls)
        check_square(calls, inputs)
        return SortedCalls(list(calls), [], [], False, {call.layer: "explained" for call in calls})
    before = _ancestors(calls)
    stacks = _stacks(calls)
    reading = [stack for stack in stacks if stack.inputs & FEATURES and stack.own]
    hidden = [call for call in calls if not call.differentiable]
    unknown = [call for call in calls if call.differentiable and not _inputs_of(call, calls, before)]
    half_known = [call for call in calls if NOWHERE in (call.queries, call.keys)]
    if not reading and len(unknown) == len(calls):
        reading = [stack for stack in stacks if stack.own]  # if there is one, it can only read the input
    if not reading:
        raise ValueError(_under_no_grad(hidden) if hidden else _nothing_reads(calls, odd))
    reading = _joined(reading)
    bottom = _feeding(reading, before)
    explained = _relating_tokens(bottom.own)
    side_by_side = _check_one_chain(explained, before)
    length = check_square(explained, inputs)
    _check_order(explained, inputs)
    stacks = [bottom, *(stack for stack in stacks if not stack.members & bottom.members)]
    _check_nothing_left_out(bottom, explained[0], stacks, before, odd, hidden)
    _check_known([call for call in (*unknown, *half_known) if call not in explained], explained[0])
    readers = [call for stack in stacks for call in stack.crossing if call.shape[3] == length and bottom.gives(call)]
    again = [stack for stack in reading if stack is not bottom and stack.inputs == bottom.inputs]
    shifted = [call for stack in again for call in stack.own if call.shape[3] == length]
    roles: dict[int, Role] = {}
    for call in calls:
        later = bool(before[call.layer] & bottom.members)
        roles[call.layer] = "of a later stack" if later else "of another input"
    roles |= {call.layer: "reads the input again" for call in shifted}
    roles |= {call.layer: "reads the tokens" for call in readers}
    roles |= {call.layer: "explained" for call in explained}
    return SortedCalls(explained, readers, shifted, side_by_side, roles)


def sort_placed_calls(
    calls: Sequence[AttentionCall], odd: Sequence[OddSoftmax], placed: Collection[int], followed: bool
) -> SortedCalls:
    """Sort the attention calls of a forward pass in which no one matrix relates all tokens.

    Args:
        calls, odd, followed: as of :func:`sort_calls`.
        placed: the numbers of the calls whose queries and keys are parts of the input.

    Raises:
        ValueError: attention that is not known, or cannot be explained, or in branches.
    """
    if not followed:
        _check_alike(calls)
    hidden = [call for call in calls if not call.differentiable]
    if hidden and followed:
        raise ValueError(_under_no_grad(hidden))
    explained = [call for call in calls if call.layer in placed]
    members = sum(1 << call.layer for call in explained)
    for softmax in odd:
        if softmax.origin.calls & members or softmax.origin.inputs & FEATURES:
            raise ValueError(_left_out(softmax, "the input"))
    before = _ancestors(calls)
    bare = [repr(call.module) for call in explained if not before[call.layer]]
    if followed and len(bare) > 1:
        raise ValueError(_several(" and ".join(bare)))
    side_by_side = followed and _check_one_chain(explained, before)
    readers = [call for call in calls if call.layer not in placed]
    roles: dict[int, Role] = {call.layer: "reads the tokens" for call in readers}
    roles |= {call.layer: "explained" for call in explained}
    return SortedCalls(explained, readers, [], side_by_side, roles)


@dataclass(eq=False)
class _Stack:
    """A stream of states: the inputs that it starts from (bits), and the calls whose queries come from it."""

    inputs: int
    calls: list[AttentionCall] = field(default_factory=list)

    @property
    def members(self) -> int:
        """The calls as bits."""
        return sum(1 << call.layer for call in self.calls)

    @property
    def own(self) -> list[AttentionCall]:
        """The calls whose keys come from the same stream as their queries."""
        return [call for call in self.calls if self._attends_to_itself(call)]

    @property
    def crossing(self) -> list[AttentionCall]:
        """The others: cross attention."""
        return [call for call in self.calls if not self._attends_to_itself(call)]

    def gives(self, call: AttentionCall) -> bool:
        """Whether the call's keys come from this stream."""
        keys = call.keys
        return bool(keys.calls & self.members) or (not keys.calls and bool(keys.inputs & self.inputs))

    def _attends_to_itself(self, call: AttentionCall) -> bool:
        queries, keys = call.queries, call.keys
        if (keys.inputs & CONTENT, keys.calls) == (
            queries.inputs & CONTENT,
            queries.calls,
        ) or keys.calls & self.members:
            return True
        return not keys.calls and bool(keys.inputs) and not keys.inputs & CONTENT & ~self.inputs


def _stacks(calls: Sequence[AttentionCall]) -> list[_Stack]:
    """A call belongs to the stacks that its queries come from, but not where other inputs joined them."""
    stacks: list[_Stack] = []
    for call in calls:
        inputs = call.queries.inputs & CONTENT
        read = call.queries.calls or (call.keys.calls if inputs else 0)  # queries may come from the bare input
        from_here = [s for s in stacks if s.members & read and not inputs & ~s.inputs]
        joined = _Stack(reduce(int.__or__, (s.inputs for s in from_here)) if from_here else inputs)
        joined.calls = [*(earlier for s in from_here for earlier in s.calls), call]
        stacks = [*(s for s in stacks if s not in from_here), joined]
    return stacks


def _relating_tokens(calls: Sequence[AttentionCall]) -> list[AttentionCall]:
    """The calls without softmaxes that mix something else than tokens, such as parallel residual streams."""
    sure = [call for call in calls if call.of_products]
    shapes = {call.shape for call in sure}
    return [call for call in calls if call.of_products or not sure or call.shape in shapes]


def _ancestors(calls: Sequence[AttentionCall]) -> dict[int, int]:
    """For each call, by number, those (bits) that its queries or keys depend on."""
    before: dict[int, int] = {}
    for call in calls:
        read = call.queries.calls | call.keys.calls
        before[call.layer] = read
        for earlier in bits(read):
            before[call.layer] |= before.get(earlier, 0)
    return before


def _feeding(reading: Sequence[_Stack], before: Mapping[int, int]) -> _Stack:
    """The stack that all others depend on."""
    for stack in reading:
        others = (other for other in reading if other is not stack)
        if all(any(before[call.layer] & stack.members for call in other.calls) for other in others):
            return stack
    modules = [{call.module for call in stack.own} for stack in reading]
    names = " and ".join(repr(stack.own[0].module) for stack in reading)
    if any(one & other for one, other in combinations(modules, 2)):
        raise ValueError(_twice(names))
    raise ValueError(_several(names))


def _inputs_of(call: AttentionCall, calls: Sequence[AttentionCall], before: Mapping[int, int]) -> int:
    """The inputs (bits) that a call or one before it reads."""
    read = [call, *(other for other in calls if before[call.layer] >> other.layer & 1)]
    return reduce(int.__or__, (one.queries.inputs | one.keys.inputs for one in read))


def _check_known(unknown: Sequence[AttentionCall], layer: AttentionCall) -> None:
    """Raise ``ValueError`` for attention of as many tokens and examples that comes from none of the inputs."""
    size = (layer.shape[0], *layer.shape[2:])
    alike = dict.fromkeys(call.module for call in unknown if (call.shape[0], *call.shape[2:]) == size)
    if alike:
        raise ValueError(
            f"attention {', '.join(map(repr, alike))} has as many tokens as the explained input, and comes from none "
            "of the inputs that were given, or its queries or keys do: the model reads several inputs, one of them "
            "inside the function, or has learned queries, detached states or a way through NumPy, so that nothing says "
            "whether these are the explained tokens. Give the other input as an argument of the model, and leave "
            f"states in the graph. {LISTED}"
        )


def _joined(reading: list[_Stack]) -> list[_Stack]:
    """One stack in place of several calls of different modules that read the bare input, if nothing else reads it."""
    calls = [call for stack in reading for call in stack.calls]
    alone = len(calls) == len(reading) == len({call.module for call in calls})
    return [_Stack(reading[0].inputs, calls)] if alone and len({stack.inputs for stack in reading}) == 1 else reading


def _check_order(explained: Sequence[AttentionCall], inputs: ModelInputs) -> None:
    """The model must keep the tokens in the order in which they are given; patches, in any, which their trail knows."""
    before = explained[0].queries.inputs & MOVED if inputs.is_cut else 0
    for call in explained:
        if (call.queries.inputs | call.keys.inputs) & MOVED & ~before:
            raise ValueError(
                f"the model puts the tokens in another order before attention {call.module!r} (flipped, shifted, "
                "sorted or indexed), so that its rows and columns are not the input's tokens in their order. Put "
                "them in that order outside of the model, and explain it from there"
            )


def _check_one_chain(explained: Sequence[AttentionCall], before: Mapping[int, int]) -> bool:
    """Whether there are calls side by side; these must be of one layer: of different modules that read the same."""
    side_by_side = False
    for one, other in combinations(explained, 2):
        if before[other.layer] >> one.layer & 1 or before[one.layer] >> other.layer & 1:
            continue
        side_by_side = True
        if one.module and one.module == other.module:
            raise ValueError(_twice(repr(one.module)))
        if before[one.layer] != before[other.layer]:
            raise ValueError(
                f"several encoders read the explained input: attention {one.module!r} and {other.module!r} stand in "
                "branches of their own, so there is no single stack of layers to explain. Explain one branch at a "
                "time: a function of the input in which the others' states are constants, computed beforehand. "
                f"{LISTED}"
            )
    return side_by_side


def check_square(calls: Sequence[AttentionCall], inputs: ModelInputs) -> int:
    """The number of tokens N, if each call has the same heads and one (N, N) matrix of the input's tokens.

    Raises:
        WrongWayError: they have not.
    """
    length = calls[0].shape[2] if inputs.is_cut else inputs.features.shape[1]
    expected = (len(inputs), calls[0].shape[1], length, length)
    for call in calls:
        if call.shape != expected:
            sizes = sorted({other.shape[2:] for other in calls})
            several = f" The layers have matrices of {len(sizes)} sizes, {sizes}." if len(sizes) > 1 else ""
            raise WrongWayError(
                f"attention {call.module!r} has shape {call.shape} (batch, heads, queries, keys), expected "
                f"{expected}: without one token-by-token matrix in every layer (windowed, pooled or cross attention, "
                "tokens that are dropped or added between layers, prefix keys, inputs that are not batch-first) tokens "
                f"cannot be explained; captum.attr.IntegratedGradients needs no attention.{several} {LISTED}"
            )
    return length


def _check_nothing_left_out(
    bottom: _Stack,
    layer: AttentionCall,
    stacks: Sequence[_Stack],
    before: Mapping[int, int],
    odd: Sequence[OddSoftmax],
    hidden: Sequence[AttentionCall],
) -> None:
    """Raise ``ValueError`` where something else may be attention of the explained tokens, as in one of the layers."""
    length = layer.shape[3]
    for softmax in odd:
        calls, inputs = softmax.origin.calls, softmax.origin.inputs
        concerned = calls & bottom.members or (not calls and inputs & FEATURES)
        if concerned and length in softmax.shape[-2:]:
            raise ValueError(_left_out(softmax, f"the {length} tokens"))
    same = [call for call in hidden if call.shape[2:] == (length, length)]
    if same:
        raise ValueError(_under_no_grad(same))
    for stack in stacks:
        starts_by_reading = not stack.inputs and stack.calls[0] in stack.crossing
        joins = starts_by_reading or bool(stack.inputs & FEATURES)  # a decoder with states of its own does not
        fed = [call for call in stack.own if call.queries.calls & bottom.members or starts_by_reading]
        alike = [call for call in fed if call.shape == layer.shape and before[call.layer] & bottom.members]
        if stack is not bottom and joins and alike:
            raise ValueError(
                f"attention {alike[0].module!r} has as many tokens as the layers below it, {length}, but something "
                "else stands between them (other inputs that join the tokens' states, or learned queries that read "
                "them), so it is unknown whether these are the same tokens, and a map of the layers below would leave "
                f"it out. {LISTED}"
            )


def _check_alike(calls: Sequence[AttentionCall]) -> None:
    """Without a graph, calls can only be taken for one stack if nothing speaks against it."""
    modules = [call.module for call in calls]
    alike = len({(call.shape, call.causal) for call in calls}) == 1 and len(set(modules)) == len(modules)
    if not alike:
        raise ValueError(
            "the model's weights have no gradients (quantized, or made in inference mode), or it runs under "
            "torch.no_grad(), and its attention calls are of different kinds, so nothing says which of them belong to "
            f"the explained input. Explain the model with weights that have gradients. {LISTED}"
        )


def _several(names: str) -> str:
    return (
        f"several encoders read the explained input, from attention {names} on, and none of them feeds the others, so "
        "there is no single stack of layers to explain, and the mean over them would answer no question. Explain one "
        "of them at a time: a function of the input in which the others' states are constants, computed beforehand. "
        f"{LISTED}"
    )


def _left_out(softmax: OddSoftmax, what: str) -> str:
    return (
        f"module {softmax.module!r} has a softmax of shape {softmax.shape} {softmax.reason}: it may relate {what} in a "
        f"way that this library cannot explain, so that the map would leave it out. {LISTED}"
    )


def _twice(names: str) -> str:
    return (
        f"attention {names} ran twice on the explained input, side by side: an encoder that reads two texts or images, "
        "two views of one, or runs in two calls of the model; or layers that keep several streams of states. The mean "
        "over both would answer no question. Run the encoder once: compute what the other run gives beforehand, under "
        "torch.no_grad(), and pass it as a constant; of a contrast of two classes, take both scores from one call. "
        f"{LISTED}"
    )


def _under_no_grad(calls: Sequence[AttentionCall]) -> str:
    names = ", ".join(repr(call.module) for call in calls)
    return (
        f"the attention {names} ran under torch.no_grad() inside the model, so it has no gradient, and nothing says "
        "whether it belongs to the explained input: let the model compute gradients there. "
        f"{SWITCH_CHECKPOINTS}. {LISTED}"
    )


def _nothing_reads(calls: Sequence[AttentionCall], odd: Sequence[OddSoftmax]) -> str:
    kinds = [(call.module, call.shape) for call in calls] + [(softmax.module, softmax.shape) for softmax in odd]
    seen = ", ".join(f"{module!r} {shape}" for module, shape in kinds[:4])
    return (
        f"attention was seen ({seen}, …), but none in which the explained input's tokens attend to each other: the "
        "input is read by cross attention alone, or on a way that autograd does not follow (.detach(), NumPy). "
        f"{LISTED}"
    )
