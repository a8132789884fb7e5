"""Show attributions of text: in a web page, as a figure, as colours for a terminal, as Captum's records."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from captum.attr import visualization
from torch import Tensor

from captum_attn.core import Grid, PatchGrid, image_grid
from captum_attn.token_attributions import TokenAttributions

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Drawn = TypeVar("Drawn", bound="Artist")
_MOST_BARS = 40

RAISES = (214, 39, 62)
"""RGB of tokens that raise the explained output."""

LOWERS = (31, 119, 214)
"""RGB of tokens that lower it."""


def colours(values: Tensor) -> list[tuple[int, int, int]]:
    """An RGB background for each value (N,): white at 0, full colour at the largest magnitude.

    Example:
        >>> colours(torch.tensor([1.0, 0.0]))
        [(214, 39, 62), (255, 255, 255)]
    """
    largest = values.abs().max().clamp(min=torch.finfo(values.dtype).tiny)
    return [_blend(float(value), float(value.abs() / largest)) for value in values]


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
    values = _checked(tokens, values)
    spans = []
    for token, value, colour in zip(tokens, values.tolist(), colours(values), strict=True):
        spans.append(
            f'<span class="token" style="background:{_hex(colour)};color:{_text_colour(colour)}" '
            f'title="{value:+.6f}">{escape(token)}</span>'
        )
    return " ".join(spans)


def plot_tokens(tokens: Sequence[str], values: Tensor, title: str = "", label: str = "attributed value") -> Figure:
    """A bar for each token, in reading order from top to bottom; of long texts, for the 40 strongest tokens.

    Args:
        tokens: N strings.
        values: their attributions (N,).
        title: above the axes.
        label: what the values are, below them.

    Returns:
        A matplotlib figure that belongs to no window; ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: not one value for each token.

    Example:
        >>> plot_tokens(["not", "good"], torch.tensor([-0.2, 0.1]), "positive").savefig("tokens.png")
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    values = _checked(tokens, values)
    shown = sorted(values.abs().topk(min(len(tokens), _MOST_BARS)).indices.tolist())
    figure = Figure(figsize=(6.4, 1.1 + 0.27 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    heights = [float(values[index]) for index in shown]
    bars = axes.barh(range(len(shown)), heights, color=[_hex(RAISES if h >= 0 else LOWERS) for h in heights])
    axes.bar_label(bars, fmt="%+.2g", padding=3, fontsize=8)
    axes.set_yticks(range(len(shown)), [tokens[index] for index in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.margins(x=0.15)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if len(shown) < len(tokens):
        axes.set_ylabel(f"the {len(shown)} strongest of {len(tokens)} tokens")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(label)
    axes.set_title(title, fontsize=10, loc="left")
    return as_written(figure)


def plot_patches(
    image: Tensor,
    patches: Tensor,
    title: str = "",
    label: str = "attributed value of each patch",
    *,
    grid: Grid = None,
) -> Figure:
    """An image beside the attributions of its patches; where patches are coarser than pixels, over a faint copy of it.

    Args:
        image: pixels (C, h, w), C = 1 or 3, of any range, as they were given to the model.
        patches: attributions (rows, columns), or of each pixel, (h, w).
        title: above the figure.
        label: what the values are, above them.
        grid: where the patches lie, ``result.grid``; of an image beside a text, ``result.picture``. Without it, patches
            are drawn over the whole image, with a warning: a model that crops or pads images, or leaves over what makes
            no whole patch, has them elsewhere.

    Returns:
        A matplotlib figure that belongs to no window.

    Raises:
        ValueError: no such shapes, or a grid of other patches.

    Example:
        >>> from captum_attn import ShapleyGradAttention
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> config = ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
        >>> images, vit = torch.rand(2, 3, 32, 32), ViTForImageClassification(config).eval()
        >>> result = ShapleyGradAttention(vit).attribute_tokens(images)
        >>> plot_patches(images[1], result.patches[1], grid=result.grid).savefig("patches.png")
    """
    from matplotlib.figure import Figure

    if image.dim() != 3 or image.shape[0] not in (1, 3) or patches.dim() != 2:
        raise ValueError(
            "expected one image (C, h, w) with C = 1 or 3 and its patches (rows, columns), got shapes "
            f"{tuple(image.shape)} and {tuple(patches.shape)}; of a result, give result.patches[i]"
        )
    picture = shown_pixels(image)
    values = patches.detach().cpu().double()
    limit = float(values.abs().max().clamp(min=1e-300))
    figure = Figure(figsize=(7.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    pixels = (0, image.shape[2], image.shape[1], 0)
    left.imshow(picture, cmap="gray", extent=pixels)
    left.set_title("input", fontsize=10)
    if values.shape != image.shape[1:]:
        grey = picture if picture.ndim == 2 else picture.mean(-1)
        right.imshow(grey, cmap="gray", alpha=0.25, extent=pixels, zorder=2)
    extent = _extent(image, values, grid)
    heat = draw_patches(right, values, image, extent, cmap=diverging_colours(), vmin=-limit, vmax=limit)
    right.set_title(label, fontsize=10)
    figure.colorbar(heat, ax=right, shrink=0.85)
    for axes in (left, right):
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(title, fontsize=11)
    return as_written(figure)


def draw_patches(axes: Axes, values: Tensor, image: Tensor, extent: Sequence[float], **options: Any) -> AxesImage:
    """Draw values (rows, columns) where their patches lie in an image (C, h, w), of which axes show all.

    Args:
        axes: what is drawn on.
        values: of the patches.
        image: of which only the size counts; draw it first.
        extent: left, right, bottom and top edge of the patches in pixels, as :attr:`PatchGrid.extent` says.
        options: of ``imshow``.
    """
    left, right, bottom, top = extent
    drawn = axes.imshow(values.cpu().double().numpy(), extent=(left, right, bottom, top), **options)
    axes.set_xlim(min(0, left), max(image.shape[-1], right))
    axes.set_ylim(max(image.shape[-2], bottom), min(0, top))
    return drawn


def as_written(drawn: Drawn) -> Drawn:
    """A finished figure, or a part of one, that shows its texts as they are: ``$`` begins no formula of matplotlib's.

    Tokens, names and titles are anybody's. ``$$`` would fail when the figure is saved, and ``$a_b$`` lose its signs.
    Numbers of ticks are written later, and keep their form.

    Example:
        >>> from matplotlib.figure import Figure
        >>> figure = Figure()
        >>> text = figure.text(0, 0, "$$")
        >>> as_written(figure).savefig("dollars.png")
    """
    from matplotlib.text import Text

    for text in drawn.findobj(Text):
        if isinstance(text, Text) and "$" in text.get_text():
            text.set_parse_math(False)
    return drawn


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
    values = _checked(tokens, result.values[example])
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


def diverging_colours() -> Colormap:
    """Matplotlib's form of the colours: from what lowers the output over white to what raises it."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("lowers-raises", [_hex(LOWERS), "#ffffff", _hex(RAISES)])


def scale_limit(values: Tensor) -> float:
    """The end of a scale around 0; 1 where there is nothing to show."""
    return float(values.abs().max()) or 1.0


def shown_pixels(image: Tensor) -> np.ndarray[Any, Any]:
    """An image (C, h, w) of any range as matplotlib shows it: in [0, 1], (h, w, 3) or (h, w)."""
    pixels = image.detach().cpu().float()
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()).clamp(min=1e-12)
    shown: np.ndarray[Any, Any] = pixels.movedim(0, -1).squeeze(-1).numpy()
    return shown


def _extent(image: Tensor, patches: Tensor, grid: Grid) -> tuple[float, float, float, float]:
    """Where patches lie in an image (C, h, w); a warning where that is not sure."""
    height, width = image.shape[1:]
    rows, columns = patches.shape
    whole = PatchGrid(rows, columns, height / rows, width / columns)
    if patches.shape == image.shape[1:] and grid is None:
        return whole.extent
    if grid is None:
        warnings.warn(
            "nothing says where in the image the patches lie, so they are drawn over the whole of it. That is wrong of "
            "a model that crops or pads images, or leaves over what makes no whole patch: give grid=result.grid, "
            "or result.picture of an image beside a text",
            stacklevel=3,
        )
        return whole.extent
    grid = image_grid(grid)
    if patches.shape != (grid.rows, grid.columns):
        raise ValueError(f"got {tuple(patches.shape)} patches and a grid of {grid.rows} × {grid.columns}")
    left, right, bottom, top = grid.extent
    shared = max(min(right, width) - max(left, 0), 0) * max(min(bottom, height) - max(top, 0), 0)
    if shared < max(height * width, (right - left) * (bottom - top)) / 2:
        warnings.warn(
            f"the patches lie in columns {left:g} to {right:g} and rows {top:g} to {bottom:g} of what the model was "
            f"given, but this image has {height} × {width} pixels: expected the pixels (C, h, w) as they were given to "
            "the model, after its processor",
            stacklevel=3,
        )
    return grid.extent


def _blend(value: float, strength: float) -> tuple[int, int, int]:
    red, green, blue = (round(255 + strength * (c - 255)) for c in (RAISES if value >= 0 else LOWERS))
    return red, green, blue


def _text_colour(background: tuple[int, int, int]) -> str:
    red, green, blue = background
    return "#fff" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "#111"


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _checked(tokens: Sequence[str], values: Tensor | Sequence[float]) -> Tensor:
    """The values as a tensor (N,) on the CPU; ``ValueError`` unless there is a finite one for each token."""
    checked = torch.as_tensor(values).detach().cpu().double()
    if checked.shape != (len(tokens),) or not checked.isfinite().all():
        raise ValueError(
            f"expected one finite value for each of the {len(tokens)} tokens, got shape {tuple(checked.shape)}"
        )
    return checked
