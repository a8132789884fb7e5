"""How far apart is the attention of models that were trained alike but for the seed?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from captum_attn.bench import Data
from captum_attn.controls.control_figures import boxes_by_layer
from captum_attn.controls.control_result import ControlResult
from captum_attn.controls.distances import distance_rows
from captum_attn.controls.observed_examples import LayerAttention, ObservedBatch, ObservedExamples
from captum_attn.drawing import ShownFigure
from captum_attn.functional import total_variation


class SeedVariance(ControlResult):
    """How far apart models are in attention and output.

    The columns of :meth:`frame`: ``example``; ``first`` and ``second``, the pair of models; ``layer``, a number or
    "all"; ``head``, a number or "all";

    - ``divergence``, the mean Jensen-Shannon divergence between both models' attention (natural logarithm, at most ln 2
      ≈ .693), over the queries that the prediction depends on, of a layer over its heads, of "all" over layers;
      ``readout``, the same of the readout token's query alone;
    - of layer "all": ``tvd``, the total variation distance of the classes' probabilities, and ``changed``, whether the
      models predict different classes.

    Args:
        rows: what :meth:`frame` returns.
        layers: the numbers of the models' layers.
        models: their names.
        data: a fingerprint of the examples.
    """

    measures = ("divergence", "readout", "tvd", "changed")

    def __init__(self, rows: pd.DataFrame, layers: Sequence[int], models: Sequence[str], data: str) -> None:
        super().__init__(rows)
        self.layers, self.models, self.data = list(layers), list(models), data

    @property
    def title(self) -> str:
        return f"Attention of {len(self.models)} models trained alike, {len(self)} examples"

    @property
    def caption(self) -> str:
        return (
            f"Jensen-Shannon divergence between the attention of {len(self.models)} models trained alike, of all "
            "queries that the prediction depends on and of the readout token's; means of all pairs, ± standard error "
            f"over {len(self)} examples."
        )

    def cautions(self) -> list[str]:
        return [
            "Heads are compared by number, which is more than chance only where models started from the same weights; "
            "what they share of these was not put to the test.",
            "Adversarial attention that is no farther than this says little.",
        ]

    def plot(self) -> ShownFigure:
        """The divergence between the models' attention by layer.

        Returns:
            A matplotlib figure that belongs to no window.
        """
        return boxes_by_layer(
            {"other seeds": self.values_by_layer("divergence")},
            "Jensen-Shannon divergence",
            self.title,
            "Of the queries that the prediction depends on; means of all pairs. Boxes: quartiles; dots: means.",
        )


def seed_variance(
    models: Sequence[Callable[..., Any]] | Mapping[str, Callable[..., Any]],
    data: Data,
    *,
    tokenizer: Any | None = None,
    batch_size: int = 16,
    max_length: int | None = None,
    show_progress: bool = True,
) -> SeedVariance:
    """Compare the attention of models that were trained alike but for the seed, on the same examples.

    The control of :func:`counterfactual_attention`, by the same divergence over the same queries: attention that
    training might have found as well.

    Args:
        models: at least two classifiers of one architecture that read the same tokens; a mapping names them.
        data, tokenizer, max_length, show_progress: as in :func:`uniform_attention`.
        batch_size: how many inputs a model sees at a time. All models' attention of a batch is kept.

    Returns:
        The :class:`SeedVariance`, with a frame, a table and plots.

    Raises:
        TypeError, ValueError: as :func:`uniform_attention`; fewer than two models, or models of different layers, heads
            or classes.

    Example:
        >>> from copy import deepcopy
        >>> with torch.random.fork_rng():
        ...     other = deepcopy(model)
        ...     for weight in other.bert.encoder.layer[-1].parameters():
        ...         weight.data += 0.1 * torch.randn_like(weight)
        >>> result = seed_variance([model, other], batch, show_progress=False)
        >>> result.table().query("measure == 'divergence' and head == 'all'").set_index("layer")["mean"].gt(0).to_dict()
        {0: False, 1: False, 2: False, 3: True, 'all': True}

    Source: Wiegreffe and Pinter 2019, *Attention is not not Explanation*, section 3.3.
    """
    if not isinstance(models, Mapping | Sequence) or isinstance(models, str):
        raise TypeError(f"models must be a sequence or a mapping of models, got {type(models).__name__}")
    named = models if isinstance(models, Mapping) else {str(number): model for number, model in enumerate(models)}
    if len(named) < 2:
        raise ValueError(f"models must be at least two, trained from different seeds, got {len(named)}")
    rows: list[dict[str, Any]] = []
    layers, given = 0, list(data) if isinstance(data, Iterator) else data
    with torch.inference_mode(False):
        of_models = {
            name: ObservedExamples(model, given, tokenizer, batch_size=batch_size, max_length=max_length)
            for name, model in named.items()
        }
        first_model = next(iter(of_models.values()))
        batches = first_model.batches()
        total = len(batches) * len(of_models)
        with tqdm(total=total, desc="Seed variance", unit="batch", disable=not show_progress) as bar:
            for batch in batches:
                seen = {}
                for name, examples in of_models.items():
                    observed = examples.observe(batch)
                    seen[name] = observed, observed.attention()
                    bar.update()
                _check_alike({name: observed for name, (observed, _) in seen.items()})
                layers = len(next(iter(seen.values()))[1])
                for first, second in combinations(seen, 2):
                    pair = {"first": first, "second": second}
                    rows += [{**row, **pair} for row in _compared(*seen[first], *seen[second])]
    return SeedVariance(pd.DataFrame(rows), range(layers), list(named), first_model.data.fingerprint())


def _compared(
    first: ObservedBatch, own: Sequence[LayerAttention], second: ObservedBatch, others: Sequence[LayerAttention]
) -> list[dict[str, Any]]:
    """The rows of a batch and a pair of models; the queries that count are the first one's."""
    before = first.whole.probabilities
    after = second.whole.probabilities.to(before)
    output = {"tvd": total_variation(before, after), "changed": before.argmax(-1) != after.argmax(-1)}
    attention = {layer: other.probabilities for layer, other in enumerate(others)}
    return distance_rows(first, own, attention, range(first.heads), output)


def _check_alike(seen: Mapping[str, ObservedBatch]) -> None:
    shapes = {
        name: (observed.layers, observed.heads, *observed.real.shape[1:], *observed.whole.probabilities.shape[1:])
        for name, observed in seen.items()
    }
    if len(set(shapes.values())) > 1:
        raise ValueError(
            "the models must have one architecture and read the same tokens, got these numbers of layers, heads, "
            f"tokens and classes: {shapes}"
        )
