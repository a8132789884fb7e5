"""Web pages that need nothing from elsewhere: one template, one stylesheet, one script, and results that have pages.

``self_contained`` is the frame, with pictures and tables; ``input_views`` an explained input, as the script shows it;
``shown`` what has a page shows itself.
"""

from captum_attn.pages.input_views import Influences, PatchedPicture, Scored, input_view, rounded
from captum_attn.pages.self_contained import (
    as_source,
    figure_html,
    in_notebook,
    opening,
    page,
    pixels_as_png,
    table_html,
)
from captum_attn.pages.shown import Shown, show_page, write_page

__all__ = [
    "Influences",
    "PatchedPicture",
    "Scored",
    "Shown",
    "as_source",
    "figure_html",
    "in_notebook",
    "input_view",
    "opening",
    "page",
    "pixels_as_png",
    "rounded",
    "show_page",
    "table_html",
    "write_page",
]
