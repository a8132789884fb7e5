"""Show attributions: as pages one can click, as figures, as colours for a terminal, as Captum's records."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import torch
from captum.attr import visualization
from torch import Tensor

from captum_attn.drawing import (
    LOWERS,
    RAISES,
    as_written,
    checked_values,
    colours,
    diverging_colours,
    draw_patches,
    hex_colour,
    plot_patches,
    plot_sound,
    plot_tokens,
    plot_video,
    scale_limit,
    shown_pixels,
)
from captum_attn.exploration import Exploration, explore
from captum_attn.token_attributions import TokenAttributions

__all__ = [
    "LOWERS",
    "RAISES",
    "Exploration",
    "as_written",
    "captum_record",
    "colours",
    "diverging_colours",
    "draw_patches",
    "explore",
    "plot_patches",
    "plot_sound",
    "plot_tokens",
    "plot_video",
    "scale_limit",
    "shown_pixels",
    "tokens_html",
]


def tokens_html(tokens: Sequence[str], values: Tensor) -> str:
    """Tokens as HTML, each on its colour, with its value on hover. Every token is escaped: ``<b>`` stays text.

    Args:
        tokens: N strings.
        values: their attributions (N,).

    Raises:
        ValueError: not one finite value for each token.

    Example:
        >>> tokens_html(["<b>"], torch.tensor([1.0]))
        '<span class="token" style="background:#d6273e;color:#fff" title="+1.000000">&lt;b&gt;</span>'
    """
    values = checked_values(tokens, values)
    spans = []
    for token, value, colour in zip(tokens, values.tolist(), colours(values), strict=True):
        spans.append(
            f'<span class="token" style="background:{hex_colour(colour)};color:{_text_colour(colour)}" '
            f'title="{value:+.6f}">{escape(token)}</span>'
        )
    return " ".join(spans)


def captum_record(
    tokens: Sequence[str],
    result: TokenAttributions,
    example: int = 0,
    *,
    labels: Sequence[str] | dict[int, str] | None = None,
    true_class: int | None = None,
) -> visualization.VisualizationDataRecord:
    """A record for ``captum.attr.visualization.visualize_text``, which does not escape tokens: do that yourself there.

    Args:
        tokens: N strings.
        result: of ``attribute_tokens`` for a classifier, values (B, N).
        example: which of the B.
        labels: names of the classes, e.g. ``model.config.id2label``. Default: their numbers.
        true_class: the gold label, where there is one.

    Raises:
        ValueError: not one value for each token, or an output that is not (B, C) with C > 1.

    Example:
        >>> from captum_attn import ShapleyGradAttention
        >>> result = ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens(batch)
        >>> tokens = tokenizer.convert_ids_to_tokens(batch["input_ids"][1])
        >>> captum_record(tokens, result, 1, labels=model.config.id2label).pred_class
        'negative'
    """
    if result.output.dim() != 2 or result.output.shape[1] < 2:
        raise ValueError(f"a record needs scores of classes (B, C > 1), got an output {tuple(result.output.shape)}")
    values = checked_values(tokens, result.values[example])
    probabilities = result.output[example].float().softmax(-1)
    predicted, explained = int(probabilities.argmax()), int(result.targets[example, 0])

    def label(index: int | None) -> str:
        return "" if index is None else str(index if labels is None else labels[index])

    largest = values.abs().max().clamp(min=torch.finfo(values.dtype).tiny)
    return visualization.VisualizationDataRecord(
        word_attributions=values / largest,
        pred_prob=float(probabilities[predicted]),
        pred_class=label(predicted),
        true_class=label(true_class),
        attr_class=label(explained),
        attr_score=float(values.sum()),
        raw_input_ids=list(tokens),
        convergence_score=0.0,
    )


def _text_colour(background: tuple[int, int, int]) -> str:
    red, green, blue = background
    return "#fff" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "#111"
