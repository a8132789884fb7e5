"""What is raised where no one matrix relates all tokens in every layer."""

from __future__ import annotations


class NoMatrixError(ValueError):
    """No one matrix relates all tokens in every layer, and what was asked for needs one."""


class WrongWayError(NoMatrixError):
    """A pass was not followed in the way that its model needs: as a matrix of all tokens, or to the places of keys."""
