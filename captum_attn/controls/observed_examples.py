"""What the controls know of each batch: the prediction, the tokens, and the attention that can be replaced."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_attn.bench import Data, MaskedModel, WholeInputs, checked_labels, examples_of
from captum_attn.core import Replacement, config_of, mapping_inputs, observed_forward
from captum_attn.core.indices import resolve_indices
from captum_attn.core.replacement import Replace, replaced_output, replacement_calls
from captum_attn.functional import mean_jensen_shannon


class LayerAttention(NamedTuple):
    """The attention of one layer, and what of it can be another.

    Attributes:
        probabilities: A (B, H, N, N), at least float32.
        keys: bool (B, 1 or H, N, N), the keys that a query may attend to; no padding, and none for queries that are.
        rows: bool (B, 1 or H, N), the queries that count: the output depends on what they gather, and they have at
            least two keys to choose from.
    """

    probabilities: Tensor
    keys: Tensor
    rows: Tensor

    def divergence(self, other: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean Jensen-Shannon divergence (B, H) of the rows that count from those of ``other`` (B, H, N, N).

        Args:
            other: other probabilities.
            weights: (B, N), of the queries. Default: all alike.
        """
        shares = self.rows.to(other) if weights is None else self.rows * weights[:, None].to(other)
        return mean_jensen_shannon(self.probabilities, other, shares)


@dataclass(frozen=True)
class ObservedBatch:
    """A batch of B inputs of N tokens, what a model of L layers and H heads says of it, and how it attends.

    Attributes:
        examples: their B numbers in the data.
        model: the model.
        whole: the batch as it is; ``whole.probabilities`` (B, C).
        real: bool (B, N), the tokens that are no padding.
        readout: (B, N), weights of the tokens that the prediction is read from, each row with the sum 1.
        reached: bool (B, L, N), the queries whose attention the prediction depends on.
        calls: the attention calls, by number, and their layers.
        heads: H.
    """

    examples: Sequence[int]
    model: Callable[..., Any]
    whole: WholeInputs
    real: Tensor
    readout: Tensor
    reached: Tensor
    calls: Mapping[int, int]
    heads: int

    @property
    def layers(self) -> int:
        """L."""
        return len(self.calls)

    def logits(self, replace: Replace, layers: Collection[int], gradients: bool = False) -> Tensor:
        """What the model says (B, C) with other attention in some layers."""
        calls = {call: layer for call, layer in self.calls.items() if layer in layers}
        return replaced_output(self.model, self.whole.inputs, replace, calls, gradients)

    def probabilities(self, replace: Replace, layers: Collection[int]) -> Tensor:
        """The same as probabilities (B, C)."""
        return self.logits(replace, layers).to(self.whole.probabilities.dtype).softmax(-1)

    def attention(self) -> list[LayerAttention]:
        """The attention of each layer, as the model computes it."""
        seen: list[LayerAttention] = []

        def keep(layer: int, attention: Tensor, allowed: Tensor) -> Tensor:
            keys = open_keys(allowed, self.real)
            seen.append(LayerAttention(attention, keys, self.reached[:, None, layer] & (keys.sum(-1) > 1)))
            return attention

        self.logits(keep, range(self.layers))
        return seen

    def attended(self, weights: Tensor) -> Tensor:
        """How far each token is attended to, (B, L, H, N): the rows of A under weights (B, N) of the queries."""
        seen: list[Tensor] = []

        def keep(layer: int, attention: Tensor, allowed: Tensor) -> Tensor:
            seen.append((weights[:, None, None].to(attention) @ attention).squeeze(2))
            return attention

        self.logits(keep, range(self.layers))
        return torch.stack(seen, 1)


class ObservedExamples:
    """A classifier and the data on which its attention is tested, read in batches.

    Args:
        model, data, tokenizer, labels, replacement, batch_size, max_length: as in
            :func:`captum_attn.metrics.evaluate`.

    Raises:
        TypeError, ValueError: as :func:`captum_attn.metrics.evaluate`.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        data: Data,
        tokenizer: Any | None,
        *,
        labels: Any | None = None,
        replacement: Replacement | None = None,
        batch_size: int,
        max_length: int | None,
    ) -> None:
        self.masked = MaskedModel(model, tokenizer, replacement=replacement, batch_size=batch_size)
        self.data = examples_of(data, tokenizer, self.masked.model, max_length)
        self.labels = checked_labels(labels, len(self.data), config_of(self.masked.model))

    def __len__(self) -> int:
        return len(self.data)

    def batches(self) -> list[list[int]]:
        """The examples' numbers, those of like length together; the longest first, so that memory fails at once."""
        order = sorted(range(len(self)), key=lambda row: -self.data.lengths[row])
        size = self.masked.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def observe(self, rows: Sequence[int]) -> ObservedBatch:
        """Run the model on some examples, forward and backward from the predicted class."""
        model = self.masked.model
        inputs = mapping_inputs(model, self.data.batch(rows))
        with observed_forward(model, inputs) as run:
            run.check_matrix("what controls replace is such a matrix")
            whole = self.masked.whole(run, inputs)
            predicted = run.output.gather(1, whole.targets[:, None]).squeeze(1)
            reached = run.find_reached(predicted) & run.real[:, None]
            return ObservedBatch(
                examples=rows,
                model=model,
                whole=whole,
                real=run.real,
                readout=run.readout_rows(predicted).weights(),
                reached=reached,
                calls=replacement_calls(run),
                heads=run.heads,
            )

    def token_names(self, observed: ObservedBatch, place: int) -> list[str]:
        """What stands at each of an example's tokens: text, where there is a tokenizer, else numbers."""
        real = observed.real[place]
        inputs, tokenizer = observed.whole.inputs, self.masked.tokenizer
        if inputs.modality != "ids" or tokenizer is None:
            return list(map(str, range(int(real.sum()))))
        return [tokenizer.decode([token]).strip() for token in inputs.features[place][real].tolist()]


def open_keys(allowed: Tensor, real: Tensor) -> Tensor:
    """bool (B, 1 or H, N, N): of the allowed keys, those that are no padding, for queries that are none."""
    return allowed & real[:, None, None] & real[:, None, :, None]


def chosen_heads(heads: Sequence[int] | None, observed: ObservedBatch) -> Tensor:
    """bool (H, 1, 1): the heads that are concerned; negative indices count from the end, None is all.

    Raises:
        IndexError, ValueError: a head that the model does not have; none.
    """
    chosen = torch.zeros(observed.heads, 1, 1, dtype=torch.bool, device=observed.real.device)
    chosen[resolve_indices("heads", heads, observed.heads)] = True
    return chosen


def random_entries(generators: Sequence[torch.Generator], real: Tensor, heads: int) -> Tensor:
    """Numbers (B, H, N, N) between 0 and 1 for pairs of tokens (0 at padding), the same whatever the batch.

    Args:
        generators: one for each example.
        real: bool (B, N), the tokens that are no padding.
        heads: H.
    """
    batch, length = real.shape
    entries = torch.zeros(batch, heads, length, length)
    for example, generator in enumerate(generators):
        tokens = real[example].nonzero().flatten().cpu()
        drawn = torch.rand(heads, len(tokens), len(tokens), generator=generator, dtype=torch.float32)
        entries[example, :, tokens[:, None], tokens] = drawn.to(entries)
    return entries.to(real.device)
