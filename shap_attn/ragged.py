"""Arrays of rows that may differ in length, as SHAP's explanations hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def packed(rows: Sequence[Array]) -> Array:
    """One array where all rows have one shape, else an array of arrays."""
    if len({row.shape for row in rows}) == 1:
        return np.stack(rows)
    ragged = np.empty(len(rows), dtype=object)
    ragged[:] = rows
    return ragged
