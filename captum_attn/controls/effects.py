"""What becomes of the prediction when the attention of layers or heads is replaced by a rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_attn.bench import check_label
from captum_attn.controls.control_figures import boxes_by_layer
from captum_attn.controls.control_result import ControlResult
from captum_attn.controls.observed_examples import ObservedBatch, ObservedExamples, chosen_heads, open_keys
from captum_attn.core.observers import Per
from captum_attn.drawing import ShownFigure
from captum_attn.functional import jensen_shannon, total_variation

Rule = Callable[[Tensor, Tensor], Tensor]
"""A function of A (B, H, N, N) and the keys that queries may attend to, bool (B, 1 or H, N, N), that returns A'.
Queries without keys are padding, and keep A."""


class AttentionEffects(ControlResult):
    """What replaced attention does to the prediction.

    The columns of :meth:`frame`: ``example``; ``layer``, a number or "all"; ``head``, a number or "all";

    - ``tvd``, the total variation distance of the classes' probabilities from those of the model as it is, and
      ``divergence``, their Jensen-Shannon divergence (natural logarithm); of several permutations, the medians;
    - ``changed``, whether another class is predicted; of several permutations, the share;
    - ``correct``, whether the label is predicted, where there are labels; then there are rows of layer "none", too: the
      model as it is.

    Args:
        rows: what :meth:`frame` returns.
        rule: what was done to the attention, in words.
    """

    measures = ("tvd", "divergence", "changed", "correct")

    def __init__(self, rows: pd.DataFrame, rule: str) -> None:
        super().__init__(rows)
        self.rule = rule

    @property
    def title(self) -> str:
        return f"Attention {self.rule}, {len(self)} examples"

    @property
    def caption(self) -> str:
        return (
            f"Attention {self.rule}, in a model that was not trained so; mean ± standard error over {len(self)} "
            "examples."
        )

    def cautions(self) -> list[str]:
        return [
            "A small effect says that the prediction does not need that attention; a large one that the model uses "
            "it, not that its weights explain the prediction."
        ]

    def plot(self) -> ShownFigure:
        """The total variation distance of the output by layer, and the share of changed predictions above.

        Returns:
            A matplotlib figure that belongs to no window.
        """
        rows = self._rows[self._rows.layer != "none"]
        return boxes_by_layer(
            {"TVD": self.values_by_layer("tvd", rows)},
            "TVD of the output",
            self.title,
            "Above: share of changed predictions. Boxes: quartiles; dots: means.",
            above={layer: f"{shares.mean():.0%}" for layer, shares in self.values_by_layer("changed", rows).items()},
        )


class Place(NamedTuple):
    """Where attention is replaced: in one layer or all of them, and there in one head or all of them."""

    layer: int | str
    head: int | str


def attention_effects(
    examples: ObservedExamples,
    rule_of: Callable[[ObservedBatch], Rule],
    *,
    per: Per,
    draws: int,
    title: str,
    show_progress: bool,
) -> pd.DataFrame:
    """The rows of :class:`AttentionEffects`.

    Args:
        examples: the model and the data.
        rule_of: the rule for a batch, asked ``draws`` times at each place.
        per: ``"layer"``, or ``"head"`` for single heads, too.
        draws: how often a rule draws at random; 1 for one that does not.
        title, show_progress: of the progress bar.

    Raises:
        ValueError: an unknown ``per``.
    """
    if per not in get_args(Per):
        raise ValueError(f"per must be {' or '.join(map(repr, get_args(Per)))}, got {per!r}")
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(examples), desc=title, unit="example", disable=not show_progress) as bar:
        for batch in examples.batches():
            observed = examples.observe(batch)
            rule = rule_of(observed)
            if examples.labels is not None:
                rows += _rows(observed, examples.labels, Place("none", "all"), observed.whole.probabilities[None])
            places = _places(observed, per)
            for number, place in enumerate(places):
                bar.set_postfix_str(f"place {number + 1} of {len(places)}")
                after = torch.stack([_with_rule(observed, rule, place) for _ in range(draws)])
                rows += _rows(observed, examples.labels, place, after)
            bar.update(len(batch))
    return pd.DataFrame(rows)


def _places(observed: ObservedBatch, per: Per) -> list[Place]:
    layers: list[int | str] = [*range(observed.layers), "all"]
    heads = [Place(layer, head) for layer in range(observed.layers) for head in range(observed.heads)]
    return [*(Place(layer, "all") for layer in layers), *(heads if per == "head" else [])]


def _with_rule(observed: ObservedBatch, rule: Rule, place: Place) -> Tensor:
    """What the model says (B, C) when the attention of a place follows a rule."""
    heads = chosen_heads([place.head] if isinstance(place.head, int) else None, observed)
    layers = [place.layer] if isinstance(place.layer, int) else range(observed.layers)

    def replace(_: int, attention: Tensor, allowed: Tensor) -> Tensor:
        return torch.where(heads, rule(attention, open_keys(allowed, observed.real)), attention)

    return observed.probabilities(replace, layers)


def _rows(observed: ObservedBatch, labels: list[int] | None, place: Place, after: Tensor) -> list[dict[str, Any]]:
    """A row for each example of a batch, from probabilities (draws, B, C)."""
    before = observed.whole.probabilities.expand_as(after)
    columns = {
        "tvd": total_variation(before, after).quantile(0.5, dim=0),
        "divergence": jensen_shannon(before, after).quantile(0.5, dim=0),
        "changed": (before.argmax(-1) != after.argmax(-1)).double().mean(0),
    }
    if labels is not None:
        for example in observed.examples:
            check_label(labels[example], example, after.shape[-1])
        gold = torch.tensor([labels[example] for example in observed.examples], device=after.device)
        columns["correct"] = (after.argmax(-1) == gold).double().mean(0)
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {"example": example, **place._asdict(), **dict(zip(columns, row, strict=True))}
        for example, row in zip(observed.examples, values, strict=True)
    ]
