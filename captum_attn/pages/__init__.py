"""Web pages that need nothing from elsewhere: a frame, a stylesheet, and scripts that read the page's own data."""

from captum_attn.pages.self_contained import in_notebook, page

__all__ = ["in_notebook", "page"]
