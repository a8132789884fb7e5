"""Results that show themselves: in a notebook, in a browser, in a file."""

from __future__ import annotations

import sys
import tempfile
import webbrowser
from abc import ABC, abstractmethod
from pathlib import Path

from captum_attn.pages.self_contained import in_notebook


class Shown(ABC):
    """A result with a page of its own."""

    page_height = 640
    """Of the page in a notebook, in pixels."""

    @abstractmethod
    def page(self) -> str:
        """The page, as HTML that needs nothing from elsewhere."""

    def to_html(self, path: str | Path) -> Path:
        """Write the page into a file.

        Args:
            path: of the file; folders are made.

        Returns:
            The path.
        """
        return write_page(self.page(), path)

    def show(self) -> None:
        """Show the page: in a notebook below the cell, elsewhere in a browser, from a temporary file that is named."""
        show_page(self.page(), self.page_height)

    def _repr_html_(self) -> str:
        return in_notebook(self.page(), self.page_height)


def write_page(html: str, path: str | Path) -> Path:
    """Write a page into a file, and its folders, where there are none."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(html, encoding="utf-8")
    return file


def show_page(html: str, height: int) -> None:
    """A page in a notebook, or else in a browser."""
    if _in_kernel():
        from IPython.display import HTML, display

        display(HTML(in_notebook(html, height)))
        return
    file = write_page(html, Path(tempfile.mkdtemp(prefix="captum-attn-")) / "index.html")
    print(f"The page is {file}")
    webbrowser.open(file.as_uri())


def _in_kernel() -> bool:
    """Whether a notebook's kernel runs this, and not a terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")
