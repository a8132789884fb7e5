"""Explanations to evaluate, however they are given: a score for each token, checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_attn.bench.masked_model import WholeInputs
from captum_attn.core import Grid, known_grid, seeded
from captum_attn.core.inputs import COMPANION_NAMES
from captum_attn.core.patches import at_patches, feature_sums

Scorer = Callable[[Mapping[str, Any], Tensor], Tensor]
"""A function of a batch and its targets int64 (B,) that returns attributions."""


class TokenValues(Protocol):
    """What attributions of tokens return: values float (B, N), and possibly more."""

    @property
    def values(self) -> Tensor:
        """Of the tokens."""


@runtime_checkable
class TokenAttribution(Protocol):
    """What explains tokens, as all attributions of this package do."""

    def attribute_tokens(self, inputs: Any, target: Any = None, *, players: Tensor | None = None) -> TokenValues:
        """Explain a batch, a mapping of tensors; ``target`` int64 (B,), ``players`` bool (B, N)."""


class WithArguments:
    """One of captum's attributions with arguments of its own, such as ``n_steps`` and ``baselines``.

    Args:
        attribution: of token ids or pixels.
        arguments: of its ``attribute``. ``baselines`` and ``feature_mask`` may be functions, which are called with the
            features of each batch, to make what must have their shape.

    Raises:
        TypeError: what is no attribution of captum's; arguments that it does not take, or that are not for here.

    Example:
        >>> from captum.attr import LayerIntegratedGradients
        >>> def logits(input_ids, attention_mask):
        ...     return model(input_ids=input_ids, attention_mask=attention_mask).logits
        >>> integrated = LayerIntegratedGradients(logits, model.get_input_embeddings())
        >>> method = WithArguments(
        ...     integrated, n_steps=8, baselines=lambda ids: torch.full_like(ids, tokenizer.mask_token_id)
        ... )
        >>> from captum_attn.metrics import evaluate
        >>> texts = ["a gripping film", "not good at all"]
        >>> evaluate(model, texts, {"integrated": method}, tokenizer=tokenizer, show_progress=False)
        Evaluation(2 examples, methods: integrated, random)
    """

    def __init__(self, attribution: Attribution, **arguments: Any) -> None:
        if not isinstance(attribution, Attribution) or isinstance(attribution, TokenAttribution):
            raise TypeError(f"expected one of captum's attributions, got {type(attribution).__name__}")
        taken = inspect.signature(attribution.attribute).parameters
        wrong = [name for name in arguments if name not in taken or name in _GIVEN]
        if wrong:
            raise TypeError(
                f"{type(attribution).__name__}.attribute does not take {', '.join(wrong)} here, expected some of "
                f"{', '.join(name for name in taken if name not in _GIVEN)}"
            )
        self.attribution, self.arguments = attribution, arguments

    def attribute(self, batch: Mapping[str, Any], whole: WholeInputs) -> Any:
        """What captum's method returns for a batch and the classes predicted."""
        features = whole.inputs.features
        made = {name: self.arguments[name](features.clone()) for name in _MADE if callable(self.arguments.get(name))}
        return self.attribution.attribute(
            features.clone(),
            target=whole.targets,
            additional_forward_args=_companions(self.attribution.forward_func, batch) or None,
            **{**self.arguments, **made},
        )


_MADE = ("baselines", "feature_mask")
_GIVEN = ("inputs", "target", "additional_forward_args", "return_convergence_delta")

Method = TokenAttribution | Attribution | WithArguments | Scorer
"""Ours; one of captum's, with arguments or without; or a function."""

RANDOM = "random"
"""The name of the method that knows nothing, which stands beside all others."""


def token_scores(name: str, method: Any, batch: Mapping[str, Any], whole: WholeInputs) -> Tensor:
    """Scores float (B, N) of the tokens of a batch, of a method's attributions.

    Attributions may be (B, N), (B, N, D), which are summed over D, or, of images, (B, C, h, w), summed over each patch.

    Raises:
        TypeError, ValueError: attributions of another shape, or with NaN. The message names the method.
    """
    try:
        given = _attributions(method, batch, whole)
    except Exception as error:
        error.add_note(f"This happened in method {name!r}.")
        raise
    given = given[0] if isinstance(given, tuple) and len(given) == 1 else given
    given = torch.as_tensor(given) if isinstance(given, np.ndarray) else given
    if not isinstance(given, Tensor):
        raise TypeError(f"method {name!r} returned {type(given).__name__}, expected a tensor of attributions")
    players, scores = whole.players, given.detach()
    features = whole.inputs.features.shape
    of_entries = scores.shape == features or (scores.dim() > 2 and scores.shape[2:] == features[2:])
    if whole.grid is not None and of_entries and scores.shape != players.shape:
        scores = patch_scores(scores, whole.grid, players.shape[1])
    elif scores.dim() == 3:
        scores = scores.sum(-1)
    if scores.shape != players.shape:
        expected = "the input's own shape" if whole.grid is not None else "(B, N, D)"
        raise ValueError(
            f"method {name!r} returned attributions of the shape {tuple(given.shape)}, expected one score for each "
            f"token, (B, N) = {tuple(players.shape)}, or {expected} for {tuple(whole.inputs.features.shape)} inputs"
        )
    scores = scores.to(players.device)
    if (scores.isnan() & players).any():
        examples = (scores.isnan() & players).any(-1).nonzero().flatten().tolist()
        raise ValueError(f"method {name!r} returned NaN for the examples {examples} of its batch")
    return scores


def patch_scores(attributions: Tensor, grid: Grid, length: int) -> Tensor:
    """Attributions of pixels (B, C, h, w), summed over each patch, as scores of the tokens (B, N)."""
    return at_patches(feature_sums(attributions, grid), known_grid(grid), length)


def random_scores(rows: Sequence[int], players: Tensor, seed: int) -> Tensor:
    """Scores (B, N) of the players that depend on the seed and the example alone, not on its batch."""
    scores = torch.zeros(players.shape, dtype=torch.float32)  # whatever the default dtype is now
    for place, row in enumerate(rows):
        count = int(players[place].sum())
        scores[place, players[place].cpu()] = torch.rand(count, generator=seeded(seed, row), dtype=torch.float32)
    return scores.to(players.device)


def check_methods(methods: Mapping[str, Any]) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless these are names and methods."""
    if not isinstance(methods, Mapping):
        raise TypeError(f"methods must map names to attributions, got {type(methods).__name__}")
    for name, method in methods.items():
        if name == RANDOM:
            raise ValueError(f"the name {RANDOM!r} is taken by random scores, which are always evaluated")
        if isinstance(method, type):
            raise TypeError(f"method {name!r} is the class {method.__name__}, expected an instance of it")
        known = isinstance(method, TokenAttribution | Attribution | WithArguments) or callable(method)
        if not isinstance(name, str) or not known:
            raise TypeError(
                f"method {name!r} is {method!r:.80}, expected an object with attribute_tokens, an Attribution of "
                "captum's (WithArguments gives it arguments), or a function of a batch and its targets"
            )


def _attributions(method: Any, batch: Mapping[str, Any], whole: WholeInputs) -> Any:
    batch = {key: value.clone() if isinstance(value, Tensor) else value for key, value in batch.items()}
    if isinstance(method, TokenAttribution):
        return method.attribute_tokens(batch, target=whole.targets.clone(), players=whole.players.clone()).values
    if isinstance(method, Attribution):
        method = WithArguments(method)
    if isinstance(method, WithArguments):
        return method.attribute(batch, whole)
    return method(batch, whole.targets.clone())


def _companions(function: Any, batch: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a function takes after the features: by its arguments' names; one of another name, the first that is left.

    Raises:
        ValueError: padding that the function is not told of, or several arguments of other names.
    """
    forward = function.forward if isinstance(function, nn.Module) else function
    left = {name: batch[name] for name in COMPANION_NAMES if name in batch}
    taken: dict[str, Any] = {}
    strange = []
    for parameter in [*inspect.signature(forward).parameters.values()][1:]:
        positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        optional = parameter.default is not parameter.empty and parameter.name not in left
        if not positional or optional or not left:
            break
        name = parameter.name if parameter.name in left else next(iter(left))
        strange += [parameter.name] * (name != parameter.name)
        taken[name] = left.pop(name)
    if len(strange) > 1:
        raise ValueError(
            f"captum passes arguments by place, and nothing says which {', '.join(strange)} are: name them as the "
            f"model does, some of {', '.join(COMPANION_NAMES)}"
        )
    mask = left.get("attention_mask")
    if isinstance(mask, Tensor) and not mask.all():
        raise ValueError(
            "the texts are padded, and the function is not told where: captum passes arguments by place, so write "
            "f(input_ids, attention_mask), without others before the mask; or explain one at a time, batch_size=1"
        )
    return tuple(taken.values())
