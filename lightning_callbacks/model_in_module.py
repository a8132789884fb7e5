"""Which part of a LightningModule is the transformer?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from captum_attn.core import config_of, unwrapped
from captum_attn.core.scores import sign_of_hidden_states

ModelChoice = str | Callable[[LightningModule], nn.Module] | None


def find_model(module: LightningModule, choice: ModelChoice = None) -> nn.Module:
    """The model inside a LightningModule.

    Args:
        module: the LightningModule.
        choice: the model's dotted name in it, or a function that returns it. None: its attribute ``model``, else its
            only child that has a Hugging Face configuration.

    Raises:
        MisconfigurationException: there is no such model, or it cannot be known which one is meant.
    """
    found: Any = None
    if isinstance(choice, nn.Module):
        raise MisconfigurationException(
            f"model= is a {type(choice).__name__}, expected its name in the LightningModule, such as 'model', or a "
            "function of the LightningModule that returns it"
        )
    if callable(choice):
        found = choice(module)
    elif choice is not None:
        found = dict(module.named_modules()).get(choice)
    else:
        found = getattr(module, "model", None)
        configured = [child for child in module.children() if hasattr(child, "config")]
        if not isinstance(found, nn.Module) and len(configured) == 1:
            found = configured[0]
    if isinstance(found, nn.Module):
        model: nn.Module = unwrapped(found)  # type: ignore[assignment]
        return model
    children = ", ".join(f"{name} ({type(child).__name__})" for name, child in module.named_children()) or "none"
    wanted = f"no module {choice!r}" if isinstance(choice, str) else "no transformer"
    raise MisconfigurationException(
        f"found {wanted} in {type(module).__name__}, whose parts are: {children}. Give model=, the name of the part "
        "that maps inputs to logits, or a function of the LightningModule that returns it"
    )


def check_head(module: LightningModule, model: nn.Module, output: Tensor) -> None:
    """See that the model's output can be scores of classes, not hidden states for a head that lies outside of it.

    Args:
        module: the LightningModule.
        model: the part that is explained.
        output: of the model.

    Raises:
        MisconfigurationException: an output that is not (B, C). One (B, C) that seems to be hidden states is warned of.
    """
    signs = _signs_of_hidden_states(module, model, output.shape[-1] if output.dim() else 0)
    name = type(model).__name__
    advice = (
        f"{' and '.join(signs)}, so these seem to be hidden states. Put {name} and its head into one module that maps "
        "inputs to logits, and name that one in model=, which may be a function of the LightningModule"
    )
    seen = f"the model's output has the shape {tuple(output.shape)}"
    if output.dim() != 2:
        raise MisconfigurationException(f"{seen}, expected logits (B, C) of a classifier{f': {advice}' * bool(signs)}")
    if signs:
        rank_zero_warn(f"{seen}, which is taken for scores of {output.shape[1]} classes. But {advice}")


def _signs_of_hidden_states(module: LightningModule, model: nn.Module, width: int) -> list[str]:
    """What says that an output of some width is no classes: its configuration, and what would read it."""
    if width == getattr(config_of(model), "num_labels", None):
        return []
    sign, inside = sign_of_hidden_states(model, width), {*model.modules()}
    signs = [] if sign is None else [sign]
    outside = ((name, part) for name, part in module.named_modules() if part not in inside)
    readers = [name for name, part in outside if getattr(part, "in_features", None) == width]
    if readers:
        signs.append(f"{readers[0]!r} of {type(module).__name__} reads {width} features")
    return signs
