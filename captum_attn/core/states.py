"""Keep the hidden states that some of a model's modules return."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from captum_attn.core.calls import AttentionCall
from captum_attn.core.capture import AttentionCapture
from captum_attn.core.private_names import version_of
from captum_attn.core.user_warnings import warn_user


@dataclass(frozen=True)
class States:
    """What one call of a module returned.

    Attributes:
        module: its name.
        call: 0 for the module's first call in the forward pass; shared modules (ALBERT's) are called for each layer.
        hidden: (B, N, D).
        attended: how many calls the attention capture had seen by then.
        version: of the tensor, which counts what was done to it in place.
    """

    module: str
    call: int
    hidden: Tensor
    attended: int
    version: int


class StateCapture:
    """Record what modules return in the forward pass that runs inside this context, in this thread.

    The modules carry a hook inside the context, and none afterwards.

    Args:
        model: the module that is called.
        modules: names of its parts.
        attention: counts the attention calls of the same forward pass.

    Attributes:
        states: one for each call of one of the modules, in the order in which they returned.

    Raises:
        ValueError: a name of no module.
    """

    def __init__(self, model: Callable[..., Any], modules: Collection[str], attention: AttentionCapture) -> None:
        self._modules = {name: module_named(model, name) for name in modules} if isinstance(model, nn.Module) else {}
        self._attention = attention
        self._calls: Counter[str] = Counter()
        self._handles: list[RemovableHandle] = []
        self.states: list[States] = []

    def __enter__(self) -> StateCapture:
        thread = threading.get_ident()

        def keep(name: str, output: Any) -> None:
            if threading.get_ident() == thread:
                hidden = first_tensor(output, name)
                attended, version = self._attention.seen, version_of(hidden)
                self.states.append(States(name, self._calls[name], hidden, attended, version))
                self._calls[name] += 1

        for name, module in self._modules.items():
            hook = module.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
            self._handles.append(hook)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()


def module_named(model: nn.Module, name: str) -> nn.Module:
    """A part of the model; ``ValueError`` with similar names if there is none."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name not in modules or not name:
        similar = get_close_matches(name, modules, n=3, cutoff=0.5)
        hint = f"; similar names: {', '.join(map(repr, similar))}" if similar else ""
        raise ValueError(f"the model has no module {name!r}{hint}. See dict(model.named_modules())")
    return modules[name]


def first_tensor(output: Any, name: str) -> Tensor:
    """The hidden states in a module's output: itself, or what it starts with.

    Raises:
        TypeError: it starts with something else.
    """
    if isinstance(output, Tensor):
        return output
    values = list(output.values()) if hasattr(output, "values") else output
    if isinstance(values, list | tuple) and values and isinstance(values[0], Tensor):
        return values[0]
    raise TypeError(f"module {name!r} returned {type(output).__name__}, in which there are no hidden states")


def attention_blocks(model: nn.Module, calls: Sequence[AttentionCall]) -> list[str]:
    """For each attention call, the name of the block that it belongs to: the transformer's layer.

    That is the outermost entry of a ``ModuleList`` or ``Sequential`` which holds no other attention.

    Raises:
        ValueError: a model without such a structure.
    """
    owners = {call.module for call in calls}
    lists = {name for name, module in model.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)}

    def block(owner: str) -> str:
        parts = owner.split(".")
        paths = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
        for path in paths:
            inside = [other for other in owners if other == path or other.startswith(f"{path}.")]
            if path.rpartition(".")[0] in lists and inside == [owner]:
                return path
        raise ValueError(
            f"attention {owner!r} belongs to no entry of a ModuleList or Sequential, so it is unknown which module "
            "returns the layer's hidden states: name the modules in layers="
        )

    return [block(call.module) for call in calls]


def warn_of_layers_without(model: nn.Module | None, calls: Sequence[AttentionCall]) -> None:
    """Say how many layers have no attention that was seen."""
    found = layers_with_attention(model, calls)
    if found is not None and found[0] < found[1]:
        warn_user(
            f"{found[0]} of the {found[1]} layers of {type(model).__name__} have attention that was seen, and are "
            "explained; what the others pass from token to token (state-space, recurrent or convolutional layers) is "
            "not seen"
        )


def layers_with_attention(model: nn.Module | None, calls: Sequence[AttentionCall]) -> tuple[int, int] | None:
    """How many entries of the ``ModuleList`` that holds the calls' blocks have attention, and how many there are.

    None where no single list holds them.
    """
    if model is None:
        return None
    owners = [call.module.split(".") for call in calls]
    for name, blocks in model.named_modules():
        path = name.split(".")
        if isinstance(blocks, nn.ModuleList) and all(owner[: len(path)] == path for owner in owners):
            entries = {owner[len(path)] for owner in owners if len(owner) > len(path)}
            attending = [blocks[int(entry)] for entry in entries]
            if len(entries) > 1 or len(calls) == 1:  # else it holds towers, not layers
                return sum(block in attending for block in blocks), len(blocks)
    return None
