"""Which extra brings a library that is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def brought_by(extra: str) -> Iterator[None]:
    """Imports that this extra of the distribution makes work: where they do not, the error names it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if "pip install" in error.msg or f"{error.name}".startswith("captum_attn"):  # said already; no library
            raise
        message = f"{error.name} is not installed: pip install 'captum-attn[{extra}]'"
        raise ModuleNotFoundError(message, name=error.name, path=error.path) from error
