"""Where the relevance of a score goes: to the input, and to all that a model adds of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from captum_attn.core import ModelInputs, observed_forward
from captum_attn.core.function_arguments import tensors_in
from captum_attn.core.propagation import Propagation
from captum_attn.core.propagation.dependents import Dependents

_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}
_CASTS = {Tensor.float: [torch.float32], Tensor.to: [], Tensor.type: []}
_PLAIN = {"exp", "softplus", "expm1", "log", "sigmoid", "std", "log_sigmoid", "logsigmoid", "sqrt", "rsqrt"}
_ACCESS = {Tensor.grad_fn.__get__, Tensor.grad.__get__}
_QUOTIENTS = {torch.div, torch.true_divide, Tensor.div, Tensor.__truediv__}


class Ledger(TorchFunctionMode):
    """What a model's functions were called with, by the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.dependents = Dependents()
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], list[tuple[Tensor, Any]]]] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            func in _CASTS
            and args[0].dtype == torch.float64
            and torch.float32 in (*args, *kwargs.values(), *_CASTS[func])
        ):
            return args[0]  # which would round
        in_place = func.__name__.endswith("_") and not func.__name__.endswith("__")
        kept = tuple(a.clone() if in_place and isinstance(a, Tensor) else a for a in args)
        result = func(*args, **kwargs)
        parts = [part for part in tensors_in([result]) if self.dependents.depends(part)]
        if parts and func not in _ACCESS:
            self.calls.append((func, kept, kwargs, [(part, get_gradient_edge(part)) for part in parts]))
        return result


def accounts(
    model: Callable[..., Any], inputs: ModelInputs, target: Any, propagation: Propagation
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, the sum of the explained scores, what of it the input got, and what all else absorbed.

    Absorbed is what each function returns without the input, such as a bias, times its gradient; and what softmax does
    not hand on.
    """
    ledger = Ledger()

    def recorded(*args: Any, **kwargs: Any) -> Any:
        with ledger:
            return model(*args, **kwargs)

    with observed_forward(recorded, inputs, propagation=propagation) as run:
        score = run.output[(slice(None), *target)].sum()
        entrances = [entrance.state for entrance in run.entrances]
        results = [edge for *_, parts in ledger.calls for _, edge in parts]
        every = torch.autograd.grad(score, [*entrances, *results], allow_unused=True)
    of_input = sum(_inner(state, gradient) for state, gradient in zip(entrances, every, strict=False))
    gradients, absorbed = iter(every[len(entrances) :]), torch.zeros((), dtype=torch.float64)
    for func, args, kwargs, parts in ledger.calls:
        own = [next(gradients) for _ in parts]
        made_by = parts[0][1].node
        if func is F.scaled_dot_product_attention:
            absorbed += _by_attention(own[0], propagation, *args, **kwargs)
        elif func in _SOFTMAX:
            constant = propagation.constant_attention and made_by.name() == "_ObservedSoftmaxBackward"
            dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
            absorbed += 0.0 if constant else _by_softmax(args[0], own[0], dim)
        elif _comes_in(made_by, entrances):
            continue
        elif func.__name__ in _PLAIN:
            absorbed += _by_plain_gradient(func, args, kwargs, own[0])
        elif any(gradient is not None for gradient in own):
            named = dict(zip(kwargs, _without_input(func, tuple(kwargs.values())), strict=True))
            without = func(*_without_input(func, args), **named)
            constants = without if isinstance(without, list | tuple) else [without]
            absorbed += sum(_inner(one, gradient) for one, gradient in zip(constants, own, strict=False))
    return run.output.detach(), score.detach(), of_input, absorbed


def _comes_in(made_by: Any, entrances: list[Tensor]) -> bool:
    """Whether it is what a model looked up of the explained input, a copy of an entrance's state."""
    below = [node for node, _ in made_by.next_functions]
    return made_by.name() == "CloneBackward0" and any(state.grad_fn in below for state in entrances)


def _by_plain_gradient(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], gradient: Tensor | None) -> Tensor:
    """R(y) − R(x) of a function without a rule."""
    if gradient is None:
        return torch.zeros((), dtype=torch.float64)
    input = args[0].detach().requires_grad_()
    output = func(input, *args[1:], **kwargs)
    (own,) = torch.autograd.grad(output, input, gradient)
    return _inner(output, gradient) - _inner(input, own)


def _by_softmax(scores: Tensor, gradient: Tensor | None, dim: int) -> Tensor:
    """R(A) − R(S), by the first-order term of softmax."""
    if gradient is None:
        return torch.zeros((), dtype=torch.float64)
    scores = scores.detach().double()
    probabilities = scores.softmax(dim)
    through = probabilities * (gradient - (probabilities * gradient).sum(dim, keepdim=True))
    return _inner(probabilities, gradient) - _inner(scores, through)


def _by_attention(
    gradient: Tensor | None,
    propagation: Propagation,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What fused attention does not hand on, in eager code: by softmax, and by what is added to the scores."""
    if gradient is None or propagation.constant_attention:
        return torch.zeros((), dtype=torch.float64)
    query, key, value, gradient = (t.detach().double() for t in (query, key, value, gradient))
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    products = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scores = products
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask.detach().double()
    probabilities = scores.softmax(-1).nan_to_num()
    of_attention = 0.5 * gradient @ value.mT
    through = probabilities * (of_attention - (probabilities * of_attention).sum(-1, keepdim=True))
    handed_on = 0.5 * _inner(probabilities @ value, gradient) + _inner(products, through)
    if attn_mask is not None and _follows(attn_mask):  # a bias of the scores that depends on the input
        handed_on += _inner(attn_mask.double(), through.sum_to_size(attn_mask.shape))
    return _inner(probabilities @ value, gradient) - handed_on


def _without_input(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with zeros in place of what depends on the input; of a quotient, of what is divided alone."""

    def zero(argument: Any, place: int = 0) -> Any:
        if isinstance(argument, list | tuple):
            return type(argument)(zero(one) for one in argument)
        if func in _QUOTIENTS and place:
            return argument
        return torch.zeros_like(argument) if _follows(argument) else argument

    return tuple(zero(argument, place) for place, argument in enumerate(args))


def _inner(state: Tensor, gradient: Tensor | None) -> Tensor:
    """⟨state, gradient⟩, where the gradient is not 0: a score may be −∞ there."""
    if gradient is None or not isinstance(state, Tensor):
        return torch.zeros((), dtype=torch.float64)
    product = state.detach().double() * gradient.double()
    return torch.where(gradient.expand(product.shape) == 0, 0.0, product).sum()


def _follows(value: Any) -> bool:
    """Whether it depends on an input of the model; weights do not, even if they are in the graph."""
    return Dependents().depends(value)
