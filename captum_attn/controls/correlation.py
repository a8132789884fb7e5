"""Does attention rank tokens as their importance does? Kendall's τ with gradients and with leaving tokens out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from captum.attr import InputXGradient
from torch import Tensor
from tqdm.auto import tqdm

from captum_attn.bench import Data, GradientBaseline
from captum_attn.controls.control_figures import boxes_by_layer
from captum_attn.controls.control_result import ControlResult
from captum_attn.controls.observed_examples import ObservedBatch, ObservedExamples
from captum_attn.core import Replacement
from captum_attn.drawing import ShownFigure
from captum_attn.functional import SIGNIFICANT, total_variation
from captum_attn.methods import Rows, check_rows

_ROWS = {"readout": "the readout token's attention to", "incoming": "the mean attention of all tokens to"}
_REFERENCE = "gradient ~ leave-one-out"


class Correlations(ControlResult):
    """How attention and importance rank the tokens of each example.

    The columns of :meth:`frame`: ``example``; ``pair``, "attention ~ gradient", "attention ~ leave-one-out", or, for
    reference, "gradient ~ leave-one-out"; ``layer``, a number, "mean" for the mean attention of all layers, or "none"
    in the reference; ``head``, a number, or "mean" for the mean attention of the heads; ``tau``, Kendall's τ_b over the
    tokens that play, NaN where all tokens are equal or there is but one; ``p_value``, of τ = 0; ``significant``,
    whether that is below 0.05 (NaN without a τ); ``tokens``, their number.

    Args:
        rows: what :meth:`frame` returns.
        attention: whose attention, in words.
    """

    by = ("pair", "layer", "head")
    measures = ("tau", "significant")

    def __init__(self, rows: pd.DataFrame, attention: str) -> None:
        super().__init__(rows)
        self.attention = attention

    @property
    def title(self) -> str:
        return f"Attention and importance of tokens, {len(self)} examples"

    @property
    def caption(self) -> str:
        return (
            f"Kendall's τ of {self.attention} each token with the token's importance, and the share of examples where "
            f"it differs from 0 (p < {SIGNIFICANT}); mean ± standard error over {self._ranked} of {len(self)} "
            "examples, those with two tokens or more to rank (of three, no τ is significant)."
        )

    def cautions(self) -> list[str]:
        return [
            "τ says how far two rankings agree, not which one is right: compare it with that of gradients and leaving "
            "tokens out."
        ]

    @property
    def _ranked(self) -> int:
        """The number of examples in which some τ is defined."""
        return int(self._rows.dropna(subset="tau").example.nunique())

    def plot(self) -> ShownFigure:
        """Kendall's τ by layer, of the heads' mean attention, with gradients and with leaving tokens out.

        Returns:
            A matplotlib figure that belongs to no window.
        """
        series = {
            pair: self.values_by_layer("tau", self._rows[self._rows.pair == pair]) for pair in self._rows.pair.unique()
        }
        return boxes_by_layer(
            series,
            "Kendall's τ",
            self.title,
            f"Of {self.attention} each token, mean over heads. Boxes: quartiles; dots: means. Layer none: reference.",
            lines={"no correlation": 0.0},
        )

    def _of_heads(self, heads: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return {
            pair: part.pivot(index="layer", columns="head", values="mean")
            for pair, part in heads.groupby("pair", sort=False)
        }


def attention_correlation(
    model: Callable[..., Any],
    data: Data,
    *,
    tokenizer: Any | None = None,
    rows: Rows = "readout",
    replacement: Replacement | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    show_progress: bool = True,
) -> Correlations:
    """Kendall's τ of each layer's and head's attention with two measures of the tokens' importance.

    - *gradient*: ``|input × gradient|`` of the predicted class's logit, summed over a token's embedding before the
      magnitude is taken, which is the gradient of the token's place in a one-hot input; of images, summed over a patch;
    - *leave-one-out*: how far the classes' probabilities move (total variation distance) when the token is replaced.

    Only tokens that play are ranked: no padding, no special tokens.

    Args:
        model, data, tokenizer, batch_size, max_length, show_progress: as in :func:`uniform_attention`. A model of text
            must take ``inputs_embeds``.
        rows: whose attention: the ``"readout"`` token's (``[CLS]``, a decoder's last token, all tokens where they are
            pooled), or ``"incoming"``, the mean of all tokens.
        replacement: what replaces a token that is left out: a token id, by default the mask token's; for images
            ``"mean"`` (default) or ``"zeros"``.

    Returns:
        The :class:`Correlations`, with a frame, a table and plots.

    Raises:
        TypeError, ValueError: as :func:`uniform_attention`; unknown ``rows``; a model of text that takes no embeddings;
            a tokenizer without a token that could replace others.

    Example:
        >>> result = attention_correlation(model, batch, tokenizer=tokenizer, show_progress=False)
        >>> list(result.table().pair.unique())
        ['attention ~ gradient', 'attention ~ leave-one-out', 'gradient ~ leave-one-out']

    Source: Jain and Wallace 2019, *Attention is not Explanation*, section 4.1 (algorithm 1).
    """
    check_rows(rows)
    found: list[dict[str, Any]] = []
    with torch.inference_mode(False):
        examples = ObservedExamples(
            model, data, tokenizer, replacement=replacement, batch_size=batch_size, max_length=max_length
        )
        gradient = GradientBaseline(InputXGradient, examples.masked)
        total = len(examples)
        with tqdm(total=total, desc="Attention and importance", unit="example", disable=not show_progress) as bar:
            for batch in examples.batches():
                observed = examples.observe(batch)
                weights = observed.readout if rows == "readout" else observed.real.float()
                attention = observed.attended(weights)
                by_gradient = gradient(examples.data.batch(batch), observed.whole.targets).abs()
                by_loss = _leave_one_out(examples, observed)
                for place, example in enumerate(batch):
                    members = observed.whole.players[place]
                    importance = {"gradient": by_gradient[place, members], "leave-one-out": by_loss[place, members]}
                    compared = _compared(attention[place][..., members], importance)
                    found += [{"example": example, **row} for row in compared]
                    bar.update()
    return Correlations(pd.DataFrame(found), _ROWS[rows])


def _leave_one_out(examples: ObservedExamples, observed: ObservedBatch) -> Tensor:
    """How far the probabilities move (B, N) when a token is replaced; 0 for those that do not play."""
    whole = observed.whole
    example, token = whole.players.nonzero(as_tuple=True)
    alone = torch.zeros(len(token), whole.players.shape[1], dtype=torch.bool, device=token.device)
    alone[torch.arange(len(token), device=token.device), token] = True
    after = examples.masked.probabilities(whole, example, alone, "replacement")
    moved = torch.zeros(whole.players.shape, dtype=after.dtype, device=after.device)
    moved[example, token] = total_variation(whole.probabilities[example], after)
    return moved


def _compared(attention: Tensor, importance: dict[str, Tensor]) -> Iterator[dict[str, Any]]:
    """The rows of one example, of attention (L, H, n) to its n tokens and measures of their importance (n,)."""
    layers: list[tuple[int | str, Tensor]] = [*enumerate(attention), ("mean", attention.mean(0))]
    for name, values in importance.items():
        for layer, of_heads in layers:
            pair = {"pair": f"attention ~ {name}", "layer": layer}
            yield {**pair, "head": "mean", **_kendall(of_heads.mean(0), values)}
            if layer != "mean":
                for head, own in enumerate(of_heads):
                    yield {**pair, "head": head, **_kendall(own, values)}
    yield {"pair": _REFERENCE, "layer": "none", "head": "mean", **_kendall(*importance.values())}


def _kendall(first: Tensor, second: Tensor) -> dict[str, Any]:
    """τ_b of two measures (n,) of the same tokens."""
    from scipy.stats import kendalltau

    tau, p_value = float("nan"), float("nan")
    if len(first) > 1:
        tau, p_value = map(float, kendalltau(first.cpu().numpy(), second.cpu().numpy()))
    significant = float(p_value < SIGNIFICANT) if p_value == p_value else p_value
    return {"tau": tau, "p_value": p_value, "significant": significant, "tokens": len(first)}
