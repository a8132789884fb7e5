"""Which of a model's modules is being called."""

from __future__ import annotations

import sys
from types import FrameType

from torch import nn


class CallOwners:
    """Names the modules that are being called in this thread.

    PyTorch has no public way to ask for them, so the walk over the stack relies on the name of one function of its own.

    Args:
        root: the model; None for a function.

    Attributes:
        roots: the model; of a function, the outermost modules that it called so far.

    Raises:
        RuntimeError: PyTorch's function has another name.
    """

    def __init__(self, root: nn.Module | None) -> None:
        if not hasattr(nn.Module, "_call_impl"):
            raise RuntimeError(
                "this version of PyTorch calls modules in another way (torch.nn.Module._call_impl is gone), so no "
                "attention can be told apart by the module that owns it: please report it, with torch.__version__"
            )
        self.roots: list[nn.Module] = []
        self._is_function = root is None
        self._names: dict[nn.Module, str] = {}
        if root is not None:
            self._add(root)

    def innermost(self) -> str:
        """Name of the innermost of the model's modules that is being called; empty if a function calls none.

        Raises:
            RuntimeError: the model is a module, and yet it is not found among those that are called.
        """
        called = _modules_on_the_stack()
        if self._is_function and called and called[-1] not in self._names:
            self._add(called[-1])
        name = next((self._names[module] for module in called if module in self._names), None)
        if name is None and not self._is_function:
            raise RuntimeError(
                f"an attention ran, but no module of the {type(self.roots[0]).__name__} was found on the stack, so its "
                "layers cannot be told apart; this happens where attention runs in another thread than the model"
            )
        return name or ""

    def _add(self, root: nn.Module) -> None:
        prefix = f"{type(root).__name__}." if self.roots else ""
        self.roots.append(root)
        for name, module in root.named_modules():
            self._names.setdefault(module, f"{prefix}{name}".rstrip("."))


def _modules_on_the_stack() -> list[nn.Module]:
    """The modules that are being called in this thread, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    called = []
    while frame is not None:
        if frame.f_code is nn.Module._call_impl.__code__:
            called.append(frame.f_locals["self"])
        frame = frame.f_back
    return called
