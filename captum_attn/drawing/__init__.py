"""Figures of tokens, patches, sounds and videos; what all figures of the house have in common.

``figures`` holds colours and an empty figure, which notebooks show; ``token_bars``, ``patch_maps`` and ``signal_maps``
draw one kind of input each.
"""

from captum_attn.drawing.figures import (
    LOWERS,
    RAISES,
    ShownFigure,
    as_written,
    colours,
    diverging_colours,
    hex_colour,
    new_figure,
    scale_limit,
    title_height,
    write_title,
)
from captum_attn.drawing.patch_maps import (
    draw_image,
    draw_patches,
    image_height,
    panel_size,
    plot_patches,
    shown_pixels,
)
from captum_attn.drawing.signal_maps import plot_sound, plot_video
from captum_attn.drawing.text_sizes import height_of, short_name, width_of, wrapped
from captum_attn.drawing.token_bars import (
    bars_height,
    checked_values,
    draw_tokens,
    name_columns,
    names_height,
    plot_tokens,
)

__all__ = [
    "LOWERS",
    "RAISES",
    "ShownFigure",
    "as_written",
    "bars_height",
    "checked_values",
    "colours",
    "diverging_colours",
    "draw_image",
    "draw_patches",
    "draw_tokens",
    "height_of",
    "hex_colour",
    "image_height",
    "name_columns",
    "names_height",
    "new_figure",
    "panel_size",
    "plot_patches",
    "plot_sound",
    "plot_tokens",
    "plot_video",
    "scale_limit",
    "short_name",
    "shown_pixels",
    "title_height",
    "width_of",
    "wrapped",
    "write_title",
]
