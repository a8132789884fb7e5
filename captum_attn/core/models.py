"""What has to be known of a model to run it and to leave it as it was."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from captum_attn.core.hashing import add_to_hash

_OPAQUE_IMPLEMENTATION = re.compile(r"flash|flex|paged|/")


def unwrapped(model: Callable[..., Any]) -> Callable[..., Any]:
    """The module inside ``torch.compile`` and data parallel wrappers, or behind ``model.forward``; else the model.

    Raises:
        ValueError: a part inside the model is compiled, where observing it is not possible.
    """
    original = getattr(model, "_orig_mod", model)
    owner = getattr(model, "__self__", None)
    if isinstance(owner, nn.Module) and getattr(model, "__name__", None) in ("forward", "__call__"):
        return unwrapped(owner)
    if isinstance(original, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(original.module)
    if isinstance(original, nn.Module):
        for name, module in original.named_modules():
            if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
                raise ValueError(
                    f"part {name or 'model'!r} of the model is compiled in place, so its attention cannot be "
                    "observed. Explain the model from before .compile(), or wrap the whole of it: "
                    "torch.compile(model)"
                )
    return original


def check_model(model: Any) -> None:
    """Raise ``TypeError`` unless it is a module or a function."""
    if not callable(model) or hasattr(model, "tokenizer"):
        raise TypeError(
            f"model must be a module or a function, got {type(model).__name__}; of a pipeline, give pipeline.model"
        )


def config_of(model: Callable[..., Any] | None) -> Any | None:
    """The Hugging Face configuration of the model, or of the first part that has one; None if there is none."""
    if not isinstance(model, nn.Module):
        return None
    configs = (getattr(module, "config", None) for module in model.modules())
    return next((config for config in configs if hasattr(config, "model_type")), None)


def check_observable(config: Any | None) -> None:
    """Raise ``ValueError`` for an attention implementation whose probabilities nothing can see."""
    implementation = getattr(config, "_attn_implementation", None)
    if implementation is not None and _OPAQUE_IMPLEMENTATION.search(implementation):
        raise ValueError(
            f"the model is set to attn_implementation={implementation!r}, a kernel whose attention cannot be "
            "observed; expected 'sdpa' or 'eager'. Call model.set_attn_implementation('sdpa') first"
        )


def check_differentiable(model: Callable[..., Any]) -> None:
    """Raise ``RuntimeError`` for weights that autograd cannot save."""
    if isinstance(model, nn.Module):
        for name, parameter in model.named_parameters():
            if parameter.is_inference():
                raise RuntimeError(
                    f"weight {name!r} was created under torch.inference_mode(), so no gradient can pass it. Load "
                    "the model outside inference mode; explaining it inside is fine"
                )


def device_of(model: Callable[..., Any]) -> torch.device:
    """Where the model's first weight is; the CPU for a function or a module without weights."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def parameter_names(model: Callable[..., Any]) -> frozenset[str]:
    """The names of the arguments that the model's forward method takes."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT forwards *args, **kwargs
    forward = model.forward if isinstance(model, nn.Module) else model
    return frozenset(inspect.signature(forward).parameters)


def takes_keyword(model: Callable[..., Any], name: str) -> bool:
    """Whether the model takes an argument of this name, by itself or among any."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    forward = model.forward if isinstance(model, nn.Module) else model
    parameters = inspect.signature(forward).parameters
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def fingerprint(model: Callable[..., Any]) -> str | None:
    """What tells a module from others: a hash of weights, buffers, configuration and adapters; None for a function."""
    if not isinstance(model, nn.Module):
        return None
    digest = sha256()
    add_to_hash(digest, {name: part for name, part in model.state_dict().items() if isinstance(part, Tensor)})
    add_to_hash(digest, dict(model.named_buffers()))
    add_to_hash(digest, getattr(config_of(model), "to_json_string", str)())
    for name, module in model.named_modules():
        adapters = [
            getattr(module, part, None) for part in ("active_adapters", "disable_adapters", "scaling")
        ]  # PEFT's
        if adapters[:2] != [None, None]:
            add_to_hash(digest, (name, adapters))
    return digest.hexdigest()


def output_tensor(output: Any) -> Tensor:
    """The scores in a model's output: logits, start and end logits stacked (B, N, 2), hidden states, or itself.

    Raises:
        TypeError: there is no tensor of scores in the output.
    """
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if hasattr(output, "start_logits") and hasattr(output, "end_logits"):
        return torch.stack((output.start_logits, output.end_logits), dim=-1)
    if isinstance(getattr(output, "last_hidden_state", None), Tensor):
        hidden: Tensor = output.last_hidden_state
        return hidden
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        return output[0]
    raise TypeError(
        f"the model returned {type(output).__name__}, in which there are no scores to explain: expected a tensor, "
        "a tuple that starts with one, or an output with .logits. Give the model a classification head"
    )


@contextmanager
def evaluation_mode(model: Callable[..., Any]) -> Iterator[None]:
    """Switch every module to eval mode and each one back afterwards. Threads may share modules inside."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    with _lock:
        switched = [module for module in modules if module.training or module in _evaluated]
        for module in switched:
            _evaluated[module] = _evaluated.get(module, 0) + 1
            module.training = False
    try:
        yield
    finally:
        with _lock:
            for module in switched:
                _evaluated[module] -= 1
                if not _evaluated[module]:
                    del _evaluated[module]
                    module.training = True


def check_evaluated(root: nn.Module | None) -> None:
    """Raise ``ValueError`` if the module that a function called is in training mode, where dropout is on."""
    if root is not None and any(module.training for module in root.modules()):
        raise ValueError(
            f"the function calls a {type(root).__name__} in training mode: call .eval() on it first, or give the "
            "module itself, which is then explained in eval mode"
        )


def same_random_state(example: Tensor) -> AbstractContextManager[None]:
    """A context that puts the random state back: some models draw numbers even in eval mode."""
    return torch.random.fork_rng([example.device] if example.is_cuda else [])


_lock = threading.Lock()
_evaluated: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # how often each module is inside
