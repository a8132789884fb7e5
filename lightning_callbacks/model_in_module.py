"""Which part of a LightningModule is the transformer?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import nn

from captum_attn.core.models import unwrapped

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
