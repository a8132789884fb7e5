"""A page to explore: from whom each token takes and to whom it gives, by layer, head, sign and class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import Any

import torch
from torch import Tensor

from captum_attn.bench import check_methods
from captum_attn.core import InfluenceObserver, ModelInputs, NoMatrixError, Target, Watched, observed_forward
from captum_attn.core.observers import Per, Variant
from captum_attn.core.propagation import Propagation
from captum_attn.methods import (
    AttentionAttribution,
    Explained,
    IntegratedAttnLRP,
    OnePassAttribution,
    ShapleyAttention,
    ShapleyGradAttention,
    influence_of,
)
from captum_attn.pages import Influences, Scored, Shown, page
from captum_attn.shown_inputs import ShownInput, by_word
from captum_attn.token_attributions import TokenAttributions

_MOST_NUMBERS = 8_000_000  # of matrices on a page, two bytes each
_SIGNED, _RAISING, _ATTENTION = "signed influence", "only what raises", "attention alone"


def explore(
    model: Callable[..., Any],
    inputs: Any,
    methods: Mapping[str, AttentionAttribution] | None = None,
    *,
    tokenizer: Any | None = None,
    processor: Any | None = None,
    targets: Sequence[Target] | int = 3,
    propagation: str | Propagation = "attnlrp",
    words: bool = True,
    show_progress: bool = False,
) -> Exploration:
    """Explain inputs by several methods, and look into the attention behind them.

    Args:
        model: as of :class:`captum_attn.AttentionAttribution`.
        inputs: in any form that methods take: a text, an image, several, tensors.
        methods: by name, what is shown side by side. Default: relevance (:class:`captum_attn.IntegratedAttnLRP`) and
            the attention game (:class:`captum_attn.ShapleyGradAttention`) under the same rules.
        tokenizer, processor: read inputs and name tokens.
        targets: classes to choose from on the page, in any form of a target; or how many of the most probable ones.
        propagation: how gradients go down the model, in influence and the game: under rules, or ``"gradient"``.
        words: whether the pieces of a word are one token.
        show_progress: whether to show progress bars.

    Returns:
        What :meth:`Exploration.to_html` writes, and a notebook shows. It holds matrices of each layer and head where
        they fit on a page (8 million numbers), else of each layer, else their mean, if
        that fits.

    Raises:
        TypeError, ValueError: as of the methods.

    Example:
        >>> found = explore(model, "a slow start , but a moving end", tokenizer=tokenizer)
        >>> found
        Exploration(1 input, methods: IntegratedAttnLRP, attention game)
        >>> path = found.to_html("explored.html")
    """
    common: dict[str, Any] = {"tokenizer": tokenizer, "processor": processor}
    if methods is None:
        rules = "attnlrp" if propagation == "gradient" else propagation  # which relevance takes
        game = ShapleyGradAttention(model, propagation=propagation, **common)
        methods = {"IntegratedAttnLRP": IntegratedAttnLRP(model, propagation=rules, **common), "attention game": game}
    check_methods(methods)
    batch = ShapleyGradAttention(model, **common).model_inputs(inputs, None)
    chosen = list(targets) if not isinstance(targets, int) else _most_probable(model, batch, targets, common)
    found = {name: _explained(method, batch, chosen, show_progress) for name, method in methods.items()}
    chosen = [[tuple(row) for row in result.targets.tolist()] for result in next(iter(found.values()))]
    try:
        influences = _influences(model, batch, chosen, {**common, "propagation": propagation})
    except NoMatrixError as error:
        return Exploration(found, None, str(error), words)
    return Exploration(found, influences, "", words)


@dataclass(frozen=True, eq=False)
class Exploration(Shown):
    """Inputs, explained by several methods, with the attention behind them.

    Attributes:
        results: by method, the attributions of each target.
        influences: by variant, the matrices (B, L, H, N, N) of each target; those of attention alone once. None where
            the model has none.
        why_not: there are none.
        in_words: whether the pieces of a word are one token.
    """

    results: Mapping[str, Sequence[TokenAttributions]]
    influences: Mapping[str, Sequence[Tensor]] | None
    why_not: str
    in_words: bool

    page_height = 1120

    def __repr__(self) -> str:
        count = len(self._first[0])
        return f"Exploration({count} input{'s' * (count > 1)}, methods: {', '.join(self.results)})"

    def page(self) -> str:
        """The page, as HTML that needs nothing from elsewhere."""
        return together({"": self})

    def parts(self, name: str, elements: str) -> tuple[list[str], list[dict[str, Any]]]:
        """What a page shows of it: markup, and views in elements whose names begin alike."""
        parts, views = [f"<p class='note'>{escape(self._how())}</p>"], []
        for example, shown in enumerate(self._first[0].shown):
            title = ": ".join(filter(None, (name, self._first[0].title(example))))
            extra = shown.extra_html(self._first[0].shown_values(example), title)
            parts.append(f"<h2>{escape(title)}</h2>{extra}<div id='{elements}-{example}'></div>")
            views.append(self._view(f"{elements}-{example}", example, shown))
        return parts, views

    @property
    def _first(self) -> Sequence[TokenAttributions]:
        return next(iter(self.results.values()))

    def _how(self) -> str:
        how = "Red raises the explained class, blue lowers it; colours are relative to the strongest token shown."
        if self.influences is None:
            return f"{how} Without influence of tokens on each other: {self.why_not}"
        layers, heads = next(iter(self.influences.values()))[0].shape[1:3]
        averaged = [] if heads > 1 else ["heads"] if layers > 1 else ["layers and heads"]
        kept = "".join(f"; of inputs as long as these, {what} are averaged" for what in averaged)
        return (
            f"{how} Hover over a token, or click it, to see from whom it takes and to whom it gives: attention times "
            f"its gradient{kept}. Arrow keys move, Escape lets go."
        )

    def _view(self, element: str, example: int, shown: ShownInput) -> dict[str, Any]:
        classes = [result.target_name(example) for result in self._first]
        scored, groups, merged = {}, None, shown
        if self.in_words:
            merged, groups = shown.in_words()
        for name, results in self.results.items():
            values = torch.stack([result.shown_values(example) for result in results])
            values = values if groups is None else by_word(values, groups)
            origin = results[0].origin
            scored[name] = Scored(values, origin.what if origin else "", bool((values < 0).any()))
        influence = None
        if self.influences is not None:
            real = self._first[0].real_tokens[example].cpu()
            variants = {
                name: [_of_tokens(matrices[example], real, groups) for matrices in of]
                for name, of in self.influences.items()
            }
            layers = next(iter(variants.values()))[0].shape[0]
            names = [str(layer) for layer in range(layers)] if layers > 1 else ["all"]
            derived = {}
            if _RAISING not in variants and len(merged.pieces) == len(shown.pieces):
                derived = {_RAISING: _SIGNED}
            elif _RAISING not in variants:  # a word raises by what its pieces raise
                raising = [_of_tokens(one[example].relu(), real, groups) for one in self.influences[_SIGNED]]
                variants = {_SIGNED: variants[_SIGNED], _RAISING: raising, _ATTENTION: variants[_ATTENTION]}
            influence = Influences(names, variants, derived)
        return merged.view(element, classes, 0, scored, influence)


def together(explorations: Mapping[str, Exploration]) -> str:
    """Several explorations, as of several models, by name, as one page: HTML that needs nothing from elsewhere."""
    parts, views = ["<h1>What made the model decide</h1>"], []
    for number, (name, exploration) in enumerate(explorations.items()):
        own, shown = exploration.parts(name, f"input-{number}")
        parts += own if own[0] not in parts else own[1:]
        views += shown
    return page("What made the model decide", "\n".join(parts), views)


class _Matrices(OnePassAttribution):
    """Influence of each layer and head, or their means."""

    def __init__(self, model: Callable[..., Any], variant: Variant, kept: _Kept, **common: Any) -> None:
        super().__init__(model, **common)
        self.variant, self.kept = variant, kept

    @property
    def needs_gradients(self) -> bool:
        return self.variant != "attention"

    def observer(self, explained: Explained) -> InfluenceObserver:
        watched = explained.run.watched(None, None)
        return InfluenceObserver(watched, self.variant, per=self.kept.apart(watched))

    def solve(self, explained: Explained, observer: Any) -> Any:
        raise NotImplementedError("matrices are no attributions")

    def of(self, batch: ModelInputs, targets: Sequence[Any]) -> list[Tensor]:
        """Of each target, (B, L, H, N, N)."""
        explain = partial(self._observed, self.observer, influence_of)
        found = self._in_parts(explain, batch, list(targets), None, False)
        return [_five(torch.cat(parts).cpu()) for parts in found]


@dataclass
class _Kept:
    """What is kept apart on a page of B inputs and K targets: it is found at the first look, and stays."""

    inputs: int
    targets: int
    found: list[Per | None] = field(default_factory=list)

    def apart(self, watched: Watched) -> Per | None:
        """``"head"`` and ``"layer"``, if so many numbers fit on a page; None for the mean of all."""
        if not self.found:
            numbers = self.inputs * watched.length * watched.keys * len(watched.layers)
            by_head = numbers * len(watched.heads) * (self.targets + 1)  # signed, and attention
            by_layer = numbers * (2 * self.targets + 1)  # what raises, too
            if by_layer // len(watched.layers) > _MOST_NUMBERS:
                raise NoMatrixError(f"of {self.inputs} × {watched.length} tokens, it is more than a page can hold")
            fits: Per | None = "layer" if by_layer <= _MOST_NUMBERS else None
            self.found = ["head" if by_head <= _MOST_NUMBERS else fits]
        return self.found[0]


def _influences(
    model: Callable[..., Any], batch: ModelInputs, targets: Sequence[Any], common: Mapping[str, Any]
) -> dict[str, list[Tensor]]:
    kept = _Kept(len(batch), len(targets))
    found = {_SIGNED: _Matrices(model, "signed", kept, **common).of(batch, targets)}
    if kept.found != ["head"]:  # the positive part of a mean is not the mean of positive parts
        found[_RAISING] = _Matrices(model, "rectified", kept, **common).of(batch, targets)
    plain = {**common, "propagation": "gradient"}
    return found | {_ATTENTION: _Matrices(model, "attention", kept, **plain).of(batch, targets[:1])}


def _five(matrices: Tensor) -> Tensor:
    """(B, L, H, N, N), whichever of layers and heads were kept apart."""
    while matrices.dim() < 5:
        matrices = matrices.unsqueeze(matrices.dim() - 2)
    return matrices


def _of_tokens(matrices: Tensor, real: Tensor, groups: Tensor | None) -> Tensor:
    """Matrices (L, H, n, n) of an input's tokens, or words: sums over their pieces, as queries and as keys."""
    own = matrices[..., real, :][..., real]
    if groups is None:
        return own
    return by_word(by_word(own, groups).transpose(-1, -2), groups).transpose(-1, -2)


def _explained(method: Any, batch: ModelInputs, targets: Sequence[Any], show_progress: bool) -> list[TokenAttributions]:
    """A result for each target; of a method such as ``MaskTunnel``, one after the other."""
    if isinstance(method, AttentionAttribution):
        return method.attribute_batch(batch, targets, None, show_progress)
    return [method.attribute_tokens(batch.mapping(), target) for target in targets]


def _most_probable(model: Callable[..., Any], batch: ModelInputs, count: int, common: Mapping[str, Any]) -> list[Any]:
    """So many targets, each a class for every example; of outputs that are no scores of classes, what is predicted."""
    with observed_forward(ShapleyAttention(model, **common).forward_func, batch, gradients=False) as run:
        output = run.output
    if output.dim() != 2 or output.shape[1] < 2:
        return [None]
    return list(output.topk(min(count, output.shape[1])).indices.unbind(1))
