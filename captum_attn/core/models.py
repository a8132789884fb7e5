"""What has to be known of a model to run it and to leave it as it was."""

from __future__ import annotations

import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from captum_attn.core.graph_nodes import nodes_between
from captum_attn.core.hashing import add_to_hash
from captum_attn.core.private_names import OPERATOR, attention_implementation, compiled_from, is_compiled

_OPAQUE_IMPLEMENTATION = re.compile(r"flash|flex|paged|/")


def unwrapped(model: Callable[..., Any]) -> Callable[..., Any]:
    """The module inside ``torch.compile`` and data parallel wrappers, or behind ``model.forward``; else the model.

    Raises:
        ValueError: a part inside the model is compiled, traced or exported, where observing it is not possible.
    """
    check_runs_python(model)
    original: Callable[..., Any] = compiled_from(model)
    owner = getattr(model, "__self__", None)
    if isinstance(owner, nn.Module) and getattr(model, "__name__", None) in ("forward", "__call__"):
        return unwrapped(owner)
    if isinstance(original, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(original.module)
    if isinstance(original, nn.Module):
        for name, module in original.named_modules():
            if is_compiled(module):
                raise ValueError(
                    f"part {name or 'model'!r} of the model is compiled in place, so its attention cannot be "
                    "observed. Explain the model from before .compile(), or wrap the whole of it: "
                    "torch.compile(model)"
                )
    return original


def check_runs_python(model: Any) -> None:
    """Raise ``ValueError`` for a model whose attention ``torch.jit`` or ``torch.export`` has taken out of Python."""
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction | torch.ScriptMethod):
        raise ValueError(f"the model is a {type(model).__name__}, {_NO_PYTHON.format('torch.jit traced or scripted')}")
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        part = f"part {name!r} of the model" if name else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            if _ATTENTION_OP.search(str(getattr(module, "inlined_graph", ""))):  # a list of modules has no graph
                raise ValueError(
                    f"{part} is a {type(module).__name__}, {_NO_PYTHON.format('torch.jit traced or scripted')}"
                )
        elif isinstance(module, fx.GraphModule):
            operators = [node.target for node in module.graph.nodes if isinstance(node.target, OPERATOR)]
            if any(_ATTENTION_OP.search(operator.name()) for operator in operators):
                raise ValueError(f"{part} is a {type(module).__name__}, {_NO_PYTHON.format('torch.export exported')}")


def check_model(model: Any) -> None:
    """Raise ``TypeError`` unless it is a module or a function: a pipeline, say, which tokenizes by itself."""
    if not callable(model) or (hasattr(model, "tokenizer") and not isinstance(model, nn.Module)):
        raise TypeError(
            f"model must be a module or a function, got {type(model).__name__}; of a pipeline, give pipeline.model, "
            "and of an object that keeps a tokenizer beside its model, a function: lambda **inputs: ..."
        )


def config_of(model: Callable[..., Any] | None) -> Any | None:
    """The Hugging Face configuration of the model, or of the first part that has one; None if there is none."""
    if not isinstance(model, nn.Module):
        return None
    configs = (getattr(module, "config", None) for module in model.modules())
    return next((config for config in configs if hasattr(config, "model_type")), None)


def text_config(config: Any, decoder: bool = False) -> Any:
    """The part of a configuration that is about text, or the whole where no part is.

    Args:
        config: of a model, or None; it may nest those of an image tower, a language model, an encoder and a decoder.
        decoder: of two models of text, the one that writes, not the one that reads.

    Example:
        >>> from transformers import BertConfig, EncoderDecoderConfig
        >>> both = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(), BertConfig(vocab_size=7))
        >>> text_config(both).vocab_size, text_config(both, decoder=True).vocab_size
        (30522, 7)
    """
    if not hasattr(config, "get_text_config"):
        return config
    encoder = getattr(config, "encoder", None)
    if not decoder and hasattr(encoder, "vocab_size"):
        return encoder
    try:
        return config.get_text_config()
    except ValueError:  # an encoder of text, and a decoder
        return config.get_text_config(decoder=decoder, encoder=not decoder)


def check_observable(config: Any | None) -> None:
    """Raise ``ValueError`` for an attention implementation whose probabilities nothing can see."""
    implementation = attention_implementation(config)
    if implementation is not None and _OPAQUE_IMPLEMENTATION.search(implementation):
        raise ValueError(
            f"the model is set to attn_implementation={implementation!r}, a kernel whose attention cannot be "
            "observed; expected 'sdpa' or 'eager'. Call model.set_attn_implementation('sdpa') first"
        )


def check_differentiable(model: Callable[..., Any]) -> None:
    """Raise ``RuntimeError`` for weights that autograd cannot save, and for layers that gradients cannot pass."""
    if isinstance(model, nn.Module):
        for name, parameter in model.named_parameters():
            if parameter.is_inference():
                raise RuntimeError(
                    f"weight {name!r} was created under torch.inference_mode(), so no gradient can pass it. Load "
                    "the model outside inference mode; explaining it inside is fine"
                )
        if quantized := [name or "model" for name, module in model.named_modules() if _rounds_activations(module)]:
            others = f" and {len(quantized) - _NAMED} others" if len(quantized) > _NAMED else ""
            raise RuntimeError(
                f"the layers {', '.join(map(repr, quantized[:_NAMED]))}{others} are quantized together with what they "
                f"take, so they have no gradients, {_NO_GRADIENT}"
            )


def check_gradients(output: Tensor) -> None:
    """Raise ``RuntimeError`` if a step on the way to the output rounds, or has a kernel without a gradient.

    Autograd gives such a step the gradient zero, or none with a warning, and the others theirs: a wrong sum.
    """
    for node in nodes_between(output):
        if _NO_GRADIENT_NODE.search(node.name()):
            raise RuntimeError(
                f"the model computes its output by a step that has no gradient ({node.name()}), as rounding and many "
                f"kernels for quantized weights have none, {_NO_GRADIENT}"
            )


def _rounds_activations(module: nn.Module) -> bool:
    """Whether a layer computes in integers: PyTorch's quantized ones, and those whose weights torchao made so.

    Embeddings lie below all attention; weights that are dequantized before they are used have right gradients.
    """
    if _QUANTIZED.match(type(module).__module__):
        return not re.search("Embedding|PackedParams", type(module).__name__)
    weights = [weight for weight in module.parameters(recurse=False) if type(weight) is not nn.Parameter]
    return any(getattr(weight, kind, None) is not None for weight in weights for kind in _ROUNDED_INPUTS)


def device_of(model: Callable[..., Any]) -> torch.device:
    """Where the model's first weight is; the CPU for a function or a module without weights."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def parameter_names(model: Callable[..., Any]) -> frozenset[str]:
    """The names of the arguments that the model's forward method takes."""
    return frozenset(_signature(model))


def positional_names(model: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the arguments that the model takes by place, in order."""
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(name for name, parameter in _signature(model).items() if parameter.kind in by_place)


def takes_keyword(model: Callable[..., Any], name: str) -> bool:
    """Whether the model takes an argument of this name, by itself or among any."""
    parameters = _signature(model)
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _signature(model: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments of the function, or of the module's forward method, by name, in order."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT forwards *args, **kwargs
    return inspect.signature(model.forward if isinstance(model, nn.Module) else model).parameters


def fingerprint(model: Callable[..., Any]) -> str | None:
    """What tells a module from others: a hash of weights, buffers, configuration and adapters; None for a function."""
    if not isinstance(model, nn.Module):
        return None
    digest = sha256()
    add_to_hash(digest, {name: part for name, part in model.state_dict().items() if isinstance(part, Tensor)})
    add_to_hash(digest, dict(model.named_buffers()))
    add_to_hash(digest, getattr(config_of(model), "to_json_string", str)())
    if settings := model.extra_repr():
        add_to_hash(digest, settings)
    for name, module in model.named_modules():
        adapters = [
            getattr(module, part, None) for part in ("active_adapters", "disable_adapters", "scaling")
        ]  # PEFT's
        if adapters[:2] != [None, None]:
            add_to_hash(digest, (name, adapters))
    return digest.hexdigest()


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


@contextmanager
def compiled_functions_uncompiled() -> Iterator[None]:
    """Run functions that ``torch.compile`` decorates as they are written: compiled, they would take our mode in.

    The switch is PyTorch's for all threads, so that the last one to leave puts it back.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled
        yield
        return
    with _lock:
        if not _uncompiled:
            _uncompiled.append(torch.compiler.set_stance("force_eager"))
        _uncompiled.append(None)
    try:
        yield
    finally:
        with _lock:
            _uncompiled.pop()
            if len(_uncompiled) == 1:
                _uncompiled.pop().__exit__(None, None, None)


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


_NO_PYTHON = (
    "{}, whose attention runs outside of Python and cannot be observed. Explain the module that it was made from"
)
_ATTENTION_OP = re.compile(r"aten::_?(safe_)?softmax|aten::\w*(attention|multi_head|transformer)")
_QUANTIZED = re.compile(r"torch\.(ao\.)?nn\.(intrinsic\.)?(sparse\.)?quantized\.(?!reference)")
_ROUNDED_INPUTS = ("act_quant_kwargs", "activation_quantization", "input_quant_func")
_NO_GRADIENT_NODE = re.compile(r"NotImplemented|^Round")
_NO_GRADIENT = (
    "and a map from gradients would be wrong. Explain the model from before, or one whose weights alone are quantized; "
    "methods that need attention alone (RawAttention, AttentionRollout, ShapleyAttention) take this one"
)
_NAMED = 5
_lock = threading.Lock()
_uncompiled: list[Any] = []  # the switch, and an entry for each who is inside
_evaluated: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # how often each module is inside
