"""Which hidden states are meant by a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from captum_attn.core import ModelInputs, ObservedForward, States, as_index, is_index, observed_forward
from captum_attn.core.states import attention_blocks


@dataclass(frozen=True)
class Layer:
    """Hidden states: what one call of a module returns.

    Attributes:
        name: the module's name; ``"name#1"`` for the second call of a module that layers share.
        module: the module's name.
        call: which of its calls in a forward pass, 0 for the first.
        index: the layer whose attention came last before, 0 for the first.
    """

    name: str
    module: str
    call: int
    index: int

    def of(self, run: ObservedForward) -> States:
        """This layer's states in a forward pass."""
        for states in run.states:
            if (states.module, states.call) == (self.module, self.call):
                return states
        raise ValueError(f"module {self.name!r} does not run: name other modules in layers=")


def layer_labels(layers: Sequence[Layer]) -> list[str]:
    """The layers' indices, or their names where two have the same."""
    indices = [str(layer.index) for layer in layers]
    return indices if len(set(indices)) == len(indices) else [layer.name for layer in layers]


def layers_as_listed(given: Any) -> list[int | str] | None:
    """Layers by index or name as a list, NumPy's numbers as Python's; ``TypeError`` for anything else."""
    if given is None:
        return None
    each = [given] if isinstance(given, str) or is_index(given) else given
    if isinstance(each, Mapping):
        raise TypeError(f"expected layers, got a {type(given).__name__}")
    return [str(layer) if isinstance(layer, str) else as_index(layer) for layer in each]


def find_layers(model: nn.Module, example: ModelInputs, wanted: Sequence[int | str] | None) -> list[Layer]:
    """The layers meant, in the model's order.

    Which modules hold the explained attention, in which order, and how often each runs follows from data flow alone, so
    the model runs once; names of no module are refused before.

    Args:
        model: the model.
        example: inputs, of which a forward pass is observed.
        wanted: indices of transformer layers, negative ones from the end, or names of modules whose output is
            (B, N, D). None for all transformer layers.

    Raises:
        IndexError: an index out of range.
        RuntimeError: a model that lets no gradients pass.
        ValueError: a name of no module, of one that does not run or that runs several times, or that has no attention
            before it.
    """
    if wanted is not None and not wanted:
        raise ValueError("layers is empty: expected indices or names of modules, or None for all transformer layers")
    numbers = [layer for layer in wanted or () if isinstance(layer, int)]
    names = [layer for layer in wanted or () if isinstance(layer, str)]
    with observed_forward(model, example, modules=names) as run:
        found = [] if wanted is not None and not numbers else _blocks(model, run, numbers or None)
        return sorted({*found, *(_named(run, name) for name in names)}, key=lambda layer: (layer.index, layer.name))


def _blocks(model: nn.Module, run: ObservedForward, numbers: Sequence[int] | None) -> list[Layer]:
    modules = attention_blocks(model, run.calls)
    layers = []
    for index in run.resolved_layers(numbers):
        module, call = modules[index], modules[:index].count(modules[index])
        layers.append(Layer(f"{module}#{call}" if call else module, module, call, index))
    return layers


def _named(run: ObservedForward, name: str) -> Layer:
    found = [states for states in run.states if states.module == name]
    if not found:
        raise ValueError(
            f"module {name!r} does not run, or is no part that is called: choose one whose output is (B, N, width)"
        )
    if len(found) > 1:
        raise ValueError(f"module {name!r} runs {len(found)} times in a forward pass: give the indices of layers")
    return Layer(name, name, 0, run.attention_before(found[0]))
