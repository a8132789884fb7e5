"""Could the model attend otherwise and say the same? Adversarial attention, found by optimisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_attn.bench import Data
from captum_attn.controls.control_figures import boxes_by_layer, two_attentions
from captum_attn.controls.control_result import ControlResult
from captum_attn.controls.distances import distance_rows
from captum_attn.controls.observed_examples import LayerAttention, ObservedBatch, ObservedExamples, chosen_heads
from captum_attn.controls.search import Found, SearchSettings, farthest_attention, mean_divergence
from captum_attn.controls.seeds import SeedVariance
from captum_attn.core import Grid, listed_indices
from captum_attn.core.indices import resolve_indices
from captum_attn.drawing import ShownFigure
from captum_attn.functional import total_variation


class ReadoutAttention(NamedTuple):
    """What the readout token of one example attends to; of several, such as pooled ones, their mean.

    Attributes:
        tokens: the n tokens that are no padding.
        layers: the layers that were searched.
        own: (layers, H, n), the model's attention.
        counterfactual: (layers, H, n), the attention that was found.
        grid: how an image is cut into patches; None for text.
    """

    tokens: list[str]
    layers: list[int]
    own: Tensor
    counterfactual: Tensor
    grid: Grid


class Counterfactuals(ControlResult):
    """Attention far from the model's own under which it predicts the same.

    The columns of :meth:`frame`: ``example``; ``layer``, a number or "all"; ``head``, a number or "all";

    - ``divergence``, the mean Jensen-Shannon divergence of the attention found from the model's own (natural logarithm,
      at most ln 2 ≈ .693), over the queries that the prediction depends on, of a layer over its heads, of "all" over
      layers; ``readout``, the same of the readout token's query alone;
    - of layer "all": ``tvd``, the total variation distance of the classes' probabilities, and ``change``, by how much
      that of the predicted class changed; ``found``, whether the divergence reached the threshold, ``tvd`` is at most
      epsilon and the predicted class is the same.

    Attributes:
        settings: how it was searched.
        threshold: of the divergence, from which on an example counts as found.
        data: a fingerprint of the examples.
        readouts: of each example, what its readout token attends to.
    """

    measures = ("divergence", "readout", "tvd", "change", "found")

    def __init__(
        self,
        rows: pd.DataFrame,
        settings: SearchSettings,
        threshold: float,
        data: str,
        readouts: Mapping[int, ReadoutAttention],
    ) -> None:
        super().__init__(rows)
        self.settings, self.threshold, self.data = settings, threshold, data
        self.readouts = [readouts[example] for example in sorted(readouts)]

    @property
    def share_found(self) -> float:
        """The share of examples with attention that far and the same prediction, of those with a choice."""
        return float(self._rows.found.astype(float).mean())

    @property
    def _searched(self) -> int:
        """The number of examples in which some query has keys to choose from."""
        return int(self._rows.found.count())

    @property
    def title(self) -> str:
        return (
            f"Attention at a divergence of {self.threshold:g} or more, probabilities moved by at most "
            f"{self.settings.epsilon:g}: found for {self.share_found:.0%} of {self._searched} examples"
        )

    @property
    def caption(self) -> str:
        return (
            f"Adversarial attention at a mean Jensen-Shannon divergence of at least {self.threshold:g} that moves the "
            f"classes' probabilities by at most {self.settings.epsilon:g}: found for {self.share_found:.1%} of "
            f"{self._searched} examples. Divergence from the model's own attention, of all queries that the prediction "
            "depends on and of the readout token's; mean ± standard error."
        )

    def cautions(self) -> list[str]:
        return [
            "It says that the weights are not the only ones with this output, not that the model could have learned "
            "others: compare it with seed_variance.",
            "Where the prediction is saturated, or any attention would do (uniform_attention tells), it is easily "
            "found.",
        ]

    def compare(self, seeds: SeedVariance) -> pd.DataFrame:
        """The divergence of the attention found beside that of models trained from other seeds, on the same examples.

        Args:
            seeds: what :func:`seed_variance` found on the same data.

        Returns:
            A row for each layer that was searched: ``layer``; ``counterfactual`` and ``seeds``, mean divergences;
            ``difference`` and its ``standard_error``, paired by example; ``farther``, the share of examples in which
            the attention found is farther than any pair of seeds; ``n``. Layer "all" is the mean over layers, there if
            both are of the same layers. Of the seeds, only the heads that were searched count.

        Raises:
            ValueError: other examples.
        """
        if self.data != seeds.data:
            raise ValueError(
                f"seed_variance looked at other examples ({len(seeds)}) than these ({len(self)}): give both the same "
                "data"
            )
        rows = []
        for layer in self._shared_layers(seeds):
            found = _of_layer(self.frame(), layer).set_index("example").divergence.dropna()
            others = _of_layer(self._of_searched_heads(seeds), layer).groupby("example").divergence
            difference = (found - others.mean()).dropna()
            rows.append(
                {
                    "layer": layer,
                    "counterfactual": found.mean(),
                    "seeds": others.mean().mean(),
                    "difference": difference.mean(),
                    "standard_error": difference.sem(),
                    "farther": (found > others.max()[found.index]).mean(),
                    "n": len(difference),
                }
            )
        return pd.DataFrame(rows)

    def plot(self, seeds: SeedVariance | None = None) -> ShownFigure:
        """The divergence of the attention found, by layer.

        Args:
            seeds: what :func:`seed_variance` found, to be shown beside it.

        Returns:
            A matplotlib figure that belongs to no window.
        """
        series = {"counterfactual": self.values_by_layer("divergence")}
        if seeds is not None:
            of_seeds = seeds.values_by_layer("divergence", self._of_searched_heads(seeds))
            series["other seeds"] = {str(layer): of_seeds[str(layer)] for layer in self._shared_layers(seeds)}
        return boxes_by_layer(
            series,
            "Jensen-Shannon divergence",
            self.title,
            "From the model's own attention, of the queries that the prediction depends on. Boxes: quartiles; dots: "
            "means.",
            lines={"threshold": self.threshold, "ln 2, the most": math.log(2)},
        )

    def plot_example(self, example: int, layer: int = -1) -> ShownFigure:
        """What the readout token of one example attends to, in the model and in the attention found.

        Args:
            example: its number in the data.
            layer: one that was searched; negative ones count from the last of these.

        Returns:
            A matplotlib figure that belongs to no window.

        Raises:
            IndexError, ValueError: no such example; a layer that was not searched.
        """
        if not 0 <= example < len(self.readouts):
            raise IndexError(f"there are {len(self.readouts)} examples, got {example}")
        shown = self.readouts[example]
        layer = shown.layers[layer] if -len(shown.layers) <= layer < 0 else layer
        if layer not in shown.layers:
            raise ValueError(f"layer {layer} was not searched: expected one of {shown.layers}")
        place = shown.layers.index(layer)
        row = _of_layer(self._rows, "all").set_index("example").loc[example]
        return two_attentions(
            shown.own[place],
            shown.counterfactual[place],
            shown.tokens,
            shown.grid,
            f"Readout token, layer {layer}: the predicted class's probability changes by {row.change:+.4f}",
            f"Mean Jensen-Shannon divergence of all queries that count {row.divergence:.3f}, of the readout token's "
            f"{row.readout:.3f} (at most .693).",
        )

    def _figures(self) -> list[ShownFigure]:
        found = self._rows[self._rows.found == 1].example
        return [*super()._figures(), *([self.plot_example(int(found.iloc[0]))] if len(found) else [])]

    def _of_searched_heads(self, seeds: SeedVariance) -> pd.DataFrame:
        """The seeds' rows of all heads together, which are those that were searched."""
        frame = seeds.frame()
        if self.settings.heads is None:
            return frame[frame["head"] == "all"]
        searched = frame[frame["head"].isin(set(self._rows["head"]) - {"all"})]
        pair = ["example", "first", "second"]
        layers = searched.groupby([*pair, "layer"], sort=False).divergence.mean().reset_index()
        whole = layers.groupby(pair, sort=False).divergence.mean().reset_index().assign(layer="all")
        return pd.concat([layers, whole], ignore_index=True).assign(head="all")

    def _shared_layers(self, seeds: SeedVariance) -> list[int | str]:
        """The layers that were searched, and "all" if those are all of the seeds'."""
        searched = list(self.settings.layers)
        return [*searched, *(["all"] if searched == seeds.layers else [])]


def counterfactual_attention(
    model: Callable[..., Any],
    data: Data,
    *,
    tokenizer: Any | None = None,
    layers: Sequence[int] | int | None = None,
    heads: Sequence[int] | int | None = None,
    epsilon: float = 0.01,
    threshold: float = 0.2,
    steps: int = 100,
    learning_rate: float = 0.3,
    seed: int = 0,
    batch_size: int = 16,
    max_length: int | None = None,
    show_progress: bool = True,
) -> Counterfactuals:
    """Search for attention as far as possible from the model's own, under which it predicts the same.

    For each example by itself, Adam raises the mean Jensen-Shannon divergence of A' from A, the attention in the
    model's original forward pass, while no event's probability may change by more than ``epsilon``
    (``captum_attn.controls.search.farthest_attention``). Only those queries count, and are changed, on which the
    prediction depends: a gradient reaches them (in the last layer of a model that reads ``[CLS]``, only that one), they
    are no padding, and they have two keys to choose from. Rows that nothing reads could be set at will.

    Args:
        model, data, tokenizer, max_length, show_progress: as in :func:`uniform_attention`.
        layers, heads: where attention is replaced, one or several; negative ones count from the end. Default:
            everywhere. Other layers and heads compute their own attention, which may change too, and does not count.
        epsilon: the largest total variation distance between the classes' probabilities, before and after.
        threshold: the divergence from which on an example counts as found, between 0 and ln 2.
        steps: of Adam; a forward and a backward pass each.
        learning_rate: of Adam, on the logits of the attention.
        seed: of the random start, which does not depend on the batches.
        batch_size: how many inputs are searched at a time. Memory: about 10 tensors (batch, layers, heads, N, N).

    Returns:
        The :class:`Counterfactuals`, with a frame, a table, plots, and what the readout tokens attend to.

    Raises:
        IndexError: a layer or head that the model does not have.
        RuntimeError: weights that were made under ``torch.inference_mode()``.
        TypeError, ValueError: as :func:`uniform_attention`; numbers out of range.

    Example:
        >>> result = counterfactual_attention(model, batch, steps=20, show_progress=False)
        >>> bool(result.frame().tvd.max() <= 0.01)
        True
        >>> result.share_found
        1.0

    Source: Jain and Wallace 2019, *Attention is not Explanation*, section 4.2.2; Wiegreffe and Pinter 2019, *Attention
    is not not Explanation*, for why :func:`seed_variance` belongs beside it.
    """
    _check_numbers(epsilon, threshold, steps, learning_rate)
    rows: list[dict[str, Any]] = []
    readouts: dict[int, ReadoutAttention] = {}
    layers, heads = listed_indices("layers", layers), listed_indices("heads", heads)
    settings = SearchSettings((), heads, epsilon, steps, learning_rate, seed)
    with torch.inference_mode(False):
        examples = ObservedExamples(model, data, tokenizer, batch_size=batch_size, max_length=max_length)
        total = len(examples.batches()) * steps
        with tqdm(total=total, desc="Counterfactual attention", unit="step", disable=not show_progress) as bar:
            for batch in examples.batches():
                observed = examples.observe(batch)
                settings = settings._replace(layers=resolve_indices("layers", layers, observed.layers))
                own = observed.attention()
                found = farthest_attention(observed, own, settings, tick=bar.update)
                rows += _rows(observed, own, found, settings, threshold)
                for place, example in enumerate(batch):
                    readouts[example] = _readout(examples, observed, place, own, found)
    return Counterfactuals(pd.DataFrame(rows), settings, threshold, examples.data.fingerprint(), readouts)


def _rows(
    observed: ObservedBatch, own: Sequence[LayerAttention], found: Found, settings: SearchSettings, threshold: float
) -> list[dict[str, Any]]:
    """The rows of a batch."""
    heads = chosen_heads(settings.heads, observed)
    before, after = observed.whole.probabilities, found.probabilities
    targets = observed.whole.targets
    distance = total_variation(before, after)
    same = (distance <= settings.epsilon) & (after.argmax(-1) == targets)
    far = mean_divergence(own, found.attention, heads) >= threshold
    choice = torch.stack([own[layer].rows.flatten(1).any(-1) for layer in found.attention]).any(0)
    output = {
        "tvd": distance,
        "change": (after - before).gather(1, targets[:, None]).squeeze(1),
        "found": (same & far).double().masked_fill(~choice, torch.nan),
    }
    return distance_rows(observed, own, found.attention, heads.flatten().nonzero().flatten().tolist(), output)


def _readout(
    examples: ObservedExamples, observed: ObservedBatch, place: int, own: Sequence[LayerAttention], found: Found
) -> ReadoutAttention:
    """What the readout token of one example of a batch attends to."""
    real, weights = observed.real[place], observed.readout[place]

    def attended(attention: Tensor) -> Tensor:
        return (weights.to(attention) @ attention[place]).cpu()[:, real.cpu()]

    return ReadoutAttention(
        tokens=examples.token_names(observed, place),
        layers=list(found.attention),
        own=torch.stack([attended(own[layer].probabilities) for layer in found.attention]),
        counterfactual=torch.stack([attended(other) for other in found.attention.values()]),
        grid=observed.whole.grid,
    )


def _of_layer(frame: pd.DataFrame, layer: int | str) -> pd.DataFrame:
    """The rows of a layer, all heads together."""
    return frame[(frame.layer == layer) & (frame["head"] == "all")]


def _check_numbers(epsilon: float, threshold: float, steps: int, learning_rate: float) -> None:
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon is a distance between probabilities: expected one between 0 and 1, got {epsilon}")
    if not 0 < threshold < math.log(2):
        raise ValueError(f"threshold is a divergence: expected one between 0 and ln 2 = .693, got {threshold}")
    if steps < 1 or learning_rate <= 0:
        raise ValueError(f"steps must be at least 1 and learning_rate above 0, got {steps} and {learning_rate}")
